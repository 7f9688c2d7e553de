"""One machine of the matrix: Debian's user space brings up its disk, kdump examines it, builds, loads; it crashes.

The plan is made by `kdump build` inside the machine, from that machine's own /sys. A first disk holds Debian's root, a
second one the kernel's modules as installed; the dump goes to a third, on the controller and volume under test.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.matrix import pivot
from tests.matrix.rows import CONTROLLERS, Row
from tests.system import debian, luks, lvm

from kdump.errors import KdumpError
from kdump.image.build import build, module_paths
from kdump.image.kernel_tree import KernelTree
from kdump.lab import cache, disk, kernels
from kdump.lab.machine import Machine
from kdump.lab.qemu import Disk, Spec

MIB = 1 << 20
PACKAGES = ("cryptsetup-initramfs",)
MODULES_UUID, DATA_UUID = "0b5e1f5a-5f0c-4c53-9d4e-6b64756d7012", "0b5e1f5a-5f0c-4c53-9d4e-6b64756d7013"
DATA_SIZE = 1024 * MIB  # a power of two: SD cards have no other sizes
PASSPHRASE = "passphrase of the matrix"
TIMEOUT = 600.0  # seconds for each step; emulated, on a busy machine
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
_CAPTURED = re.compile(r"kdump: \[ *[\d.]+\] (complete|degraded|incomplete): ")

SCRIPT = """\
#!/bin/bash
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONUTF8=1
exec 2>&1
trap 'echo "@@@ end"; sync; sleep 1; echo o > /proc/sysrq-trigger; sleep 60' EXIT
dmesg -n 1  # what the kernel says must not fall into what is read here
mount -o remount,rw /
mount -o ro UUID={modules} /usr/lib/modules || exit
hostname matrix
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add; udevadm settle -t 120
. /root/volume
mkdir -p /var/crash
mount "$volume" /var/crash || exit
echo "@@@ on $(findmnt -n -o SOURCE,FSTYPE /var/crash)"
mkdir -p /etc/kdump
cp /root/kdump.toml /etc/kdump/kdump.toml
kdump build --load | sed 's/^/@@@ build /'
echo "@@@ status $(kdump status --json | tr -d '\\n')"
sync
echo "@@@ crash"
echo c > /proc/sysrq-trigger
"""
CONFIGURATION = """\
targets = ["file:///var/crash"]
[action]
success = "poweroff"
failure = "poweroff"
"""
_FOUND = f"for i in $(seq 60); do blkid -U {DATA_UUID} > /dev/null && break; sleep 1; done; volume=UUID={DATA_UUID}\n"
_DISK = f"volume=$(blkid -U {DATA_UUID}); umount /var/crash 2>/dev/null\n"
VOLUME_SCRIPTS = {
    "lvm": f"for i in $(seq 60); do vgchange -ay {lvm.GROUP} && break; sleep 1; done\n{_FOUND}",
    "luks": (
        f"for i in $(seq 60); do blkid -U {luks.UUID} > /dev/null && break; sleep 1; done\n"
        f"echo -n '{PASSPHRASE}' | cryptsetup open --key-file - UUID={luks.UUID} crash\n{_FOUND}"
    ),
    "thin": (
        f"{_FOUND}{_DISK}modprobe dm-thin-pool; vgcreate -ff -y thin $volume && "
        "lvcreate -qq -y --type thin -L 700M -V 600M -n crash thin && mkfs.ext4 -q /dev/thin/crash\n"
        "volume=/dev/thin/crash\n"
    ),
    "loop": (
        f"{_FOUND}mkdir -p /below; mount $volume /below; truncate -s 600M /below/file; mkfs.ext4 -q /below/file\n"
        "volume=/below/file\n"
    ),
}


@dataclass(frozen=True)
class Result:
    """What became of a machine. `ready`: what status said; `reasons`: why not; `capture`: complete, …, or "none".

    `seconds` are from the panic to the machine's end.
    """

    row: Row
    release: str
    ready: bool
    reasons: tuple[str, ...] = ()
    capture: str = "none"
    seconds: float = 0.0
    problem: str = ""
    on: str = ""
    image: str = field(default="")

    @property
    def well(self) -> bool:
        """The promise: a machine that is called ready leaves a dump. That it came so far is part of it."""
        return not self.problem and (not self.ready or self.capture == "complete")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"row": self.row._asdict()}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Result:
        """Read what `to_json` gave."""
        return cls(**{**raw, "row": Row(**raw["row"]), "reasons": tuple(raw["reasons"])})


def possible(kernel: str, controller: str) -> bool:
    """Whether the kernel has the controller's driver."""
    return kernels.find(kernel).module_index.lookup(CONTROLLERS[controller][0]) is not None


