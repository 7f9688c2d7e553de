"""The administrator's settings of modules: modprobe.d(5) and `module.parameter=` on the kernel's command line.

Directories and their order, directives and quoting as in kmod (libkmod/libkmod-config.c). A line that cannot be
understood is passed over, as modprobe does, and remembered in `problems`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

DIRECTORIES: Final = ("etc", "run", "usr/local/lib", "usr/lib", "lib")  # of two files with one name, the first counts
_FILE_LIMIT = 1 << 20  # bytes of one file
_QUOTED = re.compile(r'(?:[^\s"]|"[^"]*")+')
_PARAMETER = re.compile(r"([A-Za-z0-9_-]+)\.([^=]+(?:=.*)?)", re.DOTALL)
NEVER: Final = frozenset({"/bin/true", "/bin/false", "/usr/bin/true", "/usr/bin/false", "true", "false", ":"})


@dataclass(frozen=True)
class SoftDependencies:
    """Names or aliases: `before` and `after` are loaded with a module, `weak` only when the kernel asks for them."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModprobeConf:
    """`options` and `install` commands by module name; `aliases` are (pattern, module) pairs; `soft` by pattern.

    `problems` are sentences about lines that were passed over.
    """

    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()
    soft: tuple[tuple[str, SoftDependencies], ...] = ()
    blacklist: frozenset[str] = frozenset()
    install: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def parameters(self, name: str) -> str:
        """The parameters of a module; later options win, and the command line's come last."""
        return " ".join(self.options.get(name, ()))


def read(root: Path = Path("/")) -> ModprobeConf:
    """The configuration of the machine whose files are below `root`."""
    files: dict[str, Path] = {}
    for directory in DIRECTORIES:
        for path in (root / directory / "modprobe.d").glob("*.conf"):
            files.setdefault(path.name, path)
    draft = _Draft()
    for _, path in sorted(files.items()):
        try:
            with path.open("rb") as file:
                text = file.read(_FILE_LIMIT).decode("utf-8", "replace")
        except OSError as error:
            draft.problems.append(f"{path}: {error.strerror}")
            continue
        for number, line in logical_lines(text):
            draft.directive(line, f"{path}:{number}")
    try:
        draft.command_line((root / "proc/cmdline").read_text(errors="surrogateescape"))
    except OSError as error:
        draft.problems.append(f"{root / 'proc/cmdline'}: {error.strerror}")
    return draft.done()


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) without comments and empty lines; a backslash at the end joins a line with the next."""
    pending, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        began = began if pending else number
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        if (whole := pending.strip()) and not whole.startswith("#"):
            yield began, whole
        pending = ""
    if (whole := pending.strip()) and not whole.startswith("#"):
        yield began, whole


def soft_dependencies(words: list[str]) -> SoftDependencies:
    """`pre: a b post: c`, as in softdep; words before the first of these two count for nothing."""
    found: dict[str, list[str]] = {"pre:": [], "post:": []}
    kind: list[str] = []
    for word in words:
        kind = found.get(word, kind)
        if word not in found:
            kind.append(word)
    return SoftDependencies(tuple(found["pre:"]), tuple(found["post:"]))


def underscored(name: str) -> str:
    """A module's name as the kernel writes it."""
    return name.replace("-", "_")


class _Draft:
    def __init__(self) -> None:
        self.options: dict[str, list[str]] = {}
        self.aliases: list[tuple[str, str]] = []
        self.soft: list[tuple[str, SoftDependencies]] = []
        self.blacklist: set[str] = set()
        self.install: dict[str, str] = {}
        self.problems: list[str] = []

    def done(self) -> ModprobeConf:
        return ModprobeConf(
            {name: tuple(words) for name, words in self.options.items()},
            tuple(self.aliases),
            tuple(self.soft),
            frozenset(self.blacklist),
            self.install,
            tuple(self.problems),
        )

    def directive(self, line: str, where: str) -> None:
        word, *rest = line.split()
        match word, rest:
            case "alias", [alias, name]:
                self.aliases.append((alias, underscored(name)))
            case "options", [name, *_]:
                text = line.split(None, 2)[2:]
                self.options.setdefault(underscored(name), []).extend(text)
            case "softdep", [name, _, *_]:
                self.soft.append((underscored(name), soft_dependencies(rest[1:])))
            case "weakdep", [name, _, *_]:
                self.soft.append((underscored(name), SoftDependencies(weak=tuple(rest[1:]))))
            case "blacklist", [name]:
                self.blacklist.add(underscored(name))
            case "install", [name, _, *_]:
                self.install[underscored(name)] = line.split(None, 2)[2]
            case "remove", [_, _, *_]:
                pass  # nothing is removed
            case (("alias" | "options" | "softdep" | "weakdep" | "blacklist" | "install" | "remove"), _):
                self.problems.append(f"{where}: {word} has too few or too many words")
            case _:
                self.problems.append(f"{where}: {word!r} is not a directive of modprobe.d")

    def command_line(self, text: str) -> None:
        """`module.parameter[=value]`, and `modprobe.blacklist=a,b`; what follows `--` is for init."""
        for option in _QUOTED.findall(text.partition(" -- ")[0]):
            plain = option[1:-1] if option.startswith('"') and option.endswith('"') else option
            match = _PARAMETER.fullmatch(plain)
            if not match:
                continue
            name, setting = underscored(match[1]), match[2]
            if name == "modprobe":
                key, _, value = setting.partition("=")
                self.blacklist |= {underscored(each) for each in value.split(",") if key == "blacklist" and each}
            else:
                self.options.setdefault(name, []).append(setting)
