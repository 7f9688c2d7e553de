"""fs://UUID=…/path and fs://LABEL=…/path: a directory on a local file system that the healthy host need not mount.

Names as in fstab(5); a label is percent-encoded where a URL asks for it. Facts are those of `kdump.targets.file`, which
does the rest in the capture kernel.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from kdump.errors import KdumpError
from kdump.targets import btrfs
from kdump.targets.devices import contents, place_of, volume_name
from kdump.targets.file import KNOWN_TEXT, REFUSED, FileTarget, refuse_parts_elsewhere
from kdump.targets.protocol import Spec
from kdump.targets.superblock import Content

__capture_omits__ = ("subprocess", "tempfile")  # for the check on the healthy host

_NAMES = {"UUID": "uuid", "LABEL": "label"}
# What mounts a file system without writing to it, journal included: mount(8), ext4(5), xfs(5), btrfs(5).
_UNTOUCHED = {"ext3": "noload", "ext4": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay,subvolid=5"}
_SECONDS = 60  # of a mount on the healthy host


class FilesystemTarget(FileTarget):
    """A directory of a file system that is named by its UUID or its label."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._name, equals, value = spec.parts.netloc.partition("=")
        self._value = unquote(value)
        if not equals or not self._value or self._name not in _NAMES:
            raise KdumpError(f"{spec.url!r} is not a file system target", remedy="write fs://UUID=…/crash")

    def check(self) -> Spec:
        """Find the device, and see that its file system can be mounted; see `Target.check`."""
        device, content = self._find()
        cannot = f"{self._name}={self._value} cannot take dumps"
        if reason := REFUSED.get(content.fstype):
            raise KdumpError(cannot, why=f"{device} is {content.fstype}: {reason}", remedy="name another one")
        if content.fstype not in _UNTOUCHED:
            raise KdumpError(cannot, why=f"{device} holds {content.fstype}", remedy=f"kdump knows {KNOWN_TEXT}")
        if content.fstype == "btrfs":
            there = btrfs.present(content.uuid)
            btrfs.require_all(there, device, f"{self._name}={self._value}")
            btrfs.refuse_copies(there, f"{self._name}={self._value}")
        refuse_parts_elsewhere(device, f"{self._name}={self._value}")
        if not _mounted(device):
            _try_mount(device, content.fstype, cannot)
        options = {"options": "subvolid=5"} if content.fstype == "btrfs" else {}
        facts = {"uuid": content.uuid, "fstype": content.fstype, "path": self.spec.parts.path or "/", **options}
        return replace(self.spec, facts={**self.spec.facts, **facts})

    def _find(self) -> tuple[str, Content]:
        field, wanted = _NAMES[self._name], self._value.lower() if self._name == "UUID" else self._value
        found = [
            (path, content)
            for path, content in contents()
            if (getattr(content, field).lower() if field == "uuid" else getattr(content, field)) == wanted
        ]
        # A mirror's or a multipath device's parts carry what is on the whole; so do the devices of one btrfs.
        if len({content.uuid for _path, content in found}) > 1:
            raise KdumpError(
                f"{self._name}={self._value} is not one file system",
                why=", ".join(f"{path} {content.uuid}" for path, content in found),
                remedy="name it by its UUID",
            )
        if not found:
            raise KdumpError(
                f"no file system has {self._name}={self._value}", remedy="blkid lists those of this machine"
            )
        best = min(map(place_of, (path for path, _content in found)))
        tops = [path for path, _content in found if place_of(path) == best]
        if len({name for path in tops if (name := volume_name(path))}) > 1:
            raise KdumpError(
                f"{self._name}={self._value} is on several volumes: {', '.join(sorted(map(volume_name, tops)))}",
                why="a snapshot has the UUID and the label of its origin",
                remedy="mount the one that is meant and name its directory as file:///…, or deactivate the others",
            )
        return min(found, key=lambda each: place_of(each[0]))


def _mounted(device: str, table: str = "/proc/self/mountinfo") -> bool:
    """Whether this machine has the device mounted somewhere, writable or not."""
    number = Path(device).stat().st_rdev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    lines = Path(table).read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.split(" ", 3)[2] == wanted for line in lines)


def _try_mount(device: str, fstype: str, cannot: str) -> None:
    """Mount it read-only and without replaying its journal, and unmount it. Raises KdumpError."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="kdump-fs-") as directory:
        command = ["mount", "-i", "-t", fstype, "-o", f"ro,nodev,nosuid,{_UNTOUCHED[fstype]}", device, directory]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KdumpError(cannot, why=f"mount of {device} did not end: {error}") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0].rpartition(": ")[2]
            why = f"{device} ({fstype}) cannot be mounted: {said}"
            raise KdumpError(cannot, why=why, remedy="check it with its fsck; dmesg says more")
        subprocess.run(["umount", directory], check=True, timeout=_SECONDS)