def root_disk(directory: Path) -> Path:
    """Debian with this tree's kdump, without kernels."""
    path = directory / "root.img"
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        debian.run("tar", "-C", str(root), "-xf", str(debian.base(PACKAGES)))
        (root / "root/kdump.deb").write_bytes(debian.package())
        debian.run("chroot", str(root), "dpkg", "--install", "/root/kdump.deb")
        for name in ("boot", "usr/lib/modules"):
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir()
        (root / "etc/fstab").write_text("")
        (root / "root/row").write_text(SCRIPT.format(modules=MODULES_UUID))
        (root / "root/kdump.toml").write_text(CONFIGURATION)
        disk.create_ext4(path, 3000 * MIB, uuid=pivot.ROOT, content=root)
    return path


def modules_disk(tree: KernelTree) -> Path:
    """The kernel as installed, indexes and image included: what belongs into /usr/lib/modules. Cached."""

    def make(place: Path) -> None:
        content = place / "content"
        target = content / tree.release
        assert tree.modules
        shutil.copytree(tree.modules, target, symlinks=True)
        if not (target / "vmlinuz").exists():
            shutil.copyfile(tree.vmlinuz, target / "vmlinuz")
        # depmod wants to see them below lib/modules
        (place / "lib").mkdir()
        content.rename(place / "lib/modules")
        debian.run("depmod", "-b", str(place), tree.release)
        size = sum(path.stat().st_size for path in (place / "lib/modules").rglob("*") if path.is_file())
        disk.create_ext4(
            place / "modules.img", size * 5 // 4 + 128 * MIB, uuid=MODULES_UUID, content=place / "lib/modules"
        )
        shutil.rmtree(place / "lib")

    return cache.entry(f"installed/{tree.release}", make) / "modules.img"


def data_disk(volume: str, directory: Path) -> Path:
    """The disk that the dump goes to."""
    path = directory / "data.img"
    inner = directory / "inner.img"
    match volume:
        case "xfs":
            disk.create(path, DATA_SIZE)
            debian.run("mkfs.xfs", "-q", "-m", f"uuid={DATA_UUID}", str(path))
        case "btrfs":
            disk.create(path, DATA_SIZE)
            debian.run("mkfs.btrfs", "-q", "-U", DATA_UUID, str(path))
        case "partition":
            disk.create_ext4(inner, DATA_SIZE - 2 * MIB, uuid=DATA_UUID)
            disk.create(path, DATA_SIZE)
            subprocess.run(["sfdisk", "-q", path], input="label: gpt\nstart=2048\n", text=True, check=True)
            debian.run("dd", f"if={inner}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc,sparse")
        case "lvm":
            size = DATA_SIZE - 4 * MIB
            disk.create_ext4(inner, size, uuid=DATA_UUID)
            disk.create(path, DATA_SIZE)
            debian.run("dd", f"if={inner}", f"of={path}", "bs=1M", f"seek={lvm.HEAD // MIB}", "conv=notrunc,sparse")
            with path.open("r+b") as file:
                file.write(lvm.physical_volume(size))
        case "luks":
            disk.create_ext4(inner, DATA_SIZE - luks.HEADER, uuid=DATA_UUID)
            luks.encrypt(inner, path, PASSPHRASE.encode())
        case _:
            disk.create_ext4(path, DATA_SIZE, uuid=DATA_UUID)
    inner.unlink(missing_ok=True)
    return path


