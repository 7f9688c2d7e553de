"""Sources of the index of known faults: the kernel's CVE records, commit messages of a git tree, and syzbot's mails.

Each quotes crashes as a kernel prints them; `kdump.report` reads these as it reads any log. What several sources say of
one fault is put together: a commit that a CVE record names is not listed again, and a syzbot report is fixed where a
commit thanks that report.
"""

from __future__ import annotations

import email
import email.policy
import json
import mailbox
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

from kdump.errors import FormatError, KdumpError, reason
from kdump.fleet import evidence
from kdump.report.known import Entry, crash_in, stack
from kdump.report.versions import version

_TITLE = 200  # characters
_TEXT = 256 << 10  # characters of a message that are read
_SHA = re.compile(r"\b[0-9a-f]{40}\b")
_UPSTREAM = re.compile(r"^\s*(?:\[ *)?(?:commit ([0-9a-f]{40}) upstream|upstream commit ([0-9a-f]{40}))", re.M | re.I)
_SYZBOT = re.compile(r"syzbot\+([0-9a-f]{8,40})@")
_SUBJECT = re.compile(r"^(?:Re:\s*)?(?:\[[^\]]*\]\s*)*")
_GREP: Final = ("Call [Tt]race:", "RIP: 0010:", "BUG: KASAN", "syzbot\\+[0-9a-f]")  # commits that may say something
_VERSION_TAG = re.compile(r"v(\d+\.\d+(?:\.\d+)?(?:-rc\d+)?)(?:[~^].*)?")
_GIT: Final = 3600.0  # seconds that git may take over a whole history


@dataclass
class Fix:
    """One fix, whatever number of branches have it: `fixed` versions, `reports` syzbot's numbers."""

    commit: str
    title: str
    text: str
    fixed: set[str] = field(default_factory=set)
    reports: set[str] = field(default_factory=set)


def build(records: Path | None, history: Path | None, mails: Sequence[Path]) -> list[Entry]:
    """All entries of the sources that are given, CVE records first."""
    found: list[Entry] = []
    named: set[str] = set()
    if records:
        found += entries_of_records(records, named)
        if not found:
            raise KdumpError(
                f"{records}: no CVE record that quotes a crash", remedy="name a checkout of the kernel's vulns.git"
            )
    fixes = fixes_of(history) if history else {}
    found += entries_of_fixes(fixes.values(), named)
    found += entries_of_mails(mails, fixes.values())
    if not found:
        raise KdumpError("nothing in these sources quotes a crash; the index is as it was")
    return found


