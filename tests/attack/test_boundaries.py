"""One bad thing stops nothing else: a crash, a directory, a device, a notifier, a clock."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attack.peers import answering
from tests.host.test_aftermath import crash

from kdump.cli import streams
from kdump.cli.main import main
from kdump.dump import manifest_schema
from kdump.errors import KdumpError
from kdump.files.directory import Directory
from kdump.host import aftermath, config, notify, stored
from kdump.host.config import Config, Notify, Retention
from kdump.host.config.tables import ConfigError
from kdump.host.importers.fedora import _mount_points
from kdump.host.network import ask_ip
from kdump.kexec.cmdline import running_command_line
from kdump.targets import retention

NOW = time.time()


def bomb(depth: int) -> bytes:
    return b'{"files": ' * depth + b"1" + b"}" * depth


def with_field(**fields: object) -> bytes:
    return json.dumps({"format": "kdump-manifest/1", "status": "complete", "files": [], **fields}).encode()


MANIFESTS: dict[str, bytes] = {
    "panic-time-text": with_field(panic_time="abc"),
    "panic-time-list": with_field(panic_time=[]),
    "panic-time-huge": with_field(panic_time=10**400),
    "panic-time-nan": b'{"format": "kdump-manifest/1", "files": [], "panic_time": NaN}',
    "kernel-text": with_field(kernel="6.1"),
    "release-list": with_field(kernel={"release": ["6.1"]}),
    "host-long": with_field(host="h" * 70000),
    "status-object": with_field(status={}),
    "files-numbers": with_field(files=[1, 2]),
    "file-above": with_field(files=[{"name": "../x", "size": 1, "sha256": "0" * 64}]),
    "file-nul": with_field(files=[{"name": "x\0", "size": 1, "sha256": "0" * 64}]),
    "file-negative": with_field(files=[{"name": "x", "size": -1, "sha256": "0" * 64}]),
    "piece-without-offset": with_field(files=[{"name": "x", "size": 1, "pieces": [{"size": 1, "sha256": "0" * 64}]}]),
    "memory-text": with_field(memory={"ram": "much"}),
    "a-list": b"[]",
    "not-utf-8": b'{"host": "\xff"}',
    "cut-off": b'{"status": "comp',
    "empty": b"",
    "bomb": bomb(100_000),
    "shallow-bomb": bomb(900),
    "large": b'{"host": "' + b"x" * (17 << 20) + b'"}',
    "long-number": b'{"panic_time": ' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_bad_manifest_hides_neither_its_crash_nor_the_next(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "crash"
    bad = crash(place, "h-20261123T110000Z-0bad")
    (bad / "manifest.json").write_bytes(MANIFESTS[name])
    (bad / "vmcore").write_bytes(b"x")
    crash(place, "h-20261123T120000Z-900d")
    toml = tmp_path / "kdump.toml"
    toml.write_text(f'targets = ["file://{place}"]\n')
    assert main(["list", "--config", str(toml)]) == 0
    out = capsys.readouterr().out
    assert "h-20261123T110000Z-0bad" in out
    assert "h-20261123T120000Z-900d" in out
    assert main(["list", "--json", str(place)]) == 0
    capsys.readouterr()
    config = Config(targets=(f"file://{place}",), notify=Notify(command=("/bin/true",)))
    found = {each.crash.name: each for each in aftermath.deal_with_new(config, tmp_path / "state")}
    assert len(found) == 2
    assert found["h-20261123T120000Z-900d"].good
    assert not found["h-20261123T110000Z-0bad"].good
    assert all(each.told for each in found.values())
    assert main(["verify", str(bad)]) == 1
    assert capsys.readouterr().err.startswith("kdump verify: ")
    assert list(stored.prune(config, dry_run=True)) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_capture_kernel_looks_at_old_manifests_too(name: str) -> None:
    class Store:
        def __init__(self) -> None:
            self.removed: list[str] = []

        def names(self) -> list[str]:
            return ["h-20260101T000000Z-0000", "h-20260102T000000Z-0000"]

        def read(self, _name: str) -> bytes:
            return MANIFESTS[name]

        def remove(self, name: str) -> None:
            self.removed.append(name)

        def free(self) -> int | None:
            return None

    assert list(retention.prune(Store(), "h-20260103T000000Z-0000", 2, 0)) == ["h-20260101T000000Z-0000"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
known = st.fixed_dictionaries({}, optional=dict.fromkeys(manifest_schema.SCHEMA, values))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=known)
def test_any_manifest(tmp_path: Path, content: dict[str, object]) -> None:
    path = tmp_path / "h-20261123T120000Z-0001"
    path.mkdir(exist_ok=True)
    (path / "vmcore").write_bytes(b"x")
    (path / "manifest.json").write_text(json.dumps(content))
    found = stored.read(path)
    assert found.status != stored.UNREADABLE
    from kdump.cli.list import lines

    assert lines(found)
    assert aftermath.summary(found, [])


@pytest.mark.parametrize(
    "report", [b"{}", b'{"verdict": "x"}', b'{"verdict": {"title": 1}}', bomb(5000), b'{"verdict": {"title": "t"}}']
)
def test_a_bad_report_leaves_the_log_to_be_judged(tmp_path: Path, report: bytes) -> None:
    path = crash(tmp_path)
    (path / "report.json").write_bytes(report)
    assert "NULL" in stored.read(path).title or stored.read(path).title


def test_a_directory_that_cannot_be_read_is_said_and_the_next_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crash(tmp_path / "good")
    (tmp_path / "file").write_text("")
    toml = tmp_path / "kdump.toml"
    toml.write_text(f'targets = ["file://{tmp_path}/file", "file://{tmp_path}/good"]\n[retention]\nmin_free = 0\n')
    assert main(["list", "--config", str(toml)]) == 1
    said = capsys.readouterr()
    assert f"{tmp_path}/file cannot be read" in said.err
    assert "h-20261123T120000Z-0001" in said.out
    assert main(["prune", "--config", str(toml)]) == 1
    assert f"{tmp_path}/file cannot be read" in capsys.readouterr().err


def test_a_crash_that_breaks_the_code_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash(tmp_path, "h-20261123T110000Z-0001")
    crash(tmp_path, "h-20261123T120000Z-0002")
    ordinary = stored.title_and_signature

    def breaks(directory: Directory) -> tuple[str, str]:
        if directory.path.endswith("0001"):
            raise MemoryError
        return ordinary(directory)

    monkeypatch.setattr(stored, "title_and_signature", breaks)
    status = {each.name: each.status for each in stored.scan([tmp_path])}
    assert status == {"h-20261123T110000Z-0001": "unreadable", "h-20261123T120000Z-0002": "complete"}


def test_a_missing_device_does_not_keep_new_crashes_from_being_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crash(tmp_path / "crash")
    toml = tmp_path / "kdump.toml"
    toml.write_text(
        f'targets = ["block://{tmp_path}/absent", "block://{tmp_path}/text", "file://{tmp_path}/crash"]\n'
        f'[notify]\ncommand = ["/bin/sh", "-c", "cat > {tmp_path}/told"]\n[retention]\nmin_free = 0\n'
    )
    (tmp_path / "text").write_text("no dump area")
    monkeypatch.setattr("kdump.host.config.CONFIG_PATH", toml)
    monkeypatch.setattr("kdump.host.home.STATE", tmp_path / "state")
    assert main(["collect", "--new", "--json", "--to", str(tmp_path / "to")]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["new"][0]["good"]
    assert len(json.loads(said.out)["failed"]) == 2
    assert said.err.count("kdump collect: ") == 2
    assert json.loads((tmp_path / "told").read_text())["crash"] == "h-20261123T120000Z-0001"


SUMMARY = {"host": "h\u202e\ud800", "title": "BUG\r\nBcc: evil@example.net\0", "problems": []}


@pytest.mark.parametrize(
    "program",
    ["printf '\\377\\376'; exit 1", "printf '\\377'", "yes | head -c 50000000; exit 2", "kill -9 $$", "exit 255"],
)
def test_a_command_may_say_anything(program: str) -> None:
    wanted = Notify(command=("/bin/sh", "-c", program), webhook="http://127.0.0.1:1/")
    outcomes = dict(notify.notify(wanted, SUMMARY))
    assert "cannot be reached" in outcomes["webhook 127.0.0.1:1"]
    assert len(outcomes["command /bin/sh"]) < 1000


@pytest.mark.timeout(30)
def test_a_command_that_leaves_something_running_or_does_not_end(tmp_path: Path) -> None:
    began = time.monotonic()
    assert notify.run_bounded(["/bin/sh", "-c", "sleep 20 & echo said"], b"") == (0, b"said\n")
    with pytest.raises(KdumpError, match="did not end within"):
        notify.run_bounded(["/bin/sh", "-c", "trap '' TERM; sleep 20 & wait"], b"", 0.5)
    with pytest.raises(KdumpError, match="did not end within"):
        notify.run_bounded(["/usr/bin/yes"], b"", 0.5)
    with pytest.raises(KdumpError, match="did not run"):
        notify.run_bounded(["/bin/a\0b"], b"")
    assert time.monotonic() - began < 10


MOVED = b"HTTP/1.1 302 x\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n"
ANSWERS: dict[str, Callable[[socket.socket], None]] = {
    "garbage": lambda peer: peer.sendall(b"\xff\xfe\x00garbage\r\n\r\n"),
    "nothing": lambda peer: None,
    "headers without end": lambda peer: flood(peer, b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n"),
    "a line without end": lambda peer: flood(peer, b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
    "a status of text": lambda peer: peer.sendall(b"HTTP/1.1 two OK\r\n\r\n"),
    "elsewhere, in a circle": lambda peer: peer.sendall(MOVED % b"/"),
    "to a file": lambda peer: peer.sendall(MOVED % b"file:///etc/passwd"),
    "a byte now and then": lambda peer: drip(peer),
}


def flood(peer: socket.socket, first: bytes, more: bytes) -> None:
    peer.sendall(first)
    for _ in range(20000):
        peer.sendall(more)


def drip(peer: socket.socket) -> None:
    for _ in range(200):
        peer.sendall(b"H")
        time.sleep(0.05)


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that answers as the parameter says."""
    with answering(ANSWERS[request.param]) as port:
        yield port


