"""sym -m, -M: symbols of modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from drgn.commands import CommandError, argument

from kdump.bench.commands.base import Session, extend

if TYPE_CHECKING:
    import argparse


@extend(
    "sym",
    argument("-m", dest="module", help="symbols of this module"),
    argument("-M", dest="modules", action="store_true", help="symbols of all modules"),
    exclusive=True,
)
def _sym(session: Session, args: argparse.Namespace, theirs: Callable[[], Any]) -> Any:
    if args.module is None and not args.modules:
        return theirs()
    chosen = [module for module in session.kernel.modules if args.modules or module.name == args.module]
    if not chosen and not args.modules:
        raise CommandError(f"{args.module}: no such module is loaded (`mod` lists them)")
    for module in chosen:
        ranges = module.ranges
        print(f"{ranges[0][0]:x} MODULE START: {module.name}")
        for symbol in sorted(module.symbols(), key=lambda each: each.address):
            print(f"{symbol.address:x} ({symbol.type}) {symbol.name}")
        print(f"{ranges[-1][1]:x} MODULE END: {module.name}")
    return None
