"""The ladder: cheapest evidence first, each rung durable on the target before the next begins.

dmesg, then the short report, then the filtered dump; then the manifest and the log of the capture itself. A rung that
fails never takes the others with it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdump import __version__
from kdump.capture import crash as names
from kdump.capture.console import Console
from kdump.capture.meminfo import Sampler
from kdump.capture.plan import ALL, CapturePlan
from kdump.capture.stages import DEGRADED, DONE, Record, Stages
from kdump.capture.tee import Tee
from kdump.errors import KdumpError
from kdump.targets import target_for
from kdump.targets.protocol import Ground, Session, Spec

if TYPE_CHECKING:
    from kdump.memory.protocol import Dump

VMCORE_SOURCE = "/proc/vmcore"
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
        with self.stages.stage("memory", self.plan.deadlines.dmesg):
            from kdump.memory import open_dump

            self._dump = open_dump(self._source)
        if not self.crash:
            from kdump.kernel import vmcoreinfo

            time_of_panic = vmcoreinfo.parse(self._dump.vmcoreinfo).crash_time if self._dump else 0
            self.crash = names.crash_name(self.plan.hostname, time_of_panic)

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
        whole = whole and all(record.outcome == DONE for record in self.stages.records[began:]) and not self._lost
        outcome = names.INCOMPLETE if not dumped else names.COMPLETE if whole else names.DEGRADED
        self._last_words(sessions, outcome)
        return outcome

    def _open(self, spec: Spec) -> list[Session]:
        """The target's session, or nothing if it cannot be had."""
        opened: list[Session] = []
        with self.stages.stage(f"target {spec.parts.scheme}", self.plan.deadlines.target):
            opened.append(target_for(spec).open(self.crash, self.ground))
            self.console.say(f"saving to {opened[0].where}")
        return opened

    def _rungs(self, sessions: list[Session]) -> bool:
        from kdump.capture import rungs

        deadlines = self.plan.deadlines
        with self._rung("dmesg", deadlines.dmesg, names.DMESG, sessions) as (record, stream):
            for sentence in rungs.dmesg(self._need_dump(), stream):
                self.console.say(f"dmesg: {sentence}")
                record.outcome = DEGRADED
        with self._rung("vmcore", deadlines.stall, names.VMCORE, sessions) as (record, stream):
            self._summary = rungs.vmcore(self._need_dump(), stream, self.plan, self._progress, frugal=self.attempt > 1)
        return record.outcome == DONE

    @contextlib.contextmanager
    def _rung(self, stage: str, seconds: float, name: str, sessions: Sequence[Session]) -> Iterator[tuple[Record, Tee]]:
        """A stage that writes one file: sealed if the body ends well, else left marked as incomplete."""
        with self.stages.stage(stage, seconds) as record:
            stream = Tee(name, [s for s in sessions if id(s) not in self._lost], self._lose)
            try:
                yield record, stream
                stream.seal()
            except BaseException:
                stream.abort()
                self._files.append({**stream.describe(), "name": name + ".incomplete"})
                raise
            entry = stream.describe()
            self._files.append(entry)
            self.console.say(f"{name} saved, {entry['size']} bytes")

    def _progress(self, done: int, total: int) -> None:
        """Bytes of memory done and to do: said now and then; as long as they grow there is no stall."""
        self.stages.renew(self.plan.deadlines.stall)
        self.console.progress("vmcore", done, total)

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
            with self.stages.stage("manifest", _LAST_WORDS):
                _put(session, names.MANIFEST, names.manifest_text(self.manifest(session, outcome)))
            with self.stages.stage("log", _LAST_WORDS):
                _put(session, names.LOG, self.console.log())
            with self.stages.stage("close", _LAST_WORDS):
                session.close()

    def manifest(self, session: Session, outcome: str) -> dict[str, Any]:
        """What was saved, from what, how long it took and how much memory."""
        from kdump.kernel import vmcoreinfo

        info = vmcoreinfo.parse(self._dump.vmcoreinfo if self._dump else b"")
        now = time.time()
        return {
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
            "memory": self._sampler.result() if self._sampler else {},
            "capture": {
                "kdump": __version__,
                "kernel": os.uname().release,
                "cpus": len(os.sched_getaffinity(0)),
                "attempt": self.attempt,
                "uptime": round(self.console.now(), 3),
            },
        }


def _put(session: Session, name: str, data: bytes) -> None:
    """A small file, all at once."""
    stream = session.create(name)
    try:
        stream.write(data)
        stream.seal()
    except BaseException:
        stream.abort()
        raise
