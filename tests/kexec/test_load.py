"""Loading: what is refused before the running kernel is asked, and what happens after it said no.

The system call itself is replaced here (it needs a machine with a reservation); the lab tests make it for real.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.kexec import kernels, synthetic

from kdump.errors import FormatError, KdumpError
from kdump.kexec import load as loading
from kdump.kexec import syscalls
from kdump.kexec.formats import parse_kernel
from kdump.kexec.record import read_record
from kdump.kexec.sources import choose_method
from kdump.kexec.state import read_state
from kdump.kexec.syscalls import KexecRefused, Segment


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


def test_what_is_no_kernel_never_reaches_the_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path)
    calls: list[object] = []
    for name in ("kexec_load", "kexec_file_load"):
        monkeypatch.setattr(syscalls, name, lambda *given, **_: calls.append(given))
    loading.load(bzimage(tmp_path / "k"), None, "", root=tmp_path)
    assert len(calls) == 1  # what is a kernel does
    for name, data in (("empty", b""), ("text", b"#!/bin/sh\n"), ("long", bytes(0x1000))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(KdumpError, match=rf"{name}.*(is empty|not a kernel)"):
            loading.load(tmp_path / name, None, "", root=tmp_path)
    with pytest.raises(KdumpError, match="cannot read the kernel"):
        loading.load(tmp_path / "absent", None, "", root=tmp_path)
    assert len(calls) == 1


def test_an_image_larger_than_the_reservation(tmp_path: Path) -> None:
    machine(tmp_path, size=4096)
    (tmp_path / "image").write_bytes(bytes(8192))
    with pytest.raises(KdumpError, match="do not fit"):
        loading.load(bzimage(tmp_path / "k"), tmp_path / "image", "", root=tmp_path)


def test_the_record_names_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path)
    monkeypatch.setattr(syscalls, "kexec_file_load", lambda *_, **__: None)
    record = tmp_path / "run/loaded.json"
    result = loading.load(bzimage(tmp_path / "k"), None, "a b", method="file", root=tmp_path, record=record)
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
    loading.load(kernel, None, "good", method="file", root=tmp_path, record=record)
    with pytest.raises(KexecRefused, match="loaded again"):
        loading.load(kernel, None, "bad", method="file", root=tmp_path, record=record)
    assert calls == ["good", "bad", "good"]


def refuse(number: int) -> Callable[..., None]:
    def call(*_: object, lockdown: str = "") -> None:
        raise syscalls.refused("the kernel was not loaded", number, syscalls.FILE_OUTCOMES, lockdown)

    return call


class Calls(NamedTuple):
    """What the running kernel was asked to load, one by one: by whom, and the segments where we made them."""

    asked: list[str]
    segments: list[list[Segment]]

    def answer(self, patch: pytest.MonkeyPatch, *, files: int = 0, segments: int = 0) -> Calls:
        """From now on each of the two system calls fails with that errno, or succeeds with 0."""

        def by_files(*_: object, lockdown: str = "") -> None:
            self.asked.append("file")
            if files:
                refuse(files)(lockdown=lockdown)

        def by_segments(_entry: int, made: list[Segment], *_: object, lockdown: str = "") -> None:
            self.asked.append("segments")
            self.segments.append(made)
            if segments:
                refuse(segments)(lockdown=lockdown)

        patch.setattr(syscalls, "kexec_file_load", by_files)
        patch.setattr(syscalls, "kexec_load", by_segments)
        return self


def loaded_by(kernel: Path, root: Path, method: str = "auto", *, panic: bool = True) -> tuple[str, str]:
    """The method that did it, and why (for a panic kernel, of which the record must say the same)."""
    if not panic:
        return loading.load_for_reboot(kernel, None, "", method=method, root=root), ""
    result = loading.load(kernel, None, "", method=method, root=root, record=root / "run/loaded.json")
    found = read_record(root / "run/loaded.json")
    assert found is not None and found.method == result.method
    return result.method, result.why


ENCRYPTED = "fpu tdx_guest"


@pytest.mark.parametrize(
    ("kernel", "panic", "lockdown", "flags", "cmdline", "method", "why"),
    [
        ("bzImage", True, "none", "fpu", "quiet", "segments", "unpacked"),
        ("bzImage", True, "integrity", "fpu", "quiet", "file", "locked down (integrity)"),
        ("bzImage", True, "none", ENCRYPTED, "quiet", "file", "encrypted"),
        ("bzImage", True, "none", "fpu sme sev", "quiet", "segments", "unpacked"),  # it could
        ("bzImage", True, "none", "fpu", "quiet mem_encrypt=on", "file", "encrypted"),
        ("bzImage", True, "none", "fpu", "quiet mem_encrypt=off", "segments", "unpacked"),
        ("bzImage", False, "none", "fpu", "quiet", "file", "at random"),
        ("bzImage", False, "integrity", "fpu", "quiet", "file", "locked down (integrity)"),
        ("bzImage", True, "none", "fpu", "crashkernel=160M crashkernel=96M,cma quiet", "file", "movable part"),
        ("bzImage", True, "none", "fpu", "crashkernel=160M,high quiet", "segments", "unpacked"),
        ("vmlinux", True, "none", "fpu tdx_guest", "quiet", "segments", "takes no vmlinux"),
        ("vmlinux", False, "none", "fpu", "quiet", "segments", "takes no vmlinux"),
    ],
)
def test_what_auto_chooses(
    kernel: str, panic: bool, lockdown: str, flags: str, cmdline: str, method: str, why: str, tmp_path: Path
) -> None:
    synthetic.machine(tmp_path)
    synthetic.write(
        tmp_path,
        sys__kernel__security__lockdown=f"none [{lockdown}]\n" if lockdown != "none" else "[none] integrity\n",
        proc__cpuinfo=f"processor\t: 0\nflags\t\t: {flags}\n",
        proc__cmdline=f"{cmdline}\n",
    )
    data = kernels.bzimage() if kernel == "bzImage" else kernels.VMLINUX
    parsed = parse_kernel(memoryview(data))
    found, reason = choose_method(parsed, read_state(tmp_path), panic=panic, root=tmp_path)
    assert found == method and why in reason


@pytest.mark.parametrize(
    ("kcore", "cmdline", "method"),
    [
        (b"\x7fELF\0VMCOREINFO\0OSRELEASE=6.1\nNUMBER(sme_mask)=140737488355328\nSYMBOL(x)=1\n", "quiet", "file"),
        (b"\x7fELF\0VMCOREINFO\0OSRELEASE=6.1\nNUMBER(sme_mask)=0\nSYMBOL(x)=1\n", "mem_encrypt=on", "segments"),
        (b"\x7fELF\0VMCOREINFO\0OSRELEASE=6.1\n", "quiet", "segments"),  # another vendor's
        (b"\x7fELF\0VMCOREINFO\0OSRELEASE=6.1\n", "mem_encrypt=on", "file"),
    ],
)
def test_the_kernel_itself_says_whether_memory_is_encrypted(
    kcore: bytes, cmdline: str, method: str, tmp_path: Path
) -> None:
    synthetic.machine(tmp_path)
    synthetic.write(tmp_path, proc__cmdline=f"{cmdline}\n", proc__cpuinfo="flags\t\t: fpu sme sev\n")
    (tmp_path / "proc/kcore").write_bytes(kcore)
    parsed = parse_kernel(memoryview(kernels.bzimage()))
    assert choose_method(parsed, read_state(tmp_path), root=tmp_path)[0] == method


def test_a_damaged_kernel_is_not_loaded_by_either_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capture kernel would find out when it is too late; what is loaded stays."""
    synthetic.machine(tmp_path)
    payload = bytearray(kernels.packed(kernels.VMLINUX, "xz"))
    payload[len(payload) // 2] ^= 1
    (tmp_path / "k").write_bytes(kernels.packed_bzimage(bytes(payload)))
    calls = Calls([], []).answer(monkeypatch)
    with pytest.raises(FormatError, match="damaged"):
        loaded_by(tmp_path / "k", tmp_path)
    assert calls.asked == []


def test_a_fall_back_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, loaded=True)
    synthetic.machine(tmp_path)
    calls, kernel = Calls([], []).answer(monkeypatch, segments=errno.ENOSYS), bzimage(tmp_path / "k")
    assert loaded_by(kernel, tmp_path)[0] == "file"
    synthetic.write(tmp_path, sys__kernel__kexec_crash_loaded="1\n")
    again = loading.load(kernel, None, "", if_changed=True, root=tmp_path, record=tmp_path / "run/loaded.json")
    assert again.changed == () and calls.asked == ["segments", "file"]


