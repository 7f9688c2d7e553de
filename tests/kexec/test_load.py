"""Loading: what is refused before the running kernel is asked, and what happens after it said no.

The system call itself is replaced here (it needs a machine with a reservation); the lab tests make it for real.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from tests.kexec import kernels

from kdump.errors import KdumpError
from kdump.kexec import load as loading
from kdump.kexec import syscalls
from kdump.kexec.record import read_record
from kdump.kexec.syscalls import KexecRefused


def machine(root: Path, *, size: int = 1 << 28, loaded: bool = False) -> Path:
    kernel = root / "sys/kernel"
    kernel.mkdir(parents=True)
    (kernel / "kexec_crash_loaded").write_text(f"{int(loaded)}\n")
    (kernel / "kexec_crash_size").write_text(f"{size}\n")
    return root


def bzimage(path: Path) -> Path:
    path.write_bytes(kernels.bzimage())
    return path


def test_no_reservation_says_how_to_make_one(tmp_path: Path) -> None:
    machine(tmp_path, size=0)
    with pytest.raises(KdumpError, match="reserved") as caught:
        loading.load(bzimage(tmp_path / "k"), None, "", root=tmp_path)
    assert "crashkernel=" in caught.value.remedy


def test_what_is_no_kernel_never_reaches_the_system_call(tmp_path: Path) -> None:
    machine(tmp_path)
    for name, data in (("empty", b""), ("text", b"#!/bin/sh\n"), ("long", bytes(0x1000))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(KdumpError):
            loading.load(tmp_path / name, None, "", root=tmp_path)
    with pytest.raises(KdumpError, match="cannot read the kernel"):
        loading.load(tmp_path / "absent", None, "", root=tmp_path)


def test_an_image_larger_than_the_reservation(tmp_path: Path) -> None:
    machine(tmp_path, size=4096)
    (tmp_path / "image").write_bytes(bytes(8192))
    with pytest.raises(KdumpError, match="do not fit"):
        loading.load(bzimage(tmp_path / "k"), tmp_path / "image", "", root=tmp_path)


def test_the_record_names_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path)
    monkeypatch.setattr(syscalls, "kexec_file_load", lambda *_, **__: None)
    record = tmp_path / "run/loaded.json"
    result = loading.load(bzimage(tmp_path / "k"), None, "a b", root=tmp_path, record=record)
    assert result.method == "file"
    found = read_record(record)
    assert found is not None and (found.kernel, found.cmdline) == (str(tmp_path / "k"), "a b")
    assert json.loads(record.read_text())["cmdline"] == "a b"
    assert record.stat().st_mode & 0o777 == 0o600


def test_after_a_refusal_the_former_kernel_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path)
    calls: list[str] = []

    def call(_kernel: int, _initrd: int | None, cmdline: str, _flags: int, *, lockdown: str) -> None:
        calls.append(cmdline)
        if cmdline == "bad":
            (tmp_path / "sys/kernel/kexec_crash_loaded").write_text("0\n")  # the kernel dropped the old one first
            raise syscalls.refused("the kernel was not loaded", errno.ENOEXEC, syscalls.FILE_OUTCOMES, lockdown)
        (tmp_path / "sys/kernel/kexec_crash_loaded").write_text("1\n")

    monkeypatch.setattr(syscalls, "kexec_file_load", call)
    record = tmp_path / "run/loaded.json"
    kernel = bzimage(tmp_path / "k")
    loading.load(kernel, None, "good", root=tmp_path, record=record)
    with pytest.raises(KexecRefused, match="loaded again"):
        loading.load(kernel, None, "bad", root=tmp_path, record=record)
    assert calls == ["good", "bad", "good"]


@pytest.mark.parametrize("number", sorted(syscalls.FILE_OUTCOMES))
def test_every_answer_has_a_cause_and_a_remedy(number: int) -> None:
    error = syscalls.refused("not loaded", number, syscalls.FILE_OUTCOMES, "")
    assert errno.errorcode[number] in error.what and error.why and error.remedy


def test_permission_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def why(euid: int, lockdown: str) -> str:
        monkeypatch.setattr("os.geteuid", lambda: euid)
        return syscalls.refused("x", errno.EPERM, syscalls.FILE_OUTCOMES, lockdown).why

    assert len({why(1000, ""), why(0, "integrity"), why(0, "none")}) == 3
