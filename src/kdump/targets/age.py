"""The age file format, version 1, with X25519 recipients: the header, the keys, and chunks in any order.

Source: the specification at age-encryption.org/v1. A file is a text header that wraps a random file key for each
recipient, a nonce, and the payload in chunks of 64 KiB, each sealed with ChaCha20-Poly1305 under a nonce that counts
the chunks. Chunks do not depend on each other, so they may be made in any order as long as each is made once.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from nacl.bindings.crypto_aead import (
    crypto_aead_chacha20poly1305_ietf_decrypt as _open,
)
from nacl.bindings.crypto_aead import (
    crypto_aead_chacha20poly1305_ietf_encrypt as _seal,
)
from nacl.bindings.crypto_scalarmult import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from kdump.errors import FormatError, KdumpError
from kdump.files.digest import hmac_sha256

CHUNK = 64 << 10
TAG = 16
NONCE = 16
SUFFIX = ".age"

_INTRO = b"age-encryption.org/v1\n"
_LABEL = b"age-encryption.org/v1/X25519"
_COLUMNS = 64
_ZERO_NONCE = bytes(12)
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class Sealer:
    """Encrypts one file's chunks. `header` goes in front of them; `offset(n)` is where chunk n lies."""

    def __init__(self, recipients: Sequence[str]) -> None:
        file_key, nonce = os.urandom(16), os.urandom(NONCE)
        text = _INTRO + b"".join(_stanza(file_key, public_key(recipient)) for recipient in recipients) + b"---"
        mac = hmac_sha256(_hkdf(file_key, b"", b"header"), text)
        self.header = text + b" " + _base64(mac) + b"\n" + nonce
        self._key = _hkdf(file_key, nonce, b"payload")

    def offset(self, number: int) -> int:
        """Where chunk `number` begins in the file."""
        return len(self.header) + number * (CHUNK + TAG)

    def seal(self, number: int, plain: bytes, *, last: bool) -> bytes:
        """Encrypt chunk `number`; every chunk but the last has CHUNK bytes. Never call it twice for one number."""
        return _seal(plain, None, _chunk_nonce(number, last), self._key)


def decrypt(source: BinaryIO, identities: Sequence[str], path: str = "") -> Iterator[bytes]:
    """The plaintext, chunk by chunk; each chunk is authentic when it is given out.

    Raises `KdumpError` if none of the identities ("AGE-SECRET-KEY-1…") fits, `FormatError` if the file is not an age
    file, was changed, or ends too early; nothing may then be trusted to be whole.
    """
    file_key, nonce = _read_header(source, [_secret_key(identity) for identity in identities], path)
    key = _hkdf(file_key, nonce, b"payload")
    number, chunk = 0, source.read(CHUNK + TAG)
    while True:
        following = source.read(CHUNK + TAG)
        try:
            plain = _open(chunk, None, _chunk_nonce(number, not following), key)
        except (CryptoError, ValueError):
            raise FormatError(
                "the encrypted file is damaged or cut short",
                path=path,
                field=f"chunk {number}",
                why="it does not authenticate",
            ) from None
        if not plain and number:
            raise FormatError("the last chunk is empty", path=path, field=f"chunk {number}")
        yield plain
        if not following:
            return
        number, chunk = number + 1, following


def _read_header(source: BinaryIO, secrets: Sequence[bytes], path: str) -> tuple[bytes, bytes]:
    """(file key, nonce); leaves `source` at the first chunk."""
    if source.readline(100) != _INTRO:
        raise FormatError("is not an age file", path=path)
    text, wrapped = _INTRO, []
    while True:
        line = source.readline(4096)
        if line.startswith(b"---"):
            break
        text += line
        words = line.split()
        if not line.endswith(b"\n") or len(words) < 2 or words[0] != b"->":
            raise FormatError("the header is damaged", path=path)
        body = b""
        while True:
            part = source.readline(100)
            text += part
            body += part.rstrip(b"\n")
            if not part.endswith(b"\n") or len(part) <= _COLUMNS:
                break
        if words[1] == b"X25519" and len(words) == 3:
            wrapped.append((_unbase64(words[2], path), _unbase64(body, path)))
    file_key = next(filter(None, (_unwrap(share, body, s) for share, body in wrapped for s in secrets)), None)
    if file_key is None:
        raise KdumpError(
            f"{path} cannot be decrypted",
            why="it was encrypted to other keys" if secrets else "no private key was given",
            remedy="name the file with the private key: --identity FILE",
        )
    if hmac_sha256(_hkdf(file_key, b"", b"header"), text + b"---") != _unbase64(line[4:].rstrip(b"\n"), path):
        raise FormatError("the header was changed", path=path)
    nonce = source.read(NONCE)
    if len(nonce) != NONCE:
        raise FormatError("ends within its header", path=path)
    return file_key, nonce


def public_key(recipient: str) -> bytes:
    """The 32 bytes of "age1…". Raises `KdumpError` if it is not one."""
    return _bech32(recipient, "age")


def _secret_key(identity: str) -> bytes:
    return _bech32(identity.lower(), "age-secret-key-")


def _stanza(file_key: bytes, recipient: bytes) -> bytes:
    ephemeral = os.urandom(32)
    share = crypto_scalarmult_base(ephemeral)
    wrap_key = _hkdf(crypto_scalarmult(ephemeral, recipient), share + recipient, _LABEL)
    body = _base64(_seal(file_key, None, _ZERO_NONCE, wrap_key))
    return b"-> X25519 " + _base64(share) + b"\n" + body + b"\n"


def _unwrap(share: bytes, body: bytes, secret: bytes) -> bytes | None:
    if len(share) != 32 or len(body) != 16 + TAG:
        return None
    own = crypto_scalarmult_base(secret)
    try:
        return _open(body, None, _ZERO_NONCE, _hkdf(crypto_scalarmult(secret, share), share + own, _LABEL))
    except (CryptoError, ValueError, RuntimeError):
        return None  # for somebody else


def _chunk_nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA-256 (RFC 5869)."""
    return hmac_sha256(hmac_sha256(salt or bytes(32), secret), info + b"\1")


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unbase64(text: bytes, path: str) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise FormatError("the header is damaged", path=path, why="bad base64") from None


def _bech32(text: str, prefix: str) -> bytes:
    """The 32 bytes of a Bech32 string (BIP 173)."""
    kind, _, data = text.rpartition("1")
    try:
        values = [_BECH32.index(letter) for letter in data]
    except ValueError:
        values = []
    expanded = [ord(c) >> 5 for c in kind] + [0] + [ord(c) & 31 for c in kind] + values
    bits = 0
    for value in values[:-6]:
        bits = bits << 5 | value
    spare = 5 * len(values[:-6]) - 256
    if kind != prefix or not 0 <= spare < 5 or _polymod(expanded) != 1:
        what = "a recipient" if prefix == "age" else "an identity"
        raise KdumpError(f"this is not {what} of age", remedy="`age-keygen` makes a pair: age1… and AGE-SECRET-KEY-1…")
    return (bits >> spare).to_bytes(32, "big")


def _polymod(values: Sequence[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            check ^= generator if top >> bit & 1 else 0
    return check
