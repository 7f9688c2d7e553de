"""nfs://server/export/path: a directory on an NFS server, versions 3 and 4, mounted by the kernel without a helper.

Facts: `version` ("4.2" … "3") and `addresses` as the healthy host found them, `options` from the configuration, and
`fstype`. Mounts are soft: a server that is gone makes writes fail within half a minute instead of never.

Sources: nfs(5), mount(8) (the options that it keeps to itself); Linux fs/nfs/fs_context.c (those that mount(2) takes:
sec=, addr=, mountaddr= …).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from kdump.errors import KdumpError
from kdump.targets.file import MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, DirectorySession
from kdump.targets.names import resolve, system_addresses
from kdump.targets.protocol import Ground, Session, Spec

__capture_omits__ = ("subprocess", "tempfile")  # for the check on the healthy host

VERSIONS = ("4.2", "4.1", "4.0", "3")
_FORCE, _DETACH = 0x1, 0x2  # umount2(2)
_SOFT = "soft,timeo=50,retrans=2"  # tenths of a second; the waits add up: 5 + 10 + 15 s
_VERSION_OPTION = re.compile(r"^(?:nfs)?vers=([\d.]+)$")
# What an fstab says to mount(8) and systemd, or what kdump decides itself: mount(2) takes none of them as text.
_NO_TEXT = re.compile(
    r"^(?:(?:no)?(?:auto|users?|owner|group|fail|atime|diratime|relatime|strictatime|dev|exec|suid|iversion|symfollow)"
    r"|r?(?:private|shared|slave|unbindable)|defaults|_netdev|silent|loud|loop|[xX]-.*"
    r"|(?:user|comment|u?helper|loop|offset|sizelimit|encryption|verity\.\w+)=.*)?$"
)
_REMEDY = "showmount -e SERVER lists its exports; the capture kernel writes as root: export with no_root_squash"
_MOUNT_SECONDS = 60  # of the check on the healthy host


class NfsTarget:
    """A directory on a server. The whole path of the URL is mounted: servers let clients mount below an export."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        parts = spec.parts
        if not parts.hostname or not parts.path.strip("/"):
            raise KdumpError(f"{spec.url!r} is not an NFS target", remedy="write nfs://server/export/path")
        self.host = parts.hostname
        self.path = parts.path.rstrip("/")

    def describe(self) -> str:
        """Server and path."""
        return f"{self.host}:{self.path}"

    def files(self) -> Mapping[str, Path | bytes]:
        """Nothing: the kernel does it."""
        return {}

    def check(self) -> Spec:
        """Mount it in the highest version that works, write a file, and unmount it."""
        self._refuse_kerberos(self.spec.facts.get("options", ""))
        addresses = system_addresses(self.host)
        failures = []
        for version in self._versions():
            facts = {**self.spec.facts, "version": version, "addresses": ",".join(addresses)}
            spec = replace(self.spec, facts={**facts, "fstype": fstype(version)})
            problem, mounted = _try_mount(self, spec, addresses[0])
            self._refuse_kerberos(mounted)  # server and kernel may have agreed on it without being told
            if not problem:
                return spec
            failures.append(f"{version}: {problem}")
        raise KdumpError(f"{self.describe()} cannot take dumps", why="; ".join(failures), remedy=_REMEDY)

    def open(self, crash: str, ground: Ground) -> Session:
        """Mount it and make the crash's directory; addresses are tried in turn."""
        known = [each for each in self.spec.facts.get("addresses", "").split(",") if each]
        version = self.spec.facts.get("version") or self._versions()[0]
        mountpoint = f"{ground.run}/nfs-{re.sub(r'[^A-Za-z0-9]', '_', self.describe())}"
        Path(mountpoint).mkdir(parents=True, exist_ok=True)
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME
        failure = ""
        for address in resolve(self.host, ground.dns, known, search=ground.search):
            if not os.path.ismount(mountpoint):
                try:
                    options = self.options(version, address)
                    ground.mount(self.source(address), mountpoint, fstype(version), flags, options)
                except OSError as error:
                    failure = error.strerror or str(error)
                    continue
            # Every file was synced when it was sealed; a server that is gone must not hold up what comes next.
            release = partial(ground.unmount, mountpoint, _FORCE | _DETACH)
            return DirectorySession(mountpoint, crash, shown=self.describe(), release=release, shared=True)
        raise KdumpError(f"{self.describe()} cannot be mounted (NFS {version})", why=failure, remedy=_REMEDY)

    def _refuse_kerberos(self, options: str) -> None:
        """Raise KdumpError if mount options say Kerberos: its tickets and daemons are not in the capture kernel."""
        for option in options.split(","):
            if option.startswith("sec=krb5"):
                raise KdumpError(
                    f"{self.describe()} cannot take dumps",
                    why=f"it is mounted with {option}, and the capture kernel has no Kerberos",
                    remedy="export it to this machine with sec=sys, or choose another target",
                )

    def source(self, address: str) -> str:
        """The device as mount(2) wants it."""
        return f"[{address}]:{self.path}" if ":" in address else f"{address}:{self.path}"

    def options(self, version: str, address: str) -> str:
        """The options for mount(2)."""
        proto = "tcp6" if ":" in address else "tcp"
        options = [f"vers={version}", f"addr={address}", f"proto={proto}", _SOFT]
        if version == "3":
            options += [f"mountaddr={address}", "mountvers=3", f"mountproto={proto}", "nolock"]
        configured = self.spec.facts.get("options", "").split(",")
        options += [each for each in configured if not (_NO_TEXT.match(each) or _VERSION_OPTION.match(each))]
        return ",".join(options)

    def _versions(self) -> tuple[str, ...]:
        for option in self.spec.facts.get("options", "").split(","):
            if found := _VERSION_OPTION.match(option):
                return ("4.2", "4.1", "4.0") if found[1] == "4" else (found[1],)
        return VERSIONS


def fstype(version: str) -> str:
    """The file system type of an NFS version: they are two to mount(2)."""
    return "nfs" if version == "3" else "nfs4"


def _try_mount(target: NfsTarget, spec: Spec, address: str) -> tuple[str, str]:
    """Why mounting and writing fails on this machine, empty if it works; and the options that it was mounted with."""
    import subprocess
    import tempfile

    version = spec.facts["version"]
    with tempfile.TemporaryDirectory(prefix="kdump-nfs-") as directory:
        # -i: no helper, so that the very options of the capture kernel are tried.
        command = ["mount", "-i", "-t", fstype(version), "-o", target.options(version, address)]
        try:
            done = subprocess.run(
                [*command, target.source(address), directory], capture_output=True, check=False, timeout=_MOUNT_SECONDS
            )
        except subprocess.TimeoutExpired:
            return f"the server does not answer within {_MOUNT_SECONDS} s", ""
        said = done.stderr.decode("utf-8", "replace").strip()
        if done.returncode:
            return said.splitlines()[0].rpartition(": ")[2] if said else "mount failed", ""
        options = ""
        try:
            options = mounted_options(directory)
            probe = Path(directory, ".kdump-check")
            probe.write_bytes(b"kdump")
            probe.unlink()
        except OSError as error:
            return error.strerror or str(error), options
        finally:
            subprocess.run(["umount", directory], check=False)
    return "", options


def mounted_options(directory: str, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The options that the kernel shows for what is mounted on a directory; empty if nothing is. Raises OSError."""
    lines = (line.split(" ") for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines())
    found = [fields[3] for fields in lines if len(fields) > 3 and fields[1] == directory]
    return found[-1] if found else ""
