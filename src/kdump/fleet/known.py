"""What is known upstream: crashes that kernel CVE records, fixes and syzbot name, with the versions that fix them.

The index is one JSON file packed with zstd, made by `kdump fleet known --build` from a checkout of the kernel's CVE
records (git.kernel.org, security/vulns) and from files of others; see docs/fleet.md for its form. An entry matches a
group by signature, or by what crashed and where (the kind and the innermost functions). Neither is proof: the page says
"likely", and shows what matched.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import zstandard

from kdump.errors import FormatError, KdumpError
from kdump.fleet import evidence
from kdump.fleet.database import Row, Session
from kdump.fleet.versions import version

FORMAT: Final = "kdump-known/1"
_LIMIT = 256 << 20
_SHARED = 3  # innermost functions in common that make a match without the signature


@dataclass(frozen=True)
class Entry:
    """One fault that is known: `fixed` are versions, the first of each branch; `frames` innermost first."""

    id: str
    title: str
    kind: str = ""
    signature: str = ""
    frames: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    link: str = ""


@dataclass(frozen=True)
class Match:
    """An entry that may be a group's fault, and what they have in common."""

    entry: Entry
    by: str  # "signature" or "stack"
    shared: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For the table `groups`."""
        return {"by": self.by, "shared": self.shared, **asdict(self.entry)}


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
        """What may be the same fault, the best first."""
        found = [Match(entry, "signature", entry.frames) for entry in self._signatures.get(signature, ())]
        seen = {match.entry.id for match in found}
        for entry in self._functions.get(frames[0], ()) if frames else ():
            shared = _common(entry.frames, frames)
            enough = len(shared) >= min(_SHARED, len(entry.frames), len(frames)) and len(shared) >= 2
            if entry.id not in seen and entry.kind == kind and enough:
                found.append(Match(entry, "stack", shared))
                seen.add(entry.id)
        return sorted(found, key=lambda match: (match.by != "signature", -len(match.shared), match.entry.id))


def _common(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    """The functions that two stacks share from the innermost outwards."""
    shared = []
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        shared.append(mine)
    return tuple(shared)


def load(path: Path) -> Index:
    """Read an index. Raises `KdumpError`."""
    try:
        raw = json.loads(evidence.unzstd(path.read_bytes(), _LIMIT))
        if raw["format"] != FORMAT:
            raise FormatError(f"not of the format {FORMAT}", path=path)
        entries = [_entry(each) for each in raw["entries"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KdumpError(f"{path}: the index of known faults cannot be read", why=str(error)[:200]) from None
    return Index(entries, str(raw.get("made", "")))


def _entry(raw: dict[str, Any]) -> Entry:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return Entry(**values)


def save(path: Path, entries: Iterable[Entry], made: str) -> int:
    """Write an index; the number of its entries."""
    listed = [{name: value for name, value in asdict(entry).items() if value} for entry in entries]
    text = json.dumps({"format": FORMAT, "made": made, "entries": listed}, separators=(",", ":")).encode()
    part = path.with_name(path.name + ".incomplete")
    part.write_bytes(zstandard.ZstdCompressor(level=19).compress(text))
    part.rename(path)
    return len(listed)


def of_text(index: Index, text: str) -> list[Match]:
    """What is known of the crash that a kernel log tells of."""
    facts = _fault(text)
    return index.find(facts[1], facts[0], facts[2]) if facts else []


def mark(session: Session, index: Index, groups: Iterable[Row]) -> None:
    """Write what is known into groups."""
    for group in groups:
        stack = evidence.from_guilty(group["frames"].split("\n"), group["guilty"]) if group["frames"] else []
        found = index.find(group["origin"], group["kind"], stack)
        text = json.dumps([match.to_dict() for match in found[:3]]) if found else ""
        if text != group["known"]:
            session.execute("UPDATE groups SET known = ? WHERE id = ?", text, group["id"])


def entries_of_records(checkout: Path) -> Iterator[Entry]:
    """Entries out of the kernel's CVE records: `cve/published/YEAR/CVE-….json` with the crash texts they quote.

    Records are in the form of CVE JSON 5: containers.cna has title, descriptions, affected (versions, programFiles).
    """
    for path in sorted(checkout.glob("cve/published/*/CVE-*.json")):
        try:
            record = json.loads(path.read_text("utf-8"))
            found = record["containers"]["cna"]
            identifier = str(record["cveMetadata"].get("cveID") or record["cveMetadata"]["cveId"])
            text = "\n".join(str(each["value"]) for each in found["descriptions"] if each.get("lang", "en")[:2] == "en")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError("not a CVE record", path=path, why=str(error)) from None
        facts = _fault(text)
        if facts is None:
            continue
        kind, signature, frames = facts
        yield Entry(
            id=identifier,
            title=evidence.clean(str(found.get("title", "")), 200),
            kind=kind,
            signature=signature,
            frames=frames,
            fixed=_fixed(found),
            files=tuple(
                dict.fromkeys(name for each in found.get("affected", ()) for name in each.get("programFiles", ()))
            ),
            link=f"https://lore.kernel.org/linux-cve-announce/?q={identifier}",
        )


def entry_of_text(identifier: str, title: str, text: str, fixed: Sequence[str] = (), link: str = "") -> Entry | None:
    """An entry out of any text that quotes a kernel's log: a commit message, a syzbot report."""
    facts = _fault(text)
    if facts is None:
        return None
    kind, signature, frames = facts
    return Entry(identifier, evidence.clean(title, 200), kind, signature, frames, tuple(fixed), (), link)


def _fault(text: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Kind, signature and functions of the crash that a text quotes; None if it quotes none."""
    from kdump.report.context import Context
    from kdump.report.logtext import from_text
    from kdump.report.verdict import judge

    if not re.search(r"Call [Tt]race|RIP:|BUG:|WARNING:|KASAN|Oops|refcount_t|general protection", text):
        return None
    verdict = judge(Context(None, from_text(text)))
    if verdict.kind == "none":
        return None
    functions = [evidence.plain(frame.function) for frame in verdict.frames if frame.function]
    guilty = verdict.guilty.function if verdict.guilty else ""
    return verdict.kind, verdict.signature, tuple(evidence.from_guilty(functions, guilty)[:8])


def _fixed(found: dict[str, Any]) -> tuple[str, ...]:
    """The first fixed version of each branch, in order."""
    versions = set()
    for product in found.get("affected", ()):
        for each in product.get("versions", ()):
            if each.get("status") == "unaffected" and "lessThanOrEqual" in each:
                versions.add(str(each["version"]))
    return tuple(sorted(filter(version, versions), key=lambda text: version(text) or ()))
