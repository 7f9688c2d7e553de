"""The supervisor, the worker and the ladder on a small synthetic machine: every stage fails in every way.

The final action and mounting need a machine of their own; everything else here is the real thing, processes included.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyrage
import pytest
from tests.kernel.ring import ring_of
from tests.memory.machine import Machine

from kdump.capture import init, worker
from kdump.capture import state as worker_state
from kdump.capture.console import Console
from kdump.capture.plan import CapturePlan, Deadlines, Hooks
from kdump.cli.main import main
from kdump.dump.manifest import check
from kdump.memory import open_dump
from kdump.targets.file import DirectorySession, FileStream
from kdump.targets.protocol import Spec

Run = Callable[..., tuple[bool, dict[str, Any], set[str]]]
FILES = {"vmcore-dmesg.txt", "vmcore", "manifest.json", "capture.log"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    machine = Machine(1 << 20)
    ring_of([b"Linux version 6.1", b"Kernel panic - not syncing: for the test"]).into(machine)
    machine.extra.append("CRASHTIME=1795434923")
    path = tmp_path / "proc-vmcore"
    path.write_bytes(machine.elf())
    return path


@pytest.fixture
def run(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the supervisor; (saved, the newest manifest, the names of the crash's files)."""
    state = str(tmp_path / "state.json")
    monkeypatch.setattr(worker, "remember", partial(worker_state.remember, path=state))
    monkeypatch.setattr(worker, "recall", partial(worker_state.recall, path=state))
    monkeypatch.setattr(worker, "work", partial(worker.work, source=str(source)))
    monkeypatch.setattr(init, "_GRACE", 0.3)
    monkeypatch.setattr(init, "_TICK", 0.05)
    null = os.open(os.devnull, os.O_WRONLY)

    def supervise(inject: Mapping[str, str] | None = None, **options: Any) -> tuple[bool, dict[str, Any], set[str]]:
        options.setdefault("targets", (Spec(f"file://{tmp_path}/crash"),))
        plan = CapturePlan(hostname="web1", level=1, watchdog=False, report=False, inject=inject or {}, **options)
        saved = init.supervise(plan, Console(null))
        crashes = sorted(tmp_path.glob("*/web1-*"))
        manifests = sorted(tmp_path.glob("*/web1-*/manifest.json"))
        content = json.loads(manifests[-1].read_text()) if manifests else {}
        return saved, content, {path.name for crash in crashes for path in crash.iterdir()}

    yield supervise
    os.close(null)


def stages(manifest: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["outcome"] for stage in manifest["stages"]}


def test_everything_is_saved(run: Run, tmp_path: Path) -> None:
    saved, manifest, files = run()
    assert saved
    assert files == FILES
    assert manifest["status"] == "complete"
    assert manifest["crash"].startswith("web1-20261123T115523Z-")
    assert manifest["panic_to_saved"] == pytest.approx(time.time() - 1795434923, abs=60)
    assert {entry["name"] for entry in manifest["files"]} == {"vmcore-dmesg.txt", "vmcore"}
    assert manifest["memory"]["peak_resident"] > 1 << 20
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("crash/web1-*/*"))


def test_the_digests_hold(run: Run, tmp_path: Path) -> None:
    _, manifest, _ = run()
    (crash,) = tmp_path.glob("crash/web1-*")
    assert [finding for entry in manifest["files"] for finding in check(crash, entry)] == []
    with (crash / "vmcore").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert [finding.name for entry in manifest["files"] for finding in check(crash, entry)] == ["vmcore"]


