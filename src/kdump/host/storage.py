"""From a device of the healthy machine down to its hardware: what lies between, and which modules drive it.

Read from sysfs (Documentation/ABI/stable/sysfs-block, testing/sysfs-block-dm, sysfs-bus-*): a partition's parent, the
`slaves` of a stacked device, and for a disk every device on the way to its bus with its driver and `modalias`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kdump.capture import remote
from kdump.errors import KdumpError
from kdump.targets.superblock import BCACHE

SYSFS: Final = Path("/sys")

# The start of a device-mapper UUID names its maker: lvm2, cryptsetup, multipath-tools (and its kpartx), dmraid.
# Disks that are no hardware of this machine, by the start of the kernel's name for them, and what they are.
_FOREIGN: Final = {
    "drbd": "a DRBD device", "dcssblk": "a DCSS segment", "nbd": "a network block device",
    "nullb": "a null block device", "pktcdvd": "a packet-writing device", "ram": "a RAM disk",
    "rbd": "a Ceph RBD image", "rnbd": "an RDMA network block device", "ublk": "a ublk device of a user-space server",
    "zd": "a ZFS volume", "zram": "a compressed RAM disk",
}  # fmt: skip
_UNLINKED: Final = (
    "mmc:",
    "sdio:",
)  # drivers/mmc/core/bus.c registers drivers without their owner: mmcblk is mmc_block
ISCSI, NVME = remote.ISCSI, remote.NVME
REMOTE: Final = {ISCSI: ["iscsi_tcp"], NVME: ["nvme_tcp"]}  # the drivers of disks of other machines
_LOCAL: Final = "pcie"  # an NVMe controller's transport that needs no network
_DM_KINDS: Final = {"LVM-": "lvm", "CRYPT-": "crypt", "mpath-": "multipath", "part": "partition", "DMRAID-": "dmraid"}


@dataclass(frozen=True)
class Layer:
    """One block device: kernel name, "major:minor", what it is, and the names of those it stands on.

    `kind`: "disk", "partition", "md", "bcache", "loop", "lvm", "crypt", "multipath", "dmraid", "dm", "iscsi" or
    "nvme-tcp" (a disk of another machine) or "foreign" (no hardware of this machine). `detail`: RAID level,
    device-mapper name, or what a foreign device is; `uuid`: device-mapper UUID; `metadata`: version of an array's
    superblock, "1.2".
    """

    name: str
    device: str
    kind: str
    detail: str = ""
    uuid: str = ""
    beneath: tuple[str, ...] = ()
    metadata: str = ""


@dataclass(frozen=True)
class Storage:
    """All layers under a device, each once and above what it stands on, and what drives them, from the bus upward.

    `modules` are loadable modules in use (built-in drivers do not appear); a name with a hyphen or a colon is an
    alias, for what sysfs has no module's name. `modaliases` name the same devices for a kernel other than the running
    one.
    """

    layers: tuple[Layer, ...]
    modules: tuple[str, ...]
    modaliases: tuple[str, ...]

    def of_kind(self, kind: str) -> tuple[Layer, ...]:
        """The layers of one kind."""
        return tuple(layer for layer in self.layers if layer.kind == kind)


def device_of(path: str) -> str:
    """The "major:minor" of the block device at `path` (a node or a link to one). Raises KdumpError."""
    import stat

    try:
        status = Path(path).stat()
    except OSError as error:
        raise KdumpError(f"{path}: no such device", why=error.strerror or str(error)) from None
    if not stat.S_ISBLK(status.st_mode):
        raise KdumpError(f"{path} is not a block device")
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def walk(device: str, sysfs: Path = SYSFS) -> Storage:
    """Everything under the block device "major:minor". Raises KdumpError if sysfs does not know it."""
    layers: dict[str, Layer] = {}  # lowest first
    modules: dict[str, None] = {}
    modaliases: dict[str, None] = {}

    def descend(directory: Path) -> None:
        layer = read_layer(directory)
        if layer.name in layers:
            return
        for below in reversed(_below(directory)):
            descend(below)
        layers[layer.name] = layer
        names, aliases = _drivers(directory, layer)
        modules.update(dict.fromkeys(names))
        modaliases.update(dict.fromkeys(aliases))

    descend(block_directory(device, sysfs))
    return Storage(tuple(reversed(layers.values())), tuple(modules), tuple(modaliases))


def block_directory(device: str, sysfs: Path = SYSFS) -> Path:
    """The directory of the block device "major:minor" below /sys/devices. Raises KdumpError."""
    link = sysfs / "dev/block" / device
    if not link.exists():
        raise KdumpError(f"no block device {device}", why=f"{link} does not exist")
    return link.resolve()


def read_layer(directory: Path) -> Layer:
    """The layer that a block device's directory in sysfs describes."""
    name = directory.name.replace("!", "/")
    device = _read(directory / "dev")
    beneath = tuple(below.name.replace("!", "/") for below in _below(directory))
    if (directory / "partition").exists():
        return Layer(name, device, "partition", beneath=beneath)
    if (directory / "dm").is_dir():
        uuid = _read(directory / "dm/uuid")
        kind = next((kind for start, kind in _DM_KINDS.items() if uuid.startswith(start)), "dm")
        return Layer(name, device, kind, _read(directory / "dm/name"), uuid, beneath)
    if (directory / "md").is_dir():
        level, metadata = (_read(directory / "md" / file) for file in ("level", "metadata_version"))
        return Layer(name, device, "md", level, beneath=beneath, metadata=metadata)
    if name.startswith(BCACHE) and (directory / "bcache").exists():
        return Layer(name, device, BCACHE, beneath=beneath)
    if (directory / "loop").is_dir():
        return Layer(name, device, "loop")
    if kind := _remote(directory):
        return Layer(name, device, kind)
    foreign = _foreign(directory, name)
    return Layer(name, device, "foreign" if foreign else "disk", foreign, beneath=beneath)