@pytest.mark.timeout(60)
@pytest.mark.parametrize("peer", ANSWERS, indirect=True)
def test_a_webhook_may_answer_anything(peer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "TIMEOUT", 2)
    wanted = Notify(webhook=f"http://127.0.0.1:{peer}/secret", command=("/bin/true",))
    outcomes = dict(notify.notify(wanted, SUMMARY))
    assert outcomes[f"webhook 127.0.0.1:{peer}"]
    assert "secret" not in outcomes[f"webhook 127.0.0.1:{peer}"]
    assert outcomes["command /bin/true"] == ""


def test_mail_has_one_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\ncat > {tmp_path}/message\n")
    sendmail.chmod(0o755)
    monkeypatch.setattr(notify, "SENDMAIL", (str(sendmail),))
    assert dict(notify.notify(Notify(mail="ops@example.net"), SUMMARY)) == {"mail to ops@example.net": ""}
    head = (tmp_path / "message").read_bytes().partition(b"\n\n")[0]
    assert b"\nBcc" not in head


def test_only_those_who_do_not_know_are_told_again(tmp_path: Path) -> None:
    crash(tmp_path / "crash")
    config = Config(
        targets=(f"file://{tmp_path}/crash",),
        notify=Notify(
            command=("/bin/sh", "-c", f"echo told >> {tmp_path}/log"),
            webhook="http://127.0.0.1:1/x",
        ),
        retention=Retention(keep=0, min_free=0),
    )
    for _ in range(3):
        (found,) = aftermath.deal_with_new(config, tmp_path / "state")
        assert found.not_told
    assert (tmp_path / "log").read_text() == "told\n"
    assert list(aftermath.deal_with_new(Config(targets=config.targets), tmp_path / "state"))
    assert list(aftermath.deal_with_new(config, tmp_path / "state")) == []