@pytest.mark.parametrize("fault", ["raise", "hang", "stuck", "kill"])
@pytest.mark.parametrize("stage", ["drivers", "memory", "target file", "dmesg", "vmcore", "manifest", "log", "close"])
def test_a_fault_in_any_stage_keeps_the_rest(run: Run, stage: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only for the stage that fails: the others shall not fail because the machine is busy, nor shall its second try.
    # A worker that is killed needs no deadline at all.
    short = {"stuck": 4.0, "kill": 60.0}.get(fault, 1.5)
    field = {"drivers": "target", "target file": "target", "memory": "dmesg", "dmesg": "dmesg", "vmcore": "stall"}
    deadlines = Deadlines(total=60, **({field[stage]: short} if stage in field else {}))
    if stage not in field:
        monkeypatch.setattr("kdump.capture.ladder._LAST_WORDS", short)
    began = time.monotonic()
    saved, manifest, files = run({stage: fault}, deadlines=deadlines)
    assert time.monotonic() - began < 30
    if fault in ("stuck", "kill"):  # the supervisor starts a second worker, in which nothing is injected
        assert saved
        assert files >= FILES
        assert manifest["capture"]["attempt"] == 2
        assert manifest["status"] == "degraded"
        return
    assert saved == (stage not in ("memory", "target file", "vmcore"))
    if stage == "target file":
        assert files == set()
        return
    missing = {
        "dmesg": {"vmcore-dmesg.txt"},
        "vmcore": {"vmcore"},
        "manifest": {"manifest.json"},
        "log": {"capture.log"},
    }
    missing["memory"] = missing["dmesg"] | missing["vmcore"]
    assert FILES - files == missing.get(stage, set())
    if stage in ("drivers", "dmesg", "vmcore", "memory"):
        assert stages(manifest)[stage] == "failed"
        assert manifest["status"] == {"drivers": "complete", "dmesg": "degraded"}.get(stage, "incomplete")


def test_a_worker_that_fails_twice_leads_to_the_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> int:
        raise MemoryError

    monkeypatch.setattr(worker, "work", broken)
    assert run()[0] is False


def test_nothing_outlasts_the_deadline_for_everything(run: Run) -> None:
    began = time.monotonic()
    saved, _, _ = run({"vmcore": "stuck"}, deadlines=Deadlines(total=2))
    assert not saved
    assert time.monotonic() - began < 8


def test_the_second_target_gets_what_the_first_could_not_take(run: Run, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file where a directory should be")
    saved, manifest, files = run(targets=(Spec(f"file://{tmp_path}/occupied/x"), Spec(f"file://{tmp_path}/second")))
    assert saved
    assert files == FILES
    assert manifest["status"] == "degraded"
    assert manifest["where"].startswith(f"{tmp_path}/second/")


def test_all_targets(run: Run, tmp_path: Path) -> None:
    specs = tuple(Spec(f"file://{tmp_path}/{name}") for name in ("one", "two"))
    saved, manifest, _ = run(targets=specs, mode="all")
    assert saved
    assert manifest["status"] == "complete"
    dumps = [path.read_bytes() for path in tmp_path.glob("*/web1-*/vmcore")]
    assert len(dumps) == 2
    assert dumps[0] == dumps[1]


def test_hooks(run: Run, tmp_path: Path) -> None:
    hook, hanging = tmp_path / "hook", tmp_path / "hanging"
    hook.write_text(f"#!/bin/sh\necho $KDUMP_EVENT $KDUMP_HOST $KDUMP_CRASH >> {tmp_path}/said\n")
    hanging.write_text("#!/bin/sh\nsleep 1000 & sleep 1000\n")
    hook.chmod(0o755)
    hanging.chmod(0o755)
    began = time.monotonic()
    saved, manifest, _ = run(hooks=Hooks(pre=(str(hanging), str(hook)), post=(str(hook),), seconds=0.5))
    assert time.monotonic() - began < 10
    assert saved
    assert stages(manifest)[f"hook {hanging}"] == "failed"
    said = (tmp_path / "said").read_text().splitlines()
    assert said == ["pre web1", f"complete web1 {manifest['crash']}"]


def test_a_corrupt_ring_and_no_memory_map_still_give_a_dump(run: Run, source: Path) -> None:
    machine = Machine(1 << 20)
    source.write_bytes(machine.elf())
    saved, manifest, files = run()
    assert saved
    assert stages(manifest)["dmesg"] == "failed"
    assert "vmcore" in files


def test_everything_but_the_name_is_encrypted(run: Run, tmp_path: Path, source: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    saved, listing, files = run(recipients=(str(identity.to_public()),))
    assert saved
    assert files == {"vmcore-dmesg.txt.age", "vmcore.age", "manifest.json.age", "capture.log.age", "manifest.json"}
    (crash,) = tmp_path.glob("crash/web1-*")
    assert [finding for entry in listing["files"] for finding in check(crash, entry)] == []
    assert set(listing) == {"format", "crash", "status", "encrypted", "files"}
    plain = {path.name: pyrage.decrypt(path.read_bytes(), [identity]) for path in crash.glob("*.age")}
    assert b"Kernel panic" in plain["vmcore-dmesg.txt.age"]
    assert json.loads(plain["manifest.json.age"])["status"] == "complete"
    (tmp_path / "vmcore").write_bytes(plain["vmcore.age"])
    with open_dump(tmp_path / "vmcore") as dump, open_dump(source) as original:
        assert dump.vmcoreinfo == original.vmcoreinfo
    assert not any(b"6.1.0-test" in path.read_bytes() for path in crash.iterdir())


def test_a_dump_that_will_not_fit_is_not_begun(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next level is tried at once; the last one is begun all the same (and fits here, as free space is made up)."""
    monkeypatch.setattr(DirectorySession, "free", lambda _self: 4096)
    saved, manifest, files = run()
    assert saved
    assert files == FILES
    assert manifest["status"] == "degraded"
    assert manifest["dump"]["level"] == 31
    log = next(tmp_path.glob("crash/web1-*/capture.log")).read_text()
    assert re.search(r"it will not fit at level 1: about \S+ \S+ needed, 4\.00 KiB free", log)
    assert "it will not fit at level 31" in log


def test_a_disk_that_is_full_when_the_dump_is_sealed(run: Run, tmp_path: Path) -> None:
    specs = tuple(Spec(f"file://{tmp_path}/{name}") for name in ("one", "two"))
    saved, manifest, _ = run({"seal vmcore": "full"}, targets=specs)
    assert saved
    assert manifest["status"] == "degraded"
    assert manifest["where"].startswith(f"{tmp_path}/two/")
    (first,) = tmp_path.glob("one/web1-*")
    assert {path.name for path in first.iterdir()} == (FILES - {"vmcore"}) | {"vmcore.incomplete"}
    assert json.loads((first / "manifest.json").read_text())["status"] == "incomplete"
    with open_dump(first / "vmcore.incomplete") as dump:  # every byte of it is there: only its name is not
        assert not dump.incomplete


def test_retention_takes_the_oldest_of_this_host_only(run: Run, tmp_path: Path) -> None:
    crashes = tmp_path / "crash"
    old = [f"web1-2020010{day}T000000Z-{day:04x}" for day in range(1, 5)]
    for name in [*old, "web2-20200101T000000Z-0001", "web1-notes"]:
        (crashes / name).mkdir(parents=True)
    saved, manifest, _ = run(keep=3)
    assert saved
    left = {path.name for path in crashes.iterdir()}
    assert left == {manifest["crash"], old[2], old[3], "web2-20200101T000000Z-0001", "web1-notes"}


def test_the_only_trace_of_a_kind_of_crash_goes_last(run: Run, tmp_path: Path) -> None:
    """As `kdump prune` on the healthy host, which has the same rule. The new crash has no report, so no signature."""
    signatures = {"web1-20200101T000000Z-0001": "1-a", "web1-20200102T000000Z-0002": "1-b"}
    signatures |= {"web1-20200103T000000Z-0003": "1-b", "web1-20200104T000000Z-0004": ""}
    for name, signature in signatures.items():
        (tmp_path / "crash" / name).mkdir(parents=True)
        text = json.dumps({"status": "complete", "signature": signature}) if signature else "{ cut off"
        (tmp_path / "crash" / name / "manifest.json").write_text(text)
    _, manifest, _ = run(keep=4)
    left = {path.name for path in (tmp_path / "crash").iterdir()}
    assert left == {manifest["crash"], *signatures} - {"web1-20200102T000000Z-0002"}
    run(keep=3)
    left = {path.name for path in (tmp_path / "crash").iterdir() if path.name.startswith("web1-2020")}
    assert left == {"web1-20200103T000000Z-0003"}  # that without a manifest went first, then the oldest of the rest


def test_nothing_old_goes_for_a_dump_that_failed(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "crash/web1-20200101T000000Z-0001"
    old.mkdir(parents=True)
    saved, _, _ = run({"vmcore": "raise"}, keep=1)
    assert not saved
    assert old.exists()


def test_the_command_saves_without_a_final_action(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "remember", partial(worker_state.remember, path=str(tmp_path / "run/state.json")))
    command = ["capture", "--source", str(source), "--plan", str(tmp_path / "none"), "--to", f"file://{tmp_path}/crash"]
    assert main(command) == 3  # without a memory map nothing can be filtered
    assert len(list(tmp_path.glob("crash/*/vmcore"))) == 1
    assert main(["capture", "--source", str(tmp_path / "nothing")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_target_that_goes_away_is_let_go_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an NFS server that is gone: every access takes long and fails. Played by the stream of one directory."""
    real = FileStream.write

    def write(stream: FileStream, data: bytes) -> int:
        if "/gone/" in str(Path(f"/proc/self/fd/{stream._fd}").readlink()):
            raise OSError(5, "Input/output error")
        return real(stream, data)

    monkeypatch.setattr(FileStream, "write", write)
    saved, manifest, _ = run(targets=(Spec(f"file://{tmp_path}/gone"), Spec(f"file://{tmp_path}/second")))
    assert saved
    assert manifest["status"] == "degraded"
    assert manifest["where"].startswith(f"{tmp_path}/second/")
    tried = [stage["name"] for stage in manifest["stages"]]
    assert tried.count("manifest") == 1  # the second target's own
    left = {path.name for path in tmp_path.glob("gone/*/*")}
    assert left == {"vmcore-dmesg.txt.incomplete", "manifest.json.incomplete"}


def test_a_watchdog_announces_nothing_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: no watchdog that QEMU has, nor softdog in Debian's kernels, announces its reset by a panic."""
    told: list[tuple[int, bytes]] = []
    monkeypatch.setattr("fcntl.ioctl", lambda _fd, request, value: told.append((request, bytes(value))))
    (tmp_path / "watchdog0").touch()
    watchdogs = init.Watchdogs(str(tmp_path))
    watchdogs.feed()
    watchdogs.feed()
    watchdogs.disarm()
    assert told == [(0xC0045708, bytes(4))]  # WDIOC_SETPRETIMEOUT of 0


def test_watchdogs_are_fed_as_they_appear_and_disarmed_when_nobody_will_feed_them(tmp_path: Path) -> None:
    watchdogs = init.Watchdogs(str(tmp_path))
    watchdogs.feed()
    (tmp_path / "watchdog0").touch()
    (tmp_path / "watchdog").touch()  # the first one's other name: it can be opened only once
    watchdogs.feed()
    watchdogs.feed()
    watchdogs.disarm()
    assert (tmp_path / "watchdog0").read_bytes() == b"\0\0V"
    assert (tmp_path / "watchdog").read_bytes() == b""
