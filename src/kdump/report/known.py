"""Known upstream faults: an offline index of crashes that CVE records, fixes and syzbot describe, and their fixes.

The index is one JSON file packed with zstd: `{"format": "kdump-known/1", "made": "2026-11-29", "entries": [{"id",
"title", "kind", "signature", "frames", "fixed", "files", "link"}]}`. `kdump fleet known --build` makes it. An entry
matches a crash by its signature, or by its kind and innermost functions. Neither is proof, so every reader says
"likely" and shows what matched.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import zstandard

from kdump import foreign
from kdump.errors import FormatError, KdumpError, reason
from kdump.files.drafts import replace_file
from kdump.report import frames as names
from kdump.report.model import Verdict
from kdump.report.versions import has_fix

FORMAT: Final = "kdump-known/1"
NAME: Final = "known.json.zst"
# Where `kdump report` looks: the administrator's own index first, then the one that comes with kdump.
PLACES: Final = (Path("/var/lib/linux-kdump") / NAME, Path(__file__).with_name(NAME))
STACK: Final = 8  # functions that an entry keeps
_LIMIT = 64 << 20  # bytes of JSON
_SHARED = 3  # innermost functions in common that make a match without the signature
_TEXT = foreign.text()
_TEXTS = foreign.items(_TEXT, 4096)
_ENTRY: Final[foreign.Schema] = {
    "id": _TEXT, "title": _TEXT, "kind": _TEXT, "signature": _TEXT, "link": _TEXT,
    "frames": _TEXTS, "fixed": _TEXTS, "files": _TEXTS,
}  # fmt: skip
_QUOTES_A_CRASH = re.compile(r"Call [Tt]race|RIP:|BUG:|WARNING:|KASAN|Oops|refcount_t|general protection")


@dataclass(frozen=True)
class Entry:
    """One known fault. `fixed` has the first fixed version of each branch; `frames` are innermost first."""

    id: str
    title: str
    kind: str = ""
    signature: str = ""
    frames: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    link: str = ""


_FIELDS: Final = frozenset(each.name for each in fields(Entry))


@dataclass(frozen=True)
class Match:
    """An entry that may describe the same fault, and what both have in common."""

    entry: Entry
    by: str  # "signature" or "stack"
    shared: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"by": self.by, "shared": list(self.shared), **asdict(self.entry)}

    def line(self, release: str = "") -> str:
        """One line for people: "likely CVE-…, fixed in 6.1.120, 6.12.41"; `release` is the kernel that crashed."""
        fixed = ", ".join(self.entry.fixed)
        text = f"likely {self.entry.id}" + (f", fixed in {fixed}" if fixed else "")
        if release and has_fix(release, fixed):
            text += f"; {release} should have this fix, so suspect another cause, too"
        return text

    def evidence(self) -> str:
        """The match, in words."""
        if self.by == "signature":
            return f"the same signature: {' ← '.join(self.shared)}" if self.shared else "the same signature"
        return f"the same innermost functions: {' ← '.join(self.shared)}"


@dataclass
class Index:
    """Entries, found by signature and by innermost function."""

    entries: list[Entry]
    made: str = ""
    _signatures: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    _functions: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for entry in self.entries:
            if entry.signature:
                self._signatures[entry.signature].append(entry)
            if entry.frames:
                self._functions[entry.frames[0]].append(entry)

    def find(self, signature: str, kind: str, frames: Sequence[str]) -> list[Match]:
        """Entries that may describe the same fault, the best first.

        Without a guilty function (no `frames`) nothing matches: many faults end with init killed, for example.
        """
        found = [
            Match(entry, "signature", _common(entry.frames, frames) or entry.frames)
            for entry in (self._signatures.get(signature, ()) if signature and frames else ())
        ]
        seen = {match.entry.id for match in found}
        for entry in self._functions.get(frames[0], ()) if frames else ():
            shared = _common(entry.frames, frames)
            enough = len(shared) >= min(_SHARED, len(entry.frames), len(frames)) and len(shared) >= 2
            if entry.id not in seen and entry.kind == kind and enough:
                found.append(Match(entry, "stack", shared))
                seen.add(entry.id)
        return sorted(found, key=lambda match: (match.by != "signature", -len(match.shared), match.entry.id))

    def of(self, verdict: Verdict) -> list[Match]:
        """Entries that may describe the crash of a verdict."""
        return self.find(verdict.signature, verdict.kind, stack(verdict))


def stack(verdict: Verdict) -> tuple[str, ...]:
    """Up to STACK functions from the guilty one outwards, named as their sources name them; none if none is guilty."""
    if not verdict.guilty:
        return ()  # what is left is machinery that many crashes share
    functions = [names.normalise(frame.function) for frame in verdict.frames if frame.function]
    return tuple(from_guilty(functions, verdict.guilty.function)[:STACK])


def from_guilty(functions: Sequence[str], guilty: str) -> list[str]:
    """A stack from the guilty function outwards, without the machinery that noticed the fault."""
    bare = names.normalise(guilty)
    return list(functions[functions.index(bare) :]) if bare in functions else list(functions)


def _common(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    """The functions that two stacks share from the innermost outwards."""
    shared = []
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        shared.append(mine)
    return tuple(shared)


def load(path: Path, verdict: Verdict | None = None) -> Index:
    """Read an index, or of it only what may be known of a verdict's crash. Raises `KdumpError`."""
    try:
        unpacker = zstandard.ZstdDecompressor(max_window_size=_LIMIT)
        with path.open("rb") as file, unpacker.stream_reader(file) as reader:
            text = reader.read(_LIMIT + 1)
    except (OSError, zstandard.ZstdError) as error:
        raise KdumpError(f"{path}: the index of known faults cannot be read", why=reason(error)[:200]) from None
    content = foreign.load_object(text, path, limit=_LIMIT)
    if content.get("format") != FORMAT or not isinstance(content.get("entries"), list):
        raise FormatError(f"not of the format {FORMAT}", path=path)
    raw = content["entries"]
    if verdict is not None:
        place = stack(verdict)[:1]
        raw = [each for each in raw if not isinstance(each, dict) or _near(each, verdict.signature, *place)]
    return Index([_entry(each, path) for each in raw], str(content.get("made", ""))[:40])


