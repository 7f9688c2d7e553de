"""Global variables of vmlinux that have a type: per-CPU ones as BTF declares them, others from the table of globals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kdump.kernel import btf
from kdump.kernel import globals as kernel_globals
from kdump.kernel.kallsyms import Symbol

TEXT = "tTwW"  # nm's letters of functions


class Typed(NamedTuple):
    """A variable: arrays (`counts` from the left) of `stars`-fold pointers to the type with the number `type`."""

    symbol: Symbol
    type: int
    stars: int = 0
    counts: tuple[int, ...] = ()


def typed(types: btf.Btf, symbols: Iterable[Symbol]) -> Iterator[Typed]:
    """The variables among `symbols` whose type is known; of several that share a name, the first."""
    first: dict[str, Symbol] = {}
    for symbol in symbols:
        if symbol.type not in TEXT:
            first.setdefault(symbol.name, symbol)
    for kind, name, target in declared(types):
        if kind == btf.VAR and name in first:
            yield Typed(first.pop(name), target)
    for name, candidates in kernel_globals.names():
        if name not in first:
            continue
        chosen = kernel_globals.choose(types, candidates, first[name].size)
        if chosen is not None:
            yield Typed(first[name], chosen.type.id, chosen.stars, chosen.counts)


def declared(types: btf.Btf) -> Iterator[tuple[int, str, int]]:
    """Kind, name and type of what a section declares: functions and variables."""
    raw = types.raw
    kinds = raw.words[raw.starts + 1] >> 24 & 0x7F
    for index in np.flatnonzero((kinds == btf.FUNC) | (kinds == btf.VAR)).tolist():
        found = types.by_id(raw.first_id + index)
        yield found.kind, found.name, found.target
