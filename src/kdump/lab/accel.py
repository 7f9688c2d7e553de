"""Which accelerator QEMU uses: KVM if a guest really boots with it, else emulation on all CPUs.

/dev/kvm may exist and still not boot a guest (nested, filtered, broken): the only proof is a boot. It is tried once
per boot of this host and per QEMU, for a few seconds at most, and remembered. KDUMP_ACCEL (auto, kvm, tcg, or any
-accel value) overrides.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from kdump.lab import cache
from kdump.lab.qemu import qemu_path

EMULATION = "tcg,thread=multi"
KVM = "kvm"
PROBE_SECONDS = 8.0


def choose(kernel: Path | None, boots: Callable[[Path], bool]) -> str:
    """QEMU's -accel value. `boots` says whether `kernel` (a bzImage) boots with KVM; without one KVM is not tried."""
    override = os.environ.get("KDUMP_ACCEL") or "auto"
    if override != "auto":
        return EMULATION if override == "tcg" else override
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return EMULATION
    with cache.lock("accelerator"):
        memory = cache.directory() / "accelerator"
        known = memory.read_text().splitlines() if memory.exists() else []
        if len(known) == 2 and known[0] == _host():
            return known[1]
        if kernel is None:
            return EMULATION
        choice = KVM if boots(kernel) else EMULATION
        memory.write_text(f"{_host()}\n{choice}\n")
        return choice


def _host() -> str:
    qemu = Path(qemu_path())
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.uname().release} {qemu} {qemu.stat().st_mtime_ns}"
