"""A whole Debian on a disk, as an administrator has it: made from packages, with systemd, GRUB and its own boot."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.system import luks, lvm

from kdump.lab import cache, disk

MIB = 1 << 20
SIZE = 4000 * MIB  # a multiple of LVM's extents
UUID = "0b5e1f5a-5f0c-4c53-9d4e-6b64756d7001"
BOOT_UUID, BOOT_SIZE = "0b5e1f5a-5f0c-4c53-9d4e-6b64756d7003", 300 * MIB
PASSPHRASE = "correct horse battery staple"
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "kmod", "linux-image-cloud-amd64", "grub-pc", "python3",
    "initramfs-tools", "e2fsprogs", "iproute2", "busybox", "lvm2", "qemu-system-x86", "man-db",
)  # fmt: skip
RELEASES = {12: "bookworm", 13: "trixie"}
ROOT = Path(__file__).parent.parent.parent

# Runs one script for each boot, from a directory of them, and marks on the console what each command said.
RUNNER = """\
#!/bin/bash
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin COLUMNS=80 PYTHONUTF8=1
dmesg -n 1
n=$(cat /root/boot 2>/dev/null || echo 1); echo $((n + 1)) > /root/boot; sync
# The console is systemd's, too: what a command says is marked line by line.
step() { echo "@@@ $n $1"; shift; "$@" 2>&1 | sed -u 's/^/| /'; echo "@@@ = ${PIPESTATUS[0]}"; }
echo "@@@ boot $n"
. /root/boot$n
echo "@@@ idle"
"""
SERVICE = """\
[Unit]
Description=What the test does in this boot
After=linux-kdump.service linux-kdump-collect.service

[Service]
Type=oneshot
ExecStart=/root/runner
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0

[Install]
WantedBy=multi-user.target
"""
GRUB = """\
GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX="console=ttyS0,115200 systemd.show_status=no"
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_TERMINAL=serial
GRUB_DISABLE_OS_PROBER=true
"""


def base(packages: Sequence[str], release: int = 12) -> Path:
    """A tar of Debian's smallest system with more of its `packages`, without kdump; cached."""
    suite = RELEASES[release]
    digest = hashlib.sha256(repr(tuple(packages)).encode()).hexdigest()
    return cache.entry(f"system/{suite}-{digest[:8]}", lambda place: _make_base(place, suite, packages)) / "root.tar"