@pytest.mark.parametrize("content", [b"[]", b'["a"]', b"{", b"\xff", b'{"done": 1}', b'{"told": []}', bomb(5000), b"3"])
def test_what_is_remembered_may_be_damaged(tmp_path: Path, content: bytes) -> None:
    crash(tmp_path / "crash")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / aftermath.SEEN).write_bytes(content)
    config = Config(targets=(f"file://{tmp_path}/crash",))
    assert len(list(aftermath.deal_with_new(config, tmp_path / "state"))) == 1
    assert list(aftermath.deal_with_new(config, tmp_path / "state")) == []


def test_many_crashes_are_not_announced_twice(tmp_path: Path) -> None:
    for number in range(1100):
        path = tmp_path / f"h-{number:04}"
        path.mkdir()
        (path / "vmcore-dmesg.txt.incomplete").touch()
    config = Config(targets=(f"file://{tmp_path}",))
    state = tmp_path / ".state"
    state.mkdir()
    (state / aftermath.SEEN).write_text(json.dumps([f"h-{number:04}" for number in range(1100)]))
    assert list(aftermath.deal_with_new(config, state)) == []


CLOCKS = {
    "future": NOW + 400 * 86400,
    "far future": 253402300799,
    "never set": 0,
    "battery gone": 86400 * 3,
    "of the firmware": 1420070400,
}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("keep", [1, 2])
def test_a_lying_clock_does_not_cost_the_real_crash(tmp_path: Path, clock: str, keep: int) -> None:
    """Others of the same signature bear forged dates; the one real and complete crash stays."""

    def make(name: str, when: float, status: str) -> None:
        path = crash(tmp_path, name, status)
        content = json.loads((path / "manifest.json").read_text()) | {"panic_time": when}
        (path / "manifest.json").write_text(json.dumps(content))
        os.utime(path, (when, when))

    make("real", NOW - 3600, "complete")
    for number in range(3):
        make(f"forged-{number}", CLOCKS[clock] + number, "complete")
    config = Config(targets=(f"file://{tmp_path}",), retention=Retention(keep=keep, min_free=0, max_age=30 * 86400))
    gone = [victim.crash.name for victim in stored.prune(config, dry_run=True)]
    assert len(gone) == 4 - keep
    assert "real" not in gone


