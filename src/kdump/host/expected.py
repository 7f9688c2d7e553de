"""The expected cost of a crash of this machine: memory for the capture kernel, room for the dump."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kdump.capture.crash import COMPLETE
from kdump.capture.meminfo import REPORT_NEEDS, meminfo
from kdump.host import crashkernel, home, rehearsed, reservation, stored
from kdump.host.config import Config
from kdump.host.crashkernel import GIB, MIB
from kdump.kexec.sources import encrypted_memory
from kdump.targets import NETWORKED

STEP: Final = 16 * MIB  # sizes are rounded up to this, the alignment of their places

# What is in /proc/meminfo of the page classes that each bit of the dump level leaves out.
_LEFT_OUT: Final = {16: ("MemFree",), 8: ("AnonPages",), 2: ("Cached", "Buffers")}

# Without a measurement: what the capture needs on a small machine, and what grows with a larger one. Sizes in bytes.
# docs/floors.md has the smallest reservations that worked, and what is above them here.
CAPTURE: Final = 112 * MIB  # image, drivers, Python, filter
KERNEL: Final = 44 * MIB  # code, data and zeros of the largest that was seen, where /proc/iomem hides the real size
SWIOTLB: Final = crashkernel.SWIOTLB_DEFAULT  # encrypted memory: devices reach only copies of what is sent
NETWORK: Final = 32 * MIB  # drivers' buffers, a TCP stack in use, TLS or SSH
LISTS: Final = 32 * MIB  # the kernel's lists of what lies where, of caches and snapshots: kdump.host.volumes
LISTING: Final = ("dm_cache", "dm_snapshot", "bcache")  # the modules that have such
PER_GIB: Final = 128 << 10  # bitmaps of its pages, page tables to reach them, drivers that size their tables by RAM
PER_CPU: Final = 16 * MIB  # each CPU of the capture kernel beyond the first: per-CPU areas and a compressor

FLOOR: Final = 160 * MIB  # of a reservation with a movable part, that which is the capture kernel's alone
_USER_PAGES: Final = 8  # the bit of the dump level that leaves them out
_MOVABLE_LEAST: Final = 32 * MIB  # less is not worth the 10 s that such a kernel waits after a panic

# What distributions reserve on x86_64 if nobody says otherwise: facts from their packages.
DISTRIBUTIONS: Final = {
    "Debian 12": "384M-:128M",
    "Debian 13": "512M-:192M",
    "RHEL 9": "1G-4G:192M,4G-64G:256M,64G-:512M",
    "RHEL 10": "2G-64G:256M,64G-:512M",
}


@dataclass(frozen=True)
class Estimate:
    """Bytes to reserve, the source of the figure, and its parts (what, bytes)."""

    size: int
    reason: str
    parts: tuple[tuple[str, int], ...]

    @property
    def value(self) -> str:
        """As crashkernel= writes it."""
        return f"{self.size // MIB}M"


def wanted(config: Config, root: Path = Path("/")) -> Estimate:
    """The size to reserve: as configured, or else as measured, or else by formula. Raises KdumpError."""
    value = config.crashkernel.value
    if value == "auto":
        return measured(config, root) or by_formula(config, root)
    rules = crashkernel.Rules.of((root / "proc/sys/kernel/osrelease").read_text())
    outcome = crashkernel.evaluate(" ".join(crashkernel.parameters(value)), reservation.system_ram(root), rules)
    if outcome.why:
        raise crashkernel.CrashkernelError(value, outcome.why)
    return Estimate(outcome.size + outcome.low, "kdump.toml", ((value, outcome.size + outcome.low),))


def measured(config: Config, root: Path = Path("/")) -> Estimate | None:
    """The most that a capture or the last rehearsal used, and the configured margin; None if there was neither.

    The rehearsal's twin is a small machine: what this one has beyond it is added by formula.
    """
    peaks = list(_peaks(config, root))
    if not peaks:
        return None
    need = max(peaks, key=lambda parts: sum(size for _name, size in parts))
    margin = need[0][1] * config.crashkernel.margin // 100
    added = (f"margin, {config.crashkernel.margin} %", margin)
    if config.dump.report and margin < REPORT_NEEDS:
        # It is not begun with less available, though it used less where it was measured.
        added = ("margin: the report", REPORT_NEEDS)
    parts = (*need, added)
    return Estimate(_rounded(sum(size for _name, size in parts)), "measurement", parts)


def by_formula(config: Config, root: Path = Path("/")) -> Estimate:
    """The capture kernel's expected need on this machine with this configuration."""
    parts = [
        ("the kernel", _kernel_size(root)),
        ("image, drivers, filter", CAPTURE),
        *_beyond_a_small_machine(config, root),
    ]
    if config.dump.report:
        parts.append(("the report", REPORT_NEEDS))
    return Estimate(_rounded(sum(size for _name, size in parts)), "formula", tuple(parts))


