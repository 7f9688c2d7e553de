"""Killed at random moments: what there is then is the old or the new, and the next run makes it good.

KDUMP_KILLS says how often each command is killed (a few times, if it is not set).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyrage
import pytest
from tests.attack.test_hostile_directories import crash
from tests.dump.machine import PageMachine, fill
from tests.host.test_setup import everything, here, root
from tests.targets.test_block import FILES, area, begin
from tests.targets.test_block import save as save_to_area

from kdump.capture.plan import PLAN_PATH, CapturePlan
from kdump.cli.main import main
from kdump.dump import manifest
from kdump.host import built, changes, setup, stored
from kdump.host.config import Config, Retention
from kdump.host.plan import Prepared
from kdump.host.python_search import python_search
from kdump.targets import rawstore

__all__ = ["area", "root"]  # fixtures
KILLS = int(os.environ.get("KDUMP_KILLS", "5"))
pytestmark = pytest.mark.timeout(600 + 30 * KILLS)  # seconds; a build on a busy machine takes 10


def kill_often(work: Callable[[], Any], before: Callable[[], None], after: Callable[[], None]) -> None:
    """Run `work` in a process of its own, from what `before` prepares; kill it at some moment; look with `after`."""

    def start() -> int:
        child = os.fork()
        if child:
            return child
        try:
            os.setsid()
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            work()
            os._exit(0)
        finally:
            os._exit(1)

    before()
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]) == 0
    took = time.monotonic() - began
    after()
    killed = 0
    for _ in range(20 * KILLS):
        if killed == KILLS:
            return
        before()
        child = start()
        time.sleep(random.uniform(0, took))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL:
            killed += 1
        else:
            took /= 2  # the first run was slower: it loaded modules, or the machine was busy
        after()
    pytest.fail("it was hardly ever killed in time")


def drafts(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob(".*")]


def test_save(tmp_path: Path) -> None:
    machine = PageMachine("6.12")
    fill(machine, 4096)
    source, out = tmp_path / "source", tmp_path / "out/vmcore"
    source.write_bytes(machine.elf())
    out.parent.mkdir()
    assert main(["save", "-d", "0", "-z", str(source), str(tmp_path / "old")]) == 0
    assert main(["save", "-d", "31", "-c", str(source), str(tmp_path / "new")]) == 0
    whole = {(tmp_path / name).read_bytes() for name in ("old", "new")}
    command = ["save", "-f", "-d", "31", "-c", str(source), str(out)]

    def before() -> None:
        shutil.rmtree(out.parent)
        out.parent.mkdir()
        assert main(["save", "-d", "0", "-z", str(source), str(out)]) == 0

    def after() -> None:
        assert out.read_bytes() in whole
        assert main(["verify", str(out)]) == 0
        assert main(command) == 0
        assert main(["verify", str(out)]) == 0
        assert drafts(out.parent) == []
        assert manifest.manifest_path(out).exists()

    kill_often(lambda: main(command), before, after)


@pytest.mark.parametrize("what", ["file", "crash"])
def test_decrypt(what: str, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key").write_text(f"{identity}\n")
    content = {name: os.urandom(1 << 20) for name in ("vmcore", "vmcore-dmesg.txt")}
    source = tmp_path / "crash"
    source.mkdir()
    for name, data in content.items():
        (source / f"{name}.age").write_bytes(pyrage.encrypt(data, [identity.to_public()]))
    out = tmp_path / "out/plain"
    given = source if what == "crash" else source / "vmcore.age"
    command = ["decrypt", str(given), str(out), "-i", str(tmp_path / "key")]

    def before() -> None:
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()

    def after() -> None:
        assert out.exists() or main(command) == 0
        if what == "crash":
            assert {path.name: path.read_bytes() for path in out.iterdir()} == content
        else:
            assert out.read_bytes() == content["vmcore"]
        out.rename(out.with_name("first"))
        assert main(command) == 0
        assert drafts(out.parent) == []

    kill_often(lambda: main(command), before, after)


def test_collect(area: Path, tmp_path: Path) -> None:
    session = begin(tmp_path, area)
    save_to_area(session, FILES)
    session.close()
    full, to = area.read_bytes(), tmp_path / "out"
    command = ["collect", str(area), "--to", str(to)]

    def state() -> int:
        with area.open("rb") as file:
            return rawstore.read_header(file.fileno(), str(area)).state

    def before() -> None:
        area.write_bytes(full)
        shutil.rmtree(to, ignore_errors=True)

    def after() -> None:
        found = stored.scan([to])
        assert [each.status for each in found] in ([], ["complete"])
        assert found or state() == rawstore.SAVED
        assert main(command) == 0
        (path,) = to.iterdir()
        assert {name: (path / name).read_bytes() for name in FILES} == FILES
        assert state() == rawstore.CONSUMED

    kill_often(lambda: main(command), before, after)


def test_prune(tmp_path: Path) -> None:
    place = tmp_path / "crash"
    wanted = Config(targets=(f"file://{place}",), retention=Retention(keep=2, min_free=0))

    def before() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for number in range(20):
            path = crash(place, number, b"x" * 100, when=time.time() - 10000 + number)
            for each in range(20):
                (path / f"more-{each}").touch()

    def after() -> None:
        found = stored.scan([place])
        assert {each.status for each in found} == {"complete"}
        assert {each.name for each in found} >= {f"h-20261123T120000Z-{number:04x}" for number in (18, 19)}
        for each in found:  # whole or gone
            assert len(list(each.path.iterdir())) == 23
        list(stored.prune(wanted))
        assert len(list(place.iterdir())) == 2

    kill_often(lambda: list(stored.prune(wanted)), before, after)


def test_setup(root: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = everything(root)
    path = state / "setup.json"

    def before() -> None:
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        changes.apply(setup.plan(here(root), root).edit, changes.Journal.read(path), root, lambda _argv: None)

    def work() -> None:
        """A second setup, with another target, and all of it taken back."""
        again = replace(here(root), targets=(f"file://{root}/srv", "block:///dev/vdb"))
        changes.apply(setup.plan(again, root).edit, changes.Journal.read(path), root, lambda _argv: None)
        setup.undo(changes.Journal.read(path), root, lambda _argv: None)

    def after() -> None:
        assert setup.undo(changes.Journal.read(path), root, lambda _argv: None) == []
        assert everything(root) == first
        assert list(state.iterdir()) == []

    kill_often(work, before, after)


def test_build(kernel: Callable[[str], Any], tmp_path: Path) -> None:
    tree = kernel("6.1")
    state = tmp_path / "state"
    state.mkdir()

    def prepared(level: int) -> Prepared:
        plan = CapturePlan(level=level)
        return Prepared(tree, plan, (), {PLAN_PATH: plan.to_json().encode()}, (), search=python_search(state))

    def work() -> None:
        built.build_image(prepared(17), state=state)

    def before() -> None:
        built.build_image(prepared(31), state=state)

    def after() -> None:
        record = built.recorded(tree.release, state)
        assert record is not None
        built.check(record)
        assert record.parts["plan"] in plans
        work()
        record = built.recorded(tree.release, state)
        assert record is not None and record.parts["plan"] == plans[1]
        built.check(record)
        assert drafts(state) == []
        assert {each.name for each in (state / tree.release).iterdir()} == {built.IMAGE, built.RECORD}

    plans = [built.fingerprint(prepared(level))["plan"] for level in (31, 17)]
    kill_often(work, before, after)