def _near(raw: dict[str, Any], signature: str, function: str = "") -> bool:
    """Whether an entry as it was read may match; one that is not as it should be may, so that its reader says so."""
    frames = raw.get("frames", [])
    good = isinstance(frames, list) and {"id", "title"} <= raw.keys()
    return (
        not good or (bool(frames) and frames[0] == function) or (bool(signature) and raw.get("signature") == signature)
    )


def _entry(raw: Any, path: Path) -> Entry:
    if not isinstance(raw, dict) or not {"id", "title"} <= raw.keys():
        raise FormatError("an entry has no id and title", path=path)
    foreign.check(raw, _ENTRY, path)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in _FIELDS}
    return Entry(**values)


def save(path: Path, entries: Iterable[Entry], made: str) -> int:
    """Write an index; the number of its entries."""
    listed = [{name: value for name, value in asdict(entry).items() if value} for entry in entries]
    text = json.dumps({"format": FORMAT, "made": made, "entries": listed}, separators=(",", ":")).encode()
    replace_file(path, zstandard.ZstdCompressor(level=19).compress(text), mode=0o644)
    return len(listed)


def find_index(path: Path | None = None) -> Path | None:
    """The index to use: the one that was named, else the first of PLACES that exists."""
    return path or next((place for place in PLACES if place.is_file()), None)


def of_text(index: Index, text: str) -> list[Match]:
    """Known faults that match the crash in a kernel log."""
    verdict = crash_in(text)
    return index.of(verdict) if verdict else []


def crash_in(text: str) -> Verdict | None:
    """The verdict on the crash that any text quotes; None if it quotes none."""
    from kdump.report.context import Context
    from kdump.report.logtext import from_text
    from kdump.report.verdict import judge

    if not _QUOTES_A_CRASH.search(text):
        return None
    verdict = judge(Context(None, from_text(text)))
    return None if verdict.kind == "none" else verdict
