"""The first process of a guest that prints what it sees of its reservation, shrinks it, and powers off."""

from __future__ import annotations

import time
from pathlib import Path

from kdump.capture import system
from kdump.host.reservation import shrink


def main() -> None:
    """Print, shrink, print."""
    for line in Path("/proc/iomem").read_text().splitlines():
        if "System RAM" in line or "Crash kernel" in line:
            print(f"@@@ {line}", flush=True)
    size = Path("/sys/kernel/kexec_crash_size")
    print(f"@@@ size {size.read_text().strip()}", flush=True)
    if int(size.read_text()) > 64 << 20:
        print(f"@@@ shrunk {shrink(64 << 20)}", flush=True)
    time.sleep(0.2)
    system.reboot(system.POWER_OFF)


if __name__ == "__main__":
    main()
