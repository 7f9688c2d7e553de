"""ssh://user@host:port/path: a directory on another machine, through OpenSSH's client and its SFTP subsystem.

Files arrive as they are (nothing to reassemble), incomplete by name until they are whole and durable. A key and a known
host key are needed; no password is asked for. Facts: `identity` and `known_hosts` (files), `addresses` of the host as
the healthy machine resolved them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import inf
from pathlib import Path

from kdump.errors import KdumpError
from kdump.files.drafts import INCOMPLETE
from kdump.targets.names import resolve, system_addresses
from kdump.targets.protocol import Ground, Session, Spec, Stream
from kdump.targets.retention import prune
from kdump.targets.sftp import Sftp, SftpError

CLIENTS = ("/usr/bin/ssh", "/bin/ssh", "/usr/local/bin/ssh")
_CONNECT_SECONDS = 15
_CHECK_SECONDS = 60  # of a check on the healthy host, in all
_ERRORS = 64 << 10  # bytes that the client may say
_PIPE = 1 << 20  # bytes on the way to the client: each switch between the two processes is for many writes
_FULL = 1 << 20  # bytes free below which a failed write is taken for a full disk
_PROBE = ".kdump-check"


class SshTarget:
    """A directory on another machine."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        parts = spec.parts
        if not parts.hostname or not parts.username or not parts.path.startswith("/"):
            raise KdumpError(f"{spec.url!r} is not an ssh target", remedy="write ssh://user@host/absolute/path")
        if parts.password:
            raise KdumpError("an ssh target takes no password", remedy="give it a key: [ssh] identity in kdump.toml")
        self.host = parts.hostname
        self.path = parts.path.rstrip("/")

    def describe(self) -> str:
        """User, host and directory."""
        parts = self.spec.parts
        return f"{parts.username}@{parts.netloc.rpartition('@')[2]}:{self.path}"

    def files(self) -> Mapping[str, Path | bytes]:
        """Files of the image: the client, and the user database that it requires."""
        return {CLIENTS[0]: Path(_client()), "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n"}

    def check(self) -> Spec:
        """Log in as the capture kernel will, and write a file."""
        addresses = system_addresses(self.host)
        spec = replace(self.spec, facts={**self.spec.facts, "addresses": ",".join(addresses)})
        connection = Connection(spec, addresses[0], _CHECK_SECONDS)
        try:
            connection.sftp.make_directory(self.path, 0o755)
            handle = connection.sftp.open(f"{self.path}/{_PROBE}")
            connection.sftp.close(handle, _PROBE)
            connection.sftp.remove(f"{self.path}/{_PROBE}")
        finally:
            connection.close()
        return spec

    def open(self, crash: str, ground: Ground) -> Session:
        """Log in and make the crash's directory; addresses are tried in turn."""
        known = [each for each in self.spec.facts.get("addresses", "").split(",") if each]
        failure: KdumpError | None = None
        for address in resolve(self.host, ground.dns, known, search=ground.search):
            try:
                return SshSession(Connection(self.spec, address), self.path, crash, self.describe())
            except KdumpError as error:
                failure = error
        raise failure or KdumpError(f"{self.host} has no address")


class Connection:
    """OpenSSH's client as a child, running the SFTP subsystem on the other side."""

    def __init__(self, spec: Spec, address: str, seconds: float = inf) -> None:
        """`seconds` is the time for all of it: the capture kernel has deadlines of its own."""
        self._errors = os.memfd_create("ssh-errors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._errors, _ERRORS)
        fcntl.fcntl(self._errors, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)  # a server may say as much as it likes
        theirs_in, send = os.pipe()
        fcntl.fcntl(send, fcntl.F_SETPIPE_SZ, _PIPE)
        receive, theirs_out = os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, theirs_in, 0),
            (os.POSIX_SPAWN_DUP2, theirs_out, 1),
            (os.POSIX_SPAWN_DUP2, self._errors, 2),
        ]
        command = client_command(spec, address)
        environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "HOME") if name in os.environ}
        self._child = os.posix_spawn(command[0], command, environment, file_actions=actions)
        os.close(theirs_in)
        os.close(theirs_out)
        self._host = f"{spec.parts.hostname} ({address})"
        self._descriptors = [send, receive]
        try:
            self.sftp = Sftp(send, receive, self._lost, seconds)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up; a client that does not end is ended."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        if self._child:
            child, self._child = self._child, 0
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGTERM)
                os.waitpid(child, 0)
            os.close(self._errors)

    def _lost(self) -> KdumpError:
        os.lseek(self._errors, 0, os.SEEK_SET)
        said = os.read(self._errors, 4096).rstrip(b"\0").decode("utf-8", "replace").strip().splitlines()
        why = next(
            (line for line in said if "REMOTE HOST IDENTIFICATION HAS CHANGED" in line), said[-1] if said else ""
        )
        remedy = "compare its key with known_hosts" if "verification failed" in " ".join(said) else ""
        return KdumpError(f"the connection to {self._host} ended", why=why.strip("@ \r"), remedy=remedy)


