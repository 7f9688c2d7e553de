"""Real servers for the targets' tests: OpenSSH's, on a port of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sshd:
    """A running server. `facts` are an ssh target's."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def facts(self) -> dict[str, str]:
        return {"identity": str(self.directory / "id"), "known_hosts": str(self.directory / "known_hosts")}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_port(port: int, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def sshd(directory: Path, *hosts: str) -> Iterator[Sshd]:
    """OpenSSH's server for root with a fresh key; `hosts` are the names by which clients know it."""
    server = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    assert server, "openssh-server is not installed"
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    shutil.copy(directory / "id.pub", directory / "authorized")
    port = free_port()
    key = " ".join((directory / "host.pub").read_text().split()[:2])
    lines = [f"[{host}]:{port} {key}\n" for host in hosts or ("127.0.0.1",)]
    (directory / "known_hosts").write_text("".join(lines))
    config = directory / "sshd_config"
    config.write_text(
        f"Port {port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\nStrictModes no\nUsePAM no\n"
        f"PidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([server, "-f", config, "-D", "-e"], stderr=(directory / "log").open("wb"))
    try:
        wait_for_port(port)
        yield Sshd(port, directory, process)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def small_filesystem(directory: Path, size: str) -> Iterator[Path]:
    """A tmpfs of that size; needs root."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=True, capture_output=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def may_mount() -> bool:
    return os.geteuid() == 0
