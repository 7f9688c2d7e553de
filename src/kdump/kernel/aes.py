"""AES key schedules in memory: a key that a cipher is using can be told by the round keys that follow from it.

Source: FIPS 197, 5.2 (key expansion). Drivers for little-endian and big-endian processors alike keep the words in the
byte order of the standard. What is looked at is a cipher's context, a few hundred bytes to a few KiB: no arrays needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

SCHEDULES = {16: 176, 24: 208, 32: 240}  # bytes of a key -> bytes of its schedule, the key first


def _tables() -> tuple[bytes, bytes]:
    """The S-box, and the round constants."""
    powers = [1]
    for _ in range(254):  # of the generator 3 in GF(2^8)
        last = powers[-1]
        powers.append(last ^ (last << 1 & 0xFF) ^ (0x1B if last & 0x80 else 0))
    logarithm = {value: exponent for exponent, value in enumerate(powers)}

    def substitute(value: int) -> int:
        inverse = powers[-logarithm[value] % 255] if value else 0
        turned = [inverse << count | inverse >> (8 - count) for count in range(5)]
        return (turned[0] ^ turned[1] ^ turned[2] ^ turned[3] ^ turned[4]) & 0xFF ^ 0x63

    return bytes(map(substitute, range(256))), bytes(powers[25 * number % 255] for number in range(14))


_SBOX, _ROUND = _tables()  # 3^25 is 2


class Fragment(NamedTuple):
    """A part of a key schedule, in words of four bytes: where it begins and ends in what was looked at.

    `first` is the number of its first word in the schedule, `key_words` the key's length (4, 6 or 8).
    """

    start: int
    end: int
    first: int
    key_words: int

    @property
    def whole(self) -> bool:
        """Whether none of the schedule is missing."""
        return self.first == 0 and self.end - self.start == SCHEDULES[4 * self.key_words] // 4


def _derived(words: Sequence[int], at: int, number: int, count: int) -> bool:
    """Whether words[at] can be word `number` of the schedule of a key of `count` words, by those before it."""
    word = words[at - 1]
    if number % count == 0:
        word = _substituted(word >> 8 | (word & 0xFF) << 24) ^ _ROUND[number // count - 1]
    elif count == 8 and number % count == 4:
        word = _substituted(word)
    return words[at] == word ^ words[at - count]


def _substituted(word: int) -> int:
    return int.from_bytes(bytes(_SBOX[byte] for byte in word.to_bytes(4, "little")), "little")


_ENOUGH = 4  # derived words, one of them by the S-box: chance has that once in 2^128 places


def fragment(words: Sequence[int], at: int) -> Fragment | None:
    """The longest part of a schedule that holds words[at] and words[at + 1] (little-endian), both derived; or None.

    It may be cut by the end of a page, or by what was written over it.
    """
    best: Fragment | None = None
    for count in (4, 6, 8):
        if at < count or at + 1 >= len(words) or words[at + 1] != words[at] ^ words[at + 1 - count]:
            continue
        for number in range(count, SCHEDULES[4 * count] // 4 - 1):
            if not (_derived(words, at, number, count) and _derived(words, at + 1, number + 1, count)):
                continue
            begin, end = at, at + 2
            last = min(len(words), at + SCHEDULES[4 * count] // 4 - number)
            while end < last and _derived(words, end, number + end - at, count):
                end += 1
            first = max(count, at - number + count)
            while begin > first and _derived(words, begin - 1, number - at + begin - 1, count):
                begin -= 1
            found = Fragment(begin - count, end, number - at + begin - count, count)
            by_box = any((number - at + each) % count == 0 for each in range(begin, end))
            if (
                end - begin >= _ENOUGH
                and by_box
                and (best is None or end - begin > best.end - best.start - best.key_words)
            ):
                best = found
    return best


def inverse(schedule: bytes | bytearray | memoryview) -> bytes:
    """The schedule of the equivalent inverse cipher (FIPS 197, 5.3.5): the last round first, the inner ones mixed."""
    rounds = [bytes(schedule[at : at + 16]) for at in range(0, len(schedule), 16)][::-1]
    return rounds[0] + b"".join(map(_unmixed, rounds[1:-1])) + rounds[-1]


def _unmixed(state: bytes) -> bytes:
    """InvMixColumns (FIPS 197, 5.3.3)."""
    out = bytearray()
    for at in range(0, 16, 4):
        column = state[at : at + 4]
        for row in range(4):
            one, two, three, four = column[row:] + column[:row]
            out.append(_BY[14][one] ^ _BY[11][two] ^ _BY[13][three] ^ _BY[9][four])
    return bytes(out)


class _Products(dict[int, bytes]):
    """The products of all bytes by a factor, made when they are first needed."""

    def __missing__(self, factor: int) -> bytes:
        self[factor] = bytes(_times(byte, factor) for byte in range(256))
        return self[factor]


_BY = _Products()


def _times(byte: int, factor: int) -> int:
    """Their product in GF(2^8)."""
    found = 0
    while factor:
        found ^= byte * (factor & 1)
        byte = byte << 1 & 0xFF ^ (0x1B if byte & 0x80 else 0)
        factor >>= 1
    return found


def expand(key: bytes | bytearray | memoryview) -> bytearray:
    """The schedule of a key of 16, 24 or 32 bytes."""
    size = len(key)
    out = bytearray(key)
    for at in range(size, SCHEDULES[size], 4):
        word = out[at - 4 : at]
        if at % size == 0:
            word = bytearray((*(_SBOX[byte] for byte in word[1:]), _SBOX[word[0]]))
            word[0] ^= _ROUND[at // size - 1]
        elif size == 32 and at % size == 16:
            word = bytearray(_SBOX[byte] for byte in word)
        out += bytes(one ^ other for one, other in zip(word, out[at - size : at - size + 4], strict=True))
    return out


def find_schedules(data: bytes | bytearray | memoryview) -> Iterator[tuple[int, bytearray]]:
    """(offset, key) of every whole schedule that begins at a multiple of 4 in `data`."""
    view = memoryview(data).cast("B")
    words = view[: len(view) & ~3].cast("I")
    for size, whole in SCHEDULES.items():
        key, count = size // 4, whole // 4
        for at in range(len(words) - count + 1):
            # The words after the first derived one are plain XORs: almost nothing else passes these two.
            if words[at + key + 1] != words[at + 1] ^ words[at + key]:
                continue
            if words[at + key + 2] != words[at + 2] ^ words[at + key + 1]:
                continue
            start = at * 4
            if expand(view[start : start + size]) == view[start : start + whole]:
                yield start, bytearray(view[start : start + size])