class SshSession:
    """One crash on the server."""

    def __init__(self, connection: Connection, path: str, crash: str, shown: str) -> None:
        self.sftp = connection.sftp
        self._connection = connection
        self._parent = path
        self._crash = crash
        self.directory = f"{path}/{crash}"
        self.where = f"{shown}/{crash}"
        try:
            self.sftp.make_directory(path, 0o755)
            self.sftp.make_directory(self.directory)
        except BaseException:
            connection.close()
            raise

    def free(self) -> int | None:
        """Bytes that the user may still write there."""
        return self.sftp.free(self._parent)

    def create(self, name: str) -> Stream:
        """Begin a file."""
        return SftpStream(self, name)

    def prune(self, keep: int, min_free: int) -> list[str]:
        """See `Session.prune`."""
        return list(prune(self, self._crash, keep, min_free))

    def names(self) -> list[str]:
        """Names in the target's directory."""
        return self.sftp.listing(self._parent)

    def read(self, name: str) -> bytes:
        """A small file below the target's directory."""
        return self.sftp.read(f"{self._parent}/{name}")

    def remove(self, name: str) -> None:
        """Delete another crash."""
        for file in self.sftp.listing(f"{self._parent}/{name}"):
            self.sftp.remove(f"{self._parent}/{name}/{file}")
        self.sftp.remove_directory(f"{self._parent}/{name}")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class SftpStream:
    """A file on the server."""

    def __init__(self, session: SshSession, name: str) -> None:
        self.name = name
        self._session = session
        self._path = f"{session.directory}/{name}"
        self._handle: bytes | None = session.sftp.open(self._path + INCOMPLETE)
        self._end = 0

    def skip(self, size: int) -> None:
        """Leave a gap at the front."""
        self._end = size

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append."""
        size = self.pwrite(data, self._end)
        self._end += size
        return size

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at an offset. A full disk there is ENOSPC here."""
        raw = memoryview(data).cast("B")
        with self._told():
            self._session.sftp.write(self._handle or b"", self._path, raw, offset)
        return len(raw)

    def seal(self) -> None:
        """Durable there, then renamed."""
        handle = self._handle or b""
        with self._told():
            self._session.sftp.sync(handle, self._path)
            self._session.sftp.close(handle, self._path)
        self._handle = None
        self._session.sftp.rename(self._path + INCOMPLETE, self._path)

    def abort(self) -> None:
        """Keep what arrived under the incomplete name."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError, KdumpError):
                self._session.sftp.settle()
            with contextlib.suppress(OSError, KdumpError):
                self._session.sftp.close(handle, self._path)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SFTP version 3 says only "Failure" when a disk is full: ask."""
        try:
            yield
        except SftpError:
            with contextlib.suppress(SftpError):
                self._session.sftp.settle()
            free = self._session.free()
            if free is not None and free < _FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path) from None
            raise


def client_command(spec: Spec, address: str) -> list[str]:
    """OpenSSH's client, told everything: no configuration files, no agent, no questions, no unknown host."""
    parts, facts = spec.parts, spec.facts
    port = parts.port or 22
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": facts.get("identity", ""),
        "UserKnownHostsFile": facts.get("known_hosts", ""),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "HostKeyAlias": parts.hostname if port == 22 else f"[{parts.hostname}]:{port}",
        "ConnectTimeout": str(_CONNECT_SECONDS),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "Compression": "no",
        "LogLevel": "ERROR",
    }
    command = [_client(), "-F", "/dev/null", "-p", str(port), "-l", parts.username or "root"]
    for name, value in options.items():
        if value:
            command += ["-o", f"{name}={value}"]
    return [*command, "-s", address, "sftp"]


def _client() -> str:
    found = next((path for path in CLIENTS if os.access(path, os.X_OK)), None)
    if found is None:
        raise KdumpError(
            "OpenSSH's client is not installed", why="an ssh target needs it", remedy="apt install openssh-client"
        )
    return found
