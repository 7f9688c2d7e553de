"""The ladder: cheapest evidence first, each rung durable on the target before the next begins.

dmesg, then the short report, then the filtered dump; then the manifest and the log of the capture itself. A rung that
fails never takes the others with it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdump import __version__
from kdump.capture import crash as names
from kdump.capture.console import Console
from kdump.capture.meminfo import REPORT_NEEDS, Sampler, meminfo
from kdump.capture.outlet import Outlet
from kdump.capture.plan import ALL, FENCE, NETWORK, CapturePlan
from kdump.capture.stages import DONE, SKIPPED, Stages
from kdump.capture.vault import Begin, Vault
from kdump.errors import KdumpError
from kdump.files.digest import kernel_hashes
from kdump.targets import NETWORKED, target_for
from kdump.targets.protocol import Ground, Session, Spec
from kdump.units import size_text

if TYPE_CHECKING:
    from kdump.memory.protocol import Dump

VMCORE_SOURCE = "/proc/vmcore"
_PIPELINE = "kdump.dump.pipeline"
_REPORT_SPARES = 16 << 20  # bytes of them that it must leave
_ANSWER = 4.0  # seconds for a collector to connect anew and to answer; it fails by itself after two
_LAST_WORDS = 20.0  # seconds for manifest and log


class Ladder:
    """One attempt to save one crash. `attempt` counts from 1; from the second on what costs memory is cut."""

    def __init__(
        self,
        plan: CapturePlan,
        console: Console,
        stages: Stages,
        ground: Ground,
        *,
        crash: str = "",
        attempt: int = 1,
        source: str = VMCORE_SOURCE,
    ) -> None:
        self.plan = plan
        self.console = console
        self.stages = stages
        self.crash = crash
        self.attempt = attempt
        self.ground = ground
        self._source = source
        self._dump: Dump | None = None
        self._dns: list[str] | None = None
        self._sampler: Sampler | None = None
        self._summary: dict[str, Any] = {}
        self._signature = ""
        self._hints = b""

    def climb(self) -> str:
        """Save what can be saved. COMPLETE, DEGRADED (a dump, but not as asked) or INCOMPLETE (no whole dump)."""
        self._sampler = Sampler()
        try:
            outcome = names.INCOMPLETE
            for number, group in enumerate(self._groups()):
                outcome = self._save_to(group, first=number == 0)
                if outcome != names.INCOMPLETE:
                    break
            return outcome
        finally:
            self._sampler.stop()

    def _groups(self) -> list[tuple[Spec, ...]]:
        """Targets that are written together; the next group is tried if the one before did not get everything."""
        if self.plan.mode == ALL:
            return [self.plan.targets]
        return [(spec,) for spec in self.plan.targets]

    def open_memory(self) -> None:
        """Open the dead kernel's memory and name the crash. A failure is recorded: the name is then today's."""
        from kdump.kernel import vmcoreinfo
        from kdump.memory import open_dump

        self._dump = self.stages.run("memory", self.plan.deadlines.dmesg, lambda: open_dump(self._source))
        self._info = vmcoreinfo.parse(self._dump.vmcoreinfo if self._dump else b"")
        self.crash = self.crash or names.crash_name(self.plan.hostname, self._info.crash_time)

    def _save_to(self, group: Sequence[Spec], *, first: bool) -> str:
        began = len(self.stages.records)
        sessions = [session for spec in group for session in self._open(spec)]
        if not sessions:
            return names.INCOMPLETE
        self._summary.clear()
        vault = Vault(sessions, self.plan.recipients, self.console, self.stages.fault)
        dumped = self._rungs(vault)
        well = all(record.outcome in (DONE, SKIPPED) for record in self.stages.records[began:])
        everywhere = len(sessions) == len(group) and all(each.takes for each in vault.outlets)
        whole = first and self.attempt == 1 and well and everywhere
        outcome = names.INCOMPLETE if not dumped else names.COMPLETE if whole else names.DEGRADED
        self._last_words(vault, outcome)
        return outcome

    def _open(self, spec: Spec) -> list[Session]:
        """The target's session, or nothing if it cannot be had. The network comes up when it is first needed."""
        if spec.parts.scheme in NETWORKED:
            self.go_online()
        session = self.stages.run(
            f"target {spec.parts.scheme}",
            self.plan.deadlines.target,
            lambda: target_for(spec).open(self.crash, self.ground),
        )
        if session is None:
            return []
        self.console.say(f"saving to {session.where}")
        return [session]

    def go_online(self) -> None:
        """Bring the network up, if it was not tried yet."""
        if self._dns is None:
            bring_up = partial(self._network, self.plan.deadlines.network)
            self._dns = self.stages.run("network", self.plan.deadlines.network, bring_up) or []
            self.ground = replace(self.ground, dns=self._dns, search=self.plan.network.get("search", ()))
            if fence := self.plan.fence.nodes:
                self.console.say(f"fence_kdump: telling {', '.join(fence)}")
                import_module(FENCE).start(fence, self.plan.fence.port, self.plan.fence.interval, self.console.say)

    def _network(self, seconds: float) -> list[str]:
        # By name: the image holds it only if a target of the plan needs it.
        found: list[str] = import_module(NETWORK).bring_up(
            self.plan.network, 0.9 * seconds, self.console.say, self.stages.degrade
        )
        return found

    def _rungs(self, vault: Vault) -> bool:
        """From the cheapest up; whether the dump was saved."""
        deadlines = self.plan.deadlines
        self.stages.run("dmesg", deadlines.dmesg, partial(vault.save, names.DMESG, self._write_dmesg))
        if self.plan.report and self.attempt == 1:
            self._report(vault)
        self._ask(vault)
        if vault.unwanted:
            self.stages.skip("vmcore", vault.unwanted)
            return True
        return (
            self.stages.run(
                "vmcore", deadlines.stall, partial(vault.save, names.VMCORE, partial(self._write_vmcore, vault))
            )
            or False
        )

    def _write_dmesg(self, begin: Begin) -> None:
        from kdump.capture import rungs

        for sentence in rungs.dmesg(self.need_dump(), begin()):
            self.stages.degrade(sentence)

    def _ask(self, vault: Vault) -> None:
        """Targets that answer to a report say whether they want the dump. One that does not answer is lost."""
        for outlet in vault.outlets:
            decide = getattr(outlet.session, "decide", None)
            if decide is None or not outlet.takes:
                continue
            listing = partial(self.listing, vault, names.INCOMPLETE)
            said = listing if vault.encrypted else partial(self.manifest, vault, outlet, names.INCOMPLETE)
            why = self.stages.run("collector", _ANSWER, lambda decide=decide, said=said: decide(said()))  # type: ignore[misc]
            if why is None:
                outlet.drop(self.stages.records[-1].error)
            elif why:
                outlet.declined = why

    def _report(self, vault: Vault) -> None:
        """The short report, unless memory is short: the dump matters more."""
        available = meminfo()["MemAvailable"]
        if available < REPORT_NEEDS:
            self.stages.skip("report", f"{size_text(available)} of memory available, {size_text(REPORT_NEEDS)} needed")
        else:
            self.stages.run("report", self.plan.deadlines.report, partial(self._make_report, vault, available))

    def _make_report(self, vault: Vault, available: int) -> None:
        from kdump.capture import rungs
        from kdump.capture.child import bytes_from_child

        import_module(_PIPELINE)  # before the fork: both need NumPy, and it is half of what either imports
        answer = bytes_from_child(partial(rungs.report, self.need_dump()), available - _REPORT_SPARES)
        *pages, self._hints = answer.split(rungs.BETWEEN)
        for name, text in zip((names.REPORT, names.REPORT_JSON), pages, strict=True):
            vault.save(name, partial(_write_all, text))
        self._signature = str(json.loads(pages[1])["verdict"]["signature"])

    def _write_vmcore(self, vault: Vault, begin: Begin) -> None:
        from kdump.capture import rungs

        plan = replace(self.plan, level=self._level(vault))
        special = self._special(plan)
        around = rungs.Around(self._progress, self.stages.stop, vault.room, self.console.say, self._hints, special)
        summary = rungs.vmcore(self.need_dump(), begin, plan, around, frugal=self.attempt > 1)
        self._summary = summary.to_dict()
        if summary.incomplete:
            raise KdumpError("the dump is incomplete", why=summary.incomplete)
        if summary.level != plan.level:
            self.stages.degrade(f"no room at level {plan.level}, saved at level {summary.level}")
        for name, why in summary.not_applied.items():
            self.stages.degrade(f"{name.removesuffix(' pages')} pages are kept: {why}")
        for kind, reasons in summary.scrubbed.get("failed", {}).items():
            self.stages.degrade(f"{kind} could not be scrubbed: {'; '.join(reasons)}")
        for why in summary.also_kept.get("failed", ()):
            self.stages.degrade(f"memory of processes could not be kept: {why}")
        if summary.pages_unreadable:
            self.stages.degrade(f"{summary.pages_unreadable} pages could not be read")

    def _special(self, plan: CapturePlan) -> bytes:
        """Where the secrets are that the dump shall be without, and the pages that it shall have beyond its level.

        If that cannot be found the dump is saved, and says so.
        """
        from kdump.capture import rungs
        from kdump.capture.child import bytes_from_child
        from kdump.dump.keep import Kept
        from kdump.dump.scrub.found import Found

        if not plan.scrub and not plan.processes:
            return rungs.BETWEEN
        import_module(_PIPELINE)  # before the fork, as for the report
        look = partial(rungs.special, self.need_dump(), plan)
        spare = max(0, meminfo()["MemAvailable"] - _REPORT_SPARES)
        found = self.stages.run("secrets", plan.deadlines.report, lambda: bytes_from_child(look, spare))
        if found is not None:
            return found
        why = [self.stages.records[-1].error]
        scrub = Found(plan.scrub, failed=dict.fromkeys(plan.scrub, why)).to_json() if plan.scrub else ""
        keep = Kept(plan.processes, failed=why).to_json() if plan.processes else ""
        return rungs.BETWEEN.join((scrub.encode(), keep.encode()))

    def _level(self, vault: Vault) -> int:
        """The dump level: the plan's, or the lowest that a target asks for and this machine allows."""
        sessions = [outlet.session for outlet in vault.outlets]
        asked = [session.level(self.plan.level) for session in sessions if hasattr(session, "level")]
        return min(asked, default=self.plan.level)

    def _progress(self, what: str, done: int, total: int) -> None:
        """Bytes of memory done and to do: said now and then; as long as they grow there is no stall."""
        self.stages.renew(self.plan.deadlines.stall)
        self.console.progress(f"vmcore {what}", done, total)

    def need_dump(self) -> Dump:
        """The dead kernel's memory. Raises KdumpError if it could not be opened."""
        if self._dump is None:
            raise KdumpError(f"{self._source} could not be opened")
        return self._dump

    def _last_words(self, vault: Vault, outcome: str) -> None:
        """Manifest and log, to each target by itself: one that is full may still take these few bytes."""
        for outlet in vault.outlets:
            session = outlet.session
            if outlet.gone:
                self.stages.run("close", _LAST_WORDS, session.close)
                continue
            manifest = partial(self.manifest, vault, outlet, outcome)
            self.stages.run("manifest", _LAST_WORDS, partial(vault.put, outlet, names.MANIFEST, manifest))
            if outcome != names.INCOMPLETE and outlet.takes:
                self.stages.run("retention", _LAST_WORDS, partial(self._prune, session))
            self.stages.run("log", _LAST_WORDS, partial(vault.put, outlet, names.LOG, self.console.log))
            if vault.encrypted:
                listing = partial(self.listing, vault, outcome)
                self.stages.run(
                    "listing", _LAST_WORDS, partial(vault.put, outlet, names.MANIFEST, listing, public=True)
                )
            self.stages.run("close", _LAST_WORDS, session.close)

    def _prune(self, session: Session) -> None:
        for name in session.prune(self.plan.keep, self.plan.min_free):
            self.console.say(f"removed the old crash {name}")

    def listing(self, vault: Vault, outcome: str) -> bytes:
        """The manifest that everybody may read beside encrypted files: what is there, and its digests."""
        return names.manifest_text({"crash": self.crash, "status": outcome, "encrypted": "age", "files": vault.entries})

    def manifest(self, vault: Vault, outlet: Outlet, outcome: str) -> bytes:
        """The manifest: the files, their source, the time and the memory used."""
        info = self._info
        now = time.time()
        content = {
            "crash": self.crash,
            "status": outcome if outlet.takes else names.INCOMPLETE,
            "host": self.plan.hostname,
            "where": outlet.session.where,
            "lost": outlet.lost or "",
            "kernel": {"release": info.release, "build_id": info.build_id},
            "signature": self._signature,
            "panic_time": info.crash_time,
            "saved_time": round(now, 3),
            "panic_to_saved": round(now - info.crash_time, 3) if info.crash_time else None,
            "files": vault.entries,
            "dump": self._summary,
            "stages": [asdict(record) for record in self.stages.records],
            "memory": self._sampler.result() if self._sampler else None,
            "capture": {
                "kdump": __version__,
                "kernel": os.uname().release,
                "cpus": len(os.sched_getaffinity(0)),
                "attempt": self.attempt,
                "kernel_hashes": kernel_hashes(),
                "uptime": round(self.console.now(), 3),
            },
        }
        return names.manifest_text(content)


def _write_all(text: bytes, begin: Begin) -> None:
    begin().write(text)
