"""Reads what another kdump was configured with, as data: nothing in a foreign file is ever run or expanded.

Each reader fills a `Draft`: our configuration, what was carried over, and what has no equivalent and why.
"""

from __future__ import annotations

import getopt
import ipaddress
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kdump.host import config
from kdump.host.config import Config
from kdump.host.config.tables import ConfigError
from kdump.kexec.cmdline import general, option_name, split, unwanted
from kdump.units import integer

OPEN: Final = "a quotation mark is not closed"
_VARIABLE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
# A command of several lines, by the words that a line begins with: what is set in there depends on its running.
_BEGINS: Final = re.compile(
    r"(?:^|;|&&|\|\||\b(?:then|do|else)\b)\s*(?:if|case|for|while|until|select|[\w-]+\s*\(\s*\)|\{)(?=\s|$)"
)
_ENDS: Final = re.compile(r"(?:^|;)\s*(?:fi|esac|done|\})(?=\s|;|$)")
_BARE = re.compile(r"(?:export\s+)?[A-Za-z_]\w*=", re.ASCII)  # as an assignment begins, quotes and all
# makedumpfile(8): compression options.
_CODECS: Final = {"-c": "zlib", "-l": "lzo", "-p": "snappy", "-z": "zstd"}
_SHELL: Final = ("|", ";", "&&", "||", ">", ">>")
_SHORT: Final = "bcd:efghi:lpsvx:zDEFMRVWX"
_LONG: Final = (
    "split", "reassemble", "xen-syms=", "xen-vmcoreinfo=", "xen_phys_start=", "message-level=", "vtop=", "dump-dmesg",
    "config=", "help", "diskset=", "cyclic-buffer=", "eppic=", "non-cyclic", "non-mmap", "mem-usage",
    "splitblock-size=", "work-dir=", "num-threads=", "check-params", "dry-run", "partial-dmesg", "show-stats",
    "exclude-unused-vm",
)  # fmt: skip
# What needs no equivalent: the flattened format is for their pipes, the others are about memory, speed and messages.
_IMPLIED: Final = (
    "-F", "-D", "-f", "-x", "-i", "--message-level", "--num-threads", "--vtop", "--splitblock-size", "--work-dir",
    "--cyclic-buffer", "--non-cyclic", "--non-mmap", "--show-stats",
)  # fmt: skip


@dataclass
class Draft:
    """A configuration in the making: `values` as kdump.toml would have them, what was `carried` and what was `lost`."""

    values: dict[str, Any] = field(default_factory=dict)
    carried: list[tuple[str, str]] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)

    def set(self, key: str, value: Any, origin: str) -> None:
        """Set the dotted key; lists grow, other values are replaced. A value that kdump rejects is lost."""
        *tables, name = key.split(".")
        alone: Any = value
        for part in (name, *reversed(tables)):
            alone = {part: alone}
        try:
            config.from_dict(alone)
        except ConfigError as error:
            self.lose(origin, error.problems[0])
            return
        place = self.values
        for table in tables:
            place = place.setdefault(table, {})
        if isinstance(value, list) and isinstance(place.get(name), list):
            value = [*place[name], *(entry for entry in value if entry not in place[name])]
        place[name] = value
        self.carried.append((_masked(origin), f"{key} = {value!r}"))

    def variables(self, text: str, source: str) -> dict[str, str]:
        """The variables that a shell-like file sets, each with its last value. Lines that cannot be read are lost."""
        found: dict[str, str] = {}
        for name, value, lost in assignments(text):
            if lost:
                self.lose(f"{source}: {value}", lost)
            else:
                found[name] = value
        return found

    def lose(self, origin: str, why: str) -> None:
        """Note what has no equivalent."""
        self.lost.append((_masked(origin), why))

    def config(self) -> Config:
        """The configuration. Raises ConfigError if values that are good alone do not go together."""
        return config.from_dict(self.values)

    def makedumpfile(self, arguments: str, origin: str) -> None:
        """Level and codec out of makedumpfile's options."""
        try:
            words = shlex.split(arguments)
            end = next((at for at, word in enumerate(words) if word in _SHELL), len(words))
            options, rest = getopt.gnu_getopt(words[:end], _SHORT, _LONG)
        except (ValueError, getopt.GetoptError) as error:
            self.lose(origin, f"not a command line of makedumpfile's: {error}")
            return
        for name, value in options:
            if name == "-d":
                first, *more = value.split(",")
                self.set("dump.level", number(first), origin)
                if more:
                    self.lose(origin, "only one dump level: a dump that does not fit is kept as far as it got")
            elif name in _CODECS:
                self.set("dump.codec", _CODECS[name], origin)
            elif name == "-E":
                self.lose(origin, "dumps are written in the kdump-compressed format, not ELF")
            elif name not in _IMPLIED:
                self.lose(origin, f"makedumpfile's {name}")
        for word in rest:
            self.lose(origin, f"{word!r} is no option of makedumpfile's")
        if end < len(words):
            self.lose(origin, f"dumps go through no other program: {shlex.join(words[end:])}")

    def cmdline(self, options: str, origin: str, key: str = "capture.cmdline_add") -> None:
        """Options for the capture kernel that are not ours anyway; those of a whole system in it mean nothing here."""
        wanted: list[str] = []
        ours = {addition.option for addition in general()} | {"nr_cpus=1"}
        replaced = {option_name(option) for option in ours}
        for option in split(options):
            name = option_name(option)
            if name in ("nr_cpus", "maxcpus") and (cpus := integer(option.partition("=")[2])) is not None:
                if option != "nr_cpus=1":
                    self.set("capture.cpus", cpus, origin)
            elif option in ours or name.startswith(("systemd.", "rd.", "udev.", "ignition.")):
                continue
            elif name not in replaced and (reason := unwanted(option)):
                self.lose(f"{origin} ({option})", reason)
            else:
                wanted.append(option)
        if wanted:
            self.set(key, wanted, origin)

    def ssh(self, user_host: str, path: str, origin: str) -> None:
        """An SSH target; an IPv6 address may stand without brackets."""
        user, at, host = user_host.rpartition("@")
        self.set("targets", [f"ssh://{user}{at}{_bracketed(host)}/{path.lstrip('/')}"], origin)

    def hook(self, keys: Iterable[str], command: str, origin: str) -> None:
        """A program that runs before or after the dump. Ours get no arguments, so one with arguments is lost."""
        try:
            words = " ".join(shlex.split(command)).split()
        except ValueError as error:
            self.lose(origin, f"not words as a shell reads them: {error}")
            return
        if len(words) != 1:
            self.lose(origin, "hooks take no arguments: write a script that runs it with them, and name that")
            return
        for key in keys:
            self.set(key, words, origin)

    def fence(self, arguments: Iterable[str], origin: str) -> None:
        """The arguments of fence_kdump_send(8): options for the port and the interval, and nodes."""
        keys = {"-p": "port", "--ipport": "port", "-i": "interval", "--interval": "interval"}
        words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
        queue = iter(words)
        for word in queue:
            if word in keys:
                value = next(queue, "")
                self.set(f"fence.{keys[word]}", number(value), origin)
            elif word in ("-f", "--family", "-c", "--count"):
                next(queue, None)  # every address of a node is told, until the end
            elif word.startswith("-"):
                if word not in ("-v", "--verbose"):
                    self.lose(origin, f"fence_kdump_send's {word}")
            else:
                self.set("fence.nodes", [word], origin)

    def nfs(self, export: str, path: str, origin: str) -> None:
        """An NFS target, from "server:/export" and a path below it."""
        server, colon, directory = export.rpartition(":/")
        if not colon:
            self.lose(origin, "not SERVER:/EXPORT")
            return
        self.set(
            "targets", [f"nfs://{_bracketed(server)}/{directory.strip('/')}/{path.strip('/')}".rstrip("/")], origin
        )


