"""A rehearsal: a virtual twin of this machine, with its kernel and its capture configuration, is crashed.

What the twin cannot have is stood in for: its disk takes the place of the targets. What that leaves unproved is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kdump import arch
from kdump.capture.crash import COMPLETE
from kdump.capture.plan import PLAN_PATH, Deadlines, Fence
from kdump.errors import KdumpError
from kdump.host import encryption
from kdump.host.config import Config
from kdump.host.plan import Prepared
from kdump.host.rehearsed import Rehearsal
from kdump.lab import demo, encrypted
from kdump.lab.causes import find_cause
from kdump.lab.crash import GIB, Scenario
from kdump.units import parse_size, size_text

DEADLINE: Final = 600.0  # seconds for the twin's capture, unless a longer timeout is asked for


@dataclass(frozen=True)
class Outcome:
    """How it went: what is recorded, what was proved, what only the real machine can prove, where everything is."""

    rehearsal: Rehearsal
    proved: tuple[str, ...]
    unproved: tuple[str, ...]
    directory: Path
    problem: str = ""


def started_by_uefi(root: Path = Path("/")) -> bool:
    """Was this machine started by UEFI firmware?"""
    return (root / "sys/firmware/efi").is_dir()


def uefi_image(root: Path = Path("/")) -> Path | None:
    """UEFI firmware for the twin, if a package brought one."""
    places = [root / name.lstrip("/") for name in arch.native().emulated.firmware]
    return next((place for place in places if place.is_file()), None)


def scenario(
    config: Config,
    prepared: Prepared,
    crashkernel: str,
    memory: int,
    timeout: float = 180,
    *,
    accelerator: str = "",
    firmware: Path | None = None,
) -> Scenario:
    """The twin: this machine's kernel and plan, `memory` bytes, a reservation of `crashkernel`.

    `timeout` in seconds is for each phase, and for each stage of the capture if the configuration allows less: an
    emulated machine's time says nothing of this one's. `firmware` is the UEFI image to start it by; None starts it by
    SeaBIOS.
    """
    plan = prepared.plan
    locked = [encrypted.stand_in(volume) for volume in plan.storage if "holds" in volume]
    ciphers = [name for volume in locked for name in encryption.modules_of(volume, prepared.kernel)]
    files = {name: content for name, content in prepared.files.items() if name != PLAN_PATH}
    return Scenario(
        prepared.kernel,
        find_cause("sysrq"),
        memory=memory,
        crashkernel=crashkernel,
        append=" ".join(config.capture.cmdline_add),
        # Encrypted, the dump could not be examined here: the private key is elsewhere.
        plan=replace(
            plan,
            targets=(),
            modules=(),
            storage=tuple(locked),
            network={},
            fence=Fence(),
            recipients=(),
            deadlines=_patient(plan.deadlines, timeout),
        ),
        timeout=timeout,
        accelerator=accelerator,
        modules=prepared.modules,
        guest_modules=("dm_mod", *ciphers) if locked else (),
        encrypted=locked,
        files=files,
        firmware=firmware,
    )


def _patient(deadlines: Deadlines, timeout: float) -> Deadlines:
    names = "network", "target", "dmesg", "report", "stall"
    stages = {name: max(getattr(deadlines, name), timeout) for name in names}
    return replace(deadlines, **stages, total=max(DEADLINE, len(stages) * timeout))


def rehearse(
    wanted: Scenario, prepared: Prepared, directory: Path, say: Callable[[str], None], *, uefi: bool = False
) -> Outcome:
    """Crash the twin. A capture that fails is an outcome, not an exception; its files are in `directory`.

    `uefi` says that this machine was started by UEFI: a twin that was not leaves that unproved.
    """
    open_questions = unproved(prepared, firmware=uefi and not wanted.firmware)
    reserved = parse_size(wanted.crashkernel)
    began = time.time()
    try:
        result = demo.run(wanted, directory, say)
    except KdumpError as error:
        failed = Rehearsal(began, passed=False, release=wanted.tree.release, reserved=reserved)
        return Outcome(failed, (), open_questions, directory, str(error))
    manifest = result.summary["manifest"]
    memory = manifest["memory"]
    said = (directory / "console.log").read_text(errors="replace")
    peak = reserved - memory["lowest_available"]
    proved = [
        f"kernel {wanted.tree.release} panics into its capture kernel",
        f"{size_text(reserved)} are enough for a machine of {size_text(wanted.memory)}; {size_text(peak)} were in use",
        f"the dump is saved at level {wanted.plan.level} with {wanted.plan.codec}, and its digests agree",
        "the report is made from it without debug information",
    ]
    if wanted.firmware:
        proved.append("both kernels start on UEFI firmware, as here")
    if wanted.plan.hooks.pre or wanted.plan.hooks.post:
        proved.append("the hooks ran")
    closed = [volume["name"] for volume in wanted.encrypted if f"volume {volume['name']}: opened with" not in said]
    proved += [
        f"the key of {volume['name']} is found in the dead kernel's memory, and opens a volume with its cipher"
        for volume in wanted.encrypted
        if volume["name"] not in closed
    ]
    passed = manifest["status"] == COMPLETE and not closed
    problem = "" if passed else f"the capture says that it is {manifest['status']}: see {result.summary['crash']}"
    if closed:
        problem = f"a stand-in for {', '.join(closed)} could not be opened: see {directory / 'console.log'}"
    record = Rehearsal(began, passed, wanted.tree.release, reserved, peak, tuple(proved))
    return Outcome(record, record.proved, open_questions, directory, problem)


def unproved(prepared: Prepared, *, firmware: bool = False) -> tuple[str, ...]:
    """Differences between the twin and the real machine; `firmware`: SeaBIOS for UEFI, too."""
    found = [f"{spec.url} can be reached and written from the capture kernel" for spec in prepared.plan.targets]
    if prepared.modules:
        found.append(f"the drivers revive this machine's devices: {', '.join(prepared.modules)}")
    storage = prepared.plan.storage
    if names := [str(each["name"]) for each in storage if "connect" in each]:
        found.append(f"the capture kernel connects to disks of other machines: {', '.join(names)}")
    made = [each for each in storage if "holds" not in each and "connect" not in each]
    if names := [str(each.get("array") or each["name"]) for each in made]:
        found.append(f"the capture kernel puts its arrays and volumes together: {', '.join(names)}")
    if prepared.plan.recipients:
        found.append("the dump is encrypted to the configured recipients")
    if prepared.plan.network:
        found.append("the network comes up as configured")
    if firmware:
        found.append(
            "the kernels start on UEFI firmware (the twin has it where OVMF is installed: apt-get install ovmf)"
        )
    found.append("the stages end within their deadlines (the twin has more time)")
    return (*found, "this machine's own firmware and devices survive the jump (`kdump test --real` shows it)")


def twin_memory(reserved: int) -> int:
    """RAM of the twin: enough that the reservation fits below whatever else is there."""
    return max(GIB, 4 * reserved)
