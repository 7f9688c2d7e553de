"""Real servers for the targets' tests, on ports of their own: OpenSSH's, and SeaweedFS for S3."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdump.errors import KdumpError
from kdump.targets.s3 import read_credentials
from kdump.targets.s3http import Client


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


@dataclass(frozen=True)
class Weed:
    """SeaweedFS' S3 server with one bucket, "dumps". `facts` are an S3 target's."""

    port: int
    directory: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def facts(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "credentials": str(self.directory / "s3.toml")}


@contextlib.contextmanager
def weed(directory: Path, address: str = "127.0.0.1") -> Iterator[Weed]:
    """SeaweedFS on free ports."""
    (directory / "data").mkdir(parents=True, exist_ok=True)
    actions = ["Admin", "Read", "Write", "List"]
    keys = [{"accessKey": "kdump", "secretKey": "a secret of the tests"}]
    (directory / "s3.json").write_text(
        json.dumps({"identities": [{"name": "kdump", "credentials": keys, "actions": actions}]})
    )
    credentials = directory / "s3.toml"
    credentials.write_text('access_key_id = "kdump"\nsecret_access_key = "a secret of the tests"\n')
    credentials.chmod(0o600)
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    command = [str(Path(sys.executable).with_name("weed")), "server", "-s3", f"-ip={address}", f"-ip.bind={address}"]
    command += [f"-dir={directory}/data", f"-s3.config={directory}/s3.json", "-volume.max=8"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    # Its gRPC ports are those plus 10000.
    command += [f"-{name}.port.grpc={free_port()}" for name in ports]
    command += ["-master.volumeSizeLimitMB=256"]
    process = subprocess.Popen(command, stdout=(directory / "log").open("wb"), stderr=subprocess.STDOUT, cwd=directory)
    try:
        wait_for_port(ports["s3"], 60)
        running = Weed(ports["s3"], directory)
        _make_bucket(running)
        yield running
    finally:
        process.kill()  # it would take half a minute to end by itself
        process.wait()


def _make_bucket(server: Weed) -> None:
    client = Client(server.endpoint, "dumps", "us-east-1", read_credentials(str(server.directory / "s3.toml")))
    end = time.monotonic() + 60
    while True:
        try:
            client.request("PUT", "")
            client.request("PUT", "first", body=b"is a volume there?")
            client.request("DELETE", "first")
        except KdumpError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return
