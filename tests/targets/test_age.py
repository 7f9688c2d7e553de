from __future__ import annotations

import io
import os

import pyrage
import pytest

from kdump.errors import FormatError, KdumpError
from kdump.targets import age
from kdump.targets.encrypted import EncryptedStream


class Buffer:
    """A stream in memory that holds writers to the protocol: nothing is written twice."""

    name = "vmcore"

    def __init__(self) -> None:
        self.data = bytearray()
        self.gap = 0
        self.sealed = False

    def skip(self, size: int) -> None:
        assert not self.data
        self.gap = size
        self.data = bytearray(size)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self.data += data
        return len(data)

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        assert offset + len(data) <= self.gap
        assert not any(self.data[offset : offset + len(data)])
        self.data[offset : offset + len(data)] = data
        return len(data)

    def seal(self) -> None:
        self.sealed = True

    def abort(self) -> None:
        raise AssertionError


IDENTITY = pyrage.x25519.Identity.generate()
SIZES = [0, 1, age.CHUNK - 1, age.CHUNK, age.CHUNK + 1, 3 * age.CHUNK, 3 * age.CHUNK + 5]


def encrypt(head: bytes, body: bytes, pieces: int = 3) -> bytes:
    below = Buffer()
    stream = EncryptedStream(below, [str(IDENTITY.to_public())])
    if head:
        stream.skip(len(head))
    step = max(1, -(-len(body) // pieces))
    for at in range(0, len(body), step):
        stream.write(body[at : at + step])
    if head:
        stream.pwrite(head[:10], 0)
        stream.pwrite(head[10:], 10)
    stream.seal()
    assert below.sealed
    assert stream.pieces.describe()["size"] == len(head) + len(body)
    return bytes(below.data)


@pytest.mark.parametrize("body", SIZES)
@pytest.mark.parametrize("head", SIZES)
def test_another_implementation_decrypts_it(head: int, body: int) -> None:
    first, rest = os.urandom(head), os.urandom(body)
    cipher = encrypt(first, rest)
    assert pyrage.decrypt(cipher, [IDENTITY]) == first + rest
    assert b"".join(age.decrypt(io.BytesIO(cipher), [str(IDENTITY)])) == first + rest


@pytest.mark.parametrize("size", SIZES)
def test_what_another_implementation_encrypts_is_decrypted(size: int) -> None:
    other = pyrage.x25519.Identity.generate()
    plain = os.urandom(size)
    cipher = pyrage.encrypt(plain, [other.to_public(), IDENTITY.to_public()])
    assert b"".join(age.decrypt(io.BytesIO(cipher), [str(IDENTITY)])) == plain


def test_several_recipients() -> None:
    other = pyrage.x25519.Identity.generate()
    below = Buffer()
    stream = EncryptedStream(below, [str(IDENTITY.to_public()), str(other.to_public())])
    stream.write(b"secret")
    stream.seal()
    assert pyrage.decrypt(bytes(below.data), [other]) == b"secret"
    assert pyrage.decrypt(bytes(below.data), [IDENTITY]) == b"secret"


@pytest.mark.parametrize("where", [5, 40, 150, 230, -70000, -1])
def test_a_flipped_bit_is_found(where: int) -> None:
    cipher = bytearray(encrypt(b"h" * 100, bytes(2 * age.CHUNK)))
    cipher[where] ^= 1
    with pytest.raises(KdumpError, match=r"damaged|encrypted to other keys|header was changed|age|recipient"):
        b"".join(age.decrypt(io.BytesIO(cipher), [str(IDENTITY)]))


@pytest.mark.parametrize("keep", [0, 10, 100, 220, 300, 70000, -(age.CHUNK + age.TAG), -1])
def test_a_cut_is_found(keep: int) -> None:
    cipher = encrypt(b"h" * 100, bytes(2 * age.CHUNK - 100))
    with pytest.raises(FormatError, match=r"cut|ends|age"):
        b"".join(age.decrypt(io.BytesIO(cipher[:keep]), [str(IDENTITY)]))


def test_a_stranger_cannot_read_it() -> None:
    stranger = pyrage.x25519.Identity.generate()
    with pytest.raises(KdumpError, match="other keys"):
        b"".join(age.decrypt(io.BytesIO(encrypt(b"", b"x")), [str(stranger)]))


RECIPIENT = str(IDENTITY.to_public())
MISSPELT = RECIPIENT[:-1] + ("p" if RECIPIENT.endswith("q") else "q")


@pytest.mark.parametrize(
    "text",
    ["", "age1", "age1qqqq", pytest.param(MISSPELT, id="checksum"), "ssh-ed25519 AAAA"],
)
def test_a_bad_recipient_is_refused(text: str) -> None:
    with pytest.raises(KdumpError, match="not a recipient"):
        age.public_key(text)
