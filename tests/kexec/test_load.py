"""Loading: what is refused before the running kernel is asked, and what happens after it said no.

The system call itself is replaced here (it needs a machine with a reservation); the lab tests make it for real.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kexec import kernels, synthetic

from kdump.errors import KdumpError
from kdump.kexec import load as loading
from kdump.kexec import syscalls
from kdump.kexec.record import read_record
from kdump.kexec.state import read_state
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


def test_a_reservation_that_was_given_back(tmp_path: Path) -> None:
    machine(tmp_path, size=0)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("quiet crashkernel=256M\n")
    with pytest.raises(KdumpError, match="crashkernel=256M did not fit into this machine, or was given back") as caught:
        loading.load(bzimage(tmp_path / "k"), None, "", root=tmp_path)
    assert "reboot" in caught.value.remedy


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


def refuse(number: int) -> Callable[..., None]:
    def call(*_: object, lockdown: str = "") -> None:
        raise syscalls.refused("the kernel was not loaded", number, syscalls.FILE_OUTCOMES, lockdown)

    return call


@pytest.mark.parametrize(
    ("number", "method", "lockdown", "falls_back"),
    [
        (errno.ENOSYS, "auto", "none", True),
        (errno.ENOSYS, "file", "none", False),
        (errno.ENOSYS, "auto", "integrity", False),
        (errno.EKEYREJECTED, "auto", "none", False),
    ],
)
def test_a_kernel_built_without_the_file_method(
    number: int, method: str, lockdown: str, falls_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.machine(tmp_path)
    synthetic.write(tmp_path, sys__kernel__security__lockdown=f"[{lockdown}]\n")
    by_segments: list[int] = []
    monkeypatch.setattr(syscalls, "kexec_file_load", refuse(number))
    monkeypatch.setattr(syscalls, "kexec_load", lambda _entry, segments, *_, **__: by_segments.append(len(segments)))
    kernel, record = bzimage(tmp_path / "k"), tmp_path / "run/loaded.json"
    if falls_back:
        result = loading.load(kernel, None, "", method=method, root=tmp_path, record=record)
        assert result.method == "segments" and "without kexec_file_load" in result.why
        found = read_record(record)
        assert found is not None and found.method == "segments"
        assert loading.load_for_reboot(kernel, None, "", root=tmp_path) == "segments"
    else:
        with pytest.raises(KexecRefused, match=errno.errorcode[number]):
            loading.load(kernel, None, "", method=method, root=tmp_path, record=record)
    assert len(by_segments) == 2 * falls_back


def test_unloading_that_lockdown_forbids_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only where the kernel has no kexec_file_load(2): unloading by that is not forbidden (the lab does it)."""
    synthetic.machine(tmp_path)
    synthetic.write(tmp_path, sys__kernel__security__lockdown="[integrity]\n")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(loading, "read_state", lambda: read_state(tmp_path))
    monkeypatch.setattr(syscalls, "kexec_file_unload", refuse(errno.ENOSYS))
    monkeypatch.setattr(syscalls, "kexec_load", lambda *_, lockdown: refuse(errno.EPERM)(lockdown=lockdown))
    with pytest.raises(KexecRefused, match="locked down"):
        loading.unload(record=tmp_path / "run/loaded.json")


@pytest.mark.parametrize("number", sorted(syscalls.FILE_OUTCOMES))
def test_every_answer_has_a_cause_and_a_remedy(number: int) -> None:
    error = syscalls.refused("not loaded", number, syscalls.FILE_OUTCOMES, "")
    assert errno.errorcode[number] in error.what and error.why and error.remedy


def test_permission_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def why(euid: int, lockdown: str) -> str:
        monkeypatch.setattr("os.geteuid", lambda: euid)
        return syscalls.refused("x", errno.EPERM, syscalls.FILE_OUTCOMES, lockdown).why

    assert len({why(1000, ""), why(0, "integrity"), why(0, "none")}) == 3
