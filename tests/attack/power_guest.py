"""A guest whose power is cut: it replaces its capture image, or fetches a crash from a raw partition, or panics.

What it is to do is on the kernel's command line (stage=…). Whatever it is, it first says whether the image that is
recorded is the image that is there.
"""

from __future__ import annotations

import _blake2
import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kdump.capture import system
from kdump.host import built
from kdump.host.fetch import fetch
from kdump.image import build as images
from kdump.kexec.cmdline import capture_command_line, running_command_line
from kdump.kexec.load import load
from kdump.targets.devices import find_uuid, wait_for

MODULES = "/etc/modules"  # of the kernel, one path a line
VOLUME = "/etc/volume"
ROOT = Path("/mnt")
STATE = ROOT / "state"
KERNEL = ROOT / "boot/vmlinuz"
IMAGES = {"old": ROOT / "boot/old.img", "new": ROOT / "boot/new.img"}


# The image's hashlib is a stand-in with what the capture path needs; the healthy machine's digests take another one.
setattr(hashlib, "blake2b", _blake2.blake2b)  # noqa: B010 -- to mypy it is there


def say(text: str) -> None:
    """One line on the console."""
    print(f"power: {text}", flush=True)


def replace_image(name: str) -> None:
    """As `kdump build` does, with an image that was made before: what is tried is how it comes to the disk."""
    data = IMAGES[name].read_bytes()

    def build(_tree: Any, *, output: Path, ready: Any, **_options: Any) -> Any:
        ready(data)
        images._write(output, data)
        return SimpleNamespace()

    setattr(built, "build", build)  # noqa: B010 -- what is replaced is imported there by name
    prepared: Any = SimpleNamespace(
        kernel=SimpleNamespace(release=os.uname().release, vmlinuz=KERNEL),
        plan=SimpleNamespace(storage=()), modules=(), files={}, python=None, search=SimpleNamespace(made=None),
    )  # fmt: skip
    built.build_image(prepared, {"plan": name, "kernel": built._digest([KERNEL])}, STATE)


def main() -> None:
    """Say what there is, then do as the command line says."""
    for path in Path(MODULES).read_text().split():
        system.load_module(path)
    uuid = Path(VOLUME).read_text().strip()
    system.mount(wait_for(lambda: find_uuid(uuid), uuid, 20), str(ROOT), "ext4")
    stage = running_command_line().rpartition("stage=")[2].split()[0]
    record = built.recorded(os.uname().release, STATE)
    if record is None:
        say("NO image")
    else:
        built.check(record)
        say(f"SOUND {record.parts['plan']}")
    if stage in IMAGES:
        say("BEGIN")
        replace_image(stage)
        say("END")
    elif stage == "collect":
        say("BEGIN")
        found = fetch("/dev/vdb", ROOT / "crash")
        say(f"END {found and (found.good, found.freed)}")
    elif stage == "panic" and record:
        load(KERNEL, Path(record.image), capture_command_line(running_command_line()).text)
        say("LOADED")
        Path("/proc/sysrq-trigger").write_text("c")
    time.sleep(1000)


if __name__ == "__main__":
    main()