def _make_base(place: Path, suite: str, packages: Sequence[str]) -> None:
    root = place / "root"
    run("debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, str(root))
    run("chroot", str(root), "apt-get", "clean")
    run("tar", "-C", str(root), "-cf", str(place / "root.tar"), ".")
    shutil.rmtree(root)


@functools.cache
def package(release: int) -> bytes:
    """This tree's .deb for that release of Debian, as `make dist` makes it, but not compressed: that takes a minute."""
    with tempfile.TemporaryDirectory() as scratch:
        dist = (sys.executable, str(ROOT / "tools/dist.py"), "deb", "--release", str(release))
        run(*dist, "--compression", "none", "--output", scratch)
        (made,) = Path(scratch).glob("*.deb")
        return made.read_bytes()


def make(
    path: Path,
    boots: Sequence[str],
    extra: Mapping[str, Path],
    *,
    volume_group: bool = False,
    encrypted: bool = False,
    packages: Sequence[str] = (),
    release: int = 12,
) -> tuple[Path, Path]:
    """Write a disk with the system, this tree's .deb installed, a script for each boot and `extra` trees.

    The root file system is on a partition or, if `volume_group`, on a logical volume there: `root_device`. If
    `encrypted`, it is on LUKS2 in a second partition, opened by a key in the initramfs, and /boot is in the first.
    Returns the kernel and the initramfs to boot it with before GRUB is on it.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        run("tar", "-C", str(root), "-xf", str(base((*PACKAGES, *packages), release)))
        (root / "root/kdump.deb").write_bytes(package(release))
        run("chroot", str(root), "dpkg", "--install", "/root/kdump.deb")
        _configure(root)
        for number, script in enumerate(boots, 1):
            (root / f"root/boot{number}").write_text(script)
        for place, source in extra.items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, root / place, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, root / place)
        if encrypted:
            _unlock_at_boot(root)
        kernel = next((root / "boot").glob("vmlinuz-*-cloud-amd64"))
        copies = path.with_name("vmlinuz"), path.with_name("initrd")
        shutil.copyfile(kernel, copies[0])
        shutil.copyfile(kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img")), copies[1])
        if encrypted:
            _encrypted_disk(root, path)
            return copies
        partition = disk.create_ext4(Path(scratch) / "partition", SIZE, uuid=UUID, content=root)
        _partitioned(partition, path, lvm.physical_volume(SIZE) if volume_group else b"")
    return copies


def _configure(root: Path) -> None:
    for name, text in {
        "etc/fstab": f"UUID={UUID} / ext4 errors=remount-ro 0 1\n",
        "etc/hostname": "kdumptest\n",
        "etc/default/grub.d/10-serial.cfg": GRUB,
        "etc/systemd/system/boot-script.service": SERVICE,
        "root/runner": RUNNER,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "root/runner").chmod(0o755)
    run("chroot", str(root), "systemctl", "enable", "boot-script.service")
    run("chroot", str(root), "systemctl", "mask", "getty@tty1.service", "serial-getty@ttyS0.service", "apt-daily.timer")


def _unlock_at_boot(root: Path) -> None:
    """A key file in the initramfs, as an administrator without a keyboard at hand has it."""
    for name, text in {
        "etc/crypttab": f"{luks.NAME} UUID={luks.UUID} /etc/keys/root.key luks,initramfs\n",
        "etc/keys/root.key": PASSPHRASE,
        "etc/cryptsetup-initramfs/conf-hook": 'KEYFILE_PATTERN="/etc/keys/*.key"\nUMASK=0077\n',
        "etc/fstab": f"UUID={UUID} / ext4 errors=remount-ro 0 1\nUUID={BOOT_UUID} /boot ext4 defaults 0 2\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "etc/keys/root.key").chmod(0o600)
    run("chroot", str(root), "update-initramfs", "-u")


def _encrypted_disk(root: Path, path: Path) -> None:
    """A disk with /boot, and LUKS2 with the rest."""
    boot, rest, volume = (root.parent / name for name in ("boot", "rest", "volume"))
    (root / "boot").rename(boot)
    (root / "boot").mkdir()
    first = disk.create_ext4(root.parent / "boot.img", BOOT_SIZE, uuid=BOOT_UUID, content=boot)
    disk.create_ext4(rest, SIZE, uuid=UUID, content=root)
    luks.encrypt(rest, volume, PASSPHRASE.encode())
    table = f"label: dos\nstart=2048,size={BOOT_SIZE // 512},bootable\nstart={2048 + BOOT_SIZE // 512}\n"
    disk.create(path, 2 * MIB + BOOT_SIZE + volume.stat().st_size)
    subprocess.run(["sfdisk", "-q", path], input=table, text=True, check=True)
    for source, place in ((first, MIB), (volume, MIB + BOOT_SIZE)):
        run("dd", f"if={source}", f"of={path}", "bs=1M", f"seek={place // MIB}", "conv=notrunc,sparse")


def root_device(*, volume_group: bool, encrypted: bool = False) -> str:
    """The device that `make` puts the root file system on."""
    if encrypted:
        return f"/dev/mapper/{luks.NAME}"
    return f"/dev/mapper/{lvm.GROUP}-{lvm.VOLUME}" if volume_group else "/dev/vda1"


def _partitioned(partition: Path, path: Path, head: bytes) -> None:
    """A disk with one active partition (`head`, then the file system) behind 1 MiB, where GRUB's core goes (MBR)."""
    size = len(head) + SIZE
    kind = 0x8E if head else 0x83
    with path.open("wb") as out, partition.open("rb") as content:
        out.truncate(MIB + size)
        out.seek(446)
        out.write(struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", MIB // 512, size // 512))
        out.seek(510)
        out.write(b"\x55\xaa")
        out.seek(MIB)
        out.write(head)
        at = MIB + len(head)
        while block := content.read(MIB):
            if block.strip(b"\0"):
                out.seek(at)
                out.write(block)
            at += len(block)


def steps(lines: Sequence[str]) -> dict[str, tuple[int, list[str]]]:
    """What each step of the boots printed: "BOOT NAME" -> (exit status, lines)."""
    found: dict[str, tuple[int, list[str]]] = {}
    name = ""
    said: list[str] = []
    for line in lines:
        if match := re.search(r"@@@ = (\d+)$", line):
            found[name] = (int(match[1]), said)
            name = ""
        elif match := re.search(r"@@@ (\d+ [\w-]+)$", line):
            name, said = match[1], []
        elif name and line.startswith("| "):
            said.append(line[2:])
    return found


def run(*command: str) -> None:
    """Run a command; its output is shown if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {(done.stderr or done.stdout)[-2000:]}"
