"""The commands' parsers as data, for manual pages and completion: what `--help` says, they say."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from kdump.cli.commands import COMMANDS, Command
from kdump.errors import meant
from kdump.units import whole_number

_WIDTHS = (20, 1000)  # columns

_MAY_BE_EMPTY = ("TEXT", "OPTIONS")  # a command line, say


class Option(NamedTuple):
    """An option or (without flags) a positional argument: its value's name, its help, the words it is limited to."""

    flags: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...]
    optional: bool


class Page(NamedTuple):
    """The help of one command."""

    command: Command
    description: str
    usage: str
    options: tuple[Option, ...]
    actions: dict[str, tuple[Option, ...]]  # of a command that has subcommands


class _Formatter(argparse.HelpFormatter):
    """Fills paragraphs to the terminal's width and keeps indented ones as they are.

    Asks the terminal itself, without shutil, whose imports every command would wait for.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            each if each.startswith(" ") else "\n".join(self._split_lines(each, width)) for each in text.split("\n\n")
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap  # only where a text is shown

        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


class Parser(argparse.ArgumentParser):
    """A parser whose help has the form above, as have those of its subcommands. Options are not abbreviated.

    Its errors say what to write instead, where that can be told.
    """

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _Formatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; of what is left over it says what was meant."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}{self._advice(rest[0])}")
        return found

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """As argparse's. An empty value comes from a variable that a script did not set: it stands for no name, and
        taken for an option that is not there it would, say, write the secrets that `--scrub "$KINDS"` is to leave out.
        """
        may_be = action.metavar in _MAY_BE_EMPTY or isinstance(action, argparse._SubParsersAction)
        if arg_string == "" != action.default and not may_be:
            raise argparse.ArgumentError(action, "the value is empty")
        return super()._get_value(action, arg_string)

    def _advice(self, word: str) -> str:
        options = {flag for parser in (self, *self._actions_of().values()) for flag in parser._option_string_actions}
        if word.startswith("-"):
            name = word.partition("=")[0]
            having = [action for action, parser in self._actions_of().items() if name in parser._option_string_actions]
            near = f"it goes after these actions: {', '.join(having)}" if having else meant(name, options)
        else:
            near = "-o names the file to write" if "--output" in options else ""
        return f"\n  {near}" if near else ""

    def _actions_of(self) -> dict[str, argparse.ArgumentParser]:
        """The parsers of its subcommands."""
        found: dict[str, argparse.ArgumentParser] = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= action.choices
        return found

    def _add_action(self, action: Any) -> Any:
        if isinstance(action, argparse._SubParsersAction):
            action.metavar = action.metavar or "ACTION"
        elif not action.option_strings and action.metavar is None:  # errors name a value as --help does
            words = ",".join(map(str, action.choices or ()))
            action.metavar = f"{{{words}}}" if words else action.dest.upper()
        return super()._add_action(action)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and which actions there are where one is missing. Ends with status 2."""
        actions = self._actions_of()
        if actions and message.endswith("ACTION"):
            message += f"\n  one of {', '.join(actions)}"
        super().error(message)


def _columns() -> int:
    """The width of the terminal, as COLUMNS or the terminal has it; a width that no terminal has is ignored."""
    with contextlib.suppress(ValueError):
        return whole_number(os.environ.get("COLUMNS", ""), *_WIDTHS)
    try:
        return min(max(os.get_terminal_size(1).columns, _WIDTHS[0]), _WIDTHS[1])
    except (OSError, ValueError):  # not a terminal; or closed
        return 80


def parser_for(command: Command) -> tuple[ModuleType, argparse.ArgumentParser]:
    """The command's module and its parser. Imports the module."""
    module = importlib.import_module(command.module)
    parser = Parser(prog=f"kdump {command.name}", description=(module.__doc__ or command.summary).strip())
    module.add_arguments(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action._choices_actions:  # a subcommand says of itself what the list says of it
                action.choices[each.dest].description = (
                    f"{each.help[:1].upper()}{each.help[1:]}." if each.help else None
                )
    return module, parser


def pages() -> Iterator[Page]:
    """Every command, in the order of the table."""
    for command in COMMANDS:
        _module, parser = parser_for(command)
        actions: dict[str, tuple[Option, ...]] = {}
        options = []
        for action in parser._actions:  # argparse offers no other way to look at a parser
            if isinstance(action, argparse._SubParsersAction):
                actions = {name: tuple(_options(each)) for name, each in action.choices.items()}
            elif option := _option(action, parser):
                options.append(option)
        usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
        yield Page(command, parser.description or "", usage, tuple(options), actions)


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        if option := _option(action, parser):
            yield option


def _option(action: argparse.Action, parser: argparse.ArgumentParser) -> Option | None:
    if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
        return None
    takes = action.nargs != 0
    words = action.choices and not action.option_strings  # which the usage line has already
    metavar: Any = action.dest.upper() if words else action.metavar or action.dest.upper()
    return Option(
        tuple(action.option_strings),
        " ".join(metavar) if isinstance(metavar, tuple) else str(metavar) if takes else "",
        parser._get_formatter()._expand_help(action) if action.help else "",
        tuple(map(str, action.choices)) if action.choices else (),
        bool(action.option_strings) or action.nargs in ("?", "*"),
    )
