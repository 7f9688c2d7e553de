"""Reads what another kdump was configured with, as data: nothing in a foreign file is ever run or expanded.

Each reader fills a `Draft`: our configuration, what was carried over, and what has no equivalent and why.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kdump.errors import FormatError, KdumpError
from kdump.host import config
from kdump.host.config import Config
from kdump.kexec.cmdline import ADD, option_name, split

# Where each of them keeps its configuration; Fedora's and RHEL's sysconfig goes with kdump.conf.
FEDORA: Final = "/etc/kdump.conf"
SYSCONFIG: Final = "/etc/sysconfig/kdump"
DEBIAN: Final = "/etc/default/kdump-tools"

_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
# makedumpfile(8): compression options.
_CODECS: Final = {"-c": "zlib", "-l": "lzo", "-p": "snappy", "-z": "zstd"}
_WITH_VALUE: Final = ("--message-level", "--num-threads", "--vtop", "-x", "-i", "--splitblock-size", "--work-dir")


@dataclass
class Draft:
    """A configuration in the making: `values` as kdump.toml would have them, what was `carried` and what was `lost`."""

    values: dict[str, Any] = field(default_factory=dict)
    carried: list[tuple[str, str]] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)

    def set(self, key: str, value: Any, origin: str) -> None:
        """Set the dotted key; lists grow, other values are replaced."""
        *tables, name = key.split(".")
        place = self.values
        for table in tables:
            place = place.setdefault(table, {})
        if isinstance(value, list) and isinstance(place.get(name), list):
            value = [*place[name], *(entry for entry in value if entry not in place[name])]
        place[name] = value
        self.carried.append((origin, f"{key} = {value!r}"))

    def lose(self, origin: str, why: str) -> None:
        """Note what has no equivalent."""
        self.lost.append((origin, why))

    def config(self) -> Config:
        """The configuration. Raises ConfigError if a foreign value makes no sense here either."""
        return config.from_dict(self.values)

    def makedumpfile(self, arguments: str, origin: str) -> None:
        """Level and codec out of makedumpfile's options."""
        words = iter(shlex.split(arguments))
        for word in words:
            if word == "-d" or re.fullmatch(r"-d\d+", word):
                levels = (next(words, "") if word == "-d" else word[2:]).split(",")
                if levels[0].isdigit():
                    self.set("dump.level", int(levels[0]), origin)
                if len(levels) > 1:
                    self.lose(origin, "only one dump level: a dump that does not fit is kept as far as it got")
            elif word in _CODECS:
                self.set("dump.codec", _CODECS[word], origin)
            elif word == "-E":
                self.lose(origin, "dumps are written in the kdump-compressed format, not ELF")
            elif word == "-F":
                pass  # flattened: needed by them for pipes, not by us
            elif word in _WITH_VALUE:
                next(words, None)
            elif word.startswith("-") and word not in ("-D", "-f"):
                self.lose(origin, f"makedumpfile's {word}")

    def cmdline(self, options: str, origin: str, key: str = "capture.cmdline_add") -> None:
        """Options for the capture kernel that are not ours anyway; those of a whole system in it mean nothing here."""
        ours = {addition.option for addition in ADD} | {"nr_cpus=1"}
        for option in split(options):
            name = option_name(option)
            if name in ("nr_cpus", "maxcpus") and option.partition("=")[2].isdigit():
                if option != "nr_cpus=1":
                    self.set("capture.cpus", int(option.partition("=")[2]), origin)
            elif option in ours or name.startswith(("systemd.", "rd.", "udev.", "ignition.")):
                continue
            else:
                self.set(key, [option], origin)

    def ssh(self, user_host: str, path: str, origin: str) -> None:
        """An SSH target."""
        self.set("targets", [f"ssh://{user_host}/{path.lstrip('/')}"], origin)

    def nfs(self, export: str, path: str, origin: str) -> None:
        """An NFS target, from "server:/export" and a path below it."""
        server, colon, directory = export.rpartition(":/")
        if not colon:
            self.lose(origin, "not SERVER:/EXPORT")
            return
        self.set("targets", [f"nfs://{server}/{directory.strip('/')}/{path.strip('/')}".rstrip("/")], origin)


def assignments(text: str, source: str) -> Iterator[tuple[str, str]]:
    """NAME, value of each assignment of a shell-like file, quotes removed, nothing expanded.

    Raises FormatError for unbalanced quotes. Lines that are no assignments are yielded as ("", line).
    """
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        whole = line
        while True:
            try:
                words = shlex.split(whole, comments=True)
                break
            except ValueError:
                following = next(lines, None)
                if following is None:
                    raise FormatError("a quotation mark is not closed", path=source, field=f"line {number}") from None
                whole += "\n" + following[1]
        if words[:1] == ["export"]:
            words = words[1:]
        if not words:
            continue
        found = _ASSIGNMENT.fullmatch(words[0])
        if found and len(words) == 1:
            yield found[1], found[2]
        else:
            yield "", whole.strip()


def detect(root: Path = Path("/")) -> list[Path]:
    """The foreign configurations that this machine has."""
    return [path for path in (root / each.lstrip("/") for each in (FEDORA, DEBIAN, SYSCONFIG)) if path.exists()]


def read(paths: list[Path]) -> Draft:
    """One draft from foreign files, each read as what its name and contents say it is. Raises KdumpError."""
    from kdump.host.importers import debian, fedora, suse

    if not paths:
        raise KdumpError("no configuration of another kdump is here", remedy=f"name one, such as {FEDORA}")
    draft = Draft()
    for path in paths:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise KdumpError(f"{path} cannot be read", why=str(error)) from None
        reader: Callable[[str, str, Draft], None]
        if re.search(r"^\s*(KDUMP_SAVEDIR|KDUMP_DUMPLEVEL|KDUMP_KEEP_OLD_DUMPS)=", text, re.MULTILINE):
            reader = suse.read
        elif re.search(r"^\s*(USE_KDUMP|KDUMP_COREDIR|MAKEDUMP_ARGS|KDUMP_KEXEC_ARGS)=", text, re.MULTILINE):
            reader = debian.read
        elif re.search(r"^\s*#?\s*KDUMP_\w+=", text, re.MULTILINE):
            reader = fedora.read_sysconfig
        else:
            reader = fedora.read
        reader(text, str(path), draft)
    return draft
