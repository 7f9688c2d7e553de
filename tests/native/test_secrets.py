"""Searches of all memory: both engines find the same, and every schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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


@given(
    pages=st.lists(st.sampled_from(["zeros", "schedule", "words", "noise"]), min_size=1, max_size=80),
    picks=st.lists(st.integers(0, 79), max_size=100),
)
def test_pages_of_a_file_are_searched_as_pages_in_memory(
    tmp_path_factory: pytest.TempPathFactory, pages: list[str], picks: list[int]
) -> None:
    noise = np.random.default_rng(len(pages)).bytes(4096)
    wanted = word_set([0x1122334455667788, int.from_bytes(noise[:8], "little")])
    schedule = bytes(expand(noise[:32]))
    kinds = {
        "zeros": bytes(4096), "noise": noise, "words": (0x1122334455667788).to_bytes(8, "little") * 2 + bytes(4080),
        "schedule": bytes(64) + schedule + bytes(4032 - len(schedule)),
    }  # fmt: skip
    path = tmp_path_factory.mktemp("pages") / "file"
    path.write_bytes(b"head" + b"".join(kinds[kind] for kind in pages))
    places = np.array(sorted({pick % len(pages) for pick in picks} | {0}), np.int64) * 4096 + 4
    data = np.frombuffer(b"".join(kinds[pages[place // 4096]] for place in places.tolist()), np.uint8)
    with path.open("rb") as file:
        search = compiled.searcher(4096, wanted, schedules=True)
        found = search(file.fileno(), places)
        assert found is not None
        assert found.lines.tolist() == compiled.schedules(data).tolist()
        assert found.words.tolist() == compiled.words(data, wanted).tolist()
        assert found.values.tolist() == data.view("<u8")[found.words // 8].tolist()
        words_alone = compiled.searcher(4096, wanted, schedules=False)(file.fileno(), places)
        assert words_alone is not None and not len(words_alone.lines)
        assert search(file.fileno(), np.array([path.stat().st_size - 4095])) is None  # it ends before that page does


def test_more_than_there_is_room_for(tmp_path: Path) -> None:
    """A file of nothing but words that are looked for: the caller reads it in smaller parts."""
    (tmp_path / "file").write_bytes(b"12345678" * 512 * 200)
    search = compiled.searcher(4096, word_set([int.from_bytes(b"12345678", "little")]), schedules=True)
    with (tmp_path / "file").open("rb") as file:
        assert search(file.fileno(), np.arange(200, dtype=np.int64) * 4096) is None
        found = search(file.fileno(), np.arange(20, dtype=np.int64) * 4096)
        assert found is not None and len(found.words) == 20 * 512
