"""ssh:// against a real OpenSSH server."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.targets.servers import Sshd, may_mount, small_filesystem, sshd
from tests.targets.test_file import ground

from kdump.errors import KdumpError
from kdump.targets import target_for
from kdump.targets.protocol import Session, Spec


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def spec_for(server: Sshd, path: Path, **facts: str) -> Spec:
    return Spec(f"ssh://root@127.0.0.1:{server.port}{path}", {**server.facts, **facts})


def begin(spec: Spec, tmp_path: Path, crash: str = "web1-20261123T115523Z-0001") -> Session:
    return target_for(spec).open(crash, ground(tmp_path, []))


def test_a_crash_arrives_whole_and_private(server: Sshd, tmp_path: Path) -> None:
    session = begin(spec_for(server, tmp_path / "dumps"), tmp_path)
    body = os.urandom(5 << 20)
    stream = session.create("vmcore")
    stream.skip(1000)
    for at in range(0, len(body), 1 << 20):
        stream.write(body[at : at + (1 << 20)])
    crash = tmp_path / "dumps/web1-20261123T115523Z-0001"
    assert [path.name for path in crash.iterdir()] == ["vmcore.incomplete"]
    stream.pwrite(b"h" * 1000, 0)
    stream.seal()
    free = session.free()
    session.close()
    assert [path.name for path in crash.iterdir()] == ["vmcore"]
    assert (crash / "vmcore").read_bytes() == b"h" * 1000 + body
    assert (crash / "vmcore").stat().st_mode & 0o777 == 0o600
    assert crash.stat().st_mode & 0o777 == 0o700
    assert free is not None
    assert free > 1 << 20


def test_the_check_logs_in_and_leaves_nothing(server: Sshd, tmp_path: Path) -> None:
    spec = target_for(spec_for(server, tmp_path / "dumps")).check()
    assert spec.facts["addresses"] == "127.0.0.1"
    assert list((tmp_path / "dumps").iterdir()) == []


def test_a_changed_host_key_is_refused(server: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    key = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {key}\n")
    with pytest.raises(KdumpError, match="REMOTE HOST IDENTIFICATION HAS CHANGED"):
        begin(spec_for(server, tmp_path / "dumps", known_hosts=str(tmp_path / "known")), tmp_path)
    assert not (tmp_path / "dumps").exists()


def test_an_unknown_host_is_refused(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    with pytest.raises(KdumpError, match="Host key verification failed"):
        begin(spec_for(server, tmp_path / "dumps", known_hosts=str(tmp_path / "known")), tmp_path)


def test_a_key_that_the_server_does_not_know(server: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    with pytest.raises(KdumpError, match="Permission denied"):
        begin(spec_for(server, tmp_path / "dumps", identity=str(tmp_path / "other")), tmp_path)


def test_nobody_listens(server: Sshd, tmp_path: Path) -> None:
    spec = spec_for(server, tmp_path)
    with pytest.raises(KdumpError, match="Connection refused"):
        begin(replace(spec, url=f"ssh://root@127.0.0.1:1{tmp_path}"), tmp_path)


def test_the_server_goes_away_during_the_dump(server: Sshd, tmp_path: Path) -> None:
    session = begin(spec_for(server, tmp_path / "dumps"), tmp_path)
    stream = session.create("vmcore")
    stream.write(os.urandom(1 << 20))
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    with pytest.raises(KdumpError, match="ended"):
        for _ in range(100):
            stream.write(os.urandom(1 << 20))
    stream.abort()
    session.close()
    assert (tmp_path / "dumps/web1-20261123T115523Z-0001/vmcore.incomplete").exists()


@pytest.mark.skipif(not may_mount(), reason="needs root to mount a small file system")
def test_the_disk_there_is_full(server: Sshd, tmp_path: Path) -> None:
    with small_filesystem(tmp_path / "small", "3m") as small:
        session = begin(spec_for(server, small), tmp_path)
        stream = session.create("vmcore")
        with pytest.raises(OSError, match="No space left"):
            for _ in range(10):
                stream.write(os.urandom(1 << 20))
        stream.abort()
        session.close()
        assert [path.name for path in small.glob("*/*")] == ["vmcore.incomplete"]


def test_retention_there(server: Sshd, tmp_path: Path) -> None:
    old = [f"web1-2020010{day}T000000Z-0001" for day in (1, 2)]
    for name in [*old, "web2-20200101T000000Z-0001"]:
        (tmp_path / "dumps" / name).mkdir(parents=True)
        (tmp_path / "dumps" / name / "vmcore").write_text("x")
    session = begin(spec_for(server, tmp_path / "dumps"), tmp_path)
    assert session.prune(2, 0) == [old[0]]
    session.close()
    assert {path.name for path in (tmp_path / "dumps").iterdir()} == {
        old[1], "web2-20200101T000000Z-0001", "web1-20261123T115523Z-0001",
    }  # fmt: skip


@pytest.mark.parametrize("url", ["ssh://host/path", "ssh://root@host", "ssh://root:secret@host/path", "ssh:///path"])
def test_urls_that_cannot_work(url: str) -> None:
    with pytest.raises(KdumpError, match=r"ssh://|no password"):
        target_for(Spec(url))
