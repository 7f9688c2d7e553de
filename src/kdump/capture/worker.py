"""The worker: from a bare kernel to a saved crash. Forked by the supervisor; everything large is imported here."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING

from kdump.capture import crash as names
from kdump.capture import randomness, system
from kdump.capture.console import Console
from kdump.capture.ladder import VMCORE_SOURCE, Ladder
from kdump.capture.plan import DECRYPTION, REMOTE, CapturePlan
from kdump.capture.stages import Stages, install_alarm
from kdump.capture.state import DEGRADED, FAILED, SAVED, recall, remember
from kdump.errors import KdumpError, describe
from kdump.files import digest
from kdump.targets.protocol import Ground

if TYPE_CHECKING:
    from kdump.memory.protocol import Dump

_RANDOMNESS = 20.0  # seconds in which the seed is made; after that, each target's own deadline bounds the wait
_EXIT = {names.COMPLETE: SAVED, names.DEGRADED: DEGRADED, names.INCOMPLETE: FAILED}


def work(
    plan: CapturePlan,
    console: Console,
    *,
    notify: int = -1,
    attempt: int = 1,
    end: float = inf,
    source: str = VMCORE_SOURCE,
) -> int:
    """Drivers, hooks, the ladder; returns the worker's exit status. `end`: when to be done, on the monotonic clock."""
    console.say(f"capture of {plan.hostname} on {os.uname().release}" + (f", attempt {attempt}" if attempt > 1 else ""))
    stages = Stages(console, notify, plan.inject if attempt == 1 else {}, end)
    install_alarm(stages)
    if not randomness.ready():
        stages.run("randomness", _RANDOMNESS, partial(_seed, source, console))
    stages.run("drivers", plan.deadlines.target, lambda: load_modules(plan.modules, stages))
    let_kernel_hash()
    ground = Ground(system.mount, system.unmount, console.say, stages.remaining)
    crash = str(recall().get("crash", "")) if attempt > 1 else ""
    ladder = Ladder(plan, console, stages, ground, crash=crash, attempt=attempt, source=source)
    if plan.online_first:
        ladder.go_online()
    ladder.open_memory()
    remember({"crash": ladder.crash})
    if plan.storage:
        stages.run("volumes", plan.deadlines.target, lambda: _assemble(plan, stages, console, ladder.need_dump))
    run_hooks(plan.hooks.pre, "pre", plan, stages)
    outcome = ladder.climb()
    console.say(f"{outcome}: {ladder.crash}")
    hooks = plan.hooks.failed if outcome == names.INCOMPLETE else plan.hooks.post
    run_hooks(hooks, outcome, plan, stages, ladder.crash)
    return _EXIT[outcome]


def _seed(source: str, console: Console) -> None:
    """What needs keys would wait for the kernel's own seed, which may never come."""
    randomness.seed(source)
    console.say("random numbers are seeded from the dead kernel's memory: this machine has no source of its own")


def load_modules(modules: Sequence[str], stages: Stages) -> None:
    """Load each; one that the kernel refuses is said and passed over, because another may do.

    One that finds no hardware for itself (crc32c_intel on a CPU without SSE4.2) is left out, as modprobe would.
    """
    for entry in modules:
        path, _, parameters = entry.partition(" ")
        try:
            system.load_module(path, parameters)
        except OSError as error:
            if error.errno == errno.ENODEV:
                stages.console.say(f"{path}: this machine has nothing for it")
            else:
                stages.degrade(f"{path}: {error.strerror}")


def let_kernel_hash() -> None:
    """Digests by the kernel, if this one can. Without SHA instructions its plain code is the best choice (of the others
    that its module brings, AVX2 is slower under emulation)."""
    with open("/proc/cpuinfo", encoding="ascii") as lines:
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
    for name in (*digest.KERNEL_MODULES, *([digest.PROCESSOR_MODULE] if "sha_ni" in flags else [])):
        with contextlib.suppress(OSError):  # not in the image, or refused: there is CPython's own
            system.load_module(f"{system.MODULES}/{name}.ko")
    digest.prefer_kernel()


def _assemble(plan: CapturePlan, stages: Stages, console: Console, dump: Callable[[], Dump]) -> None:
    """Arrays and volumes, lowest first, as the healthy host had them; what one breaks does not take another.

    What an earlier attempt put together is left as it is.
    """
    import time

    from kdump.capture import bcache, devicemapper, mdraid, multipath
    from kdump.targets.devices import find_uuid, members, wait_for

    def find(uuid: str) -> str:
        return wait_for(lambda: find_uuid(uuid), f"the device that holds {uuid}", share)

    patience = time.monotonic() + mdraid.PATIENCE
    for number, volume in enumerate(plan.storage):
        share = stages.remaining() / (len(plan.storage) - number)
        try:
            if "connect" in volume:
                import_module(REMOTE).connect(volume, share, console.say)
            elif "multipath" in volume:
                multipath.assemble(volume, share, console.say)
            elif "bcache" in volume:
                bcache.assemble(volume, find, share, console.say)
            elif "array" in volume:
                mdraid.assemble(volume, members, share, patience, console.say)
            elif not devicemapper.is_active(volume["name"]):
                if "holds" in volume:
                    import_module(DECRYPTION).assemble(volume, dump(), find, console.say)
                else:
                    devicemapper.assemble(volume, find, console.say)
        except (KdumpError, OSError) as error:
            stages.degrade(f"volume {volume.get('name') or volume['array']}: {describe(error)}")


def run_hooks(hooks: Sequence[str], event: str, plan: CapturePlan, stages: Stages, crash: str = "") -> None:
    """Run executables one after the other, each bounded; a failure is recorded and that is all."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "KDUMP_EVENT": event,
        "KDUMP_HOST": plan.hostname,
        "KDUMP_CRASH": crash,
    }
    for path in hooks:
        stages.run(f"hook {path}", plan.hooks.seconds, partial(run_bounded, [path], environment))


def run_bounded(command: Sequence[str], environment: dict[str, str]) -> None:
    """Run a command in a session of its own; killed with all its children if an exception (a deadline) arrives."""
    import signal

    child = os.posix_spawn(command[0], list(command), environment, setsid=True)
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        raise
    if code := os.waitstatus_to_exitcode(status):
        raise KdumpError(f"{command[0]} ended with status {code}")
