from __future__ import annotations

import hashlib
import hmac

import pytest

from kdump.files import digest
from kdump.files.digest import Pieces, hmac_sha256, sha256


def test_sha256_is_sha256() -> None:
    mine = sha256()
    mine.update(b"abc")
    assert mine.hexdigest() == hashlib.sha256(b"abc").hexdigest()


def test_the_kernel_hashes_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot (no AF_ALG), all goes on as before; the lab's machines can."""
    monkeypatch.setattr(digest, "_make", digest._make)
    assert digest.prefer_kernel() == digest.kernel_hashes()
    mine = sha256()
    mine.update(b"ab")
    assert mine.hexdigest() == hashlib.sha256(b"ab").hexdigest()
    mine.update(memoryview(b"c"))
    assert mine.hexdigest() == hashlib.sha256(b"abc").hexdigest()


def test_a_file_written_in_order_has_one_digest() -> None:
    pieces = Pieces()
    pieces.add(0, b"ab")
    pieces.add(2, memoryview(b"c"))
    assert pieces.describe() == {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert Pieces().describe() == {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}


def test_body_first_head_last_gives_two_pieces() -> None:
    pieces = Pieces()
    pieces.add(4, b"bo")
    pieces.add(0, b"he")
    pieces.add(6, b"dy")
    pieces.add(2, b"ad")
    assert pieces.describe() == {
        "size": 8,
        "pieces": [
            {"offset": 0, "size": 4, "sha256": hashlib.sha256(b"head").hexdigest()},
            {"offset": 4, "size": 4, "sha256": hashlib.sha256(b"body").hexdigest()},
        ],
    }


def test_hmac() -> None:
    for key in (b"", b"k", b"k" * 64, b"k" * 65):
        assert hmac_sha256(key, b"message") == hmac.new(key, b"message", "sha256").digest()
