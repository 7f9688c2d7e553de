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
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.targets import https
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
    address: str = "127.0.0.1"
    certificate: str = ""  # with one it speaks TLS
    command: tuple[str, ...] = ()
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)  # the last one runs

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, cwd=self.directory)
        self.running.append(process)
        wait_for_port(self.port, 60)

    def kill(self) -> None:
        self.running[-1].kill()  # it would take half a minute to end by itself
        self.running[-1].wait()

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.address}:{self.port}"

    @property
    def facts(self) -> dict[str, str]:
        ca = {"ca_file": self.certificate} if self.certificate else {}
        return {"endpoint": self.endpoint, "credentials": str(self.directory / "s3.toml"), **ca}


def certificate(directory: Path, *addresses: str) -> Path:
    """A self-signed certificate for addresses, "certificate.pem", and its key beside it."""
    names = ",".join(f"IP:{address}" for address in addresses)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    command += ["-subj", "/CN=kdump test", "-addext", f"subjectAltName={names}", "-days", "2"]
    made = directory / "certificate.pem"
    subprocess.run([*command, "-keyout", directory / "key.pem", "-out", made], check=True, capture_output=True)
    return made


@contextlib.contextmanager
def weed(directory: Path, address: str = "127.0.0.1", *, tls_for: str = "") -> Iterator[Weed]:
    """SeaweedFS on free ports, S3 by TLS if there is an address by which guests know this machine."""
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
    # Those that have fixed ports would keep a second server of this machine from starting.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=256"]
    proof = certificate(directory, "127.0.0.1", tls_for) if tls_for else None
    if proof:
        command += [f"-s3.cert.file={proof}", f"-s3.key.file={proof.with_name('key.pem')}"]
    server = Weed(ports["s3"], directory, certificate=str(proof or ""), command=tuple(command))
    try:
        server.start()
        _make_bucket(server)
        yield server
    finally:
        server.kill()


def take_large_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let S3's client fetch what was stored, which kdump never does."""
    monkeypatch.setattr(https, "_ANSWER_BYTES", 64 << 20)


def client_of(server: Weed) -> Client:
    """Requests to the server's bucket, as the target makes them."""
    keys = read_credentials(server.facts["credentials"])
    return Client(server.endpoint, "dumps", "us-east-1", keys, ca_file=server.certificate)


def _make_bucket(server: Weed) -> None:
    client = client_of(server)
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
