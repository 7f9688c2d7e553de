"""Searches all pages that a dump keeps: AES key schedules, contexts of ciphers, and copies of what was found before."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdump.dump.pages import PageReader
from kdump.dump.pfnset import PfnSet
from kdump.dump.scrub.cover import merged
from kdump.dump.scrub.found import Contexts, Found
from kdump.dump.scrub.kinds import KEYS
from kdump.dump.selection import Selection
from kdump.dump.workers import in_order
from kdump.errors import FormatError, NotPresentError
from kdump.kernel.aes import Fragment, expand, fragment, inverse
from kdump.memory.protocol import Memory, ReadsInto
from kdump.native.engine import engine
from kdump.native.interface import WordSet
from kdump.native.words import word_set

_BATCH = 768  # pages
_AT_ONCE = 64  # pages: they stay in the processor's cache from one search to the next
_LINE = 64
_AROUND = 1024  # bytes before and behind a schedule in which its cipher keeps the inverse one, and the key itself
_LEAST = 16  # bytes that a copy of a secret has in common with it
_DIFFERENT = 6  # bytes of eight, at least, in a word that is worth looking for: text and zeros have fewer
_ABSENT = (NotPresentError, FormatError, OSError)


@dataclass
class _Hits:
    """Physical places of words of some set, and of lines that may be in a schedule."""

    lines: list[int] = field(default_factory=list)
    words: list[tuple[int, int]] = field(default_factory=list)  # place, word


def scan(
    memory: Memory,
    selection: Selection,
    found: Found,
    *,
    threads: int,
    stop: Callable[[], str],
    tick: Callable[[int, int], None],
) -> None:
    """Add to `found` what the pages that are kept hold. Raises `StoppedError`.

    Struct pages are not searched: no page of theirs has held anything else since the machine started.
    """
    keys = KEYS in found.kinds
    values = _Values(found.values)
    contexts = found.contexts if keys else None
    wanted = word_set([*values.words, *(contexts.sizes if contexts else ())])
    if not keys and not len(wanted.words):
        return
    search = _Search(memory, found, values, contexts)

    def make_work() -> Callable[[NDArray[np.int64]], _Hits]:
        return _Look(memory, wanted, schedules=keys)

    done = 0
    for pfns, hits in in_order(_batches(selection.kept, selection.own), make_work, threads, stop):
        for place in hits.lines:
            search.schedule(place)
        for place, word in hits.words:
            if contexts and word in contexts.sizes:
                search.context(place, contexts.sizes[word])
            else:
                search.copy(place, word)
        done += len(pfns)
        tick(done, selection.kept.count)


def _batches(kept: PfnSet, without: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """What is kept in batches; `without` are [first, end) pfns, shape (n, 2) in any order, that are left out."""
    starts, ends = np.sort(without[:, 0]), np.sort(without[:, 1])
    for pfns in kept.pfns():
        # Outside of all of them, as many have ended as have begun.
        wanted = pfns[np.searchsorted(starts, pfns, side="right") == np.searchsorted(ends, pfns, side="right")]
        for start in range(0, len(wanted), _BATCH):
            yield wanted[start : start + _BATCH]


class _Look:
    """Both searches in some pages; one for each thread."""

    def __init__(self, memory: Memory, wanted: WordSet, *, schedules: bool) -> None:
        self._quick = memory if isinstance(memory, ReadsInto) else None
        self._read = PageReader(memory)
        self._wanted = wanted
        self._schedules = schedules
        self._size = memory.page_size
        self._search = engine.searcher(self._size, wanted, schedules=schedules)

    def __call__(self, pfns: NDArray[np.int64]) -> _Hits:
        hits = _Hits()
        if self._quick and (where := self._quick.places(pfns)) and (found := self._search(*where)):
            hits.lines = self._physical(found.lines, pfns)
            hits.words = list(zip(self._physical(found.words, pfns), found.values.tolist(), strict=True))
            return hits
        for start in range(0, len(pfns), _AT_ONCE):
            self._pages(pfns[start : start + _AT_ONCE], hits)
        return hits

    def _pages(self, pfns: NDArray[np.int64], hits: _Hits) -> None:
        """The same of few pages, one of which may be missing."""
        pages, unreadable = self._read(pfns)
        data = pages.reshape(-1)

        def readable(places: NDArray[np.int64]) -> NDArray[np.int64]:
            return places if unreadable is None else places[~unreadable[places // self._size]]

        if self._schedules:
            hits.lines += self._physical(readable(engine.schedules(data)), pfns)
        if len(self._wanted.words):
            places = readable(engine.words(data, self._wanted))
            values = data.view("<u8")[places // 8].tolist()
            hits.words += zip(self._physical(places, pfns), values, strict=True)

    def _physical(self, places: NDArray[np.int64], pfns: NDArray[np.int64]) -> list[int]:
        found: list[int] = (pfns[places // self._size] * self._size + places % self._size).tolist()
        return found


class _Values:
    """Secrets by every word of eight bytes in them that is worth looking for, at any offset."""

    def __init__(self, values: list[bytes]) -> None:
        self.words: dict[int, list[tuple[bytes, int]]] = {}
        for value in values:
            for at in range(len(value) - 7 if len(value) >= _LEAST else 0):
                if len(set(piece := value[at : at + 8])) >= _DIFFERENT:
                    self.words.setdefault(int.from_bytes(piece, "little"), []).append((value, at))


class _Search:
    """Looks closer at what `_look` came upon, and notes what has to be blanked."""

    def __init__(self, memory: Memory, found: Found, values: _Values, contexts: Contexts | None) -> None:
        self._memory = memory
        self._found = found
        self._values = values
        self._contexts = contexts
        self._until = 0  # where the last schedule ends: what lies before is blanked
        self._known = merged(found.ranges)
        self._starts = [start for start, _ in self._known]
        self._copies: set[tuple[int, int]] = set()

    def _window(self, start: int, end: int, around: int) -> tuple[int, bytes]:
        """The pages of [start, end), and `around` bytes on each side of these if they are there: address and bytes."""
        size = self._memory.page_size
        begin, stop = start // size * size, -(-end // size) * size
        data = bytes(self._memory.view(begin, stop - begin))
        if around:
            with contextlib.suppress(*_ABSENT):
                data += bytes(self._memory.view(stop, around))
            with contextlib.suppress(*_ABSENT):
                data = bytes(self._memory.view(begin - around, around)) + data
                begin -= around
        return begin, data

    def schedule(self, line: int) -> None:
        """A line of memory that may be in a key schedule."""
        if line + _LINE <= self._until:
            return
        begin, data = self._window(line, line + _LINE, 256)
        words = memoryview(data[: len(data) & ~3]).cast("I")
        for at in (12, 14):
            part = fragment(words, (line - begin) // 4 + at)
            if part:
                self._schedule(begin, data, part)
                return

    def _schedule(self, begin: int, data: bytes, part: Fragment) -> None:
        start, end = begin + 4 * part.start, begin + 4 * part.end
        self._until = end
        self._blank(start, end - start)
        self._found.count(KEYS, "AES key schedules")
        if not part.whole:
            self._found.count(KEYS, "parts of AES key schedules")
        if part.first:
            return
        key = data[4 * part.start : 4 * (part.start + part.key_words)]
        begin, data = self._window(start, end, _AROUND)
        pieces = inverse(expand(key))
        for piece in (key, *(pieces[each : each + 16] for each in range(0, len(pieces), 16))):
            place = data.find(piece)
            while place >= 0:
                self._blank(begin + place, len(piece))
                place = data.find(piece, place + 1)

    def context(self, place: int, size: int) -> None:
        """A word that is the address of an algorithm: of a struct crypto_tfm if what is around it says so."""
        layout = self._contexts
        assert layout
        if any(start <= place < end for start, end in layout.algorithms):
            return
        base = place - layout.algorithm
        try:
            head = bytes(self._memory.view(base, layout.context))
        except _ABSENT:
            return
        if (
            layout.node >= 0
            and not -1 <= int.from_bytes(head[layout.node : layout.node + 4], "little", signed=True) < 1024
        ):
            return
        if layout.leave >= 0:
            leave = int.from_bytes(head[layout.leave : layout.leave + 8], "little")
            if leave and not any(start <= leave < end for start, end in layout.code):
                return
        self._blank(base + layout.context, size)
        self._found.count(KEYS, "contexts of ciphers")

    def copy(self, place: int, word: int) -> None:
        """A word of a known secret: as much around it as is the same, within its page."""
        if self._is_known(place, 8):
            return
        begin, data = self._window(place, place + 8, 0)
        for value, at in self._values.words[word]:
            first, start = place - begin, at
            last, end = first + 8, at + 8
            while first > 0 and start > 0 and data[first - 1] == value[start - 1]:
                first, start = first - 1, start - 1
            while last < len(data) and end < len(value) and data[last] == value[end]:
                last, end = last + 1, end + 1
            copy = begin + first, last - first
            if copy[1] < _LEAST or copy in self._copies or self._is_known(*copy):
                continue
            self._copies.add(copy)
            self._blank(*copy)
            self._found.count("copies", "pieces of secrets found elsewhere")

    def _is_known(self, start: int, size: int) -> bool:
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and start + size <= self._known[at][1]

    def _blank(self, start: int, size: int) -> None:
        self._found.ranges.append((start, size))
