"""Encrypted volumes on the healthy host: what is refused by name, what the plan keeps, whose key a LUKS header has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kdump.capture import devicemapper
from kdump.capture.devicemapper import DmTarget
from kdump.errors import KdumpError
from kdump.host import encryption

LINE = "aes-xts-plain64 :64:- 0 <LUKS-1> 32768"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine whose kernel has dm-crypt as a module, with types."""
    for module in ("dm_mod", "dm_crypt"):
        (tmp_path / "sys/module" / module).mkdir(parents=True)
        (tmp_path / "sys/module" / module / "initstate").write_text("live\n")
        (tmp_path / "sys/kernel/btf").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/kernel/btf" / module).touch()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags\t\t: fpu aes hypervisor\n")
    return tmp_path


def plan_of(root: Path, line: str) -> DmTarget:
    return encryption.plan_of("home", [DmTarget(0, 8192, "crypt", line)], root)


def test_the_plan_keeps_what_says_where_the_data_is(root: Path) -> None:
    assert plan_of(root, LINE).parameters == LINE
    tuned = f"{LINE} 4 allow_discards no_read_workqueue sector_size:4096 iv_large_sectors"
    assert plan_of(root, tuned).parameters == f"{LINE} 2 sector_size:4096 iv_large_sectors"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("serpent-xts-plain64 :64:- 0 <L> 0", "keys of the cipher serpent-xts-plain64"),
        ("xchacha12,aes-adiantum-plain64 :32:- 0 <L> 0", "keys of the cipher xchacha12,aes-adiantum"),
        ("aes:64-cbc-lmk :64:- 0 <L> 0", "keys of the cipher aes:64-cbc-lmk"),
        ("aes-lrw-benbi :48:- 0 <L> 0", "keys of the cipher aes-lrw"),
        ("capi:authenc(hmac(sha256),xts(aes))-random :96:- 0 <L> 0 1 integrity:48:aead", "integrity"),
        ("aes-xts-plain64", "cannot be read"),
    ],
)
def test_ciphers_whose_keys_cannot_be_found_are_refused_by_name(root: Path, line: str, reason: str) -> None:
    with pytest.raises(KdumpError) as caught:
        plan_of(root, line)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "cipher", ["aes-cbc-essiv:sha256", "capi:xts(aes)-plain64", "capi:essiv(cbc(aes),sha256)-plain64"]
)
def test_other_names_of_ciphers_that_work(root: Path, cipher: str) -> None:
    assert plan_of(root, LINE.replace("aes-xts-plain64", cipher)).parameters.startswith(cipher)


def test_setups_that_cannot_work_are_refused_by_name(root: Path) -> None:
    (root / "proc/cpuinfo").write_text("flags\t\t: fpu aes hypervisor tdx_guest\n")
    with pytest.raises(KdumpError, match="encrypted \\(tdx_guest\\)"):
        plan_of(root, LINE)
    (root / "proc/cpuinfo").write_text("flags\t\t: fpu aes\n")
    (root / "sys/kernel/btf/dm_crypt").unlink()
    with pytest.raises(KdumpError, match="no types for dm_crypt"):
        plan_of(root, LINE)
    (root / "sys/module/dm_crypt/initstate").unlink()  # built in
    (root / "sys/kernel/btf/vmlinux").touch()
    assert plan_of(root, LINE)
    with pytest.raises(KdumpError, match="more than one segment"):
        encryption.plan_of("home", [DmTarget(0, 8, "crypt", LINE), DmTarget(8, 8, "linear", "8:1 0")], root)


def test_a_key_never_leaves_the_reader_of_tables() -> None:
    key = os.urandom(64).hex().encode()
    line = bytearray(b"aes-xts-plain64 " + key + b" 0 8:1 32768 1 allow_discards")
    assert devicemapper._without_key(line) == b"aes-xts-plain64 :64:- 0 8:1 32768 1 allow_discards"
    line = bytearray(b"aes-xts-plain64 :64:logon:cryptsetup:1234-d0 0 8:1 32768")
    assert devicemapper._without_key(line) == b"aes-xts-plain64 :64:logon 0 8:1 32768"


@pytest.mark.parametrize("kind", ["luks1", "luks2"])
def test_a_luks_header_knows_its_volume_key(tmp_path: Path, kind: str) -> None:
    key, image = os.urandom(64), tmp_path / "disk"
    (tmp_path / "key").write_bytes(key)
    with image.open("wb") as file:
        file.truncate(32 << 20)
    command = [
        "cryptsetup",
        "luksFormat",
        "-q",
        "--type",
        kind,
        "--key-size",
        "512",
        "--pbkdf-force-iterations",
        "1000",
    ]
    command += ["--pbkdf", "pbkdf2", "--master-key-file", str(tmp_path / "key"), "--key-file", "-", str(image)]
    subprocess.run(command, input=b"passphrase", check=True)
    assert encryption.header_digest(image, bytearray(key)) is True
    assert encryption.header_digest(image, bytearray(key[::-1])) is False


def test_headers_that_cannot_tell(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    for head in (
        b"no header at all",
        b"LUKS\xba\xbe\0\2" + (4096).to_bytes(8, "big"),
        b"LUKS\xba\xbe\0\2" + (1 << 60).to_bytes(8, "big"),
        b"LUKS\xba\xbe\0\1" + b"\0" * 64 + b"md6".ljust(32, b"\0") + bytes(4096),
        (b"LUKS\xba\xbe\0\2" + (8192).to_bytes(8, "big")).ljust(4096, b"\0") + b'{"digests": {"0": {"type": 3}}}',
        (b"LUKS\xba\xbe\0\2" + (8192).to_bytes(8, "big")).ljust(4096, b"\0") + b'{"digests": [',
    ):
        image.write_bytes(head)
        assert encryption.header_digest(image, bytearray(64)) is None
