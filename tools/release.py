"""Cuts a release: `python tools/release.py VERSION` (`make release VERSION=0.2.0`).

The tree must be clean, and the change log must have something under "Unreleased". The version is set, the change log
is dated, and the packages are made; then both files are committed, and the commit is tagged. Publishing what is in
dist/ is left to a person.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INIT = Path("src/kdump/__init__.py")
LOG = Path("CHANGELOG.md")
_UNRELEASED = "## [Unreleased]\n"
_VERSION = r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){2}"  # as Semantic Versioning has it


def run(*command: str) -> str:
    """Output of a command; one that fails ends the release."""
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        sys.exit(f"release: {' '.join(command)}: exit status {result.returncode}")
    return result.stdout


def with_version(text: str, version: str) -> str:
    """`__init__.py` with that version. ValueError if it is not a later one than is there."""
    found = re.search(r'^__version__ = "(.*)"$', text, re.M)
    if not found:
        raise ValueError(f"{INIT} has no __version__")
    if not re.fullmatch(_VERSION, version):
        raise ValueError(f"{version!r} is not MAJOR.MINOR.PATCH")
    if tuple(map(int, version.split("."))) <= tuple(map(int, found[1].split("."))):
        raise ValueError(f"{version} is not later than {found[1]}")
    return text.replace(found[0], f'__version__ = "{version}"')


def dated(log: str, version: str, day: str) -> str:
    """The change log with a heading for the version above what was unreleased. ValueError if nothing was."""
    before, heading, rest = log.partition(_UNRELEASED)
    if not heading:
        raise ValueError(f"{LOG} has no {_UNRELEASED.strip()!r}")
    if not re.search(r"^- ", re.split(r"^## \[", rest, maxsplit=1, flags=re.M)[0], re.M):
        raise ValueError(f"{LOG} has nothing under {_UNRELEASED.strip()!r}")
    return f"{before}{heading}\n## [{version}] - {day}\n{rest}"


def main() -> int:
    """Cut the release; returns the exit status."""
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("release: which version? make release VERSION=MAJOR.MINOR.PATCH")
    version = sys.argv[1]
    if run("git", "status", "--porcelain"):
        sys.exit("release: there are changes that are not committed; commit or stash them")
    if run("git", "tag", "--list", f"v{version}"):
        sys.exit(f"release: the tag v{version} exists")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        init = with_version((ROOT / INIT).read_text(encoding="utf-8"), version)
        log = dated((ROOT / LOG).read_text(encoding="utf-8"), version, today)
    except ValueError as error:
        sys.exit(f"release: {error}")
    (ROOT / INIT).write_text(init, encoding="utf-8")
    (ROOT / LOG).write_text(log, encoding="utf-8")
    try:
        run(sys.executable, "tools/dist.py")
        made = sorted(path.name for path in (ROOT / "dist").iterdir() if version in path.name)
        if not made:
            sys.exit(f"release: nothing in dist/ says {version}")
        run("git", "commit", "-qm", f"kdump {version}", "--", str(INIT), str(LOG))
    except BaseException:
        run("git", "checkout", "HEAD", "--", str(INIT), str(LOG))
        raise
    run("git", "tag", "-a", f"v{version}", "-m", f"kdump {version}")
    print(f"kdump {version} is committed and tagged; in dist/: {', '.join(made)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
