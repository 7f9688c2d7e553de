"""Key schedules: FIPS 197's own examples (appendix A), found among other bytes, and not where one bit is wrong."""

from __future__ import annotations

import pytest

from kdump.kernel.aes import SCHEDULES, Fragment, expand, find_schedules, fragment, inverse

# Key and last round key, FIPS 197, A.1 to A.3.
EXAMPLES = [
    ("2b7e151628aed2a6abf7158809cf4f3c", "d014f9a8c9ee2589e13f0cc8b6630ca6"),
    ("8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b", "e98ba06f448c773c8ecc720401002202"),
    (
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "fe4890d1e6188d0b046df344706c631e",
    ),
]


@pytest.mark.parametrize(("key", "last"), EXAMPLES)
def test_keys_are_expanded_as_the_standard_says(key: str, last: str) -> None:
    schedule = expand(bytes.fromhex(key))
    assert len(schedule) == SCHEDULES[len(key) // 2]
    assert schedule[-16:].hex() == last


def test_schedules_are_found_among_other_bytes_and_only_whole() -> None:
    keys = [bytes.fromhex(key) for key, _ in EXAMPLES]
    memory = bytearray(b"\xa5" * 20)
    places = []
    for key in keys:
        places.append(len(memory))
        memory += expand(key) + b"\x5a" * 12
    assert sorted(find_schedules(memory)) == sorted(zip(places, map(bytearray, keys), strict=True))
    assert list(find_schedules(memory[: places[-1]] + expand(keys[2])[:-1])) == [
        (places[number], bytearray(keys[number])) for number in (0, 1)
    ]
    for place in places:
        memory[place + 100] ^= 1
    assert list(find_schedules(memory)) == []
    assert list(find_schedules(bytes(4096))) == []  # zeros, as a wiped context has them
    assert list(find_schedules(b"\1\2\3")) == []


@pytest.mark.parametrize("key", [key for key, _ in EXAMPLES])
def test_parts_of_schedules_are_found_too(key: str) -> None:
    whole = expand(bytes.fromhex(key))
    length, count = len(key) // 8, len(whole) // 4
    words = memoryview(bytes(64) + bytes(whole) + bytes(64)).cast("I")
    for at in range(16 + length, 16 + count - 1):
        found = fragment(words, at)
        # Two words in a row are derived without the S-box, but for those between which it is asked.
        if found is not None:
            assert found == Fragment(16, 16 + count, 0, length)
            assert found.whole
    assert fragment(words, 16 + length + 1) is not None
    # Cut at both ends, as by the ends of pages, and broken in the middle.
    cut = memoryview(bytes(whole[20:-20])).cast("I")
    part = fragment(cut, 16)
    assert part == Fragment(0, count - 10, 5, length)
    assert part is not None
    assert not part.whole
    broken = bytearray(whole)
    broken[4 * (count - 8)] ^= 1
    part = fragment(memoryview(bytes(broken)).cast("I"), length + 1)
    assert part == Fragment(0, count - 8, 0, length)
    assert fragment(memoryview(bytes(4096)).cast("I"), 100) is None


def test_the_inverse_schedule_is_the_standards() -> None:
    # FIPS 197, C.1: the first mixed round key of the equivalent inverse cipher, ik_sch of round 1, and the last one.
    key = bytes(range(16))
    made = inverse(expand(key))
    assert made[16:32].hex() == "13aa29be9c8faff6f770f58000f7bf03"
    assert made[-16:] == key
