"""corelens: modules of Oracle's drgn-tools by name, where that package is installed.

Source: drgn_tools/corelens.py (CorelensModule: name, run(), add_args(), skip_unless_have_kmods).
"""

from __future__ import annotations

import argparse
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from drgn.commands import CommandArgumentError, CommandError

from kdump.bench.commands.base import Session, add_words

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Parser(argparse.ArgumentParser):
    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise CommandArgumentError((message or "").strip())


@cache
def modules() -> Mapping[str, Any]:
    """corelens' modules by name; none if drgn-tools is not installed. Raises CommandError if it does not load."""
    try:
        from drgn_tools.corelens import all_corelens_modules
    except ModuleNotFoundError as error:
        if error.name != "drgn_tools":
            raise CommandError(f"drgn-tools does not load: {error}") from error
        return {}
    found: Mapping[str, Any] = all_corelens_modules()
    return found


@add_words(
    "corelens", "run a module of drgn-tools", "**corelens** [*module* [*argument*...]]",
    "Without a module it lists them. At the prompt a module's name alone does too, if no command has that name.",
)  # fmt: skip
def _corelens(session: Session, words: list[str]) -> None:
    known = modules()
    if not known:
        raise CommandError("drgn-tools is not installed (https://github.com/oracle-samples/drgn-tools)")
    if not words:
        for name in sorted(known):
            print(f"{name:<20} {(type(known[name]).__doc__ or '').strip().partition(chr(10))[0]}".rstrip())
        return
    module = known.get(words[0])
    if module is None:
        raise CommandError(f"{words[0]}: no such module (`corelens` lists them)")
    needs = set(module.skip_unless_have_kmods or ()) - {each.name for each in session.kernel.modules}
    if needs:
        raise CommandError(f"{words[0]} is about kernel modules that are not loaded: {', '.join(sorted(needs))}")
    parser = _Parser(prog=words[0], description=type(module).__doc__)
    module.add_args(parser)
    module.run(session.program, parser.parse_args(words[1:]))