def entries_of_records(checkout: Path, named: set[str] | None = None) -> Iterator[Entry]:
    """Entries out of the kernel's CVE records: `cve/published/YEAR/CVE-….json` with the crash texts they quote.

    Records are in the form of CVE JSON 5: containers.cna has title, descriptions, affected (versions, programFiles) and
    references. The commits that they name go into `named`.
    """
    for path in sorted(checkout.glob("cve/published/*/CVE-*.json")):
        try:
            record = json.loads(path.read_text("utf-8"))
            found = record["containers"]["cna"]
            identifier = str(record["cveMetadata"].get("cveID") or record["cveMetadata"]["cveId"])
            text = "\n".join(str(each["value"]) for each in found["descriptions"] if each.get("lang", "en")[:2] == "en")
            if named is not None:
                named.update(_SHA.findall(json.dumps(found.get("references", []))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError("not a CVE record", path=path, why=reason(error)) from None
        files = dict.fromkeys(str(name) for each in found.get("affected", ()) for name in each.get("programFiles", ()))
        link = f"https://lore.kernel.org/linux-cve-announce/?q={identifier}"
        entry = entry_of_text(identifier, str(found.get("title", "")), text, _fixed(found), link, tuple(files))
        if entry:
            yield entry


def fixes_of(history: Path) -> dict[str, Fix]:
    """Fixes in a git tree (all branches and tags) whose messages quote a crash or thank syzbot, by upstream commit."""
    patterns = [word for pattern in _GREP for word in ("--grep", pattern)]
    log = _git(history, "log", "--all", "-E", *patterns, "--format=%H%x1f%s%x1f%b%x1e")
    commits: dict[str, str] = {}
    fixes: dict[str, Fix] = {}
    for record in log.split("\x1e"):
        own, _, rest = record.strip("\n").partition("\x1f")
        title, _, text = rest.partition("\x1f")
        if not _SHA.fullmatch(own):
            continue
        said = _UPSTREAM.search(text)
        commit = (said[1] or said[2]).lower() if said else own
        commits[own] = commit
        fix = fixes.setdefault(commit, Fix(commit, title, text[:_TEXT]))
        fix.reports.update(_SYZBOT.findall(text))
    if commits:
        tags = ("name-rev", "--tags", "--refs=v[0-9]*", "--name-only", "--annotate-stdin")
        named = _git(history, *tags, said="\n".join(commits) + "\n").splitlines()
        for own, name in zip(commits, named, strict=True):
            if found := _VERSION_TAG.fullmatch(name.removeprefix("tags/")):
                fixes[commits[own]].fixed.add(found[1])
    return fixes


def entries_of_fixes(fixes: Iterable[Fix], named: set[str] | frozenset[str] = frozenset()) -> Iterator[Entry]:
    """Entries of the fixes that quote a crash and that no CVE record names."""
    for fix in fixes:
        if fix.commit in named:
            continue
        link = f"https://git.kernel.org/linus/{fix.commit}"
        entry = entry_of_text(f"commit {fix.commit[:12]}", fix.title, fix.text, _first(fix.fixed), link)
        if entry:
            yield entry


def entries_of_mails(paths: Sequence[Path], fixes: Iterable[Fix] = ()) -> Iterator[Entry]:
    """Entries of syzbot's reports: mailboxes (mbox), or one mail in each file. Directories are read one level deep."""
    fixed: dict[str, set[str]] = {}
    for fix in fixes:
        for number in fix.reports:
            fixed.setdefault(number, set()).update(fix.fixed)
    seen = set()
    for mail in _mails(paths):
        body = mail.get_body(("plain",))
        try:
            text = str(body.get_content())[:_TEXT] if body else ""
        except (LookupError, ValueError):  # a character set that does not exist
            continue
        sender = _SYZBOT.search(f"{mail.get('From', '')}\n{text}")
        if not sender or sender[1] in seen:
            continue
        title = _SUBJECT.sub("", str(mail.get("Subject", "")))
        link = f"https://syzkaller.appspot.com/bug?extid={sender[1]}"
        versions = _first(fixed.get(sender[1], ()))
        entry = entry_of_text(f"syzbot {sender[1]}", title, text, versions, link)
        if entry:
            seen.add(sender[1])
            yield entry


def _mails(paths: Sequence[Path]) -> Iterator[EmailMessage]:
    for path in paths:
        files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                with file.open("rb") as opened:
                    is_box = opened.read(5) == b"From "
                if not is_box:
                    parsed = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
                    yield parsed
                    continue
            except OSError as error:
                raise KdumpError(f"{file} cannot be read", why=error.strerror or str(error)) from None
            for each in mailbox.mbox(file, create=False):
                yield email.message_from_bytes(each.as_bytes(), policy=email.policy.default)


def entry_of_text(
    identifier: str, title: str, text: str, fixed: Sequence[str] = (), link: str = "", files: tuple[str, ...] = ()
) -> Entry | None:
    """An entry out of any text that quotes a kernel's log; None if nothing in it tells the crash from others."""
    verdict = crash_in(text)
    if verdict is None:
        return None
    functions = stack(verdict)
    if not verdict.signature and not functions:
        return None
    title = evidence.clean(title, _TITLE)
    return Entry(identifier, title, verdict.kind, verdict.signature, functions, tuple(fixed), files, link)


def _fixed(found: dict[str, Any]) -> tuple[str, ...]:
    """The first fixed version of each branch, in order."""
    versions = set()
    for product in found.get("affected", ()):
        for each in product.get("versions", ()):
            if each.get("status") == "unaffected" and ("lessThanOrEqual" in each):
                versions.add(str(each["version"]))
    return _first(versions)


def _first(versions: Iterable[str]) -> tuple[str, ...]:
    """The lowest version of each branch, in order."""
    lowest: dict[tuple[int, int], str] = {}
    for text in sorted(filter(version, versions), key=lambda each: version(each) or ()):
        major, minor, *_ = version(text) or (0, 0)
        lowest.setdefault((major, minor), text)
    return tuple(lowest.values())


def _git(directory: Path, *arguments: str, said: str | None = None) -> str:
    command = ["git", "-c", "core.quotepath=off", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(
            command, input=said, capture_output=True, text=True, errors="replace", timeout=_GIT, check=False
        )
    except FileNotFoundError:
        raise KdumpError("git is missing", remedy="apt install git") from None
    except subprocess.TimeoutExpired:
        raise KdumpError(f"{directory}: git took longer than {_GIT:g} s") from None
    if done.returncode:
        raise KdumpError(f"{directory}: git cannot read its history", why=done.stderr.strip()[-300:])
    return done.stdout
