"""Debian's kdump-tools and kdump in the same machine: panic to dump saved, and how long a capture image takes to build.

`python -m benchmarks.debian_stack` (root: it makes a Debian 12 with debootstrap, once). Both are installed in one
Debian with systemd, an ext4 root and Debian's defaults; it is booted afresh for each run and crashed by sysrq. "saved"
is when each says so on the console: kdump-tools after makedumpfile's end and sync, kdump once the file is durable and
has its name. Images are built with nothing left to be written from the one before.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.system import debian

from kdump.lab.machine import Machine
from kdump.lab.qemu import Disk, Spec
from kdump.units import parse_size

PACKAGES = ("kdump-tools", "makedumpfile", "kexec-tools", "initramfs-tools", "zstd", "procps")
SCRIPT = """\
wanted=$(sed 's/.*bench=\\([a-z]*\\).*/\\1/' /proc/cmdline)
clock() {
    sync; a=$(date +%s%N)
    "${@:2}" > /root/said 2>&1 || cat /root/said
    echo "@@@ took $1 $(($(date +%s%N) - a))"
}
case $wanted in
images)
    kdump-config show
    for i in 1 2 3; do
        clock debian /etc/kernel/postinst.d/kdump-tools $(uname -r)
        rm -f /var/lib/linux-kdump/build.cache
        clock kdump_anew kdump build
        clock kdump kdump build
    done
    poweroff;;
debian)
    kdump-config show
    sync; echo c > /proc/sysrq-trigger;;
kdump)
    kdump build --load
    sync; echo c > /proc/sysrq-trigger;;
esac
"""
TIMEOUT = 900.0
SAVED = {"debian": r"saved vmcore in", "kdump": r"kdump: \[ *[\d.]+\] vmcore saved"}
PANIC = r"Kernel panic - not syncing"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.debian_stack", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--memory", type=parse_size, default="2G")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdump-bench-") as scratch:
        machine = Debian(Path(scratch), args.memory)
        built = machine.images()
        for name, seconds in built.items():
            ratio = median(seconds) / median(built["debian"])
            print(f"image built by {name}: {_series(seconds)} s, ratio of medians {ratio:.3f}", flush=True)
        pairs = []
        for number in range(args.runs):
            theirs, ours = machine.crash("debian"), machine.crash("kdump")
            pairs.append(ours / theirs)
            print(
                f"pair {number + 1}: panic to dump saved: kdump {ours:.1f} s, Debian {theirs:.1f} s: {pairs[-1]:.2f}",
                flush=True,
            )
        print(f"ratio, median of {len(pairs)}: {_series(pairs)}")


class Debian:
    """The machine: each run boots the same disk and leaves it as it was."""

    def __init__(self, place: Path, memory: int) -> None:
        self._place = place
        self._memory = memory
        self._disk = place / "disk.img"
        self._kernel, self._initrd = debian.make(self._disk, [SCRIPT, "true\n"], {}, packages=PACKAGES)

    def images(self) -> dict[str, list[float]]:
        """Seconds of each build of each side's capture image, by turns; ours with what one before left, and "anew"."""
        with self._boot("images") as running:
            running.run_to_exit(TIMEOUT)
            lines = running.lines
        found: dict[str, list[float]] = {}
        for _when, text in lines:
            if took := re.search(r"@@@ took (\w+) (\d+)", text):
                found.setdefault(took[1], []).append(int(took[2]) / 1e9)
        return found

    def crash(self, whose: str) -> float:
        """Seconds from the panic to the dump."""
        with self._boot(whose) as running:
            running.wait_for(PANIC, TIMEOUT)
            running.wait_for(SAVED[whose], TIMEOUT)
            lines = running.lines
        panic = next(when for when, text in lines if re.search(PANIC, text))
        return next(when for when, text in lines if re.search(SAVED[whose], text)) - panic

    def _boot(self, wanted: str) -> Machine:
        root = debian.root_device(volume_group=False)
        cmdline = f"root={root} console=ttyS0,115200 systemd.show_status=no crashkernel=256M panic=5 bench={wanted}"
        disk = Disk(self._disk, snapshot=True)
        spec = Spec(self._kernel, self._initrd, cmdline, [disk], self._memory, 2, cpu="max,la57=off")
        return Machine(spec, console=self._place / f"{wanted}.log")


def _series(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
