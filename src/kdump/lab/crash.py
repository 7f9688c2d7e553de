"""Crash a whole machine and bring home what it left: the path that the demo, the rehearsal and the tests share.

A production machine boots with a reservation, does some work, loads the capture kernel and panics; the capture kernel
saves to the machine's disk and powers off; the disk is read from outside.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdump.capture.plan import PLAN_PATH, CapturePlan
from kdump.errors import KdumpError
from kdump.image.build import ImageSummary, build, module_paths
from kdump.image.kernel_tree import KernelTree
from kdump.image.made import Made
from kdump.image.python import python_modules
from kdump.lab import disk, encrypted
from kdump.lab.causes import WAITING, Cause
from kdump.lab.foreign import platform_of
from kdump.lab.guest import BEFORE, ORDERS, Orders
from kdump.lab.machine import booted
from kdump.lab.qemu import Disk, Spec, architecture, qemu_path
from kdump.targets.protocol import Spec as TargetSpec
from kdump.units import duration_text, size_text

MODULES = ("virtio_pci", "virtio_blk", "ext4")  # what the lab's disk needs
DUMPS = "var/crash"
GIB = 1 << 30
_ENTRY = "kdump.capture.__main__"
_MADE = Made()  # many machines are much alike

# Console lines that mark the way. The capture kernel stamps its own with seconds since its boot.
_PANIC = r"Kernel panic - not syncing"
_FAILED = r"kdump guest: FAILED|kdump: the first stage of the capture image failed"
_USER_SPACE = r"kdump guest: user space is up"
_NEXT_KERNEL = r"\] Linux version "  # a panic in an NMI does not reach the console: only the next kernel does
_CAPTURE = re.compile(r"kdump: \[\s*([\d.]+)\] ")


@dataclass(frozen=True)
class Scenario:
    """A machine to crash. `memory` in bytes; `crashkernel` as on a kernel's command line ("" leaves it out).

    `cpu` is QEMU's model (on PCs "max" has 5-level page tables, "max,la57=off" 4); `cmdline` is added to the
    production kernel's, `append` to the capture kernel's. `plan` is what the capture kernel does; its targets, modules
    and final action are filled in here. `timeout` in seconds bounds each phase. `method` is how the guest loads,
    `capture_kernel` the file it loads if not the production kernel's own; `devices` are more arguments for QEMU.
    `modules` (names) and `files` go into the capture image beside what the lab's disk needs; `guest_modules` and
    `guest_files` into the production machine's, which runs `guest_commands` before it loads the capture kernel.
    `watchdog` is the module of a hardware watchdog among `devices`, which the production machine arms. `firmware` is a
    UEFI image to start by instead of SeaBIOS. `crowd` is how many threads, processes and control groups there shall be.
    `encrypted` are entries of a capture plan's storage, stood in for by small disks (`kdump.lab.encrypted`).
    """

    tree: KernelTree
    cause: Cause
    memory: int = 1 << 30
    cpus: int = 1
    cpu: str = ""
    crashkernel: str = "256M"
    cmdline: str = ""
    append: str = ""
    work: int | None = None
    plan: CapturePlan = field(default_factory=CapturePlan)
    timeout: float = 180.0
    accelerator: str = ""
    method: str = "auto"
    capture_kernel: Path | None = None
    devices: Sequence[str] = ()
    modules: Sequence[str] = ()
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    guest_modules: Sequence[str] = ()
    guest_files: Mapping[str, bytes | Path] = field(default_factory=dict)
    guest_commands: Sequence[Sequence[str]] = ()
    watchdog: str = ""
    firmware: Path | None = None
    crowd: Sequence[int] = ()
    encrypted: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Crash:
    """The result: `directory` holds the files that were saved, `before` what the guest knew of itself.

    `timeline` maps an event to seconds after the panic, in order; `image` describes the capture image.
    """

    directory: Path
    console: Path
    disk: Path
    before: Mapping[str, Any]
    manifest: Mapping[str, Any]
    timeline: Mapping[str, float]
    image: ImageSummary


@dataclass(frozen=True)
class Played:
    """A crash that was played through: its console since the panic (time.monotonic(), text), its disk, its image."""

    lines: Sequence[tuple[float, str]]
    console: Path
    disk: Path
    image: ImageSummary


def crash(scenario: Scenario, directory: Path, say: Callable[[str], None] = lambda _: None) -> Crash:
    """Run the scenario; everything it makes is kept in `directory`, which must exist.

    Raises KdumpError (with the console's last lines, and where the rest is) when the machine does not boot, does not
    load, does not panic, or leaves no dump on its disk.
    """
    return _bring_home(directory, play(scenario, directory, say))


def play(scenario: Scenario, directory: Path, say: Callable[[str], None] = lambda _: None) -> Played:
    """Boot, load, panic, capture, power off. What was saved stays where the targets are. Raises as `crash` does."""
    if scenario.cpus < scenario.cause.cpus:
        raise KdumpError(
            f"the cause {scenario.cause.name!r} needs {scenario.cause.cpus} CPUs",
            why=f"the machine has {scenario.cpus}",
            remedy=f"add --cpus {scenario.cause.cpus}",
        )
    if not scenario.cause.known_to(scenario.tree.machine):
        raise KdumpError(f"there is no cause {scenario.cause.name!r} on {scenario.tree.machine}")
    qemu_path(scenario.tree.machine)  # what is missing is said before anything is built
    volume = str(uuid.uuid4())
    capture_image = directory / "capture.img"
    image = build_capture(scenario, volume, capture_image)
    say(f"built the capture image: {size_text(image.size)} in {duration_text(image.seconds)}")
    guest_image = build_guest(scenario, volume, directory / "guest.img")
    medium = make_disk(scenario, volume, capture_image, directory / "disk.img")
    others = [
        encrypted.make_disk(volume, directory / f"encrypted{number}.img")
        for number, volume in enumerate(scenario.encrypted)
    ]
    machine = Spec(
        kernel=scenario.tree.vmlinuz,
        machine=scenario.tree.machine,
        initrd=guest_image,
        cmdline=command_line(scenario),
        disks=[Disk(medium), *map(Disk, others)],
        memory=scenario.memory,
        cpus=scenario.cpus,
        cpu=scenario.cpu,
        firmware=scenario.firmware,
        extra=scenario.devices,
    )
    console = directory / "console.log"
    with booted(
        machine,
        console,
        _USER_SPACE,
        scenario.timeout,
        unless=f"{_FAILED}|{_PANIC}",
        accelerator=scenario.accelerator,
        say=say,
    ) as running:
        running.wait_for(r"kdump guest: LOADED", scenario.timeout, unless=f"{_FAILED}|{_PANIC}")
        say("the production machine is up and has loaded its capture kernel")
        running.wait_for(r"kdump guest: crashing", scenario.timeout, unless=_FAILED)
        if scenario.cause.from_outside:
            running.wait_for(WAITING, scenario.timeout, unless=_FAILED)
            with running.qmp() as monitor:
                monitor.human(scenario.cause.from_outside)
        triggered = time.monotonic()
        running.wait_for(f"{_PANIC}|{_NEXT_KERNEL}", scenario.timeout, unless=_FAILED)
        say(f"it panicked: {scenario.cause.summary}")
        running.wait_for(_CAPTURE.pattern, scenario.timeout)
        say("the capture kernel is up")
        running.run_to_exit(scenario.timeout + scenario.plan.deadlines.total)
        lines = running.lines
    panicked = next((when for when, text in lines if re.search(_PANIC, text)), triggered)
    return Played([line for line in lines if line[0] >= panicked], console, medium, image)


def build_capture(scenario: Scenario, volume: str, output: Path) -> ImageSummary:
    """The capture image for this machine: its one target is the disk with that file system UUID."""
    target = TargetSpec("file:///" + DUMPS, {"uuid": volume, "fstype": "ext4", "path": "/" + DUMPS})
    bare = replace(target, facts={})
    modules = (*MODULES, *scenario.modules)
    platform = platform_of(scenario.tree.machine)
    plan = replace(
        scenario.plan,
        hostname=scenario.plan.hostname if scenario.plan.hostname != CapturePlan.hostname else "lab",
        targets=tuple(target if spec == bare else spec for spec in scenario.plan.targets) or (target,),
        modules=scenario.plan.modules or tuple(module_paths(scenario.tree, modules)),
        on_success="poweroff",
        on_failure="poweroff",
    )
    return build(
        scenario.tree,
        entry=_ENTRY,
        modules=modules,
        python=python_modules(_ENTRY, plan.imports(), _MADE, platform),
        files={PLAN_PATH: plan.to_json().encode(), **scenario.files},
        output=output,
        made=_MADE,
        platform=platform,
    )


def build_guest(scenario: Scenario, volume: str, output: Path) -> Path:
    """The production machine's image, with its orders."""
    modules = (*MODULES, *scenario.guest_modules, *filter(None, [scenario.watchdog]))
    work = scenario.memory // 10 if scenario.work is None else scenario.work
    orders = Orders(
        disk=volume,
        kernel="boot/vmlinuz",
        initrd="boot/capture.img",
        crash=scenario.cause.name,
        work=work,
        append=scenario.append,
        method=scenario.method,
        modules=module_paths(scenario.tree, modules),
        watchdog="/dev/watchdog0" if scenario.watchdog else "",
        crowd=scenario.crowd,
        commands=scenario.guest_commands,
        encrypted=scenario.encrypted,
    )
    build(
        scenario.tree,
        entry="kdump.lab.guest",
        modules=modules,
        files={str(ORDERS): orders.to_json(), **scenario.guest_files},
        output=output,
        made=_MADE,
        platform=platform_of(scenario.tree.machine),
    )
    return output


def make_disk(scenario: Scenario, volume: str, capture_image: Path, path: Path) -> Path:
    """The machine's disk: ext4 with the capture kernel and image on it, and room for any dump."""
    with tempfile.TemporaryDirectory(prefix="kdump-disk-", dir=path.parent) as scratch:
        content = Path(scratch)
        (content / DUMPS).mkdir(parents=True)
        (content / "boot").mkdir()
        shutil.copyfile(scenario.capture_kernel or scenario.tree.vmlinuz, content / "boot/vmlinuz")
        shutil.copyfile(capture_image, content / "boot/capture.img")
        return disk.create_ext4(path, scenario.memory + GIB, uuid=volume, content=content)


def command_line(scenario: Scenario) -> str:
    """The production kernel's command line."""
    console = architecture(scenario.tree.machine).console
    reservation = f"crashkernel={scenario.crashkernel}" if scenario.crashkernel else ""
    return " ".join(filter(None, [f"console={console},115200", "panic=30", reservation, scenario.cmdline]))


def _bring_home(directory: Path, played: Played) -> Crash:
    medium, console = played.disk, played.console
    disk.check(medium)
    names = sorted(disk.listing(medium, "/" + DUMPS))
    if not names:
        raise KdumpError(
            "the capture kernel left nothing on the disk", remedy=f"its console is in {console}, its disk in {medium}"
        )
    saved = disk.fetch(medium, f"/{DUMPS}/{names[-1]}", directory)
    manifest_file = saved / "manifest.json"
    if not manifest_file.exists():
        raise KdumpError(
            f"the crash {names[-1]} has no manifest, it is not complete",
            why="it holds " + (", ".join(sorted(path.name for path in saved.iterdir())) or "nothing"),
            remedy=f"read {console} and the files in {saved}",
        )
    manifest = json.loads(manifest_file.read_bytes())
    before = json.loads(disk.read(medium, "/" + BEFORE))
    return Crash(saved, console, medium, before, manifest, timeline(played.lines, manifest), played.image)


def timeline(lines: Sequence[tuple[float, str]], manifest: Mapping[str, Any]) -> dict[str, float]:
    """Seconds after the panic of: "capture user space", and the end of each stage of the capture.

    `lines` are the console's since the panic with their times on the host. The stages are the manifest's, on the
    capture kernel's own clock; the first line that the capture kernel stamped joins the two.
    """
    panic = lines[0][0]
    first, stamp = next((when, float(found[1])) for when, text in lines if (found := _CAPTURE.search(text)))
    boot = first - stamp - panic
    events = {"capture user space": first - panic}
    for stage in manifest.get("stages", ()):  # an encrypted crash's public manifest has none
        events[stage["name"]] = boot + stage["began"] + stage["seconds"]
    return events
