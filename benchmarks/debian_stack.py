"""Panic to dump saved: Debian's kdump-tools against ours, in the same machine, one after the other.

`python -m benchmarks.debian_stack` (root: it makes a Debian root file system with debootstrap). Debian's side is a
minimal Debian 12 with systemd, kdump-tools and kexec-tools as packaged; ours is the demo. Both run the same kernel on
the same emulated machine; both are crashed by sysrq. Prints each time and the ratios.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from kdump.errors import KdumpError
from kdump.image.kernel import KernelTree
from kdump.lab import cache, disk, kernels
from kdump.lab.causes import find_cause
from kdump.lab.crash import Scenario, crash
from kdump.lab.machine import Disk, Machine, Spec
from kdump.units import parse_size

LABEL = "benchroot"
_VOLUME = "6b64756d-7000-4000-8000-62656e636800"
_PACKAGES = "initramfs-tools zstd kdump-tools makedumpfile kexec-tools"
_UNIT = """[Unit]
After=kdump-tools.service multi-user.target
ConditionPathExists=!/proc/vmcore
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'kdump-config show | tail -n 1 > /dev/console; sync; sleep 1; echo c > /proc/sysrq-trigger'
[Install]
WantedBy=multi-user.target
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.debian_stack", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kernel", default=kernels.DEFAULT)
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--runs", type=int, default=1, help="pairs of runs (default: %(default)s)")
    args = parser.parse_args()
    tree = kernels.find(args.kernel)
    memory = parse_size(args.memory)
    root = debian_root(tree)
    pairs = []
    for number in range(args.runs):
        theirs = debian(tree, root, memory)
        ours = kdump(tree, memory)
        pairs.append((ours, theirs))
        print(f"pair {number + 1}: panic to dump saved: kdump {ours:.1f} s, Debian {theirs:.1f} s: {ours / theirs:.2f}")
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    print(f"ratio, median of {len(pairs)}: {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def debian_root(tree: KernelTree) -> Path:
    """A disk with a minimal Debian 12 on it that crashes itself once kdump-tools has loaded; made once, cached."""
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise KdumpError("this needs root and debootstrap", remedy="apt-get install debootstrap; run as root")

    def make(directory: Path) -> None:
        root = directory / "root"
        subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,udev,kmod", "bookworm", str(root)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for name in ("etc/apt/sources.list", "etc/apt/sources.list.d/debian.sources"):  # where the kernel came from
            if (Path("/") / name).exists():
                shutil.copyfile(Path("/") / name, root / name)
        script = (
            "mount -t proc p /proc && mount -t sysfs s /sys && apt-get update && DEBIAN_FRONTEND=noninteractive "
            f"apt-get install -y --no-install-recommends {_PACKAGES} linux-image-{tree.release}"
        )
        subprocess.run(
            ["unshare", "--mount", "chroot", str(root), "sh", "-c", script], check=True, stdout=subprocess.DEVNULL
        )
        unit = root / "etc/systemd/system/crash.service"
        unit.write_text(_UNIT)
        (unit.parent / "multi-user.target.wants").mkdir(exist_ok=True)
        (unit.parent / "multi-user.target.wants" / unit.name).symlink_to("../crash.service")
        (root / "etc/fstab").write_text(f"LABEL={LABEL} / ext4 defaults 0 1\n")
        shutil.copyfile(root / f"boot/initrd.img-{tree.release}", directory / "initrd")
        disk.create_ext4(directory / "disk", 6 << 30, uuid=_VOLUME, label=LABEL, content=root)
        shutil.rmtree(root)

    return cache.entry(f"benchmarks/debian-{tree.release}", make)


def debian(tree: KernelTree, root: Path, memory: int) -> float:
    """Seconds from the panic to kdump-tools' "saved vmcore"."""
    machine = Spec(
        kernel=tree.vmlinuz,
        initrd=root / "initrd",
        cmdline=f"console=ttyS0,115200 root=LABEL={LABEL} rw crashkernel=256M panic=5",
        disks=[Disk(root / "disk", snapshot=True)],
        memory=memory,
        cpus=2,
        cpu="max,la57=off",
    )
    with Machine(machine) as running:
        running.wait_for(r"Kernel panic - not syncing", 400)
        running.wait_for(r"saved vmcore in", 400)
        lines = running.lines
    panic = next(when for when, text in lines if "Kernel panic - not syncing" in text)
    saved = next(when for when, text in lines if re.search("saved vmcore in", text))
    return saved - panic


def kdump(tree: KernelTree, memory: int) -> float:
    """Seconds from the panic to our vmcore durable and renamed."""
    with tempfile.TemporaryDirectory(prefix="kdump-bench-") as scratch:
        scenario = Scenario(tree, find_cause("sysrq"), memory=memory, cpus=2, cpu="max,la57=off")
        return crash(scenario, Path(scratch)).timeline["vmcore"]


if __name__ == "__main__":
    main()
