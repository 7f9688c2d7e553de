"""AES key schedules in memory: a key that a cipher is using can be told by the round keys that follow from it.

Source: FIPS 197, 5.2 (key expansion). Drivers for little-endian and big-endian processors alike keep the words in the
byte order of the standard. What is looked at is a cipher's context, a few hundred bytes to a few KiB: no arrays needed.
"""

from __future__ import annotations

from collections.abc import Iterator

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