def _remote(directory: Path) -> str:
    """The kind of a disk of another machine that the capture kernel can connect to; empty for any other."""
    if {_read(each / "transport") for each in controllers(directory)} == {"tcp"}:
        return NVME
    return ISCSI if _iscsi_driver(directory) == "iscsi_tcp" else ""


def _iscsi_driver(directory: Path) -> str:
    """The driver of the session that a disk belongs to; empty if it belongs to none."""
    for parent in directory.parents:
        if re.fullmatch(r"session\d+", parent.name):
            return _read(parent.parent / "scsi_host" / parent.parent.name / "proc_name") or "an unknown driver"
    return ""


def _foreign(directory: Path, name: str) -> str:
    """The kind of a disk that is not on this machine's own hardware; empty for others.

    Sources: Documentation/ABI (sysfs-block-bcache, sysfs-bus-rbd, sysfs-nvme), drivers/scsi/scsi_transport_iscsi.c
    (iscsi_session below a host), drivers/scsi/fcoe/fcoe_sysfs.c, drivers/nvme/host/sysfs.c (transport).
    """
    known = next((what for start, what in _FOREIGN.items() if re.fullmatch(rf"{start}\d*\D?\d*", name)), "")
    if known:
        return known
    transports = {_read(each / "transport") for each in controllers(directory)} - {"", _LOCAL}
    if transports:
        return f"an NVMe namespace reached over {', '.join(sorted(transports))}"
    parts = directory.parts
    if driver := _iscsi_driver(directory):
        return f"an iSCSI disk by {driver}"
    if any(re.fullmatch(r"ctlr_\d+", part) for part in parts):
        return "a disk reached by FCoE"
    if "virtual" in parts and "nvme-subsystem" not in parts:
        return "a virtual block device that kdump does not know"
    drivers = any((each / "driver").exists() for each in _ancestors(directory))
    return "" if drivers or "nvme-subsystem" in parts else "a disk without a driver that kdump could find"


