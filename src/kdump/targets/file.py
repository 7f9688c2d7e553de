"""file:///directory: a directory of a local file system, found by the file system's UUID.

Facts in the specification: `uuid` and `fstype` of the file system, `options` for mount(2) (for example `subvolid=256`),
`path` of the directory below the mount. Without a `uuid` the directory is used as it stands (it is mounted already).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from kdump.errors import KdumpError
from kdump.files.directory import Directory
from kdump.files.drafts import INCOMPLETE, PartFile, sync_directory
from kdump.targets import btrfs
from kdump.targets.devices import LOOKING, find_uuid, wait_for
from kdump.targets.labels import Labels
from kdump.targets.protocol import LAST, Ground, Session, Spec, Stream
from kdump.targets.retention import prune
from kdump.targets.superblock import parts_elsewhere

# Sources: mount(2), include/uapi/linux/mount.h.
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME = 0x2, 0x4, 0x8, 0x400

_RESERVED = 128 << 10  # bytes
_SMALL = 4 << 20  # bytes of an old manifest: memory is scarce here
REFUSED = {
    "vfat": "a file on FAT cannot exceed 4 GiB",
    "ext2": "without a journal it cannot be trusted after a crash",
    "tmpfs": "its contents are gone after the reboot",
    "ramfs": "its contents are gone after the reboot",
    "overlay": "the file system below it has to be named",
}
KNOWN = ("ext3", "ext4", "xfs", "btrfs")
KNOWN_TEXT = "ext3, ext4, xfs and btrfs"


def refuse_parts_elsewhere(device: str, what: str) -> None:
    """Raise KdumpError for a file system whose log or the like is on a device of its own: mounting would fail."""
    if part := parts_elsewhere(device):
        raise KdumpError(
            f"{what} cannot take dumps",
            why=f"the file system on {device} keeps {part} on another device, which the capture kernel does not find",
            remedy="choose another file system, or the network",
        )


class FileTarget:
    """A directory on a local file system."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        parts = spec.parts
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise KdumpError(f"{spec.url!r} is not a file target", remedy="write file:///var/crash")

    def describe(self) -> str:
        """The directory and the file system it is on."""
        facts = self.spec.facts
        on = f" on {facts['fstype']} {facts['uuid']}" if "uuid" in facts else ""
        return f"{self.spec.parts.path}{on}"

    def files(self) -> Mapping[str, Path | bytes]:
        """Nothing."""
        return {}

    def check(self) -> Spec:
        """Find the file system under the directory; see `Target.check`."""
        from kdump.targets.mountinfo import mount_of

        directory = self.spec.parts.path
        mount = mount_of(directory)
        if reason := REFUSED.get(mount.fstype):
            raise KdumpError(
                f"{directory} cannot take dumps", why=f"it is on {mount.fstype}: {reason}", remedy="name another one"
            )
        if not mount.uuid:
            raise KdumpError(
                f"{directory} cannot take dumps",
                why=f"no file system UUID found on {mount.source} ({mount.fstype})",
                remedy=f"kdump knows {KNOWN_TEXT}",
            )
        if mount.fstype not in KNOWN:  # the same device by another driver, in user space say
            why = f"it is mounted as {mount.fstype}, which the capture kernel cannot do"
            raise KdumpError(f"{directory} cannot take dumps", why=why, remedy=f"kdump knows {KNOWN_TEXT}")
        refuse_parts_elsewhere(mount.source, directory)
        if "ro" in mount.options.split(","):
            raise KdumpError(f"{directory} cannot take dumps", why=f"{mount.source} is mounted read-only")
        if mount.fstype == "btrfs":
            there = btrfs.devices(mount.uuid)
            btrfs.require_all(there, mount.source, directory)
            if len(there) > 1:
                btrfs.refuse_copies(btrfs.present(mount.uuid), directory)
        facts = {"uuid": mount.uuid, "fstype": mount.fstype, "options": mount.filesystem_options, "path": mount.path}
        return replace(self.spec, facts={**self.spec.facts, **facts})

    def open(self, crash: str, ground: Ground) -> Session:
        """Mount the file system and make the crash's directory."""
        uuid = self.spec.facts.get("uuid", "")
        labels = Labels(self.spec.facts, ground.say)
        if not uuid:
            return DirectorySession(self.spec.parts.path, crash, labels=labels)
        look = LOOKING * ground.remaining()  # the rest is for saying what is there instead
        around = ground.sysfs, ground.dev
        volume = self.spec.facts.get("volume", "")
        wanted = f"the file system {uuid}{f' on the volume {volume}' if volume else ''}"
        device = wait_for(lambda: find_uuid(uuid, *around, volume), wanted, look, *around)
        mountpoint = f"{ground.run}/{uuid}"
        path = f"{mountpoint}/{self.spec.facts.get('path', '').strip('/')}"
        shown = self.spec.parts.path
        release = partial(ground.unmount, mountpoint, 0)
        if os.path.ismount(mountpoint):
            return DirectorySession(path, crash, shown=shown, release=release, labels=labels)
        Path(mountpoint).mkdir(parents=True, exist_ok=True)
        fstype = self.spec.facts.get("fstype", "ext4")
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME
        try:
            if fstype == "btrfs":
                btrfs.register(device, uuid, LOOKING * ground.remaining(), *around)
            ground.mount(device, mountpoint, fstype, flags, self.spec.facts.get("options", ""))
        except OSError as error:
            raise KdumpError(
                f"{device} ({fstype} {uuid}) cannot be mounted",
                why=error.strerror or str(error),
                remedy=_MOUNT_REMEDY.get(error.errno or 0, ""),
            ) from None
        return DirectorySession(path, crash, shown=shown, release=release, labels=labels)


