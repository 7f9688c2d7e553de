"""TOML tables declared as frozen dataclasses: each key once, with its default, its reader and its meaning.

Unknown keys and wrong values are problems with a line and a suggestion; so is what a table's method `faults`, if it has
one, says of keys that do not go together: what it expected, by key. Used by `kdump.host.config`; imports stay few,
for the capture kernel reads its configuration with it too.
"""
# ruff: noqa: TRY004 -- a reader raises ValueError for whatever it cannot read, types included

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from kdump.errors import KdumpError, UsageError, meant, one_of
from kdump.units import LARGEST_SIZE, LONGEST, duration_bounds, parse_duration, parse_size, size_bounds

Reader = Callable[[Any], Any]  # turns a TOML value into the attribute's value; raises ValueError saying what it wants
Key = tuple[str | int, ...]  # path of a value in a TOML document
Complain = Callable[[Key, str], None]
T = TypeVar("T")

# A key of 64 parts: tomllib's time grows with the square of their number, and its stack with that of brackets.
_DEEP = re.compile(r"""(?<![\w.-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){64}""")
_LARGEST = 4 << 20  # characters of a configuration
_MOST_PROBLEMS = 20  # that are shown with their lines
_PATIENCE = 8 << 20  # characters that may be parsed to find a line


class ConfigError(KdumpError):
    """The configuration cannot be used; `problems` has one line for each fault, with file and line."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        more = "".join(f"\n  {problem}" for problem in problems[1:])
        super().__init__(problems[0] + more, remedy="`kdump config show --template` explains every key")


def boolean(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def text(value: Any) -> str:
    """Any string that a program, a path or a command line can have: no NUL."""
    if not isinstance(value, str):
        raise ValueError("a string in quotes")
    if "\0" in value:
        raise ValueError("a string without NUL")
    return value


def integer(low: int, high: int) -> Reader:
    """A whole number in bounds, both included."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return read


def choice(*names: str) -> Reader:
    """One of some strings."""

    def read(value: Any) -> str:
        if value not in names or not isinstance(value, str):
            raise ValueError(one_of(str(value), names))
        return value

    return read