def _bracketed(host: str) -> str:
    """An IPv6 address in the brackets that a URL wants; anything else as it is."""
    try:
        return f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        return host


def _masked(origin: str) -> str:
    """Foreign text as it may be shown: passwords, in URLs and in variables that are named so, are left out."""
    origin = re.sub(r"(PASSWORD\w*=).+", r"\1…", origin, flags=re.DOTALL)
    return re.sub(r"(://[^/\s:@]*:)[^/\s@]+@", r"\1…@", origin)


def number(value: str) -> int | str:
    """A setting as a whole number; other text as it is, for the error that names it."""
    found = integer(value)
    return value if found is None else found


class Assignment(NamedTuple):
    """A variable and its value; or, if `lost` says why, a line that cannot be read as one without running it."""

    name: str
    value: str
    lost: str = ""


def assignments(text: str) -> Iterator[Assignment]:
    """Each assignment of a shell-like file: quotes removed, variables that the file set before put in, nothing run.

    A value that a shell would have to compute, a line that is not an assignment, and one whose quotation mark is never
    closed are yielded as lost, under the name "" and with the line as value.
    """
    known: dict[str, str] = {}
    lines = text.splitlines()
    index = depth = 0
    while index < len(lines):
        taken = 1
        if depth or _BEGINS.match(lines[index]):
            depth += len(_BEGINS.findall(lines[index])) - len(_ENDS.findall(lines[index]))
            yield Assignment("", lines[index].strip(), "it stands in a command, which is never run")
            index += 1
            continue
        words, why = _shell_words(lines[index], known)
        while why == OPEN and index + taken < len(lines):
            taken += 1
            words, why = _shell_words("\n".join(lines[index : index + taken]), known)
        if why == OPEN:  # the lines after it may still be valid
            taken = 1
        whole = "\n".join(lines[index : index + taken]).strip()
        index += taken
        if words[:1] == ["export"]:
            words = words[1:]
        found = _ASSIGNMENT.fullmatch(words[0]) if len(words) == 1 else None
        if found and not _BARE.match(whole):  # its name is quoted in part: to a shell that is a command
            found = None
        if why or (words and not found):
            yield Assignment("", whole, why or "not an assignment, and never run")
        elif found:
            known[found[1]] = found[2]
            yield Assignment(found[1], found[2])


def _shell_words(text: str, known: Mapping[str, str]) -> tuple[list[str], str]:
    """The words of a line as a shell splits them, and why it cannot be read (empty: it can)."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\\" and quote != "'":
            if position == len(text):
                return [], OPEN
            following = text[position]
            position += 1
            if following != "\n":
                special = not quote or following in '"\\$`'
                word = (word or "") + (following if special else character + following)
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote, word = character, word or ""
        elif quote != "'" and character in "$`":
            found = _VARIABLE.match(text, position) if character == "$" else None
            name = (found[1] or found[2]) if found else ""
            if not found or name not in known:
                return [], f"${name} is not set in this file" if found else "a shell would have to run it"
            word = (word or "") + known[name]
            position = found.end()
        elif not quote and character.isspace():
            if word is not None:
                words.append(word)
            word = None
        elif not quote and character == "#" and word is None:
            position = text.find("\n", position) if "\n" in text[position:] else len(text)
        elif not quote and (character in ";&|<>()" or (character == "~" and (word or "=")[-1] in "=:")):
            return [], "a shell would have to run it"
        else:
            word = (word or "") + character
    if quote:
        return [], OPEN
    return ([*words, word] if word is not None else words), ""
