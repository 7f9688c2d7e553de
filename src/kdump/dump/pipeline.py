"""Filter, compress, write: from an opened dump to a kdump-compressed file on a stream, in bounded memory."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdump.dump.buffers import Buffers
from kdump.dump.classes import dropped
from kdump.dump.codecs import Packed, codec, compressor, interleaved
from kdump.dump.first_pass import Progress, first_pass
from kdump.dump.hints import FindHints, find_hints
from kdump.dump.kdump_writer import Sink
from kdump.dump.levels import CACHE, CACHE_PRIVATE, OURS, ZERO
from kdump.dump.pages import PageReader
from kdump.dump.pfnset import CHUNK, PfnSet
from kdump.dump.repeats import packed_once
from kdump.dump.room import too_large
from kdump.dump.scrub.cover import CoveredMemory
from kdump.dump.scrub.kinds import PAGE_CACHE
from kdump.dump.selection import Also, Selection
from kdump.dump.workers import StoppedError, in_order, thread_count
from kdump.dump.writers import Writer, open_writer
from kdump.errors import KdumpError
from kdump.kernel.completed import completed
from kdump.kernel.kernel import Kernel
from kdump.memory.codecs import CodecFacts
from kdump.memory.protocol import Dump, ReadsInto
from kdump.native.engine import engine

if TYPE_CHECKING:
    from kdump.dump.keep import Kept
    from kdump.dump.scrub.found import Found

PAGES_A_BATCH = 768  # of 4 KiB; fewer larger ones


@dataclass(frozen=True)
class Options:
    """How to save.

    `container` is "kdump" (kdump-compressed) or "elf"; `parts` are files of a split set. `levels` beyond the first are
    tried if the disk is full. `threads` 0 compresses in the calling thread; None takes one for each CPU. `stop` is
    asked now and then: a sentence ends the dump as a valid incomplete one, "" goes on. `room` tells how many bytes may
    be written, if it can; a level that will not fit is passed over, the last one is begun in any case: `warn` is told.
    `scrub` looks for the secrets that are not to be in a dump of some level, `keep` for pages that are, at any level.
    """

    levels: tuple[int, ...] = (31,)
    container: str = "kdump"
    parts: int = 1
    codec: str = "zstd"
    compression_level: int = 0  # 0: kdump's choice
    threads: int | None = None
    batch: int = PAGES_A_BATCH  # pages of 4 KiB; up to threads + 5 batches of packed ones are in memory
    progress: Progress = field(default=lambda _stage, _done, _total: None)
    stop: Callable[[], str] = field(default=lambda: "")
    room: Callable[[], int | None] = field(default=lambda: None)
    warn: Callable[[str], None] = field(default=lambda _sentence: None)
    find: FindHints = find_hints
    scrub: Callable[[Kernel, int], Found] | None = None
    keep: Callable[[Kernel], Kept] | None = None


@dataclass
class Summary:
    """The fates of the pages, and the cost. Sizes in bytes, times in seconds."""

    level: int
    codec: str
    pages_present: int = 0
    pages_kept: int = 0
    pages_written: int = 0
    pages_zero: int = 0
    pages_unreadable: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    not_applied: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    size: int = 0
    incomplete: str = ""  # why, if the dump does not hold all it should
    scrubbed: dict[str, Any] = field(default_factory=dict)  # as the manifest has it; empty: nothing was to be
    also_kept: dict[str, Any] = field(default_factory=dict)  # the same of what was kept beyond the level
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def as_asked(self) -> bool:
        """Whether the dump is all that was asked for."""
        failed = self.scrubbed.get("failed") or self.also_kept.get("failed")
        return not (self.incomplete or self.not_applied or self.pages_unreadable or failed)

    def to_dict(self) -> dict[str, Any]:
        """For the manifest and `--json`."""
        return {
            "level": self.level,
            "codec": self.codec,
            "pages": {
                "present": self.pages_present,
                "kept": self.pages_kept,
                "written": self.pages_written,
                "zero": self.pages_zero,
                "unreadable": self.pages_unreadable,
                "dropped": self.dropped,
            },
            "not_applied": self.not_applied,
            "doubts": self.doubts,
            "size": self.size,
            "incomplete": self.incomplete,
            **({"scrub": self.scrubbed} if self.scrubbed else {}),
            **({"keep": self.also_kept} if self.also_kept else {}),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def save(dump: Dump, begin: Callable[[], Sink], options: Options) -> Summary:
    """Save `dump` to the stream that `begin()` gives; it is called for each part, and again for each level tried.

    The caller seals the streams. Raises what a stream raises; a full disk (ENOSPC) on the last level, or a stop, gives
    a valid incomplete dump and a summary that says so.
    """
    dump = completed(dump)
    elf = options.container == "elf"
    chosen = codec("none") if elf else codec(options.codec, options.compression_level)
    for number, level in enumerate(options.levels):
        last = number == len(options.levels) - 1
        try:
            streams = [begin() for _ in range(1 if elf else options.parts)]
            return _save_level(dump, streams, options, chosen, level, finish_when_full=last)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or last:
                raise
    raise AssertionError("a level is always given")


@dataclass
class _Batch:
    """A worker's result for a batch of pfns."""

    packed: Packed
    unreadable: NDArray[np.bool_] | None


