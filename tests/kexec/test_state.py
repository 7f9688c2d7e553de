"""The state of kexec, read from a tree of files like /proc and /sys."""

from __future__ import annotations

from pathlib import Path

from kdump.kexec.state import SECURE_BOOT, crash_ranges, read_state

IOMEM = """00001000-0009fbff : System RAM
23000000-32ffffff : Crash kernel
100000000-13fffffff : System RAM
  130000000-13fffffff : Crash kernel
"""


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_ranges_of_the_reservation_low_and_high() -> None:
    parts, hidden = crash_ranges(IOMEM)
    assert [(part.start, part.end) for part in parts] == [(0x23000000, 0x33000000), (0x130000000, 0x140000000)]
    assert not hidden


def test_zeros_mean_hidden() -> None:
    assert crash_ranges("00000000-00000000 : Crash kernel\n") == ((), True)
    assert crash_ranges("nonsense : Crash kernel\n") == ((), False)


def test_a_machine_with_everything(tmp_path: Path) -> None:
    tree(
        tmp_path,
        proc__iomem=IOMEM,
        sys__kernel__kexec_crash_loaded="1\n",
        sys__kernel__kexec_loaded="0\n",
        sys__kernel__kexec_crash_size="268435456\n",
        sys__kernel__security__lockdown="none [integrity] confidentiality\n",
    )
    variable = tmp_path / SECURE_BOOT
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\x06\0\0\0\x01")
    state = read_state(tmp_path)
    assert state.crash_loaded and not state.loaded and state.supported
    assert state.lockdown == "integrity" and state.secure_boot is True
    assert state.reserved == state.room == 0x10000000
    tree(tmp_path, sys__kernel__kexec_crash_size=f"{0x20000000}\n")  # both parts, as newer kernels count
    assert (read_state(tmp_path).reserved, read_state(tmp_path).room) == (0x20000000, 0x10000000)
    tree(tmp_path, sys__kernel__kexec_crash_size="0\n")  # given back; iomem may still show the low part
    assert read_state(tmp_path).reserved == 0


def test_a_kernel_without_kexec(tmp_path: Path) -> None:
    state = read_state(tmp_path)
    assert not state.supported and state.reserved == 0 and state.secure_boot is None