def list_of(item: Reader) -> Reader:
    """A list of values of one kind; becomes a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError("a list in brackets")
        try:
            return tuple(item(entry) for entry in value)
        except ValueError as error:
            raise ValueError(f"a list, each entry {error}") from None

    return read


@dataclass(frozen=True)
class Size:
    """Bytes, or a size as text; becomes bytes, from `low` to `high`."""

    low: int = 0
    high: int = LARGEST_SIZE

    def __call__(self, value: Any) -> int:
        """Read one value. Raises ValueError that says what is expected."""
        try:
            return (
                integer(self.low, self.high)(value)
                if isinstance(value, int)
                else parse_size(text(value), self.low, self.high)
            )
        except (ValueError, UsageError):
            bounds = size_bounds(self.low, self.high)
            raise ValueError(f'bytes, or a size in quotes such as "512M", {bounds}') from None


@dataclass(frozen=True)
class Duration:
    """Seconds, or a duration as text; becomes whole seconds, from `low` to `high`."""

    low: int = 0
    high: int = LONGEST

    def __call__(self, value: Any) -> int:
        """Read one value. Raises ValueError that says what is expected."""
        try:
            seconds = parse_duration(str(value), self.low, self.high) if isinstance(value, int | str) else -1
        except ValueError:
            seconds = -1
        if isinstance(value, bool) or seconds < 0 or seconds != int(seconds):
            bounds = duration_bounds(self.low, self.high)
            raise ValueError(f'seconds, or a duration in quotes such as "90s", "5min", "2h", "30d", {bounds}')
        return int(seconds)


def key(default: Any, read: Reader, doc: str) -> Any:
    """A key of the file: its default (already read), the reader of its value, and what the template says about it."""
    return field(default=default, metadata={"read": read, "doc": doc})


def table(kind: type) -> Any:
    """A table of the file: a dataclass of keys, whose docstring says what the table is about."""
    return field(default_factory=kind, metadata={"table": kind})


def tables(kind: type) -> Any:
    """An array of tables ([[name]])."""
    return field(default=(), metadata={"tables": kind})


def parse(kind: type[T], text: str, source: str) -> T:
    """The dataclass `kind` as TOML `text` says; `source` names it in errors. Raises ConfigError (all faults)."""
    if len(text) > _LARGEST:
        raise ConfigError([f"{source}: larger than {_LARGEST >> 20} MiB: no configuration is"])
    if _DEEP.search(text):
        raise ConfigError([f"{source}: nested too deeply"])
    problems: list[tuple[Key, str]] = []
    try:
        data = tomllib.loads(text)
        found = _Reading(kind, lambda key, message: problems.append((key, message))).table(kind, data, ())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{source}: {error}"]) from None
    except RecursionError:
        raise ConfigError([f"{source}: nested too deeply"]) from None
    if problems:
        lines = sorted((line_of(text, key), message) for key, message in problems[:_MOST_PROBLEMS])
        more = [f"{source}: and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ConfigError([f"{source}:{line}: {message}" for line, message in lines] + more)
    assert isinstance(found, kind)
    return found


def from_dict(kind: type[T], data: Mapping[str, Any]) -> T:
    """The dataclass `kind` from plain values, as `to_dict` or JSON gives them. Raises ConfigError."""
    problems: list[str] = []
    found = _Reading(kind, lambda _key, message: problems.append(message)).table(kind, data, ())
    if problems:
        raise ConfigError(problems)
    assert isinstance(found, kind)
    return found


def to_dict(value: Any) -> dict[str, Any]:
    """A dataclass as plain dicts, lists, strings and numbers: what JSON and `from_dict` take."""
    return {declared.name: _plain(getattr(value, declared.name)) for declared in fields(value)}


def default_of(declared: Field[Any]) -> Any:
    """The default of a key (bytes, seconds, tuples: what its reader returns)."""
    if declared.default is not MISSING:
        return declared.default
    assert declared.default_factory is not MISSING
    return declared.default_factory()


def line_of(text: str, key: Key) -> int:
    """The line (from 1) of TOML `text` on which the value at `key` begins.

    tomllib keeps no positions: this asks it for ever longer beginnings of the text until one has the key. Slow, but
    only needed when there is an error to show, and it knows every form of TOML. In a text for which that would take too
    long, the first line that names the key is taken.
    """
    lines = text.splitlines()
    if len(lines) * len(text) > _PATIENCE:
        name = next((part for part in reversed(key) if isinstance(part, str)), "")
        return next((number for number, line in enumerate(lines, 1) if name in line), 1)
    start = 0
    for count in range(1, len(lines) + 1):
        try:
            data = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        if _has(data, key):
            blank = (i for i in range(start, count) if lines[i].partition("#")[0].strip())
            return next(blank, start) + 1
        start = count
    return max(len(lines), 1)


class _Reading:
    """One reading of plain values into dataclasses; faults go to `complain` and reading goes on."""

    def __init__(self, root: type, complain: Complain) -> None:
        self.root = root
        self.complain = complain
        self.hints = 0

    def table(self, kind: type, data: Mapping[str, Any], path: Key) -> Any:
        declared = {entry.name: entry.metadata for entry in fields(kind)}
        values: dict[str, Any] = {}
        for name, value in data.items():
            where = (*path, name)
            dotted = _dotted(where)
            if name in declared:
                try:
                    values[name] = self.value(declared[name], value, where, dotted)
                except ValueError as error:
                    self.complain(where, f"{dotted} = {_shown(value)}: expected {error}")
            else:
                self.complain(where, f"unknown key {dotted!r}; {self.hint(name, list(declared))}")
        found = kind(**values)
        faults: dict[str, str] = found.faults() if hasattr(found, "faults") else {}
        for name, wanted in faults.items():
            where = (*path, name)
            self.complain(where, f"{_dotted(where)} = {_shown(values[name])}: expected {wanted}")
        return found

    def value(self, declared: Mapping[str, Any], value: Any, where: Key, dotted: str) -> Any:
        if "table" in declared:
            if not isinstance(value, Mapping):
                raise ValueError(f"a table: write [{dotted}], and its keys on the lines below")
            return self.table(declared["table"], value, where)
        if "tables" in declared:
            if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
                raise ValueError(f"tables: write [[{dotted}]] for each, and its keys on the lines below")
            return tuple(self.table(declared["tables"], entry, (*where, i)) for i, entry in enumerate(value))
        return declared["read"](value)

    def hint(self, name: str, known: list[str]) -> str:
        """A suggestion for a key that is not known in its table."""
        self.hints += 1
        if self.hints <= _MOST_PROBLEMS and (near := meant(name, known)):
            return near
        for entry in fields(self.root):
            if entry.name == name:
                return "it belongs at the top, before the first [table]"
            inner = entry.metadata.get("table")
            if inner and name in {key.name for key in fields(inner)}:
                return f"it belongs under [{entry.name}]"
        return "known here: " + ", ".join(known)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _dotted(key: Key) -> str:
    return ".".join(part for part in key if isinstance(part, str))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _has(data: Any, key: Key) -> bool:
    for part in key:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
