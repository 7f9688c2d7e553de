"""Loops over a kernel's tables: both engines find what following the definition finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump.kernel.kallsyms import Names
from kdump.native import compiled, plain
from kdump.native.interface import Engine

ENGINES: list[Engine] = [compiled, plain]


@given(raw=st.binary(max_size=400), count=st.integers(0, 500), wide=st.booleans())
def test_names(raw: bytes, count: int, wide: bool) -> None:
    places: list[int] = []
    at = 0
    while at < len(raw) and len(places) < count:
        places.append(at)
        size = raw[at]
        if wide and size & 0x80:
            size = (size & 0x7F) | (raw[at + 1] if at + 1 < len(raw) else 0) << 7
            at += 1
        at += 1 + size
    for engine in ENGINES:
        assert engine.names(np.frombuffer(raw, np.uint8), count, wide=wide).tolist() == [*places, at], engine.NAME


@given(
    kinds=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 6)), max_size=60),
    cut=st.integers(0, 200),
    table=st.lists(st.tuples(st.sampled_from([0, 3, 4, 5]), st.integers(0, 3)), min_size=128, max_size=128),
)
def test_types(kinds: list[tuple[int, int]], cut: int, table: list[tuple[int, int]]) -> None:
    lengths = [table[kind][0] + table[kind][1] * number if table[kind][0] else 0 for kind, number in kinds]
    words: list[int] = []
    for (kind, number), length in zip(kinds, lengths, strict=True):
        words += [7, kind << 24 | number, *[0] * max(1, length - 2)]
    words = words[:cut]
    fixed = np.array([fixed for fixed, _ in table], np.int64)
    each = np.array([each if fixed else 0 for fixed, each in table], np.int64)
    places: list[int] = []
    at = 0
    while at < len(words):
        places.append(at)
        length = 0
        if at + 2 < len(words):
            kind, number = words[at + 1] >> 24 & 0x7F, words[at + 1] & 0xFFFFFF
            length = int(fixed[kind] + each[kind] * number)
        if not length:
            break
        at += length
    else:
        places.append(at)
    for engine in ENGINES:
        assert engine.types(np.array(words, np.uint32), fixed, each).tolist() == places, engine.NAME


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), min_size=256, max_size=256),
    names=st.lists(st.binary(min_size=1, max_size=30), max_size=40),
)
def test_heads_and_finding_names(pieces: list[bytes], names: list[bytes]) -> None:
    raw = b"".join(bytes([len(name)]) + name for name in names)
    places = np.cumsum([0, *(1 + len(name) for name in names)])
    table = Names(raw, False, places, pieces)
    compiled_heads, plain_heads = (
        engine.heads(table._codes, table._begins, table._ends, pieces).tolist() for engine in ENGINES
    )
    assert compiled_heads == plain_heads
    for number in range(len(names)):
        whole = b"".join(pieces[token] for token in names[number])
        assert table[number] == whole
        assert number in table.find(whole[1:])


def test_a_name_that_lies_outside_is_refused() -> None:
    raw = np.zeros(10, np.uint8)
    for engine in ENGINES:
        for begin, end in ((1, 11), (-1, 5)):
            with pytest.raises(ValueError, match="outside"):
                engine.heads(raw, np.array([begin]), np.array([end]), [b"x"] * 256)
