"""Searches of all memory: both engines find the same, and every schedule."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdump.kernel.aes import expand
from kdump.native import compiled, plain
from kdump.native.interface import Engine
from kdump.native.words import word_set

ENGINES: list[Engine] = [compiled, plain]


@given(key=st.binary(min_size=32, max_size=32), size=st.sampled_from([16, 24, 32]), place=st.integers(0, 900))
def test_schedules(key: bytes, size: int, place: int) -> None:
    schedule = expand(key[:size])
    data = np.frombuffer(bytes(4 * place) + bytes(schedule) + bytes(4096 - 4 * place - len(schedule)), np.uint8)
    lines = [engine.schedules(data).tolist() for engine in ENGINES]
    assert lines[0] == lines[1]
    words = [int.from_bytes(schedule[at : at + 4], "little") for at in range(0, len(schedule), 4)]
    if 0 not in words:  # once in 2^26 keys; hypothesis likes those of few ones
        first, end = 4 * place + size, 4 * place + len(schedule)
        inner = [line for line in range(0, 4096, 64) if first <= line + 48 and line + 64 <= end]
        assert {line for line in inner if distinct(words, line // 4 + 12 - place)} <= set(lines[0])


def distinct(words: list[int], at: int) -> bool:
    """Whether no word of a line equals the one before it, which only keys of a pattern have."""
    return all(words[at + each] != words[at + each - 1] for each in range(4) if at + each < len(words))


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=40), st.lists(st.integers(0, 60), max_size=80))
def test_words(wanted: list[int], picks: list[int]) -> None:
    held = [wanted[pick] if pick < len(wanted) else pick for pick in picks]
    data = np.array(held, np.uint64).view(np.uint8)
    expected = [8 * at for at, word in enumerate(held) if word in set(wanted)]
    for engine in ENGINES:
        assert engine.words(data, word_set(wanted)).tolist() == expected, engine.NAME