def _save_level(
    dump: Dump, streams: Sequence[Sink], options: Options, chosen: CodecFacts, level: int, *, finish_when_full: bool
) -> Summary:
    began = time.monotonic()
    zeros = 0
    scrubbed: dict[str, Any] = {}
    kernel = Kernel(dump)
    try:
        found = options.scrub(kernel, level) if options.scrub else None
        if found and PAGE_CACHE in found.kinds:
            level |= CACHE | CACHE_PRIVATE | OURS
        kept = options.keep(kernel) if options.keep else None
        # What is to be scrubbed is not kept for a process either, nor what must not be read.
        never = CACHE | CACHE_PRIVATE | OURS if found and PAGE_CACHE in found.kinds else 0
        selection = first_pass(
            dump, level, options.progress, kernel=kernel, also=Also(kept.runs, ~dropped(never)) if kept else None,
            stop=options.stop, threads=options.threads, find=options.find,
        )  # fmt: skip
        filtered = time.monotonic()
        if found:
            dump, scrubbed = _scrub(dump, selection, found, options)
        if options.container == "elf" and level & ZERO:
            zeros = _drop_zeros(dump, selection, options)
    except StoppedError as stopped:
        raise KdumpError(f"{stopped.what}, before any page was written") from None
    ready = time.monotonic()
    summary = Summary(
        level, chosen.name, selection.present.count, selection.kept.count,
        dropped=selection.dropped_by_class, not_applied=selection.not_applied, doubts=selection.doubts,
        scrubbed=scrubbed, also_kept=kept.to_dict(int(selection.also.sum())) if kept else {},
    )  # fmt: skip
    summary.pages_zero = zeros
    if dump.incomplete:
        summary.incomplete = f"what is read is: {dump.lacks or dump.path}"
    if options.container != "elf" and (
        why := too_large(dump.memory, selection, options.room(), chosen, options.compression_level)
    ):
        options.warn(f"it will not fit at level {level}: {why}")
        if not finish_when_full:
            raise OSError(errno.ENOSPC, why)
    writer = open_writer(dump, streams, selection, container=options.container, flag=chosen.flag)
    try:
        _write_pages(dump, writer, options, chosen, selection, summary)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or not finish_when_full:
            raise
        summary.incomplete = f"no room: {error.strerror}"
    except BaseException:
        # Whatever ended it, what is there shall be readable; the first error is the one to report.
        _finish_quietly(writer)
        raise
    writer.finish(incomplete=bool(summary.incomplete))
    summary.pages_written = writer.written
    summary.size = writer.size
    summary.seconds = {"filter": filtered - began, "write": time.monotonic() - ready}
    if scrubbed:
        summary.seconds["scrub"] = ready - filtered
    return summary


def _scrub(dump: Dump, selection: Selection, found: Found, options: Options) -> tuple[Dump, dict[str, Any]]:
    """The dump without the secrets that were found and those that its pages are searched for, and what these are."""
    from kdump.dump.scrub.scan import scan  # few dumps need it

    size = dump.memory.page_size

    def tick(done: int, total: int) -> None:
        options.progress("scrub", done * size, total * size)

    scan(dump.memory, selection, found, threads=thread_count(options.threads), stop=options.stop, tick=tick)
    covered = CoveredMemory(dump.memory, found.ranges)
    said = {"asked": list(found.kinds), "found": found.counts, "failed": found.failed, "bytes": covered.size}
    return dump._replace(memory=covered), said


def _finish_quietly(writer: Writer) -> None:
    try:
        writer.finish(incomplete=True)
    except (OSError, KdumpError):
        return


