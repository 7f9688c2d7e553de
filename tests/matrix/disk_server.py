"""PID 1 of a second machine that lends its disk to the first: the kernel's own iSCSI and NVMe/TCP targets.

With "dies" on its command line it powers off as soon as some of a dump was written.
"""

from __future__ import annotations

import time
from pathlib import Path

from kdump.capture import system
from kdump.capture.network import bring_up

ADDRESS = "192.168.77.1"
MAC = "52:54:00:77:00:01"
NAME = "iqn.2026-11.test:crash"  # an NVMe subsystem may be called so, too
USER, PASSWORD = "kdump", "secret of the matrix"
MODULES = "/etc/modules.txt"
MODULES_OF = {
    "iscsi": ("target_core_mod", "target_core_iblock", "iscsi_target_mod", "crc32c_generic"),  # which it asks for
    "nvme-tcp": ("nvmet", "nvmet_tcp"),
}
SOME = 4 << 20  # bytes
_STORE = Path("/sys/kernel/config/target/core/iblock_0/crash")
_PORTAL = Path("/sys/kernel/config/target/iscsi", NAME, "tpgt_1")
_SUBSYSTEM = Path("/sys/kernel/config/nvmet/subsystems", NAME)
_PORT = Path("/sys/kernel/config/nvmet/ports/1")


def main() -> None:
    """Serve until somebody pulls the plug."""
    try:
        for module in Path(MODULES).read_text().split():
            system.load_module(module)
        bring_up({"interface": [{"name": "eth0", "mac": MAC, "addresses": [f"{ADDRESS}/24"]}]}, 20, print, print)
        system.mount("configfs", "/sys/kernel/config", "configfs")
        (serve_iscsi if "iscsi" in Path("/proc/cmdline").read_text().split() else serve_nvme)()
        print("disk-server: ready", flush=True)
    except OSError as error:
        print(f"disk-server: FAILED {error}", flush=True)
    dies = "dies" in Path("/proc/cmdline").read_text().split()
    while not (dies and _written() > SOME):
        time.sleep(0.1)
    print("disk-server: dies", flush=True)
    system.reboot(system.POWER_OFF)


def _written() -> int:
    """Bytes that the disk was given since this machine started (Documentation/block/stat.rst)."""
    return int(Path("/sys/block/vda/stat").read_text().split()[6]) * 512


def serve_iscsi() -> None:
    """A logical unit on the disk, for whoever knows the password."""
    _STORE.mkdir(parents=True)
    (_STORE / "control").write_text("udev_path=/dev/vda")
    (_STORE / "enable").write_text("1")
    (_PORTAL / f"np/{ADDRESS}:3260").mkdir(parents=True)
    (_PORTAL / "lun/lun_0").mkdir()
    (_PORTAL / "lun/lun_0/crash").symlink_to(_STORE)
    for name, value in (
        ("authentication", 1), ("generate_node_acls", 1), ("demo_mode_write_protect", 0), ("cache_dynamic_acls", 1),
    ):  # fmt: skip
        (_PORTAL / "attrib" / name).write_text(str(value))
    (_PORTAL / "auth/userid").write_text(USER)
    (_PORTAL / "auth/password").write_text(PASSWORD)
    (_PORTAL / "enable").write_text("1")


def serve_nvme() -> None:
    """A namespace on the disk."""
    _SUBSYSTEM.mkdir()
    (_SUBSYSTEM / "attr_allow_any_host").write_text("1")
    (_SUBSYSTEM / "namespaces/1").mkdir()
    (_SUBSYSTEM / "namespaces/1/device_path").write_text("/dev/vda")
    (_SUBSYSTEM / "namespaces/1/enable").write_text("1")
    _PORT.mkdir()
    for name, value in (("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", ADDRESS), ("trsvcid", "4420")):
        (_PORT / f"addr_{name}").write_text(value)
    (_PORT / "subsystems" / NAME).symlink_to(_SUBSYSTEM)


if __name__ == "__main__":
    main()