def _beyond_a_small_machine(config: Config, root: Path) -> list[tuple[str, int]]:
    """What this machine's capture needs beside that of a small one with a local disk."""
    ram = meminfo(str(root / "proc/meminfo"))["MemTotal"]
    parts = [(f"{ram / GIB:.0f} GiB of RAM to describe", ram // GIB * PER_GIB)]
    if any(url.partition("://")[0] in NETWORKED for url in config.targets) or _has_remote_disks(root):
        parts.append(("network", NETWORK))
    if any((root / "sys/module" / name).exists() for name in LISTING):
        parts.append(("lists of what is in caches and snapshots", LISTS))
    if (cpus := capture_cpus(config)) > 1:
        parts.append((f"{cpus} CPUs", (cpus - 1) * PER_CPU))
    if encrypted_memory(root):
        parts.append(("encrypted memory: copies for devices", SWIOTLB))
    return parts


def _has_remote_disks(root: Path) -> bool:
    """Whether disks of other machines are connected: a target may be on one."""
    sessions, controllers = root / "sys/class/iscsi_session", root / "sys/class/nvme"
    transports = (path.read_text().strip() for path in controllers.glob("*/transport"))
    return any(sessions.glob("session*")) or "tcp" in transports


def movable(estimate: Estimate, config: Config, rules: crashkernel.Rules) -> str:
    """A crashkernel= value of which the running system may use a part until a crash; empty if that is useless here.

    Kernel, image and what they need at once lie in FLOOR bytes that nobody else has. What user space has in the rest is
    not in the dump (kernel/crash_reserve.c), so it is nothing for dumps that hold user pages.
    """
    rest = estimate.size - FLOOR
    if not rules.cma or not config.dump.level & _USER_PAGES or rest < _MOVABLE_LEAST:
        return ""
    return f"{FLOOR // MIB}M {rest // MIB}M,cma"


def capture_cpus(config: Config) -> int:
    """CPUs of the capture kernel: as many as asked for (0: all), but no more than the machine has."""
    present = os.cpu_count() or 1
    return min(config.capture.cpus, present) or present


def distributions(ram: int) -> dict[str, int]:
    """The default reservation of each distribution on a machine with `ram` bytes."""
    memory = ((MIB, MIB + ram),)
    rules = crashkernel.Rules()
    return {
        name: crashkernel.evaluate(f"crashkernel={value}", memory, rules).size for name, value in DISTRIBUTIONS.items()
    }


def dump_size(level: int, root: Path = Path("/")) -> int:
    """Bytes of memory that a dump of the machine as it is now would hold, before compression."""
    memory = meminfo(str(root / "proc/meminfo"))
    left_out = sum(memory.get(name, 0) for bit, names in _LEFT_OUT.items() if level & bit for name in names)
    # Shared memory is part of Cached, but anonymous to the filter: bit 8 leaves it out.
    if level & 2 and not level & 8:
        left_out -= memory.get("Shmem", 0)
    return max(memory["MemTotal"] - left_out, 0)


def free_space(place: Path) -> int:
    """Bytes free on the file system that a directory is on, or will be when it is made."""
    existing = next(each for each in (place, *place.parents) if each.exists())
    return shutil.disk_usage(existing).free


def _peaks(config: Config, root: Path) -> Iterator[list[tuple[str, int]]]:
    """(what, bytes of the reservation that were in use at most) for each capture that measured itself, and behind it
    what it lacked."""
    rehearsal = rehearsed.last(home.below(root))
    if rehearsal and rehearsal.passed and rehearsal.peak:
        beyond = [part for part in _beyond_a_small_machine(config, root) if part[1]]
        yield [("peak of the last rehearsal", rehearsal.peak), *beyond]
    for crash in stored.scan(stored.directories(config)):
        if crash.foreign:
            continue
        memory = stored.manifest(crash.path).get("memory") or {}
        # What was available at the worst moment was not needed; the rest of the reservation of then was.
        if crash.status == COMPLETE and 0 < memory.get("lowest_available", 0) < memory.get("ram", 0):
            yield [(f"peak of {crash.name}", memory["ram"] - memory["lowest_available"])]


def _kernel_size(root: Path) -> int:
    """Bytes of the running kernel's code and data, zeros included."""
    size = 0
    for line in (root / "proc/iomem").read_text().splitlines():
        place, _, name = line.strip().partition(" : ")
        if name in ("Kernel code", "Kernel rodata", "Kernel data", "Kernel bss"):
            start, _, last = place.partition("-")
            size += int(last, 16) + (int(start, 16) > 0) - int(start, 16)
    return size or KERNEL


def _rounded(size: int) -> int:
    return -(-size // STEP) * STEP
