"""Small dumps of aarch64 kernels, kept in the lab's cache; `python -m tests.arch.dumps` makes those that are missing.

QEMU takes each when the kernel panics without a root. There is no VMCOREINFO note in such a dump, no registers that
the kernel kept, and no user space that ever ran. Pages of zeros are left out (level 1): every struct page is there.
Debian has no kernel with pages of 64 KiB.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kdump.lab import cache, kernels
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec

MACHINE = "aarch64"
KINDS = {"6.1": 4096, "6.12": 4096, "6.12-16k": 16384, "newest": 4096}  # Debian's kernels, and the size of their pages
MEMORY = 512 << 20
PATIENCE = 240.0  # seconds until the panic


def small_dump(series: str) -> Path:
    """The dump of Debian's kernel of that series, made if it is not there."""
    tree = kernels.find(series, MACHINE)

    def make(directory: Path) -> None:
        spec = Spec(kernel=tree.vmlinuz, machine=MACHINE, cmdline="console=ttyAMA0 panic=0", memory=MEMORY, cpus=2)
        raw = directory / "raw"
        with Machine(spec) as running:
            running.wait_for("end Kernel panic", PATIENCE)
            with running.qmp() as monitor:
                monitor.dump_guest_memory(raw)
        save = [sys.executable, "-m", "kdump", "save", "--level", "1", str(raw), str(directory / "vmcore")]
        subprocess.run(save, check=True, stdout=subprocess.DEVNULL)
        raw.unlink()

    return cache.entry(f"dumps/{tree.release}", make) / "vmcore"


if __name__ == "__main__":
    for kind in KINDS:
        print(small_dump(kind), flush=True)
