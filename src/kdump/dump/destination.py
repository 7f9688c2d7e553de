"""Saving to files of this machine, or to standard output: names, sealing, the manifest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdump.dump import manifest
from kdump.dump.file_output import FileOutput
from kdump.dump.flat_stream import FlatStream, put_to
from kdump.dump.kdump_writer import Sink
from kdump.dump.pipeline import Options, Summary, save
from kdump.errors import UsageError
from kdump.memory.protocol import Dump

STDOUT = "-"


@dataclass(frozen=True)
class Destination:
    """Where a dump goes. Several `paths` are the parts of a split set; "-" is standard output, flattened."""

    paths: tuple[str, ...]
    flat: bool = False
    overwrite: bool = False
    limit: int | None = None  # bytes that a file may have
    manifest: str = ""  # the dump's name that the manifest goes by; empty: no manifest
    bare: bool = False  # neither digested nor synced: makedumpfile does neither

    @classmethod
    def parse(cls, path: str, *, parts: int = 1, flat: bool = False, overwrite: bool = False) -> Destination:
        """The parts of OUT are OUT.1, OUT.2, …; raises `UsageError` for what does not go together."""
        if parts < 1:
            raise UsageError(f"a dump cannot be split into {parts} files")
        if parts > 1 and (path == STDOUT or flat):
            raise UsageError("a flattened dump cannot be split")
        paths = (path,) if parts == 1 else tuple(f"{path}.{number}" for number in range(1, parts + 1))
        name = "" if path == STDOUT else path
        return cls(paths, flat or path == STDOUT, overwrite, manifest=name)


@dataclass(frozen=True)
class Saved:
    """What was written: names as they are now, and the manifest's content."""

    summary: Summary
    paths: tuple[str, ...]
    content: dict[str, Any]


def save_to(dump: Dump, destination: Destination, options: Options) -> Saved:
    """Save to files that are incomplete by name until they are whole; a manifest is written beside the first.

    Raises what `save` raises; files of a failed run keep their incomplete names.
    """
    begin: Callable[[], Sink]
    outputs: list[FileOutput] = []
    flat: list[FlatStream] = []
    names = destination.paths

    def begin_file() -> Sink:
        if len(outputs) == len(names):  # the next level: all over again
            _abort(outputs)
        output = FileOutput(
            names[len(outputs)], overwrite=destination.overwrite, limit=destination.limit, bare=destination.bare
        )
        outputs.append(output)
        if not destination.flat:
            return output
        flat[:] = [FlatStream(output.write)]
        return flat[0]

    def begin_stdout() -> Sink:
        flat[:] = [FlatStream(put_to(sys.stdout.fileno()))]
        return flat[0]

    if names == (STDOUT,):
        begin = begin_stdout
        options = replace(options, levels=options.levels[:1])  # what is in a pipe cannot be taken back
    else:
        begin = begin_file
    try:
        summary = save(dump, begin, replace(options, parts=len(names)))
    except BaseException:
        _abort(outputs)
        raise
    for stream in flat:
        stream.finish()
    for output in outputs:
        output.abort() if summary.incomplete else output.seal()
    status = "incomplete" if summary.incomplete else "complete" if summary.as_asked else "degraded"
    content = manifest.describe(dump, [output.describe() for output in outputs], summary.to_dict(), status)
    if destination.manifest:
        manifest.write(manifest.manifest_path(Path(destination.manifest)), content)
    written = tuple(str(output.part if summary.incomplete else output.path) for output in outputs)
    return Saved(summary, written or (STDOUT,), content)


def _abort(outputs: list[FileOutput]) -> None:
    while outputs:
        outputs.pop().abort()