def test_an_incomplete_crash_is_no_copy_of_a_complete_one() -> None:
    def made(name: str, when: float, status: str, signature: str = "a") -> stored.Crash:
        return stored.Crash(Path(name), status, when, 1, "h", "", "", signature)

    crashes = [made("new", 9, "complete", "b"), made("whole", 3, "complete"), made("cut", 5, "incomplete")]
    gone = stored.victims(crashes, Retention(keep=1, min_free=0), 0)
    assert [each.crash.name for each in gone] == ["cut", "whole"]


def test_times_that_no_clock_shows_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdump.cli.list import lines

    path = crash(tmp_path)
    monkeypatch.setattr(stored, "believable", lambda *_times: 0.0)
    assert lines(stored.read(path))[0].startswith("date not known")


def test_status_shows_every_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdump.host import checks, readiness

    def breaks(_self: object) -> Iterator[checks.Check]:
        raise ValueError("unforeseen")
        yield

    monkeypatch.setattr(readiness.Examination, "space", breaks)
    found = readiness.Examination(Config(targets=(f"file://{tmp_path}",))).run()
    answers = {check.name: check for check in found.checks}
    assert answers["space"].answer == checks.NO
    assert "unforeseen" in answers["space"].found
    assert {"reservation", "rehearsal", "crashes"} <= answers.keys()


@pytest.mark.parametrize(
    "url", ["ssh://-oProxyCommand=x/y", "ssh://-x@h/y", "nfs://-h/x", "ssh://h/x\n", "file:///a\x1b"]
)
def test_a_target_is_no_option_and_drives_no_terminal(url: str) -> None:
    with pytest.raises(ConfigError, match=r"hyphen|control"):
        config.parse(f"targets = [{json.dumps(url)}]")


def test_bytes_that_are_no_utf_8_in_the_kernels_tables(tmp_path: Path) -> None:
    """The boot loader's command line and a user's mount point may hold any byte."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_bytes(b"quiet name=\xff\n")
    assert running_command_line(tmp_path) == "quiet name=\udcff"
    table = tmp_path / "mountinfo"
    table.write_bytes(b"1 1 8:1 / /\xff rw - ext4 /dev/sda1 rw\n2 1 8:2 / /x rw - ext4 /dev/sdb1 rw\n")
    assert _mount_points("/dev/sdb1", table) == ["/x"]


def test_a_question_without_an_answer_is_no_yes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("kdump.cli.list.run", lambda _args: streams.confirmed("go on?"))
    assert main(["list"]) == 1
    assert "there was no answer" in capsys.readouterr().err


def test_an_ip_of_another_make_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ip").write_text("#!/bin/sh\nprintf 'usage: \\377'\n")
    (tmp_path / "ip").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(KdumpError, match="does not answer in JSON"):
        ask_ip(["link"])
