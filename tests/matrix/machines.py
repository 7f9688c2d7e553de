"""One machine of the matrix: Debian's user space brings up its disk, kdump examines it, builds, loads; it crashes.

The plan is made by `kdump build` inside the machine, from that machine's own /sys. A first disk holds Debian's root, a
second one the kernel's modules as installed; the dump goes to a third, on the controller and volume under test.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.matrix import disk_server, pivot
from tests.matrix.rows import CARDS, CONTROLLERS, LISTS, SERVED, SSH, Row
from tests.matrix.second import served
from tests.system import debian, luks, lvm
from tests.targets.servers import sshd

from kdump.errors import KdumpError
from kdump.image.build import build, module_paths
from kdump.image.kernel_tree import KernelTree
from kdump.lab import cache, disk, kernels
from kdump.lab.machine import booted
from kdump.lab.qemu import Disk, Spec

MIB = 1 << 20
PACKAGES = (
    "udev", "dbus", "kmod", "python3", "e2fsprogs", "iproute2", "lvm2", "cryptsetup-bin", "mdadm", "btrfs-progs",
    "fdisk", "bcache-tools", "thin-provisioning-tools", "multipath-tools", "open-iscsi", "nvme-cli", "openssh-client",
    "nbd-server", "nbd-client", "drbd-utils",
)  # fmt: skip
MODULES_UUID, DATA_UUID = "0b5e1f5a-5f0c-4c53-9d4e-6b64756d7012", "0b5e1f5a-5f0c-4c53-9d4e-6b64756d7013"
DATA_SIZE = 1024 * MIB  # a power of two: SD cards have no other sizes
PASSPHRASE = "passphrase of the matrix"
TIMEOUT = 600.0  # seconds for each step; emulated, on a busy machine
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
_CAPTURED = re.compile(r"kdump: \[ *[\d.]+\] (complete|degraded|incomplete): ")

SCRIPT = """\
#!/bin/bash
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONUTF8=1
trap 'echo "@@@ end"; sync; sleep 1; echo o > /proc/sysrq-trigger; sleep 60' EXIT
dmesg -n 1  # what the kernel says must not fall into what is read here
mount -o remount,rw /
mount -o ro UUID={modules} /usr/lib/modules || exit
grep -q console=ttyS /proc/cmdline || {{ modprobe virtio_console; sleep 1; exec > /dev/hvc0; }}
exec 2>&1
echo "@@@ up"
hostname matrix
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add; udevadm settle -t 120
mkdir -p /etc/kdump /run/lock
[ ! -e /root/crashed ] || {{ . /root/look; exit; }}
cp /root/kdump.toml /etc/kdump/kdump.toml
for script in /root/volume*; do
  n=${{script#/root/volume}} at=/var/crash${{script#/root/volume}} volume= here=
  mkdir -p $at
  . $script
  udevadm settle -t 120
  [ -z "$volume" ] || mount "$volume" $at || {{ dmesg | tail -n 100; exit; }}
  echo "mount -o ro $volume $at && kdump verify $at/matrix-*;"' all="$all $?"' >> /root/crashed
  on="$on ${{here:-$(findmnt -n -o SOURCE,FSTYPE $at)}}"
done
echo "@@@ on$on"
kdump build --load | sed 's/^/@@@ build /'
echo "@@@ status $(kdump status --json | tr -d '\\n')"
sync
echo "@@@ crash"
sleep 1
echo c > /proc/sysrq-trigger
"""
# What a machine with LISTS does at its next boot, with the distribution's tools: verify every dump, and that the
# snapshot beside which one was written is what it was.
LOOK = """\
modprobe bcache
for each in $(blkid -t TYPE=bcache -o device); do echo $each > /sys/fs/bcache/register; done 2> /dev/null
vgchange -ay; udevadm settle -t 120
sha256sum -c /root/snapshot; all=$?
. /root/crashed
echo "@@@ after $all"
"""
CONFIGURATION = """\
targets = {targets}
save_to = "all"
[dump]
report = {report}
[action]
success = "poweroff"
failure = "poweroff"
"""
_FOUND = f"for i in $(seq 60); do blkid -U {DATA_UUID} > /dev/null && break; sleep 1; done; volume=UUID={DATA_UUID}\n"
_DISK = f"volume=$(blkid -U {DATA_UUID})\n"
# Two partitions of the disk, $one and $two, empty.
_HALVES = rf"""{_FOUND}disk=$(blkid -U {DATA_UUID}); wipefs -q -a $disk
printf 'label: gpt\nsize=500M\nsize=500M\n' | sfdisk -q $disk; udevadm settle
p=$disk; [[ $disk == *[0-9] ]] && p=${{disk}}p; one=${{p}}1 two=${{p}}2
"""
_GROUP = _HALVES + "vgcreate -qq -y group$n $one $two\n"
_MD = _HALVES + "mdadm --create /dev/md7 --run --level=1 --raid-devices=2 --metadata=%s --assume-clean $one $two\n"
_MD += "mkfs.ext4 -q /dev/md7; volume=/dev/md7\n"
_ENCRYPTED = f"""{_HALVES}echo -n '{PASSPHRASE}' > /passphrase
cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 %s --key-file /passphrase $one
cryptsetup open --key-file /passphrase $one crash; mkfs.ext4 -q /dev/mapper/crash; volume=/dev/mapper/crash
"""
_CARD = """for i in $(seq 30); do card=$(ls /sys/class/net | grep -v '^lo$' | head -1); [ "$card" ] && break
sleep 1; done; ip link set lo up; ip link set $card up
"""
_WIRED = f"{_CARD}ip address add 192.168.77.2/24 dev $card; sleep 1\n"  # to the machine of disk_server
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
    "md-0.90": _MD.replace("%s", "0.90"),
    "md-1.2": _MD.replace("%s", "1.2"),
    "btrfs-2": (
        f"{_HALVES}modprobe btrfs; mkfs.btrfs -q -f -d raid0 -m raid1 $one $two; udevadm settle -t 120\n"
        "btrfs device scan; volume=$one\n"
    ),
    "bcache": (
        f"{_HALVES}modprobe bcache; make-bcache -B $one -C $two --writeback; udevadm settle\n"
        "for each in $one $two; do echo $each > /sys/fs/bcache/register; done 2>/dev/null; sleep 1\n"
        "mkfs.ext4 -q /dev/bcache0; volume=/dev/bcache0\n"
    ),
    "lvm-cache": (
        f"{_GROUP}lvcreate -qq -y -L 400M -n crash group$n $one; lvcreate -qq -y -L 100M -n fast group$n $two\n"
        "lvconvert -qq -y --type cache --cachevol fast --cachemode writeback group$n/crash\n"
        "mkfs.ext4 -q /dev/group$n/crash; volume=/dev/group$n/crash\n"
    ),
    "lvm-origin": (
        f"{_GROUP}lvcreate -qq -y -L 400M -n crash group$n; mkfs.ext4 -q /dev/group$n/crash\n"
        "lvcreate -qq -y -s -L 100M -n before group$n/crash; volume=/dev/group$n/crash\n"
        "sha256sum /dev/group$n/before > /root/snapshot\n"
    ),
    "lvm-snapshot": (
        f"{_GROUP}lvcreate -qq -y -L 400M -n below group$n; mkfs.ext4 -q /dev/group$n/below\n"
        "lvcreate -qq -y -s -L 100M -n crash group$n/below; volume=/dev/group$n/crash\n"
    ),
    "multipath": (
        "modprobe dm-multipath; printf 'defaults {\\n find_multipaths no\\n user_friendly_names no\\n}\\n'"
        " > /etc/multipath.conf\nmultipathd; for i in $(seq 60); do multipath -v1\n"
        "map=$(dmsetup ls --target multipath | awk '/\\(/ { print $1; exit }'); [ \"$map\" ] && break; sleep 1; done\n"
        "multipath -ll; volume=/dev/mapper/$map\n"
    ),
    "zram": (
        "modprobe zram num_devices=1; echo 600M > /sys/block/zram0/disksize\n"
        "mkfs.ext4 -q /dev/zram0; volume=/dev/zram0\n"
    ),
    "ram": "modprobe brd rd_nr=1 rd_size=300000; sleep 1; mkfs.ext4 -q /dev/ram0; volume=/dev/ram0\n",
    "nbd": (
        "ip link set lo up; truncate -s 600M /served; mkfs.ext4 -q /served; modprobe nbd; mkdir -p /run\n"
        "printf '[generic]\nuser=root\ngroup=root\n[crash]\nexportname=/served\n' > /tmp/nbd.conf\n"
        "nbd-server -C /tmp/nbd.conf; sleep 2; nbd-client -N crash 127.0.0.1 /dev/nbd0; volume=/dev/nbd0\n"
    ),
    "drbd": (
        f"{_HALVES}modprobe drbd; ip link set lo up; hostname matrix; mkdir -p /etc/drbd.d /var/lib/drbd\n"
        "printf 'resource r0 {\n device /dev/drbd0;\n disk %s;\n meta-disk internal;\n on matrix"
        " { address 127.0.0.1:7789; }\n on other { address 127.0.0.1:7790; }\n}\n' $one > /etc/drbd.d/r0.res\n"
        "drbdadm create-md --force r0; drbdadm up r0; drbdadm primary --force r0; sleep 1\n"
        "mkfs.ext4 -q /dev/drbd0; volume=/dev/drbd0\n"
    ),
    "writecache": (
        f"{_HALVES}modprobe dm-writecache; size=$(blockdev --getsz $one)\n"
        'dmsetup create slow --table "0 $size writecache s $one $two 4096 0"; udevadm settle\n'
        "mkfs.ext4 -q /dev/mapper/slow; volume=/dev/mapper/slow\n"
    ),
    "integrity": (
        f"{_HALVES}integritysetup format -q $one; integritysetup open $one checked\n"
        "mkfs.ext4 -q /dev/mapper/checked; volume=/dev/mapper/checked\n"
    ),
    "luks-adiantum": _ENCRYPTED.replace("%s", "--cipher xchacha20,aes-adiantum-plain64"),
    "luks-integrity": _ENCRYPTED.replace("%s", "--integrity hmac-sha256"),
    "null_blk": ("modprobe null_blk gb=1 memory_backed=1; sleep 1; mkfs.ext4 -q /dev/nullb0; volume=/dev/nullb0\n"),
    "nvme-tcp": (
        f"{_WIRED}modprobe nvme-tcp; nvme connect -t tcp -a {disk_server.ADDRESS} -s 4420 -n {disk_server.NAME}\n"
        f"{_FOUND}"
    ),
    "iscsi": (
        f"{_WIRED}modprobe iscsi_tcp; iscsid; sleep 1\n"
        f"n='iscsiadm -m node -T {disk_server.NAME} -p {disk_server.ADDRESS}'\n"
        "$n -o new; $n -o update -n node.session.auth.authmethod -v CHAP\n"
        f"$n -o update -n node.session.auth.username -v {disk_server.USER}\n"
        f"$n -o update -n node.session.auth.password -v '{disk_server.PASSWORD}'; $n --login\n{_FOUND}"
    ),
    "unmounted": f"{_FOUND}volume= here='not mounted'\n",
    SSH: (
        f"{_CARD}ip address add 10.0.2.15/24 dev $card\n"
        'ip route add default via 10.0.2.2; volume= here="$card $(readlink /sys/class/net/$card/device/driver)"\n'
    ),
}
TARGETS = {"unmounted": f"fs://UUID={DATA_UUID}/crash"}
HOST = "10.0.2.2"  # this machine, as QEMU's user network shows it to a guest


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
        row = Row(**raw["row"])
        row = row._replace(beside=tuple((controller, volume) for controller, volume in row.beside))
        return cls(**{**raw, "row": row, "reasons": tuple(raw["reasons"])})


@functools.cache
def possible(kernel: str, controller: str) -> bool:
    """Whether the kernel has the driver of a disk controller or a network card."""
    driver, _arguments = (CONTROLLERS | CARDS)[controller]
    return kernels.find(kernel).module_index.lookup(driver) is not None


def root_disk(path: Path) -> Path:
    """Debian with this tree's kdump, without kernels."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        debian.run("tar", "-C", str(root), "-xf", str(debian.base(PACKAGES)))
        (root / "root/kdump.deb").write_bytes(debian.package(12))
        debian.run("chroot", str(root), "dpkg", "--install", "/root/kdump.deb")
        for name in ("boot", "usr/lib/modules"):
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir()
        (root / "etc/fstab").write_text("")
        disk.create_ext4(path, 3200 * MIB, uuid=pivot.ROOT, content=root)
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


def data_uuid(number: int) -> str:
    """The UUID of the file system on one of a machine's disks."""
    return f"{DATA_UUID[:-1]}{int(DATA_UUID[-1]) + number}"


def data_disk(number: int, volume: str, directory: Path) -> Path:
    """A disk that the dump goes to."""
    path, uuid = directory / f"data{number}.img", data_uuid(number)
    inner = directory / "inner.img"
    match volume:
        case "xfs":
            disk.create(path, DATA_SIZE)
            debian.run("mkfs.xfs", "-q", "-m", f"uuid={uuid}", str(path))
        case "btrfs":
            disk.create(path, DATA_SIZE)
            debian.run("mkfs.btrfs", "-q", "-U", uuid, str(path))
        case "partition":
            disk.create_ext4(inner, DATA_SIZE - 2 * MIB, uuid=uuid)
            disk.create(path, DATA_SIZE)
            subprocess.run(["sfdisk", "-q", path], input="label: gpt\nstart=2048\n", text=True, check=True)
            debian.run("dd", f"if={inner}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc,sparse")
        case "lvm":
            size = DATA_SIZE - 4 * MIB
            disk.create_ext4(inner, size, uuid=uuid)
            disk.create(path, DATA_SIZE)
            debian.run("dd", f"if={inner}", f"of={path}", "bs=1M", f"seek={lvm.HEAD // MIB}", "conv=notrunc,sparse")
            with path.open("r+b") as file:
                file.write(lvm.physical_volume(size))
        case "luks":
            disk.create_ext4(inner, DATA_SIZE - luks.HEADER, uuid=uuid)
            luks.encrypt(inner, path, PASSPHRASE.encode())
        case _:
            disk.create_ext4(path, DATA_SIZE, uuid=uuid)
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
    data = [data_disk(number, volume, directory) for number, (_, volume) in enumerate(row.disks) if volume != SSH]
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(served(row.volume, data[0], directory)) if row.volume in SERVED else 0
        content, received = _content(row, directory, stack)
        own = stack.enter_context(_own_root(root, content, directory))
        spec = Spec(
            kernel=tree.vmlinuz,
            initrd=image,
            cmdline=f"console={'ttyS0,115200' if row.serial else 'tty0'} panic=10 crashkernel={row.crashkernel}",
            disks=[Disk(own), Disk(modules_disk(tree), readonly=True)],
            memory=row.memory * MIB,
            cpus=row.cpus,
            cpu=row.cpu,
            firmware=kernels.package("ovmf") / "usr/share/ovmf/OVMF.fd" if row.firmware == "uefi" else None,
            serial=row.serial,
            extra=_hardware(row, data, port),
        )
        unless = r"@@@ end|Kernel panic|kdump: the first stage"
        with booted(spec, directory / "console.log", "@@@ up", TIMEOUT, unless=unless) as machine:
            said["on"] = machine.wait_for(r"@@@ on (.*?)\s*$", TIMEOUT, unless=unless)[1]
            status = json.loads(machine.wait_for(r"@@@ status (\{.*\})", TIMEOUT, unless=unless)[1])
            machine.wait_for("@@@ crash|Kernel panic", TIMEOUT, unless="@@@ end")  # the two may mix
            panicked = time.monotonic()
            if status["ready"] and row.volume == "multipath":
                machine.wait_for("kdump:.* saving to ", TIMEOUT)
                # The first disk by name is the path in use.
                used = [match[1] for _, text in machine.lines if (match := re.search(r"sd 0:0:(\d):0: \[sda\]", text))]
                with machine.qmp() as monitor:
                    monitor.execute("device_del", id=("left-path", "right-path")[int(used[-1])])
            if status["ready"]:
                machine.run_to_exit(TIMEOUT)
            else:
                machine.kill()  # what comes of it is not promised
            lines = [text for _, text in machine.lines]
            seconds = time.monotonic() - panicked
        after = _after(spec, directory) if status["ready"] and any(volume in LISTS for _, volume in row.disks) else ""
    found = [match[1] for line in lines if (match := _CAPTURED.search(line))]
    drivers = next((c["found"].rpartition("drivers: ")[2] for c in status["checks"] if c["name"] == "image"), "")
    capture = found[-1] if found else "none"
    return Result(
        row=row,
        release=tree.release,
        ready=bool(status["ready"]),
        reasons=tuple(f"{c['name']}: {c['found']}" for c in status["checks"] if c["answer"] == "no"),
        capture=_confirmed(row, capture, data, received) if not after.strip("0 ") else f"damaged: {after}",
        seconds=round(seconds, 1) if status["ready"] else 0.0,
        on=said["on"],
        image=drivers,
    )


def _after(spec: Spec, directory: Path) -> str:
    """The exit statuses of what LOOK looks at."""
    unless = "@@@ end|Kernel panic"
    with booted(spec, directory / "after.log", "@@@ up", TIMEOUT, unless=unless) as machine:
        found = machine.wait_for(r"@@@ after ([\d ]+)", TIMEOUT, unless=unless)[1]
        machine.run_to_exit(TIMEOUT)
    return found


def _content(row: Row, directory: Path, stack: contextlib.ExitStack) -> tuple[dict[str, Path], Path]:
    """Files of this machine's root by name, and the directory that a server of this row receives to."""
    received = directory / "received"
    scripts = {f"volume{number or ''}": number for number in range(len(row.disks))}
    content = {f"/root/{name}": directory / name for name in ("row", "look", "kdump.toml", *scripts)}
    targets = [TARGETS.get(row.volume, "file:///var/crash"), *(f"file:///var/crash{n}" for n in range(1, len(scripts)))]
    if row.volume == SSH:
        server = stack.enter_context(sshd(directory / "sshd", HOST))
        targets = [f"ssh://root@{HOST}:{server.port}{received}"]
        content |= {f"/root/{name}": server.directory / name for name in ("id", "known_hosts")}
    keys = '[ssh]\nidentity = "/root/id"\nknown_hosts = "/root/known_hosts"\n' if row.volume == SSH else ""
    content["/root/look"].write_text(LOOK)
    content["/root/row"].write_text(SCRIPT.format(modules=MODULES_UUID))
    for name, number in scripts.items():
        script = VOLUME_SCRIPTS.get(row.disks[number][1], _FOUND)
        content[f"/root/{name}"].write_text(script.replace(DATA_UUID, data_uuid(number)))
    text = CONFIGURATION.format(targets=json.dumps(targets), report=str(row.report).lower())
    content["/root/kdump.toml"].write_text(text + keys)
    return content, received


@contextlib.contextmanager
def _own_root(root: Path, content: dict[str, Path], directory: Path) -> Iterator[Path]:
    """A copy of the root with files of this machine."""
    own = directory / "root.img"
    debian.run("cp", "--sparse=always", str(root), str(own))
    for name, path in content.items():
        debian.run("debugfs", "-w", "-R", f"write {path} {name}", str(own))
        mode = stat.S_IFREG | (stat.S_IMODE(path.stat().st_mode) & 0o700)
        debian.run("debugfs", "-w", "-R", f"set_inode_field {name} mode {mode:#o}", str(own))
    try:
        yield own
    finally:
        own.unlink()


def _hardware(row: Row, data: Sequence[Path], port: int = 0) -> list[str]:
    arguments = ["-machine", "pc"] if "ide" in dict(row.disks) else []
    if row.controller in CARDS:
        arguments += ["-netdev", f"socket,id=net,connect=127.0.0.1:{port}" if port else "user,id=net"]
    elif row.volume == "multipath":
        arguments += ["-device", "virtio-scsi-pci,id=bus"]
        for name in ("left", "right"):
            arguments += ["-drive", f"if=none,id={name},format=raw,file={data[0]},cache=unsafe,file.locking=off"]
            arguments += [
                "-device",
                f"scsi-hd,id={name}-path,bus=bus.0,drive={name},serial=data,wwn=0x5000c50015ea71ac,share-rw=on",
            ]
        return arguments
    for number, path in enumerate(data if row.controller in CONTROLLERS else ()):
        arguments += ["-drive", f"if=none,id=data{number},format=raw,file={path},cache=unsafe"]
    for number, (controller, _volume) in enumerate(row.disks):
        for device in (CONTROLLERS | CARDS)[controller][1]:
            own = device.replace("=data", f"=data{number}").replace("id=bus", f"id=bus{number}")
            arguments += ["-device", own.replace("bus=bus.", f"bus=bus{number}.")]
    if row.numa > 1:
        share, cpus = row.memory // row.numa, row.cpus // row.numa
        for node in range(row.numa):
            arguments += ["-object", f"memory-backend-ram,id=m{node},size={share}M"]
            last = node * cpus + cpus - 1
            arguments += ["-numa", f"node,nodeid={node},cpus={node * cpus}-{last},memdev=m{node}"]
    return arguments


def _confirmed(row: Row, capture: str, data: Sequence[Path], received: Path) -> str:
    """What the capture kernel said, looked at from outside where the dump can be read here without mounting."""
    if row.serial and capture != "complete":
        return capture
    found = []  # for each disk or server, what its manifests say
    if row.volume == SSH:
        found = [[json.loads(path.read_bytes())["status"] for path in received.glob("*/manifest.json")]]
    for path, (_, volume) in zip(data, row.disks, strict=row.volume != SSH):
        if volume in ("ext4", "unmounted", *SERVED):
            disk.check(path)
            place = "/crash" if volume == "unmounted" else "/"
            names = [name for name in disk.listing(path, place) if name != "lost+found"]
            manifests = [disk.read(path, f"{place.rstrip('/')}/{name}/manifest.json") for name in names]
            found.append([json.loads(manifest)["status"] for manifest in manifests])
    if found:
        return "complete" if all(statuses == ["complete"] for statuses in found) else "complete only by its word"
    return capture
