"""Manual pages, made from the same texts as --help.

Prints the page of COMMAND (kdump(8) without one) as roff: `kdump man status | man -l -`. --write puts all pages below a
directory such as /usr/local/share/man, where man(1) finds them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from kdump import __version__
from kdump.cli.parsers import Option, Page, pages
from kdump.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="the command whose page is printed")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write all pages below DIR (man8/kdump.8 …)")


def run(args: argparse.Namespace) -> int:
    """Print or write; returns the exit status."""
    known = {page.command.name: page for page in pages()}
    if args.write:
        place = args.write / "man8"
        place.mkdir(parents=True, exist_ok=True)
        (place / "kdump.8").write_text(overview(known.values()))
        for name, page in known.items():
            (place / f"kdump-{name}.8").write_text(manual(page))
        print(f"{len(known) + 1} pages below {place}")
        return 0
    if args.command and args.command not in known:
        raise UsageError(f"there is no command {args.command!r}", remedy="`kdump --help` lists the commands")
    print(manual(known[args.command]) if args.command else overview(known.values()), end="")
    return 0


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


def _listed(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        flags = ", ".join(rf"\fB{_roff(flag)}\fR" for flag in option.flags)
        value = rf"\fI{_roff(option.value)}\fR" if option.value else ""
        yield from (".TP", f"{flags} {value}".strip(), _roff(option.help))


def _head(name: str) -> str:
    return f'.TH {name.upper()} 8 "" "kdump {__version__}" "Crash dumps"'


def _tail() -> list[str]:
    status = "0 done, 1 failed, 2 wrong usage, 3 done but not as asked (incomplete, degraded, not ready)."
    return [".SH EXIT STATUS", status, ".SH FILES", "/etc/kdump/kdump.toml, /var/crash, /var/lib/kdump"]


def _roff(text: str) -> str:
    """Text as roff takes it: backslashes and hyphens escaped, no line that begins like a request."""
    plain = text.replace("\\", r"\e").replace("-", r"\-")
    return r"\&" + plain if plain.startswith((".", "'")) else plain