_MOUNT_REMEDY = {
    errno.ENODEV: "the file system's module is missing from the capture image: kdump build",
    errno.EUCLEAN: "the file system is damaged: check it with its fsck",
    errno.EINVAL: "the superblock is damaged or an option is refused: check it with its fsck",
}


class DirectorySession:
    """A crash saved into a directory, whatever file system it is on; shared by the targets that mount one."""

    def __init__(
        self,
        directory: str,
        crash: str,
        *,
        shown: str = "",
        release: Callable[[], None] | None = None,
        shared: bool = False,
        labels: Labels | None = None,
    ) -> None:
        """`shared`: a server owns the directories, as it sees fit; what can be known of one here says nothing."""
        self._release = release
        self._shared = shared
        self._labels = labels or Labels({}, print)
        self._parent = directory.rstrip("/")
        self.directory = f"{self._parent}/{crash}"
        self.where = f"{(shown or directory).rstrip('/')}/{crash}"
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self._make(crash)
            sync_directory(directory)
            self._reserve()
        except BaseException:
            self.close()
            raise

    def _make(self, crash: str) -> None:
        """The crash's directory: a new one, or that of an earlier attempt, but nobody else's."""
        with Directory.open(self._parent or "/") as parent:
            try:
                os.mkdir(crash, 0o700, dir_fd=parent.fd)
            except FileExistsError:
                with parent.enter(crash) as found:
                    if why := self._foreign(found):
                        raise KdumpError(f"{self.where} exists already", why=f"it is {why}") from None
        self._labels.directory(self.directory)

    def _foreign(self, directory: Directory) -> str:
        return "" if self._shared else directory.foreign

    def _reserve(self) -> None:
        """Room for the file that is written last: a dump that fills the disk must not keep the manifest out."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(f"{self.directory}/{LAST}{INCOMPLETE}", flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _RESERVED)
        finally:
            os.close(descriptor)

    def free(self) -> int | None:
        """Bytes that root may still write here."""
        stat = os.statvfs(self.directory)
        return stat.f_bfree * stat.f_frsize

    def create(self, name: str) -> Stream:
        """Begin a file."""
        stream = FileStream(self.directory, name)
        self._labels.file(f"{self.directory}/{stream.called}")
        return stream

    def prune(self, keep: int, min_free: int) -> list[str]:
        """See `Session.prune`."""
        return list(prune(self, self.directory.rpartition("/")[2], keep, min_free))

    def names(self) -> list[str]:
        """The directories beside the crash's, but those that somebody else could have made or changed."""
        found = []
        with Directory.open(self._parent) as parent:
            for name in parent.names():
                with contextlib.suppress(OSError), parent.enter(name) as directory:
                    if not self._foreign(directory):
                        found.append(name)
        return found

    def read(self, name: str) -> bytes:
        """A small file of a crash below the target's directory, "CRASH/FILE"."""
        crash, _, file = name.partition("/")
        with Directory.open(self._parent) as parent, parent.enter(crash) as directory:
            return directory.read(file, _SMALL)

    def remove(self, name: str) -> None:
        """Delete another crash."""
        with Directory.open(self._parent) as parent:
            parent.remove(name)

    def close(self) -> None:
        """Unmount, if this session mounted."""
        release, self._release = self._release, None
        if release:
            release()


class FileStream(PartFile):
    """A file of a crash; what is there under its incomplete name keeps its blocks: see `_reserve`."""

    def __init__(self, directory: str, name: str) -> None:
        super().__init__(f"{directory}/{name}", resume=True)
        self.name = name
        sync_directory(directory)  # a power cut from now on leaves a file that is named incomplete
