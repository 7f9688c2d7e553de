"""After a crash: verify what was saved, write the full report beside it, notify people, and record all this."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kdump.capture.crash import COMPLETE, MANIFEST, VMCORE
from kdump.dump import manifest
from kdump.errors import KdumpError, describe
from kdump.files.directory import Directory
from kdump.files.drafts import replace_file
from kdump.foreign import Schema, check, items, mapping, text
from kdump.host import stored
from kdump.host.config import Config
from kdump.host.notify import notify

SEEN: Final = "seen.json"  # names of crashes that were dealt with, below the state directory
REPORT: Final = "report-full.txt"  # beside what the capture kernel wrote, which the manifest covers
_NAMES: Final = items(text(), 1 << 20)
_SEEN: Final[Schema] = {"done": _NAMES, "told": mapping(_NAMES, 1 << 20)}


@dataclass(frozen=True)
class Examined:
    """One new crash: problems of its files, who was notified, and who could not be."""

    crash: stored.Crash
    problems: tuple[str, ...]
    told: tuple[str, ...]
    not_told: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the crash is complete and sound, and everybody was notified."""
        return self.crash.status == COMPLETE and not self.problems and not self.not_told


def deal_with_new(
    config: Config, state: Path, failed: Callable[[KdumpError], None] | None = None
) -> Iterator[Examined]:
    """Every stored crash that was not dealt with yet, oldest first.

    A problem with one crash does not stop the others. A crash of which somebody could not be notified comes again;
    then only those are notified who were not. `failed` is as in `stored.scan`.
    """
    crashes = stored.scan(stored.directories(config), failed)
    seen = _Seen.read(state)
    seen.forget_all_but(crash.name for crash in crashes)
    for crash in reversed(crashes):
        if crash.name in seen.done or crash.status == stored.FOREIGN:
            continue
        result = (
            Examined(crash, (f"foreign, and left alone: {crash.foreign}",), (), ())
            if crash.foreign
            else examine(crash, config, seen.told.get(crash.name, ()))
        )
        seen.note(crash.name, result)
        seen.write(state)
        yield result


def examine(crash: stored.Crash, config: Config, told_before: Sequence[str] = ()) -> Examined:
    """Verify, report and notify whoever is not in `told_before`. Never raises."""
    problems = [crash.problem] if crash.problem else []
    try:
        with Directory.open(crash.path.parent) as place, place.enter(crash.name) as directory:
            problems += verify(directory)
            if crash.status == COMPLETE and not problems:
                problems += report(directory)
            crash = stored.look(directory)
    except Exception as error:  # noqa: BLE001 -- one bad crash must not keep the next from being announced
        problems.append(f"it could not be examined: {describe(error)}")
    outcomes = list(notify(config.notify, summary(crash, problems), told_before))
    return Examined(
        crash,
        tuple(problems),
        tuple(who for who, why in outcomes if not why),
        tuple(f"{who}: {why}" for who, why in outcomes if why),
    )


def verify(directory: Directory) -> Iterator[str]:
    """The differences between the manifest and the files. Without a manifest, nothing is yielded."""
    if directory.look(MANIFEST) is None:
        return
    path = Path(directory.beneath)  # this very directory, whatever is renamed meanwhile
    try:
        entries = manifest.read(path / MANIFEST)["files"]
    except (OSError, KdumpError) as error:
        yield f"the manifest cannot be used: {describe(error)}"
        return
    for entry in entries:
        try:
            yield from (f"{found.name} {found.what}" for found in manifest.check(path, entry))
        except (OSError, KdumpError) as error:
            yield f"{entry['name']} cannot be verified: {describe(error)}"


def report(directory: Directory) -> Iterator[str]:
    """Write the full report of a whole dump; yields why it cannot be written. Nothing is written where others can."""
    from kdump.kernel.kernel import Kernel
    from kdump.memory import open_dump
    from kdump.report import json as as_json
    from kdump.report import text as as_text
    from kdump.report.build import build
    from kdump.report.context import Context

    if directory.foreign or not directory.has_file(VMCORE) or directory.look(stored.FULL_REPORT):
        return
    try:
        with open_dump(f"{directory.beneath}/{VMCORE}") as dump:
            found = build(Context(Kernel(dump)), f"{directory.path}/{VMCORE}")
        for name, render in ((REPORT, as_text.render), (stored.FULL_REPORT, as_json.render)):
            directory.write(name, ("\n".join(render(found)).rstrip("\n") + "\n").encode("utf-8", "backslashreplace"))
    except Exception as error:  # noqa: BLE001 -- a report that fails must not keep the crash from being announced
        yield f"no report: {describe(error)}"


def summary(crash: stored.Crash, problems: list[str]) -> dict[str, Any]:
    """The summary for people and programs."""
    return {
        "host": crash.host,
        "crash": crash.name,
        "title": crash.title,
        "signature": crash.signature,
        "status": crash.status,
        "when": int(crash.when),
        "kernel": crash.release,
        "path": str(crash.path),
        "size": crash.size,
        "problems": problems,
    }


@dataclass
class _Seen:
    """Which crashes were dealt with; `told`: of each other one, who knows of it already."""

    done: list[str]
    told: dict[str, list[str]]

    @classmethod
    def read(cls, state: Path) -> _Seen:
        """The stored record; empty if it cannot be used: announcing a crash twice is better than never."""
        try:
            content = json.loads((state / SEEN).read_bytes())
            if isinstance(content, list):  # as earlier versions wrote it
                content = {"done": content}
            check(content, _SEEN)
            return cls(content.get("done", []), content.get("told", {}))
        except (OSError, ValueError, RecursionError, AttributeError, TypeError, KdumpError):
            return cls([], {})

    def forget_all_but(self, names: Iterable[str]) -> None:
        """Crashes that are gone; of them only the latest are remembered, for they may be on a disk that comes back."""
        there = set(names)
        gone = [name for name in self.done if name not in there]
        self.done = [*gone[-1000:], *(name for name in self.done if name in there)]
        self.told = {name: told for name, told in self.told.items() if name in there}

    def note(self, name: str, result: Examined) -> None:
        """The result for a crash."""
        told = [*self.told.pop(name, ()), *result.told]
        if result.not_told:
            self.told[name] = told
        else:
            self.done.append(name)

    def write(self, state: Path) -> None:
        """Remember it."""
        state.mkdir(parents=True, exist_ok=True)
        replace_file(state / SEEN, (json.dumps({"done": self.done, "told": self.told}) + "\n").encode())
