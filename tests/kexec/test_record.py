"""The record of what is loaded: what counts as a change, and who may load at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.kexec import kernels, synthetic

from kdump.errors import KdumpError
from kdump.kexec import record, syscalls
from kdump.kexec.load import LoadResult, load
from kdump.kexec.state import read_state


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose system call always succeeds (a mock: the real one needs a reservation)."""
    synthetic.machine(tmp_path)
    synthetic.write(tmp_path, proc__sys__kernel__random__boot_id="1-2-3\n")
    (tmp_path / "kernel").write_bytes(kernels.bzimage())
    (tmp_path / "image").write_bytes(b"image")

    def succeed(*_: object, **__: object) -> None:
        synthetic.write(tmp_path, sys__kernel__kexec_crash_loaded="1\n")

    monkeypatch.setattr(syscalls, "kexec_file_load", succeed)
    monkeypatch.setattr(syscalls, "kexec_load", succeed)
    return tmp_path


def again(root: Path, cmdline: str = "x", method: str = "file") -> LoadResult:
    return load(
        root / "kernel", root / "image", cmdline, method=method, if_changed=True, root=root, record=root / "run/record"
    )


def test_nothing_changed(root: Path) -> None:
    assert again(root).changed == ("no panic kernel is loaded",)
    assert again(root).changed == ()


def test_what_was_chosen_is_not_a_change(root: Path) -> None:
    assert again(root, method="auto").method == "segments"
    assert again(root, method="auto").changed == again(root, method="segments").changed == ()
    assert again(root, method="file").changed == ("the method",)
    assert again(root, method="auto").changed == ("the method",)


def test_each_change_is_named(root: Path) -> None:
    again(root)
    assert again(root, "y").changed == ("the command line",)
    assert again(root, "y", "segments").changed == ("the method",)
    (root / "image").write_bytes(b"other")
    assert again(root, "y", "segments").changed == ("the image",)
    os.utime(root / "kernel", (1, 1))
    assert again(root, "y", "segments").changed == ("the kernel",)
    text = synthetic.IOMEM.replace("17fffffff : System RAM", "27fffffff : System RAM")
    synthetic.write(root, proc__iomem=text)
    assert again(root, "y", "segments").changed == ("the memory map or the CPUs",)
    synthetic.write(root, proc__sys__kernel__random__boot_id="4-5-6\n")
    assert "since the machine booted" in again(root, "y", "segments").changed[0]


def test_a_kernel_that_keeps_up_needs_no_reload(root: Path) -> None:
    synthetic.write(root, sys__devices__system__cpu__crash_hotplug="1\n")
    assert read_state(root).keeps_up
    again(root)
    synthetic.write(root, sys__devices__system__cpu__cpu1__crash_notes="123456789\n")
    assert again(root).changed == ()
    synthetic.write(root, sys__devices__system__cpu__crash_hotplug="0\n")
    assert again(root).changed == ("the memory map or the CPUs",)


def test_two_loads_at_once(root: Path) -> None:
    with record.locked(root / "run/record"), pytest.raises(KdumpError, match="another kdump"):
        again(root)
    again(root)
