"""The ladder: cheapest evidence first, each rung durable on the target before the next begins.

dmesg, then the short report, then the filtered dump; then the manifest and the log of the capture itself. A rung that
fails never takes the others with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from kdump import __version__
from kdump.capture import crash as names
from kdump.capture.console import Console
from kdump.capture.meminfo import Sampler, meminfo
from kdump.capture.plan import ALL, CapturePlan
from kdump.capture.stages import DONE, SKIPPED, Stages
from kdump.capture.tee import Tee
from kdump.errors import KdumpError
from kdump.targets import target_for
from kdump.targets.protocol import INCOMPLETE, Ground, Session, Spec, Stream
from kdump.units import size_text

if TYPE_CHECKING:
    from kdump.memory.protocol import Dump

VMCORE_SOURCE = "/proc/vmcore"
__capture_imports__ = (
    "kdump.capture.child",
    "kdump.capture.rungs",
    "kdump.memory",
    "kdump.kernel.vmcoreinfo",
    "kdump.targets.file",
)
_REPORT_NEEDS = 32 << 20  # bytes available before the report is tried; it takes about half
_REPORT_LIMIT = 64 << 20  # bytes it may allocate
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
        self._sampler: Sampler | None = None
        self._lost: dict[int, str] = {}
        self._summary: dict[str, Any] = {}
        self._files: list[dict[str, Any]] = []

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
        self._lost.clear()
        self._files.clear()
        self._summary.clear()
        whole = first and self.attempt == 1 and len(sessions) == len(group)
        dumped = self._rungs(sessions)
        whole = (
            whole
            and all(record.outcome in (DONE, SKIPPED) for record in self.stages.records[began:])
            and not self._lost
        )
        outcome = names.INCOMPLETE if not dumped else names.COMPLETE if whole else names.DEGRADED
        self._last_words(sessions, outcome)
        return outcome

    def _open(self, spec: Spec) -> list[Session]:
        """The target's session, or nothing if it cannot be had."""
        session = self.stages.run(
            f"target {spec.parts.scheme}",
            self.plan.deadlines.target,
            lambda: target_for(spec).open(self.crash, self.ground),
        )
        if session is None:
            return []
        self.console.say(f"saving to {session.where}")
        return [session]

    def _rungs(self, sessions: list[Session]) -> bool:
        deadlines = self.plan.deadlines
        self._rung("dmesg", deadlines.dmesg, names.DMESG, sessions, self._write_dmesg)
        if self.plan.report and self.attempt == 1:
            self._report(sessions)
        return self._rung("vmcore", deadlines.stall, names.VMCORE, sessions, self._write_vmcore)

    def _write_dmesg(self, begin: Callable[[], Stream]) -> None:
        from kdump.capture import rungs

        for sentence in rungs.dmesg(self._need_dump(), begin()):
            self.stages.degrade(sentence)

    def _report(self, sessions: list[Session]) -> None:
        """The short report, unless memory is short: the dump matters more."""
        available = meminfo()["MemAvailable"]
        if available < _REPORT_NEEDS:
            self.stages.skip("report", f"{size_text(available)} of memory available, {size_text(_REPORT_NEEDS)} needed")
        else:
            self._rung("report", self.plan.deadlines.report, names.REPORT, sessions, self._write_report)

    def _write_report(self, begin: Callable[[], Stream]) -> None:
        from kdump.capture import rungs
        from kdump.capture.child import text_from_child

        text = text_from_child(partial(rungs.report, self._need_dump()), _REPORT_LIMIT)
        begin().write(text.encode("utf-8", "replace"))

    def _write_vmcore(self, begin: Callable[[], Stream]) -> None:
        from kdump.capture import rungs

        summary = rungs.vmcore(
            self._need_dump(), begin, self.plan, self._progress, self.stages.stop, frugal=self.attempt > 1
        )
        self._summary = summary.to_dict()
        if summary.incomplete:
            raise KdumpError("the dump is incomplete", why=summary.incomplete)
        if summary.level != self.plan.level:
            self.stages.degrade(f"no room at level {self.plan.level}, saved at level {summary.level}")
        for name, why in summary.not_applied.items():
            self.stages.degrade(f"{name} pages are kept: {why}")
        if summary.pages_unreadable:
            self.stages.degrade(f"{summary.pages_unreadable} pages could not be read")

    def _rung(
        self,
        stage: str,
        seconds: float,
        name: str,
        sessions: Sequence[Session],
        write: Callable[[Callable[[], Stream]], None],
    ) -> bool:
        """A stage that writes one file: sealed if `write` ends well, else left marked as incomplete.

        `write` gets a function that begins the file, and begins it anew if it is called again.
        """
        begun: list[Tee] = []

        def begin() -> Tee:
            if begun:
                begun.pop().abort()
            begun.append(Tee(name, [session for session in sessions if id(session) not in self._lost], self._lose))
            return begun[0]

        def body() -> bool:
            try:
                write(begin)
                begun[0].seal()
            except BaseException:
                if begun:
                    begun[0].abort()
                    self._files.append({**begun[0].describe(), "name": name + INCOMPLETE})
                raise
            entry = begun[0].describe()
            self._files.append(entry)
            self.console.say(f"{name} saved, {size_text(entry['size'])}")
            return True

        return self.stages.run(stage, seconds, body) or False

    def _progress(self, what: str, done: int, total: int) -> None:
        """Bytes of memory done and to do: said now and then; as long as they grow there is no stall."""
        self.stages.renew(self.plan.deadlines.stall)
        self.console.progress(f"vmcore {what}", done, total)

    def _need_dump(self) -> Dump:
        if self._dump is None:
            raise KdumpError(f"{self._source} could not be opened")
        return self._dump

    def _lose(self, session: Session, why: str) -> None:
        self._lost[id(session)] = why
        self.console.say(f"{session.where} failed: {why}")

    def _last_words(self, sessions: Sequence[Session], outcome: str) -> None:
        """Manifest and log, to each target by itself: one that is full may still take these few bytes."""
        for session in sessions:
            manifest = partial(self.manifest, session, outcome)
            self.stages.run("manifest", _LAST_WORDS, partial(_put, session, names.MANIFEST, manifest))
            self.stages.run("log", _LAST_WORDS, partial(_put, session, names.LOG, self.console.log))
            self.stages.run("close", _LAST_WORDS, session.close)

    def manifest(self, session: Session, outcome: str) -> bytes:
        """What was saved, from what, how long it took and how much memory."""
        info = self._info
        now = time.time()
        content = {
            "crash": self.crash,
            "status": names.INCOMPLETE if id(session) in self._lost else outcome,
            "host": self.plan.hostname,
            "where": session.where,
            "lost": self._lost.get(id(session), ""),
            "kernel": {"release": info.release, "build_id": info.build_id},
            "panic_time": info.crash_time,
            "saved_time": round(now, 3),
            "panic_to_saved": round(now - info.crash_time, 3) if info.crash_time else None,
            "files": list(self._files),
            "dump": self._summary,
            "stages": [asdict(record) for record in self.stages.records],
            "memory": self._sampler.result() if self._sampler else None,
            "capture": {
                "kdump": __version__,
                "kernel": os.uname().release,
                "cpus": len(os.sched_getaffinity(0)),
                "attempt": self.attempt,
                "uptime": round(self.console.now(), 3),
            },
        }
        return names.manifest_text(content)


def _put(session: Session, name: str, text: Callable[[], bytes]) -> None:
    """A small file, all at once."""
    stream = session.create(name)
    try:
        stream.write(text())
        stream.seal()
    except BaseException:
        stream.abort()
        raise
