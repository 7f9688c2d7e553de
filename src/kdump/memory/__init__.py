"""Physical and virtual memory of a dead or live kernel, whatever holds it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kdump.errors import FormatError
from kdump.memory.protocol import Dump

__all__ = ["open_dump"]


def open_dump(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Dump:
    """Open a dump, recognised by its content: ELF vmcore, kdump-compressed, flattened; several paths are a split set.

    Raises `FormatError` for what is none of these (or is one that is not supported, by name) and `KdumpError` if the
    file cannot be opened. Nothing is scanned: this takes milliseconds whatever the size.
    """
    from kdump.memory import elf, kdump_compressed
    from kdump.memory.source import FileSource

    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    sources = [FileSource(each) for each in paths]
    try:
        if len(sources) > 1:
            return kdump_compressed.open_split(sources)
        source = sources[0]
        magic = bytes(source.view(0, min(source.size, 16)))
        if magic.startswith(elf.MAGIC):
            return elf.open_elf(source)
        if magic.startswith(kdump_compressed.MAGIC):
            return kdump_compressed.open_kdump(source)
        raise FormatError(
            "not a dump in a known format",
            path=source.path,
            offset=0,
            field="magic",
            why=f"it starts with {magic[:8]!r}",
            remedy="ELF vmcores and kdump-compressed dumps, also flattened or split, can be read",
        )
    except BaseException:
        for source in sources:
            source.close()
        raise