def _write_pages(  # noqa: PLR0917 -- one call, and a bundle of these would have no meaning of its own
    dump: Dump, writer: Writer, options: Options, chosen: CodecFacts, selection: Selection, summary: Summary
) -> None:
    """The second pass: read, find zeros, compress (on all CPUs), write."""
    memory = dump.memory
    size = memory.page_size
    covered = memory if isinstance(memory, CoveredMemory) else None
    buffers = Buffers()
    drop_zeros = bool(selection.level & ZERO) and options.container != "elf"
    quick = memory if isinstance(memory, ReadsInto) else None

    def make_work() -> Callable[[NDArray[np.int64]], _Batch]:
        compress = compressor(chosen, options.compression_level, buffers)
        read = PageReader(memory)

        def work(pfns: NDArray[np.int64]) -> _Batch:
            hidden = covered.covers(pfns) if covered else None
            if hidden is None or hidden.all():
                return pack(pfns)
            parts = pack(pfns[~hidden]), pack(pfns[hidden])  # the others need not pass through a buffer
            if any(part.unreadable is not None for part in parts):
                return pack(pfns)
            return _Batch(interleaved(parts[0].packed, parts[1].packed, hidden), None)

        def pack(pfns: NDArray[np.int64]) -> _Batch:
            if quick and (found := quick.places(pfns)):
                file, places = found
                if packed := compress.of_file(file, places, size, drop_zeros=drop_zeros):
                    return _Batch(packed, None)
            pages, unreadable = read(pfns)
            if unreadable is not None:
                pages = pages[~unreadable]
            return _Batch(packed_once(compress, pages, drop_zeros=drop_zeros), unreadable)

        return work

    done, total = 0, selection.kept.count
    first = None if options.container == "elf" else selection.first
    before_rest = first.count if first else -1
    batches = _batches(selection.kept, first, _batch(options, size))
    results = in_order(batches, make_work, thread_count(options.threads), options.stop)
    while True:
        try:
            pfns, batch = next(results)
        except StopIteration:
            return
        except StoppedError as stopped:
            summary.incomplete = stopped.what
            return
        if done == before_rest:
            writer.rest()
        written = pfns if batch.unreadable is None else pfns[~batch.unreadable]
        if len(written):
            writer.append(written, batch.packed)
        if drop_zeros:
            summary.pages_zero += len(written) - int(np.count_nonzero(batch.packed.sizes))
        if batch.unreadable is not None:
            selection.kept.remove(pfns[batch.unreadable])
            if first and done < before_rest:
                first.remove(pfns[batch.unreadable])
            summary.pages_unreadable += int(np.count_nonzero(batch.unreadable))
        done += len(pfns)
        options.progress("write", done * size, total * size)


def _drop_zeros(dump: Dump, selection: Selection, options: Options) -> int:
    """Take pages of zeros out of what is kept: an ELF file has no other way to leave them out. Returns their number."""

    def make_work() -> Callable[[tuple[int, NDArray[np.int64]]], NDArray[np.bool_]]:
        read = PageReader(dump.memory)

        def work(job: tuple[int, NDArray[np.int64]]) -> NDArray[np.bool_]:
            pages, unreadable = read(job[1])
            zero = engine.zero_pages(pages)
            return zero if unreadable is None else zero & ~unreadable

        return work

    size = dump.memory.page_size
    step = _batch(options, size)
    total, done = selection.kept.count, 0
    kept = PfnSet(selection.kept.limit)
    batches = (
        (chunk, pfns[start : start + step])
        for chunk, pfns in selection.kept.chunks()
        for start in range(0, len(pfns), step)
    )
    members, current = np.zeros(CHUNK, np.bool_), -1
    for (chunk, pfns), zero in in_order(batches, make_work, thread_count(options.threads), options.stop):
        if chunk != current:
            kept.put(current, members)
            members, current = np.zeros(CHUNK, np.bool_), chunk
        members[pfns - chunk * CHUNK] = ~zero
        done += len(pfns)
        options.progress("zeros", done * size, total * size)
    kept.put(current, members)
    selection.kept = kept
    return total - kept.count


def _batch(options: Options, page_size: int) -> int:
    """Pages of one batch: as many bytes, whatever the size of a page."""
    return max(1, (options.batch << 12) // page_size)


def _batches(kept: PfnSet, first: PfnSet | None, size: int) -> Iterator[NDArray[np.int64]]:
    """The first part, then all others; no batch has both."""
    for pfns in chain(first.pfns() if first else (), kept.pfns(without=first)):
        for start in range(0, len(pfns), size):
            yield pfns[start : start + size]
