"""Debian's archive by apt: as this machine is configured, its stable release and backports, other architectures.

The machine need not know the latter: they are asked through configurations of our own (sources, lists, cache) in
the cache's directory, and nothing of the machine's apt or dpkg changes. Which mirrors and suites, that is what the
machine's own lists say. Source: apt.conf(5), sources.list(5).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdump.errors import KdumpError
from kdump.lab import cache

BACKPORTS, STABLE = "stable-backports", "stable"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_FRESH = 6 * 3600.0  # seconds for which lists of ours are not asked for again
_LABELS = ("Debian", "Debian-Security", "Debian Backports")
_SOURCES = "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n"


@dataclass(frozen=True)
class Apt:
    """apt with these more `options`; `place` is the directory of a configuration of our own."""

    options: tuple[str, ...] = ()
    place: Path | None = None

    def get(self, *words: str, cwd: Path | None = None) -> str:
        """The output of `apt-get`. Raises KdumpError."""
        return run("apt-get", *self.options, *words, cwd=cwd)

    def update(self) -> None:
        """Fetch the lists of packages."""
        with cache.lock("apt"):
            self.get("update")

    def search(self, pattern: str) -> list[str]:
        """Names of packages that match a regular expression."""
        found = run("apt-cache", *self.options, "search", "--names-only", pattern).splitlines()
        return [line.split(" ", 1)[0] for line in found]

    def dependencies(self, package: str) -> list[str] | None:
        """The dependencies of a package; None if it is not known here."""
        try:
            lines = run("apt-cache", *self.options, "depends", package).splitlines()
        except KdumpError:
            return None
        return [line.split(":", 1)[1].strip() for line in lines if "Depends:" in line]

    def download(self, package: str, directory: Path) -> Path:
        """The package's file, in `directory`."""
        self.get("download", package, cwd=directory)
        return next(directory.glob("*.deb"))


HOST = Apt()


def host(debian: str = "") -> Apt:
    """The suites that this machine is configured for; `debian` is another architecture, as dpkg names it."""
    return _own(f"apt-{debian}", _host_sources, debian) if debian else HOST


def updated(debian: str = "") -> Apt:
    """The same, with new lists."""
    apt = host(debian)
    apt.update()
    return apt


def backports(debian: str = "") -> Apt:
    """Debian's stable backports on the mirror that this machine uses, with lists of today. Raises KdumpError."""
    return _suite(BACKPORTS, debian)


def stable(debian: str = "") -> Apt:
    """Debian's stable release on that mirror, which may be newer than this machine, and have more architectures.

    Raises KdumpError.
    """
    return _suite(STABLE, debian)


def _suite(suite: str, debian: str) -> Apt:
    name = f"apt-{suite}" + (f"-{debian}" if debian else "")
    return _own(name, lambda: _source(_mirror(), suite), debian)


def _own(name: str, sources: Callable[[], str], debian: str) -> Apt:
    """A configuration of our own, with lists of today. Raises KdumpError."""
    place = cache.directory() / name
    for directory in ("lists/partial", "archives/partial", "parts"):
        (place / directory).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::Etc::sourcelist": place / "debian.sources",
        "Dir::Etc::sourceparts": place / "parts",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": place / "parts",
        "Dir::State::lists": place / "lists",
        "Dir::Cache": place,
        "Acquire::Languages": "none",
    }
    if debian:
        (place / "status").touch()  # nothing of that architecture is installed
        options |= {"APT::Architecture": debian, "APT::Architectures": debian, "Dir::State::status": place / "status"}
    apt = Apt(tuple(f"-o{option}={value}" for option, value in options.items()), place)
    stamp = place / "updated"
    if not stamp.exists() or time.time() - stamp.stat().st_mtime > _FRESH:
        (place / "debian.sources").write_text(sources())
        apt.update()
        stamp.touch()
    return apt


def _source(mirror: str, suite: str) -> str:
    text = _SOURCES.format(mirror=mirror, suite=suite)
    return text + (f"Signed-By: {_KEYRING}\n" if _KEYRING.exists() else "") + "\n"


def _host_sources() -> str:
    """Debian's suites that this machine knows, as sources of another configuration."""
    _mirror()  # says so if there are none
    return "".join(_source(address, suite) for _, address, suite in _debian())


def _mirror() -> str:
    for label, address, _ in _debian():
        if label == "Debian":
            return address
    raise KdumpError(
        "Debian's archive cannot be queried",
        why="this machine's apt knows no mirror of Debian",
        remedy="run apt-get update, or name a kernel image by its path",
    )


def _debian() -> list[tuple[str, str, str]]:
    """(label, address, suite) of Debian's archives in this machine's lists, each once."""
    listing = HOST.get("indextargets", "--format", "$(REPO_URI) $(RELEASE) $(LABEL)", "Created-By: Packages")
    lines = dict.fromkeys(line for line in listing.splitlines() if line.count(" ") > 1)
    found = (line.split(" ", 2) for line in lines)
    return [(label, address, suite) for address, suite, label in found if label in _LABELS]


def run(*command: str, cwd: Path | None = None) -> str:
    """The output of a command. Raises KdumpError if it does not exist or fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout
    except FileNotFoundError:
        raise KdumpError(
            f"{command[0]} is not installed",
            why="kernels are fetched as Debian packages",
            remedy="name a kernel image by its path instead",
        ) from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        words = [word for word in command if not word.startswith("-o")]
        raise KdumpError(f"{' '.join(words[:2])} failed", why="; ".join(lines[-3:])) from error


def extract(package: Path, directory: Path, *members: str) -> None:
    """Unpack a .deb (or only `members` of it) below `directory`, and remove it."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as source:
        command = ["tar", "-x", "-C", str(directory), *members]
        unpack = subprocess.run(command, stdin=source.stdout, capture_output=True, check=False)
    if unpack.returncode or source.returncode:
        why = unpack.stderr.decode(errors="replace").strip().splitlines()[-1:]
        full = shutil.disk_usage(directory).free < 1 << 20
        if full:
            raise OSError(28, "no space left on device", str(directory))
        raise KdumpError(f"{package.name} cannot be unpacked", why="".join(why))
    package.unlink()