def test_a_machine_that_shows_neither_flags_nor_command_line_has_no_encrypted_memory(tmp_path: Path) -> None:
    machine(tmp_path)
    parsed = parse_kernel(memoryview(kernels.bzimage()))
    assert choose_method(parsed, read_state(tmp_path), root=tmp_path)[0] == "segments"


def test_a_vmlinux_under_lockdown(tmp_path: Path) -> None:
    synthetic.machine(tmp_path)
    synthetic.write(tmp_path, sys__kernel__security__lockdown="none [integrity]\n")
    for panic in (True, False):
        with pytest.raises(KdumpError, match="takes bzImages only"):
            choose_method(parse_kernel(memoryview(kernels.VMLINUX)), read_state(tmp_path), panic=panic, root=tmp_path)


def test_for_a_panic_the_kernel_is_unpacked_and_for_a_reboot_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.machine(tmp_path)
    payload = kernels.packed(kernels.VMLINUX, "xz")
    (tmp_path / "k").write_bytes(kernels.packed_bzimage(payload))
    calls = Calls([], []).answer(monkeypatch)
    assert loaded_by(tmp_path / "k", tmp_path)[0] == "segments"
    assert loaded_by(tmp_path / "k", tmp_path, panic=False)[0] == "file"
    assert loaded_by(tmp_path / "k", tmp_path, "segments", panic=False)[0] == "segments"
    assert calls.asked == ["segments", "file", "segments"]
    panic, reboot = ([bytes(segment.data) for segment in made] for made in calls.segments)
    inside = [bytes(part.data) for part in parse_kernel(memoryview(kernels.VMLINUX)).parts]
    assert all(part in panic for part in inside) and not any(payload in data for data in panic)
    assert not any(part in reboot for part in inside) and any(payload in data for data in reboot)