def run_row(row: Row, root: Path, directory: Path) -> Result:
    """Boot the machine, hear what it says, crash it. What goes wrong is in the result; files are in `directory`."""
    tree = kernels.find(row.kernel)
    said: dict[str, str] = {}
    try:
        return _run(row, tree, root, directory, said)
    except (KdumpError, ValueError) as error:
        return Result(row, tree.release, ready=False, problem=f"{error}"[:2000], on=said.get("on", ""))


def _run(row: Row, tree: KernelTree, root: Path, directory: Path, said: dict[str, str]) -> Result:
    image = directory / "initrd.img"
    files: dict[str, bytes | Path] = {pivot.MODULES: "\n".join(module_paths(tree, _BOOT_MODULES)).encode()}
    build(tree, entry="tests.matrix.pivot", modules=_BOOT_MODULES, files=files, output=image)
    data = data_disk(row.volume, directory)
    volume = directory / "volume"
    volume.write_text(VOLUME_SCRIPTS.get(row.volume, _FOUND))
    with _own_root(root, volume, directory) as own:
        spec = Spec(
            kernel=tree.vmlinuz,
            initrd=image,
            cmdline="console=ttyS0,115200 panic=10 crashkernel=256M",
            disks=[Disk(own), Disk(modules_disk(tree), readonly=True)],
            memory=row.memory * MIB,
            cpus=row.cpus,
            cpu=row.cpu,
            firmware=kernels.package("ovmf") / "usr/share/ovmf/OVMF.fd" if row.firmware == "uefi" else None,
            extra=_hardware(row, data),
        )
        with Machine(spec, console=directory / "console.log") as machine:
            unless = r"@@@ end|Kernel panic|kdump: the first stage"
            said["on"] = machine.wait_for(r"@@@ on (.*?)\s*$", TIMEOUT, unless=unless)[1]
            status = json.loads(machine.wait_for(r"@@@ status (\{.*\})", TIMEOUT, unless=unless)[1])
            machine.wait_for("@@@ crash", TIMEOUT, unless=unless)
            panicked = time.monotonic()
            machine.run_to_exit(TIMEOUT)
            lines = [text for _, text in machine.lines]
            seconds = time.monotonic() - panicked
    found = [match[1] for line in lines if (match := _CAPTURED.search(line))]
    drivers = next((c["found"].rpartition("drivers: ")[2] for c in status["checks"] if c["name"] == "image"), "")
    capture = found[-1] if found else "none"
    return Result(
        row=row,
        release=tree.release,
        ready=bool(status["ready"]),
        reasons=tuple(f"{c['name']}: {c['found']}" for c in status["checks"] if c["answer"] == "no"),
        capture=_confirmed(row.volume, capture, data),
        seconds=round(seconds, 1),
        on=said["on"],
        image=drivers,
    )


@contextlib.contextmanager
def _own_root(root: Path, volume: Path, directory: Path) -> Any:
    """A copy of the root with this machine's way to its volume."""
    own = directory / "root.img"
    debian.run("cp", "--sparse=always", str(root), str(own))
    debian.run("debugfs", "-w", "-R", f"write {volume} /root/volume", str(own))
    try:
        yield own
    finally:
        own.unlink()


def _hardware(row: Row, data: Path) -> list[str]:
    arguments = ["-machine", "pc"] if row.controller == "ide" else []
    arguments += ["-drive", f"if=none,id=data,format=raw,file={data},cache=unsafe"]
    for device in CONTROLLERS[row.controller][1]:
        arguments += ["-device", device]
    if row.numa > 1:
        share = row.memory // row.numa
        for node in range(row.numa):
            arguments += ["-object", f"memory-backend-ram,id=m{node},size={share}M"]
            arguments += ["-numa", f"node,nodeid={node},cpus={node},memdev=m{node}"]
    return arguments


def _confirmed(volume: str, capture: str, data: Path) -> str:
    """What the capture kernel said, looked at from outside where the file system can be read here without mounting."""
    if capture != "complete" or volume != "ext4":
        return capture
    disk.check(data)
    names = [name for name in disk.listing(data, "/") if name != "lost+found"]
    manifests = [json.loads(disk.read(data, f"/{name}/manifest.json")) for name in names]
    return capture if [manifest["status"] for manifest in manifests] == ["complete"] else "complete only by its word"
