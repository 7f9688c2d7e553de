"""When the kernel panics, and so leaves a dump: one table of sysctls, what each means, and the sysctl.d file.

Source: Documentation/admin-guide/sysctl/{kernel,vm}.rst, Documentation/admin-guide/sysrq.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kdump.host.config import KEEP, Panic

SYSCTL_FILE: Final = Path("/etc/sysctl.d/90-kdump.conf")


@dataclass(frozen=True)
class Sysctl:
    """One setting: the key in kdump.toml's [panic], the sysctl, and what happens without a dump if it is off."""

    key: str
    name: str
    on: str
    off: str

    @property
    def path(self) -> str:
        """Its file below a root directory."""
        return "proc/sys/" + self.name.replace(".", "/")


TABLE: Final = (
    Sysctl(
        "panic",
        "kernel.panic",
        "without a capture kernel the machine reboots",
        "without a capture kernel the machine hangs until somebody resets it",
    ),
    Sysctl(
        "panic_on_oops",
        "kernel.panic_on_oops",
        "an oops leaves a dump",
        "an oops kills a task, and the damaged kernel goes on",
    ),
    Sysctl("panic_on_warn", "kernel.panic_on_warn", "a warning leaves a dump", "a warning is only logged"),
    Sysctl(
        "hung_task_panic",
        "kernel.hung_task_panic",
        "a task that hangs leaves a dump",
        "a task that hangs is only logged",
    ),
    Sysctl(
        "softlockup_panic",
        "kernel.softlockup_panic",
        "a CPU that never schedules leaves a dump",
        "a CPU that never schedules is only logged",
    ),
    Sysctl(
        "hardlockup_panic",
        "kernel.hardlockup_panic",
        "a CPU that takes no interrupts leaves a dump",
        "a CPU that takes no interrupts is only logged",
    ),
    Sysctl(
        "panic_on_rcu_stall", "kernel.panic_on_rcu_stall", "an RCU stall leaves a dump", "an RCU stall is only logged"
    ),
    Sysctl(
        "unknown_nmi_panic",
        "kernel.unknown_nmi_panic",
        "an NMI button leaves a dump of a hang",
        "an NMI button is only logged",
    ),
    Sysctl(
        "panic_on_unrecovered_nmi",
        "kernel.panic_on_unrecovered_nmi",
        "an NMI from bad memory leaves a dump",
        "an NMI from bad memory is only logged",
    ),
    Sysctl(
        "panic_on_io_nmi",
        "kernel.panic_on_io_nmi",
        "an NMI from I/O (IOCHK) leaves a dump",
        "an NMI from I/O (IOCHK) is only logged",
    ),
    Sysctl("panic_on_oom", "vm.panic_on_oom", "out of memory leaves a dump", "out of memory kills a task instead"),
    Sysctl("sysrq", "kernel.sysrq", "the keys (and their bits) can crash the machine", "the keys do nothing"),
)


@dataclass(frozen=True)
class Setting:
    """A sysctl on this machine: its value now (None: this kernel has none), and the wanted one (None: left alone)."""

    sysctl: Sysctl
    now: int | None
    wanted: int | None

    @property
    def as_wanted(self) -> bool:
        """Whether there is nothing to do; a sysctl that the kernel lacks cannot be set."""
        return self.wanted is None or self.now is None or self.now == self.wanted

    @property
    def meaning(self) -> str:
        """The meaning of the present value for dumps."""
        return self.sysctl.on if self.now else self.sysctl.off


def wanted(panic: Panic) -> dict[str, int]:
    """The sysctls that the configuration sets, by name."""
    values = {sysctl.name: getattr(panic, sysctl.key) for sysctl in TABLE}
    return {name: value for name, value in values.items() if value != KEEP}


def settings(panic: Panic, root: Path = Path("/")) -> Iterator[Setting]:
    """Every sysctl of the table as it is under `root`, and as it should be."""
    targets = wanted(panic)
    for sysctl in TABLE:
        try:
            now = int((root / sysctl.path).read_text().split()[0])
        except OSError:
            now = None
        yield Setting(sysctl, now, targets.get(sysctl.name))


def sysctl_file(panic: Panic) -> str:
    """The text of SYSCTL_FILE. The leading "-" (sysctl.d(5)) forgives a kernel that lacks a setting."""
    lines = ["# Written by `kdump setup` from [panic] in kdump.toml; it will be written anew.", ""]
    targets = wanted(panic)
    for sysctl in TABLE:
        if sysctl.name in targets:
            value = targets[sysctl.name]
            lines += [f"# {sysctl.on if value else sysctl.off}", f"-{sysctl.name} = {value}"]
    return "\n".join(lines) + "\n"


def apply(panic: Panic, root: Path = Path("/")) -> list[str]:
    """Set the running kernel as the file will set the next one. Returns what was changed, as "name = value".

    Raises OSError if the kernel refuses a value.
    """
    changed = []
    for setting in settings(panic, root):
        if not setting.as_wanted:
            (root / setting.sysctl.path).write_text(f"{setting.wanted}\n")
            changed.append(f"{setting.sysctl.name} = {setting.wanted}")
    return changed