def test_a_kernel_that_cannot_be_unpacked_is_put_in_place_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.machine(tmp_path)
    payload = b"\x89LZO" + bytes(500)
    (tmp_path / "k").write_bytes(kernels.packed_bzimage(payload))
    calls = Calls([], []).answer(monkeypatch)
    assert loaded_by(tmp_path / "k", tmp_path)[0] == "segments"
    assert any(payload in bytes(segment.data) for segment in calls.segments[0])


@pytest.mark.parametrize(
    ("number", "method", "lockdown", "panic", "falls_back"),
    [
        (errno.ENOSYS, "auto", "none", False, True),
        (errno.ENOSYS, "file", "none", False, False),
        (errno.ENOSYS, "file", "none", True, False),
        (errno.ENOSYS, "auto", "integrity", True, False),
        (errno.ENOSYS, "auto", "integrity", False, False),
        (errno.EKEYREJECTED, "auto", "none", False, False),
    ],
)
def test_a_kernel_built_without_the_file_method(
    number: int,
    method: str,
    lockdown: str,
    panic: bool,
    falls_back: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synthetic.machine(tmp_path)
    synthetic.write(tmp_path, sys__kernel__security__lockdown=f"[{lockdown}]\n")
    calls, kernel = Calls([], []).answer(monkeypatch, files=number), bzimage(tmp_path / "k")
    if falls_back:
        assert loaded_by(kernel, tmp_path, method, panic=panic)[0] == "segments"
    else:
        with pytest.raises(KexecRefused, match=errno.errorcode[number]):
            loaded_by(kernel, tmp_path, method, panic=panic)
    assert calls.asked == ["file", "segments"][: 1 + falls_back]


def test_memory_is_encrypted_and_the_file_method_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic.machine(tmp_path)
    synthetic.write(tmp_path, proc__cpuinfo=f"flags\t\t: {ENCRYPTED}\n")
    calls = Calls([], []).answer(monkeypatch, files=errno.ENOSYS)
    assert loaded_by(bzimage(tmp_path / "k"), tmp_path) == (
        "segments", "the running kernel is built without kexec_file_load(2)"
    )  # fmt: skip
    assert calls.asked == ["file", "segments"]


@pytest.mark.parametrize(
    ("number", "method", "falls_back"),
    [
        (errno.ENOSYS, "auto", True),
        (errno.ENOSYS, "segments", False),
        (errno.EACCES, "auto", True),  # IMA appraises files only
        (errno.EADDRNOTAVAIL, "segments", False),
    ],
)
def test_a_kernel_that_takes_no_segments(
    number: int, method: str, falls_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.machine(tmp_path)
    calls, kernel = Calls([], []).answer(monkeypatch, segments=number), bzimage(tmp_path / "k")
    if falls_back:
        by, why = loaded_by(kernel, tmp_path, method)
        assert by == "file"
        assert ("built without kexec_load(2)" in why) == (number == errno.ENOSYS)
    else:
        with pytest.raises(KexecRefused, match=errno.errorcode[number]):
            loaded_by(kernel, tmp_path, method)
    assert calls.asked == ["segments", "file"][: 1 + falls_back]


def test_a_vmlinux_has_no_other_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic.machine(tmp_path)
    (tmp_path / "k").write_bytes(kernels.VMLINUX)
    calls = Calls([], []).answer(monkeypatch, segments=errno.ENOSYS)
    with pytest.raises(KexecRefused, match="ENOSYS"):
        loaded_by(tmp_path / "k", tmp_path)
    assert calls.asked == ["segments"]


@pytest.mark.parametrize("method", ["auto", "segments"])
def test_a_machine_that_shows_too_little_to_make_segments(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel knows what it hides, and places the files itself."""
    iomem = "00000000-00000000 : System RAM\n  00000000-00000000 : Crash kernel\n"
    synthetic.machine(tmp_path, iomem=iomem)
    calls, kernel = Calls([], []).answer(monkeypatch), bzimage(tmp_path / "k")
    if method == "auto":
        by, why = loaded_by(kernel, tmp_path)
        assert by == "file" and why.startswith("the segment method does not work here: ") and "hides" in why
        assert calls.asked == ["file"]
    else:
        with pytest.raises(KdumpError, match="hides"):
            loaded_by(kernel, tmp_path, method)
        assert calls.asked == []


def test_if_neither_method_works_the_last_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic.machine(tmp_path)
    calls = Calls([], []).answer(monkeypatch, segments=errno.ENOSYS, files=errno.ENOSYS)
    with pytest.raises(KexecRefused, match="ENOSYS"):
        loaded_by(bzimage(tmp_path / "k"), tmp_path)
    assert calls.asked == ["segments", "file"] and not (tmp_path / "run/loaded.json").exists()


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
