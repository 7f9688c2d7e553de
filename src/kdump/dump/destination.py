"""Saving to files of this machine, or to standard output: names, sealing, the manifest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdump.dump import manifest
from kdump.dump.file_output import FileOutput, NullOutput
from kdump.dump.flat_stream import FlatStream, put_to
from kdump.dump.kdump_writer import Sink
from kdump.dump.pipeline import Options, Summary, save
from kdump.errors import UsageError
from kdump.files import outputs as named
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
    """The written files: their present names, and the manifest's content."""

    summary: Summary
    paths: tuple[str, ...]
    content: dict[str, Any]


def save_to(dump: Dump, destination: Destination, options: Options) -> Saved:
    """Save to files that take their names when they are whole; a manifest is written beside the first.

    Raises what `save` raises, and KdumpError before anything is written if a file that is read would be replaced, or
    anything but a regular file. The output of a failed run stays, named incomplete.
    """
    begin: Callable[[], Sink]
    outputs: list[FileOutput | NullOutput] = []
    flat: list[FlatStream] = []
    names = destination.paths

    def begin_file() -> Sink:
        while len(outputs) == len(names):  # the next level: all over again
            for output in outputs:
                output.discard()
            outputs.clear()
        output = _begin(names[len(outputs)], dump, destination)
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
        if any(map(named.is_null, names)):
            destination = replace(destination, manifest="")  # it would lie in /dev
        _look(dump, destination)
    try:
        summary = save(dump, begin, replace(options, parts=len(names)))
    except BaseException:
        _abort(outputs)
        raise
    for stream in flat:
        stream.finish()
    if destination.manifest and not summary.incomplete:
        # Where the power is cut between two names, a dump without digests is better than one with another's.
        manifest.manifest_path(Path(destination.manifest)).unlink(missing_ok=True)
    for output in outputs:
        output.abort() if summary.incomplete else output.seal()
    status = "incomplete" if summary.incomplete else "complete" if summary.as_asked else "degraded"
    content = manifest.describe(dump, [output.describe() for output in outputs], summary.to_dict(), status)
    written = tuple(str(output.now) for output in outputs)
    if destination.manifest:
        # That of a dump which was not finished says nothing about an older whole one.
        of = written[0] if summary.incomplete and len(written) == 1 else destination.manifest
        manifest.write(manifest.manifest_path(of), content)
    return Saved(summary, written or (STDOUT,), content)


def _look(dump: Dump, destination: Destination) -> None:
    """At every file that would be written, before the first is."""
    to_replace = [path for path in destination.paths if not named.is_null(path)]
    named.check_all(to_replace, dump.paths, replace=destination.overwrite)
    if destination.manifest:
        named.check(manifest.manifest_path(destination.manifest), dump.paths, replace=True)


def _begin(path: str, dump: Dump, destination: Destination) -> FileOutput | NullOutput:
    if named.is_null(path):
        return NullOutput(path)
    return FileOutput(
        path, inputs=dump.paths, overwrite=destination.overwrite, limit=destination.limit, bare=destination.bare
    )


def _abort(outputs: list[FileOutput | NullOutput]) -> None:
    while outputs:
        outputs.pop().abort()
