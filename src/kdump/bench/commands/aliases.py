"""alias and repeat: other names of commands, and a command again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from drgn.commands import CommandError, CommandNotFoundError, ParsedCommand, custom_command

from kdump.bench.commands.base import NAMESPACE, Session, _ours, add_words

if TYPE_CHECKING:
    from drgn import Program

BUILT_IN: Final = {
    "man": "help", "?": "help", "quit": "q", "sf": "set scroll off", "sn": "set scroll on", "hex": "set radix 16",
    "dec": "set radix 10", "px": "p -x", "pd": "p -d", "for": "foreach", "size": "*", "dmesg": "log", "lsmod": "mod",
    "last": "ps -l",
}  # fmt: skip
_aliases: dict[str, tuple[str, str]] = {}


def _define(name: str, text: str, origin: str) -> None:
    def function(program: Program, _: str, tail: str, *, globals: dict[str, Any], **kwargs: Any) -> Any:
        return NAMESPACE.run(program, f"{text} {tail}", globals=globals)

    custom_command(
        name=name, description=f"alias of `{text}`", usage=f"**{name}** [*argument*...]",
        long_description=f"The same as `{text}`.", parse=_as_it_is, enabled=_ours, namespace=NAMESPACE,
    )(function)  # fmt: skip
    _aliases[name] = origin, text


def _as_it_is(source: str) -> ParsedCommand[str]:
    return ParsedCommand(source)


for _name, _text in BUILT_IN.items():
    _define(_name, _text, "builtin")


@add_words(
    "alias", "other names of commands", "**alias** [*name* [*command*...]]",
    "Without a command it shows aliases; with an empty one ('') it removes one.",
)  # fmt: skip
def _alias(session: Session, words: list[str]) -> None:
    if len(words) < 2:
        shown = {name: each for name, each in _aliases.items() if not words or name == words[0]}
        if words and not shown:
            raise CommandError(f"{words[0]} is no alias")
        width = max([5, *map(len, shown)])
        print(f"ORIGIN   {'ALIAS':<{width}}  COMMAND")
        for name, (origin, text) in shown.items():
            print(f"{origin:<7}  {name:<{width}}  {text}")
        return
    name, text = words[0], " ".join(words[1:])
    if name not in _aliases:
        try:
            NAMESPACE.lookup(session.program, name)
        except CommandNotFoundError:
            pass
        else:
            raise CommandError(f"{name} is a command: choose another name")
    if not text:
        if name not in _aliases:
            raise CommandError(f"{name} is no alias")
        del _aliases[name], NAMESPACE._commands[name]
    elif text.split()[0] == name:
        raise CommandError(f"{name} would be an alias of itself")
    else:
        _define(name, text, "user")


def _repeat(program: Program, _: str, source: str, *, globals: dict[str, Any], **kwargs: Any) -> None:
    head, _, rest = source.partition(" ")
    seconds = 0.0
    if head.startswith("-"):
        try:
            seconds = float(head[1:])
        except ValueError:
            seconds = -1
        if not 0 <= seconds <= 86400:
            raise CommandError(f"{head}: -0 to -86400 seconds between two runs")
        source = rest.strip()
    if not source:
        raise CommandError("a command to repeat is missing")
    try:
        while True:
            NAMESPACE.run(program, source, globals=globals)
            time.sleep(seconds)
    except KeyboardInterrupt:
        print()


_offer: Callable[..., Any] = custom_command(
    name="repeat", description="a command again and again, until you press ^C",
    usage="**repeat** [-*seconds*] *command*",
    long_description="A dump does not change; this is for commands that look at something else.",
    parse=_as_it_is, enabled=_ours, namespace=NAMESPACE,
)  # fmt: skip
_offer(_repeat)
