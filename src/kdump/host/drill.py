"""The real test: crashes this machine on purpose, and checks after the reboot that there is a dump."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from kdump.capture.crash import COMPLETE
from kdump.errors import FormatError
from kdump.files.drafts import replace_file
from kdump.foreign import LATEST, Schema, load_object, number, text
from kdump.host import stored
from kdump.host.config import Config

NAME: Final = "drill.json"
_DRILL: Final[Schema] = {"when": number(0, LATEST), "boot": text(64)}
BOOT_ID: Final = "proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Drill:
    """A test that was begun: when (Unix time), and in which boot."""

    when: float
    boot: str


@dataclass(frozen=True)
class Result:
    """The result: `crash` is the dump it left; `problem` what is wrong ("" if nothing)."""

    crash: stored.Crash | None
    problem: str


def begin(state: Path, root: Path = Path("/")) -> Drill:
    """Remember, durably, that the machine is about to be crashed."""
    drill = Drill(time.time(), (root / BOOT_ID).read_text().strip())
    state.mkdir(parents=True, exist_ok=True)
    replace_file(state / NAME, json.dumps(asdict(drill)).encode(), mode=0o644)
    return drill


def crash(root: Path = Path("/")) -> None:
    """Crash the machine by SysRq, after writing the page cache to disk. Returns only if that fails."""
    os.sync()
    (root / "proc/sys/kernel/sysrq").write_text("1\n")
    (root / "proc/sysrq-trigger").write_text("c\n")


def begun(state: Path) -> Drill | None:
    """The last test that was begun, if any."""
    try:
        content = load_object((state / NAME).read_bytes(), state / NAME, _DRILL)
    except FileNotFoundError:
        return None
    if content.keys() != _DRILL.keys():
        raise FormatError("does not say which test was begun", path=state / NAME, remedy="`kdump test` begins one")
    return Drill(**content)


def check(drill: Drill, config: Config, root: Path = Path("/")) -> Result:
    """After the reboot: did it leave a complete dump where crashes are stored?"""
    if (root / BOOT_ID).read_text().strip() == drill.boot:
        return Result(None, "the machine has not been rebooted since the test was begun")
    places = stored.directories(config)
    if not places:
        return Result(None, "no target is a directory of this machine: look on the target for the crash")
    # Clocks of two kernels and whole seconds in the dump: a little before counts, too.
    new = [each for each in stored.scan(places) if each.when >= drill.when - 5 and not each.foreign]
    if not new:
        return Result(None, "no crash was stored since: the console of the capture kernel says why")
    oldest = new[-1]
    return Result(oldest, "" if oldest.status == COMPLETE else f"{oldest.path} is {oldest.status}")
