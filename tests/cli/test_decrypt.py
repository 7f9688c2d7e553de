from __future__ import annotations

import os
import stat
from pathlib import Path

import pyrage
import pytest

from kdump.cli.main import main


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, pyrage.x25519.Identity]:
    identity = pyrage.x25519.Identity.generate()
    path = tmp_path / "key.txt"
    path.write_text(f"# created: today\n# public key: {identity.to_public()}\n{identity}\n")
    return path, identity


def test_a_crash_is_decrypted(tmp_path: Path, key: tuple[Path, pyrage.x25519.Identity]) -> None:
    path, identity = key
    crash, out = tmp_path / "crash", tmp_path / "out"
    crash.mkdir()
    content = {"vmcore": os.urandom(200_000), "vmcore-dmesg.txt": b"[    0.0] hello\n"}
    for name, data in content.items():
        (crash / f"{name}.age").write_bytes(pyrage.encrypt(data, [identity.to_public()]))
    assert main(["decrypt", str(crash), str(out), "--identity", str(path)]) == 0
    assert {entry.name: entry.read_bytes() for entry in out.iterdir()} == content
    assert stat.S_IMODE((out / "vmcore").stat().st_mode) == 0o600


def test_nothing_is_left_of_a_damaged_file(
    tmp_path: Path, key: tuple[Path, pyrage.x25519.Identity], capsys: pytest.CaptureFixture[str]
) -> None:
    path, identity = key
    cipher = bytearray(pyrage.encrypt(os.urandom(200_000), [identity.to_public()]))
    cipher[-5] ^= 1
    (tmp_path / "vmcore.age").write_bytes(cipher)
    assert main(["decrypt", str(tmp_path / "vmcore.age"), str(tmp_path / "vmcore"), "-i", str(path)]) == 1
    assert "damaged or cut short" in capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["key.txt", "vmcore.age"]


def test_a_file_without_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("age1public\n")
    (tmp_path / "vmcore.age").write_bytes(b"x")
    assert main(["decrypt", str(tmp_path / "vmcore.age"), str(tmp_path / "v"), "-i", str(tmp_path / "key")]) == 2
    assert "no private key" in capsys.readouterr().err
