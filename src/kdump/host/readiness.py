"""Is this machine ready to be dumped? Every check is a question with an answer and, if that is no, a remedy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from kdump import processor
from kdump.capture.crash import COMPLETE
from kdump.errors import KdumpError, describe
from kdump.host import (
    built,
    changes,
    crashkernel,
    encryption,
    expected,
    home,
    neighbours,
    policy,
    rehearsed,
    reservation,
    stored,
    units,
    volumes,
)  # fmt: skip
from kdump.host.checks import NO, NOTE, YES, Check, Readiness, refusal
from kdump.host.config import Config
from kdump.host.in_force import InForce
from kdump.host.plan import NoKernelError, Prepared, prepare
from kdump.host.python_search import python_search
from kdump.kexec.state import KexecState, read_state
from kdump.units import duration_text, size_text

REHEARSAL_AGE: Final = 90 * 86400  # seconds after which a rehearsal is called old


class Examination:
    """One look at the machine. `root` is where proc, sys, var and run are read."""

    def __init__(self, config: Config | InForce, root: Path = Path("/")) -> None:
        self.origin = config if isinstance(config, InForce) else InForce(config)
        self.config = self.origin.config
        self.root = root
        self.state: KexecState = read_state(root)
        self.figures: dict[str, float] = {"reserved_bytes": self.state.reserved, "loaded": self.state.crash_loaded}
        self.prepared: Prepared | None = None

    def run(self) -> Readiness:
        """Ask everything. A check that cannot be made is a NO with the reason."""
        checks: list[Check] = []
        steps: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
            ("configuration", self.configuration),
            ("reservation", self.reservation),
            ("processor", self.processor),
            ("targets", self.targets),
            ("modules", self.modules),
            ("image", self.image),
            ("loaded", self.loaded),
            ("neighbours", self.neighbours),
            ("space", self.space),
            ("panic policy", self.policy),
            ("secure boot", self.secure_boot),
            ("rehearsal", self.rehearsal),
            ("crashes", self.crashes),
        )
        for name, step in steps:
            try:
                checks += step()
            except KdumpError as error:
                checks.append(refusal(name, error))
            except OSError as error:
                remedy = "run as root" if isinstance(error, PermissionError) and os.geteuid() else ""
                checks.append(Check(name, NO, describe(error), remedy))
            except Exception as error:  # noqa: BLE001 -- a question that cannot be asked must not hide the others
                checks.append(Check(name, NO, f"cannot be judged: {describe(error)}"))
        return Readiness(tuple(checks), self.figures)

    def configuration(self) -> Iterator[Check]:
        """Is anything of another kdump's files, where they are in force, without an equivalent?"""
        lost = len(self.origin.lost)
        if lost:
            whose = "line of another kdump's files has" if lost == 1 else "lines of another kdump's files have"
            found = f"{lost} {whose} no equivalent here"
            yield Check("configuration", NOTE, found, "`kdump config show` names them")
        elif self.origin.foreign:
            yield Check("configuration", YES, f"by {self.origin.source}")

    def reservation(self) -> Iterator[Check]:
        """Is memory reserved, and enough?"""
        state = self.state
        cmdline = (self.root / "proc/cmdline").read_text(errors="surrogateescape")
        if not state.supported:
            remedy = "use a kernel with CONFIG_KEXEC_FILE and CONFIG_CRASH_DUMP"
            yield Check("reservation", NO, "this kernel has no kexec for crashes", remedy)
        elif state.reserved:
            wanted = expected.wanted(self.config, self.root)
            found = f"{size_text(state.reserved)} reserved"
            if state.reserved < wanted.size:
                found += f", {wanted.reason} says {size_text(wanted.size)}"
                yield Check("reservation", NOTE, found, "`kdump estimate` explains; `kdump setup` changes it")
            else:
                yield Check("reservation", YES, found)
        elif "crashkernel=" in cmdline:
            rules = crashkernel.Rules.of(os.uname().release)
            why = crashkernel.evaluate(cmdline, reservation.system_ram(self.root), rules).why
            found = f"nothing reserved: {why or 'the kernel found no room, see dmesg'}"
            yield Check("reservation", NO, found, "`kdump setup` writes a crashkernel= that works here; reboot")
        else:
            yield Check(
                "reservation", NO, "no crashkernel= on the kernel command line", "`kdump setup` adds it; reboot once"
            )

    def processor(self) -> Iterator[Check]:
        """Does what the capture runs on run here? Nothing is said of a processor that lacks nothing."""
        if lacking := processor.missing():
            processor.require_numpy()
            yield Check("processor", YES, f"lacks {', '.join(lacking)}; the NumPy installed here does without")

    def targets(self) -> Iterator[Check]:
        """Would each target take a dump? Settles `prepared`."""
        try:
            self.prepared = prepare(self.config, search=python_search(home.below(self.root)))
        except NoKernelError as error:
            yield refusal("kernel", error)
            yield Check("targets", NO, "cannot be judged without the kernel to capture with")
            return
        for spec in self.prepared.plan.targets:
            facts = ", ".join(f"{spec.facts[name]}" for name in ("fstype", "uuid") if name in spec.facts)
            yield Check("targets", YES, spec.url + (f" ({facts})" if facts else ""))
        for volume in self.prepared.plan.storage:
            if "holds" in volume:
                yield _opened(volume, self.root)

    def modules(self) -> Iterator[Check]:
        """What of modprobe.d will not be as on this machine?"""
        for note in self.prepared.notes if self.prepared else ():
            yield Check("modules", NOTE, note, "see modprobe.d(5)")

    def image(self) -> Iterator[Check]:
        """Is the image built from what is there now, drivers included?"""
        if self.prepared is None:
            yield Check("image", NO, "cannot be judged before the targets are in order")
            return
        record = built.recorded(self.prepared.kernel.release, home.below(self.root))
        reasons = built.stale(record, built.fingerprint(self.prepared) if record else {})
        remedy = "`kdump build --load`" if self.state.reserved else "`kdump setup` builds it"
        if record and (damage := built.damage(record)):
            yield Check("image", NO, damage, remedy)
            return
        if record is None or reasons:
            yield Check("image", NO, "stale: " + ", ".join(reasons) if record else reasons[0], remedy)
            return
        self.figures |= {"image_bytes": record.size, "image_built_timestamp": record.built}
        drivers = ", ".join(self.prepared.modules) or "all built into the kernel"
        yield Check("image", YES, f"{record.release}, {size_text(record.size)}, fresh; drivers: {drivers}")

    def loaded(self) -> Iterator[Check]:
        """Is the capture kernel in place, and the image of now with it?"""
        if not self.state.crash_loaded:
            reserved = "`kdump build --load`; linux-kdump.service does so at boot"
            remedy = reserved if self.state.reserved else "`kdump setup`, and reboot once"
            yield Check("loaded", NO, "no capture kernel is loaded", remedy)
            return
        release = self.prepared.kernel.release if self.prepared else os.uname().release
        record = built.recorded(release, home.below(self.root))
        if record is None:
            yield Check("loaded", NO, "something is loaded, but not an image that kdump built", "`kdump build --load`")
        elif differences := built.outdated(record, self.config, self.root):
            found = f"what is loaded is not the image of now: {', '.join(differences)}"
            yield Check("loaded", NO, found, "`kdump build --load`")
        else:
            yield Check("loaded", YES, f"capture kernel {record.release}")

    def space(self) -> Iterator[Check]:
        """Is there room for the dump where it goes?"""
        size = expected.dump_size(self.config.dump.level, self.root)
        self.figures["expected_dump_bytes"] = size
        for place in stored.directories(self.config):
            free = expected.free_space(place)
            text = f"{place}: {size_text(free)} free, dump at most {size_text(size)} before compression"
            # Kernel memory compresses three- to sixfold; a quarter of it not fitting means trouble is likely.
            if free < size // 4:
                yield Check("space", NO, text, "`kdump prune`, a larger file system, or a higher dump level")
            else:
                yield Check("space", YES if free >= size else NOTE, text)
        for what, left in volumes.rooms(self.prepared.layers) if self.prepared else ():
            if left < size:
                text = f"{what}: {size_text(left)} left, dump at most {size_text(size)} before compression"
                yield Check("space", NOTE, text, "`lvextend`: a full snapshot is lost, and a full pool ends the dump")

    def policy(self) -> Iterator[Check]:
        """Does the kernel panic when the configuration says so?"""
        off = [each for each in policy.settings(self.config.panic, self.root) if not each.as_wanted]
        for each in off:
            found = f"{each.sysctl.name} is {each.now}, wanted {each.wanted}: {each.meaning}"
            yield Check("panic policy", NOTE, found, "`kdump setup`")
        if not off:
            yield Check("panic policy", YES, "as configured")

    def neighbours(self) -> Iterator[Check]:
        """Would another tool load a capture kernel of its own over ours?"""
        for neighbour in neighbours.installed(self.root):
            if units := neighbours.awake(self.root, neighbour):
                found = f"{neighbour.name} loads its own capture kernel over ours: {', '.join(units)}"
                yield Check("neighbours", NO, found, "`kdump setup` puts it to rest; --undo gives it back")
            else:
                yield Check("neighbours", YES, f"{neighbour.name} is at rest")

    def secure_boot(self) -> Iterator[Check]:
        """May an unsigned capture kernel be loaded?"""
        if self.state.lockdown in ("integrity", "confidentiality"):
            found = f"lockdown is {self.state.lockdown}: only a signed kernel can be loaded"
            yield Check("secure boot", NOTE, found, "capture with the distribution's own, signed kernel")
        elif self.state.secure_boot:
            yield Check("secure boot", NOTE, "on, without lockdown")
        else:
            yield Check("secure boot", YES, "off" if self.state.secure_boot is False else "not an EFI machine")

    def rehearsal(self) -> Iterator[Check]:
        """Has the whole path been tried, and lately?"""
        last = rehearsed.last(home.below(self.root))
        if last is None:
            yield Check("rehearsal", NOTE, "never rehearsed", "`kdump rehearse` crashes a virtual twin")
            return
        self.figures["last_rehearsal_timestamp"] = last.when
        age = time.time() - last.when
        found = f"{duration_text(age)} ago, kernel {last.release}: " + ("passed" if last.passed else "FAILED")
        good = last.passed and age < REHEARSAL_AGE and last.release == os.uname().release
        yield Check("rehearsal", YES if good else NOTE, found, "" if good else "`kdump rehearse`")

    def crashes(self) -> Iterator[Check]:
        """What is stored, and when was the last?"""
        problems: list[KdumpError] = []
        crashes = [each for each in stored.scan(stored.directories(self.config), problems.append) if not each.foreign]
        for problem in problems:
            yield Check("crashes", NOTE, describe(problem), problem.remedy)
        self.figures["crashes"] = len(crashes)
        self.figures["crashes_bytes"] = sum(crash.size for crash in crashes)
        here = changes.below(self.root, units.LOCAL)
        if here.parent.parent.joinpath("linux-kdump-collect.service").exists() and (
            changes.text_of(here) != units.local(self.config)
        ):
            found = "linux-kdump-collect.service is not allowed what kdump.toml asks of it"
            yield Check("crashes", NOTE, found, "`kdump setup` writes it down for systemd")
        if not crashes:
            if not problems:
                yield Check("crashes", YES, "none stored here")
            return
        last = crashes[0]
        self.figures["last_crash_timestamp"] = last.when
        age = f"last {duration_text(max(time.time() - last.when, 0))} ago" if last.when else "dates not known"
        found = f"{len(crashes)} stored, {age}: {last.title or last.name}"
        yield Check("crashes", YES if last.status == COMPLETE else NOTE, f"{found} ({last.status})")


def _opened(volume: Mapping[str, Any], root: Path) -> Check:
    """Could the capture kernel open an encrypted volume?"""
    try:
        proved = encryption.prove(volume, root)
    except KdumpError as error:
        return Check("encryption", NO, f"{error.what}: {error.why}", error.remedy)
    name = volume["name"]
    if proved:
        return Check("encryption", YES, f"{name}: its key is found in this kernel's memory, its LUKS header agrees")
    return Check("encryption", NOTE, f"{name}: whether its key will be found cannot be tried here (/proc/kcore)")
