"""Physical and virtual memory of a dead or live kernel, whatever holds it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdump.elf import MAGIC as ELF
from kdump.errors import FormatError
from kdump.memory.protocol import Dump

if TYPE_CHECKING:
    from kdump.memory.source import Source

__all__ = ["open_dump"]

# What else people hand to a dump reader, by its first bytes.
STRANGERS = (
    (b"DISKDUMP", "a diskdump (before kdump-compressed) is not supported"),
    (b"\x1f\x8b", "compressed with gzip as a whole: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd as a whole: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz as a whole: unpack it first"),
    (b"age-encryption.org", "encrypted: use `kdump decrypt` first"),
    (b"PAGEDU64", "a Windows crash dump"),
    (b"QFI\xfb", "a QEMU disk image (qcow2), which may hold a snapshot: load it (loadvm) and use dump-guest-memory"),
    (b"QEVM", "a QEMU migration stream (virsh save is one too): restore it and use dump-guest-memory or virsh dump"),
    (b"LibvirtQemudSave", "saved by virsh save: restore it (virsh restore), then `virsh dump --memory-only`"),
    (b"LibvirtQemudPart", "saved by virsh save, unfinished: use `virsh dump --memory-only`"),
    (b"EMiL", "a LiME image, which has neither VMCOREINFO nor registers: Volatility reads it"),
    (b"\xed\x23\x8f\x61\x73\x01\x19\xa8", "an LKCD dump, which no kernel since 2.6 writes: crash reads it"),
    (b"\xa8\x19\x01\x73\x61\x8f\x23\xed", "an LKCD dump, which no kernel since 2.6 writes: crash reads it"),
    (b"\xed\xeb\x0f\xf0", "a dump of Xen in its old form (xc_core): crash reads it"),
    (b"\xee\xeb\x0f\xf0", "a dump of Xen in its old form (xc_core, HVM): crash reads it"),
    (b"sadump\0\0", "a sadump dump: `makedumpfile -x VMLINUX` converts it to kdump-compressed"),
)
MAGIC_SIZE = 32
KDUMP, FLATTENED = b"KDUMP   ", b"makedumpfile\0\0\0\0"
DUMPS = (ELF, KDUMP, FLATTENED)
KCORE = "/proc/kcore"


def open_dump(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Dump:
    """Open a dump, recognised by its content: ELF, kdump-compressed, either of them flattened, /proc/kcore.

    Several paths are a split set. Nothing is scanned (but a flattened file's records): this takes milliseconds whatever
    the size. Raises `FormatError` for anything else (or is one that is not supported, by name), `KdumpError` if
    a file cannot be opened.
    """
    from kdump.memory.source import FileSource

    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    sources: list[Source] = []
    try:
        for each in paths:
            sources.append(FileSource(each))
        if len(sources) > 1:
            from kdump.memory.kdump_compressed import open_split

            sources = [_unflattened(source) for source in sources]
            return open_split(sources)
        return _recognise(sources[0])
    except BaseException:
        for source in sources:
            source.close()
        raise


def _unflattened(source: Source) -> Source:
    if source.view(0, min(source.size, MAGIC_SIZE))[:16] == FLATTENED:
        from kdump.memory.flattened import FlattenedSource

        return FlattenedSource(source)
    return source


def _recognise(source: Source) -> Dump:
    # Each reader is imported when it is needed: /proc/vmcore is opened before NumPy is loaded.
    inner = _unflattened(source)
    magic = bytes(inner.view(0, min(inner.size, MAGIC_SIZE)))
    if magic.startswith(ELF):
        if os.path.realpath(source.path) == KCORE:
            from kdump.memory.kcore import open_kcore

            return open_kcore(inner)
        from kdump.memory.elf import open_elf

        return open_elf(inner)
    if magic.startswith(KDUMP):
        from kdump.memory.kdump_compressed import open_kdump

        return open_kdump(inner)
    known = next((what for start, what in STRANGERS if magic.startswith(start)), f"it starts with {magic[:8]!r}")
    raise FormatError(
        "not a dump in a known format" if magic else "an empty file",
        path=source.path,
        why=known if magic else "",
        remedy="ELF vmcores and kdump-compressed dumps, also flattened or split, can be read",
    )
