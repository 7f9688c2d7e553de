"""Hidden bytes read as zeros by every way to read; passwords among arguments; pages kept beyond a level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdump.dump.classes import PageClass, dropped
from kdump.dump.codecs import codec, compressor, interleaved
from kdump.dump.keep import Kept, joined
from kdump.dump.scrub.arguments import secrets
from kdump.dump.scrub.cover import CoveredMemory
from kdump.dump.scrub.found import Contexts, Found
from kdump.dump.scrub.kinds import KINDS, parse_kinds
from kdump.dump.selection import Also
from kdump.errors import UsageError
from kdump.memory.protocol import Range
from kdump.native.interface import Fates

PAGE, PAGES = 4096, 8


class Plain:
    """Memory that is an array of bytes, and can do nothing quickly."""

    page_size = PAGE
    content = np.arange(PAGE * PAGES, dtype=np.uint32).astype(np.uint8) | np.uint8(1)

    @property
    def ranges(self) -> Sequence[Range]:
        return [Range(0, PAGE * PAGES)]

    def view(self, address: int, size: int) -> memoryview:
        return memoryview(self.content.tobytes())[address : address + size]

    def present(self, first_pfn: int, count: int) -> NDArray[np.bool_]:
        return np.arange(first_pfn, first_pfn + count) < PAGES

    def held(self) -> Iterator[Range]:
        yield Range(0, PAGE * PAGES)

    def close(self) -> None: ...


RANGES = st.lists(st.tuples(st.integers(0, PAGE * PAGES - 1), st.integers(1, 9000)), max_size=6)


@given(RANGES, st.integers(0, PAGE * PAGES - 1), st.integers(1, 3 * PAGE))
def test_hidden_bytes_are_zeros(ranges: list[tuple[int, int]], address: int, size: int) -> None:
    ranges = [(start, min(length, PAGE * PAGES - start)) for start, length in ranges]
    size = min(size, PAGE * PAGES - address)
    expected = Plain.content.copy()
    for start, length in ranges:
        expected[start : start + length] = 0
    memory = CoveredMemory(Plain(), ranges)
    assert bytes(memory.view(address, size)) == expected[address : address + size].tobytes()
    buffer = bytearray(size)
    memory.readinto(address, memoryview(buffer))
    assert buffer == expected[address : address + size].tobytes()
    assert memory.size == np.count_nonzero(expected == 0)
    pfns = np.array([0, 1, 3, 4, 7], np.int64)
    hidden = (expected.reshape(PAGES, PAGE) == 0).any(axis=1)[pfns]
    covers = memory.covers(pfns)
    assert (covers is None and not hidden.any()) or (covers is not None and (covers == hidden).all())


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_batches_are_put_together_in_order(which: list[bool]) -> None:
    pages = np.zeros((len(which), PAGE), np.uint8)
    pages[:, 0] = np.arange(1, len(which) + 1)
    pack = compressor(codec("zlib"))
    mask = np.array(which)
    one, other = pack(pages[~mask], drop_zeros=True), pack(pages[mask], drop_zeros=True)
    found, whole = interleaved(one, other, mask), pack(pages, drop_zeros=True)
    assert bytes(found.data) == bytes(whole.data)
    assert found.sizes.tolist() == whole.sizes.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"mysqld --db-password=hunter2 --port=1", [b"hunter2"]),
        (b"tool --password hunter2 x", [b"hunter2"]),
        (b"tool --password --verbose", []),
        (b"curl https://me:hunter2@example.net/", [b"hunter2"]),
        (b"x --pass=a=b API_TOKEN=t0ken PGPASSWORD=pw PATH=/bin", [b"a=b", b"t0ken", b"pw"]),
        (b"java -Djavax.net.ssl.trustStorePassword=changeit", [b"changeit"]),
        (b"cat /etc/passwd --compass-file=x", []),
        (b"", []),
    ],
)
def test_passwords_among_arguments(text: bytes, expected: list[bytes]) -> None:
    text = text.replace(b" ", b"\0") + b"\0"
    assert [text[at : at + size] for at, size in secrets(text, options=True)] == expected


def test_what_was_found_passes_to_another_process() -> None:
    found = Found(("keys", "tls"), [(1, 2)], [b"\0\1"], Contexts({5: 6}, 1, 2, 3, 4, [(1, 2)], []), {"keys": {"a": 1}})
    assert Found.from_json(found.to_json().encode()) == found


def test_kinds_are_named() -> None:
    assert parse_kinds("all") == tuple(KINDS)
    assert parse_kinds("tls,keys,tls") == ("tls", "keys")
    with pytest.raises(UsageError, match="no kind of secret"):
        parse_kinds("tls,paswords")


PAGES_OF = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=12)


@given(PAGES_OF, st.integers(0, 3))
def test_pages_are_kept_beyond_a_level(pages: list[tuple[int, int]], seed: int) -> None:
    wanted = np.zeros(400, np.bool_)
    for first, count in pages:
        wanted[first : first + count] = True
    runs = joined(np.array([(first, first + count) for first, count in pages], np.int64).reshape(-1, 2))
    assert [place for begin, end in runs.tolist() for place in range(begin, end)] == np.flatnonzero(wanted).tolist()
    kept = Kept(("a", "/b"), [(1, "a")], ["/b"], ["why"], runs)
    again = Kept.from_json(kept.to_json().encode())
    assert again.runs.tolist() == runs.tolist()
    assert again.to_dict(3) == kept.to_dict(3)

    random = np.random.default_rng(seed)
    classes = random.integers(0, len(PageClass), 200).astype(np.uint8)
    held, before = random.integers(0, 2, (2, 200)).astype(np.bool_)
    before &= held
    may = ~dropped(0)
    fates = Fates(before.copy(), before, np.zeros(256, np.int64))
    counts = Also(again.runs, may).add(100, classes, held, fates)  # pfns 100 to 299
    expected = before | (wanted[100:300] & held & may[classes])
    assert fates.kept.tolist() == expected.tolist()
    assert counts.tolist() == np.bincount(classes[expected & ~before], minlength=len(PageClass)).tolist()
