"""Where a network interface's hardware is, for hardware that no address of its own tells from others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_DEVICES: Final = "/sys/devices/"
# Counted in the order of discovery: USB buses ("usb1", and before the ports in "1-2.3:1.0") and virtio devices.
_COUNTED: Final = re.compile(r"(?:usb|virtio)\d+")
_BUS: Final = re.compile(r"\d+-(?=[\d.]+(?::|$))")


def place(interface: str, sysfs: Path = Path("/sys")) -> str:
    """The place of an interface's device; empty if it has none."""
    device = sysfs / "class/net" / interface / "device"
    if not device.exists():
        return ""
    return lasting(str(device.resolve().relative_to((sysfs / "devices").resolve())))


def lasting(path: str) -> str:
    """A device's path below /sys/devices without what the next kernel may number otherwise.

    "pci0000:00/0000:00:04.0/1:1.0" is the first port of a USB controller.
    """
    parts = path.removeprefix(_DEVICES).strip("/").split("/")
    return "/".join(_BUS.sub("", part) for part in parts if not _COUNTED.fullmatch(part))