def controllers(directory: Path) -> list[Path]:
    """The controllers of an NVMe disk: with native multipathing it hangs on a subsystem, whose links lead to them."""
    if "nvme-subsystem" in directory.parts:
        return [link.resolve() for link in sorted(directory.parent.glob("nvme*")) if link.is_symlink()]
    return [directory.parent] if (directory.parent / "transport").exists() else []


def hardware(place: Path) -> tuple[list[str], list[str]]:
    """Modules and modaliases of a device and of all it hangs on, from the bus to itself.

    Where a bus does not link its drivers to their modules, the device's modalias stands among the modules.

    `place` is its directory below /sys/devices, resolved: a disk's, or a network interface's.
    """
    modules, modaliases = [], []
    for directory in _ancestors(place):
        module = directory / "driver/module"
        if module.exists():
            modules.append(module.resolve().name)
        alias = _modalias(directory)
        if alias:
            modaliases.append(alias)
            if alias.startswith(_UNLINKED) and (directory / "driver").exists() and not module.exists():
                modules.append(alias)
    return modules, modaliases


def _modalias(directory: Path) -> str:
    """A device's modalias; an SD card has it in its uevent only (drivers/mmc/core/bus.c, mmc_bus_uevent)."""
    lines = _read(directory / "uevent").splitlines()
    told = next((line.partition("=")[2] for line in lines if line.startswith("MODALIAS=")), "")
    return _read(directory / "modalias") or told


def watchdogs(sysfs: Path = SYSFS) -> tuple[list[str], list[str]]:
    """Modules and modaliases of the hardware watchdogs that are armed: the capture kernel must feed them."""
    modules, modaliases = [], []
    for entry in sorted((sysfs / "class/watchdog").glob("watchdog*")):
        if (entry / "device").exists() and _read(entry / "state") != "inactive":
            names, aliases = hardware((entry / "device").resolve())
            modules += names
            modaliases += aliases
    return modules, modaliases


def _below(directory: Path) -> list[Path]:
    """The directories of the block devices that one stands on directly."""
    if (directory / "partition").exists():
        return [directory.parent]
    below = sorted(entry.resolve() for entry in (directory / "slaves").glob("*"))
    return [*below, *_snapshots(directory, below)]


def _snapshots(directory: Path, below: list[Path]) -> list[Path]:
    """The snapshots of a logical volume, which must be there when it is written to.

    LVM keeps what an origin and its snapshots share on a hidden volume, whose UUID ends in "-real"; a snapshot stands
    on one more.
    """
    if len(below) != 1 or not _read(below[0] / "dm/uuid").endswith("-real"):
        return []
    others = sorted(entry.resolve() for entry in (below[0] / "holders").glob("*"))
    return [each for each in others if each != directory and (each / "dm").is_dir()]


def _drivers(directory: Path, layer: Layer) -> tuple[list[str], list[str]]:
    if layer.kind == "md":
        return ["md_mod", f"md-{layer.detail}"], []
    if layer.kind == BCACHE:
        return [BCACHE], []
    if (directory / "dm").is_dir():
        return ["dm_mod"], []
    if layer.kind not in ("disk", *REMOTE):
        return [], []
    modules, modaliases = hardware(directory)
    modules += REMOTE.get(layer.kind, ())
    for controller in controllers(directory) if "nvme-subsystem" in directory.parts else ():
        more = hardware(controller)
        modules += more[0]
        modaliases += more[1]
    return modules, modaliases


def _ancestors(place: Path) -> Iterator[Path]:
    """The directories from below .../devices down to `place`."""
    at = len(place.parts) - 1 - place.parts[::-1].index("devices") if "devices" in place.parts else 0
    for count in range(at + 2, len(place.parts) + 1):
        yield Path(*place.parts[:count])


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
