"""The commented kdump.toml, made from the declarations in `kdump.host.config` so that the two cannot drift apart."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, fields
from typing import Any, Final

from kdump.host.config import Config
from kdump.host.config.tables import Duration, Size, default_of
from kdump.report.logtext import clean
from kdump.units import exact_duration, exact_size

_WIDTH: Final = 79
_HEAD: Final = """\
# kdump: crash dumps of this machine. `kdump config check` reads this file
# without changing anything; `kdump setup` puts it to use.
#
# A key that is commented out has the value shown. Sizes: "512M", "1G".
# Durations: "90s", "5min", "2h", "30d".
"""


def render(config: Config | None = None, origins: Mapping[str, Iterable[str]] | None = None) -> str:
    """The file that says `config`: what differs from the defaults as keys, the rest as comments that show it.

    `origins` has lines that a comment names beside a dotted key: where its value comes from.
    """
    wanted, told = config or Config(), origins or {}
    lines = [_HEAD.rstrip(), "", *_keys(wanted, Config(), told)]
    for entry in fields(Config):
        if "table" in entry.metadata:
            value = getattr(wanted, entry.name)
            lines += [
                "",
                *_comment(_about(entry.metadata["table"]), "# "),
                f"[{entry.name}]",
                "",
                *_keys(value, type(value)(), told, f"{entry.name}."),
            ]
            lines += _arrays(entry.name, value)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def value_text(value: Any, declared: Field[Any]) -> str:
    """A key's value as TOML writes it, sizes and durations with their units."""
    read = declared.metadata["read"]
    if isinstance(read, Size) and value:
        return f'"{exact_size(value)}"'
    if isinstance(read, Duration) and value:
        return f'"{exact_duration(value)}"'
    return _toml(value)


def _keys(value: Any, default: Any, origins: Mapping[str, Iterable[str]], table: str = "") -> Iterator[str]:
    for entry in fields(value):
        if "read" in entry.metadata:
            chosen = getattr(value, entry.name)
            mark = "#" if chosen == getattr(default, entry.name) else ""
            yield from _comment(entry.metadata["doc"], "# ")
            for origin in origins.get(table + entry.name, ()):
                yield f"# From {clean(' '.join(origin.splitlines()))}"
            yield f"{mark}{entry.name} = {value_text(chosen, entry)}"
            yield ""


def _arrays(table: str, value: Any) -> Iterator[str]:
    """The arrays of tables within a table: the entries there are, or the keys of one as a comment."""
    for entry in fields(value):
        if "tables" not in entry.metadata:
            continue
        kind = entry.metadata["tables"]
        given = getattr(value, entry.name)
        yield from _comment(_about(kind), "# ")
        for each in given:
            yield f"[[{table}.{entry.name}]]"
            for key in fields(each):
                if getattr(each, key.name) != default_of(key):
                    yield f"{key.name} = {value_text(getattr(each, key.name), key)}"
            yield ""
        if not given:
            yield f"#[[{table}.{entry.name}]]"
            for key in fields(kind):
                text = value_text(default_of(key), key)
                yield from _comment(key.metadata["doc"], "# ")
                yield f"#{key.name} = {text}"
            yield ""


def _about(kind: type) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _comment(text: str, prefix: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False, break_on_hyphens=False
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    # A basic string (TOML 1.0): quotes, backslashes and control characters are escaped.
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in text) + '"'
