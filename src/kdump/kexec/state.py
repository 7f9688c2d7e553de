"""The running kernel's state of kexec: what is loaded, where the reservation lies, what it forbids.

Source: kernel/ksysfs.c (/sys/kernel/kexec_*), /proc/iomem, security/lockdown/lockdown.c, efivarfs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from kdump.memory.protocol import Range

SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
CRASH_KERNEL = "Crash kernel"


class KexecState(NamedTuple):
    """State of kexec on this machine; None where the kernel does not say.

    `reservation` are the "Crash kernel" ranges of /proc/iomem, empty with `addresses_hidden` when the kernel shows
    zeros to whom it does not trust. `lockdown` is "none", "integrity", "confidentiality" or "" (not built in).
    `hotplug` tells for "cpu" and "memory" whether the kernel keeps the core headers right itself when one comes or goes
    (as long as something is loaded); what is missing has no hotplug. Sizes in bytes.
    """

    supported: bool
    loaded: bool
    crash_loaded: bool
    crash_size: int | None
    elfcorehdr_size: int | None
    reservation: tuple[Range, ...]
    addresses_hidden: bool
    lockdown: str
    secure_boot: bool | None
    hotplug: dict[str, bool]

    @property
    def keeps_up(self) -> bool:
        """Whether the kernel adapts what is loaded to every change of CPUs and memory by itself."""
        return bool(self.hotplug) and all(self.hotplug.values())

    @property
    def locked_down(self) -> bool:
        """Whether the kernel takes only signed kernels."""
        return self.lockdown not in ("", "none")

    @property
    def reserved(self) -> int:
        """Bytes reserved for the capture kernel, 0 when there is no reservation."""
        return sum(part.size for part in self.reservation) if self.crash_size is None else self.crash_size

    @property
    def room(self) -> int:
        """Bytes that kernel and image may lie in: of a reservation in two parts, those of the high one.

        The other is for devices of the capture kernel that reach no further. /sys/kernel/kexec_crash_size counts the
        high part only or (newer kernels) both.
        """
        return min(self.reserved, self.reservation[-1].size) if self.reservation else self.reserved


def read_state(root: Path = Path("/")) -> KexecState:
    """Read the state under `root` (a directory that holds proc and sys)."""
    flag = _text(root / "sys/kernel/kexec_crash_loaded")
    parts, hidden = crash_ranges(_text(root / "proc/iomem") or "")
    return KexecState(
        supported=flag is not None,
        loaded=_text(root / "sys/kernel/kexec_loaded") == "1",
        crash_loaded=flag == "1",
        crash_size=_number(root / "sys/kernel/kexec_crash_size"),
        elfcorehdr_size=_number(root / "sys/kernel/crash_elfcorehdr_size"),
        reservation=parts,
        addresses_hidden=hidden,
        lockdown=read_lockdown(root),
        secure_boot=read_secure_boot(root),
        hotplug=read_hotplug(root),
    )


def read_machine(root: Path = Path("/")) -> str:
    """The running kernel's architecture, as `uname -m` prints it (/proc/sys/kernel/arch, Linux 6.1 and later)."""
    return _text(root / "proc/sys/kernel/arch") or os.uname().machine


def crash_ranges(iomem: str) -> tuple[tuple[Range, ...], bool]:
    """The reservation's parts in the text of /proc/iomem, and whether the kernel hid the addresses (all zeros)."""
    parts = []
    for line in iomem.splitlines():
        place, _, name = line.partition(" : ")
        if name.strip() == CRASH_KERNEL:
            start, _, last = place.strip().partition("-")
            try:
                parts.append(Range(int(start, 16), int(last, 16) + 1))
            except ValueError:
                continue  # not a line the kernel writes
    if any(part.start == 0 for part in parts):  # 00000000-00000000: restricted by kptr_restrict's rule for iomem
        return (), True
    return tuple(sorted(parts)), False


def read_hotplug(root: Path = Path("/")) -> dict[str, bool]:
    """/sys/devices/system/{cpu,memory}/crash_hotplug (6.6 and later): 1 if the kernel updates what is loaded.

    A kernel that lacks the file does not (False); a machine without memory hotplug has no directory for it.
    """
    system = root / "sys/devices/system"
    return {
        kind: _text(system / kind / "crash_hotplug") == "1" for kind in ("cpu", "memory") if (system / kind).is_dir()
    }


def read_lockdown(root: Path = Path("/")) -> str:
    """The chosen word of "none [integrity] confidentiality", "" where the kernel has no lockdown."""
    text = _text(root / "sys/kernel/security/lockdown") or ""
    return next((word.strip("[]") for word in text.split() if word.startswith("[")), "")


def read_secure_boot(root: Path = Path("/")) -> bool | None:
    """EFI variable SecureBoot: four bytes of attributes, then one byte; None without EFI."""
    try:
        data = (root / SECURE_BOOT).read_bytes()
    except OSError:
        return None
    return data[4] == 1 if len(data) > 4 else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdigit() else None
