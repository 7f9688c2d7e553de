"""The manual pages' text in roff, from the texts of --help and from the declarations of kdump.toml."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import Field, fields
from itertools import groupby
from typing import Any

from kdump import __version__
from kdump.cli.parsers import Option, Page
from kdump.host import template
from kdump.host.config import Config
from kdump.host.config.tables import default_of


def overview(known: Iterable[Page]) -> str:
    """The page of kdump itself: its commands by group."""
    lines = [_head("kdump"), ".SH NAME", r"kdump \- Linux crash dumps end to end"]
    lines += [".SH SYNOPSIS", r"\fBkdump\fR \fICOMMAND\fR [\fIOPTION\fR ...]"]
    for group, members in groupby(known, key=lambda page: page.command.group):
        lines.append(f".SH {_roff(group).upper()}")
        for page in members:
            lines += [".TP", rf"\fBkdump\-{_roff(page.command.name)}\fR(8)", _roff(page.command.summary)]
    return "\n".join([*lines, *_tail()]) + "\n"


def manual(page: Page) -> str:
    """One command's page."""
    name = f"kdump-{page.command.name}"
    # The first line of a command's description is its summary, with or without a full stop.
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", page.description)]
    lines = [_head(name), ".SH NAME", rf"{_roff(name)} \- {_roff(page.command.summary)}"]
    lines += [".SH SYNOPSIS", _roff(page.usage), ".SH DESCRIPTION"]
    for paragraph in paragraphs:
        lines += [".PP", _roff(paragraph)]
    if page.options:
        lines += [".SH OPTIONS", *_listed(page.options)]
    for action, options in page.actions.items():
        lines += [f".SH KDUMP {page.command.name.upper()} {action.upper()}", *_listed(options)]
    return "\n".join([*lines, *_tail()]) + "\n"


def configuration() -> str:
    """The page of kdump.toml, from the declarations that the file's template is made from."""
    lines = [_head("kdump.toml", 5), ".SH NAME", r"kdump.toml \- configuration of kdump"]
    lines += [".SH SYNOPSIS", "/etc/kdump/kdump.toml", ".SH DESCRIPTION"]
    lines += ['TOML. Sizes are written as "512M" or "1G", durations as "90s", "5min", "2h" or "30d".', ".SH KEYS"]
    lines += _keys(Config)
    for table in fields(Config):
        if "table" in table.metadata:
            kind = table.metadata["table"]
            lines += [f".SH [{_roff(table.name)}]", _roff(_about(kind)), *_keys(kind)]
            for array in fields(kind):
                if "tables" in array.metadata:
                    each = array.metadata["tables"]
                    lines += [f".SS [[{_roff(table.name)}.{_roff(array.name)}]]", _roff(_about(each)), *_keys(each)]
    files = [".SH FILES", "/etc/kdump/kdump.toml", ".SH SEE ALSO", r"\fBkdump\-setup\fR(8), \fBkdump\-config\fR(8)"]
    return "\n".join([*lines, *files]) + "\n"


def _keys(kind: type[Any]) -> Iterator[str]:
    keys: list[Field[Any]] = [each for each in fields(kind) if "read" in each.metadata]
    for each in keys:
        default = _roff(template.value_text(default_of(each), each))
        yield from (".TP", rf"\fB{_roff(each.name)}\fR = {default}", _roff(each.metadata["doc"]))


def _about(kind: type) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _listed(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        flags = ", ".join(rf"\fB{_roff(flag)}\fR" for flag in option.flags)
        value = rf"\fI{_roff(option.value)}\fR" if option.value else ""
        yield from (".TP", f"{flags} {value}".strip(), _roff(option.help))


def _head(name: str, section: int = 8) -> str:
    return f'.TH {name.upper()} {section} "" "kdump {__version__}" "Crash dumps"'


def _tail() -> list[str]:
    status = "0 done, 1 failed, 2 wrong usage, 3 done but not as asked (incomplete, degraded, not ready)."
    return [".SH EXIT STATUS", status, ".SH FILES", "/etc/kdump/kdump.toml, /var/crash, /var/lib/linux-kdump"]


def _roff(text: str) -> str:
    """Text as roff takes it: backslashes and hyphens escaped, no line that begins like a request."""
    plain = text.replace("\\", r"\e").replace("-", r"\-")
    return r"\&" + plain if plain.startswith((".", "'")) else plain
