"""Global variables of vmlinux that have a type: per-CPU ones as BTF declares them, others from the table of globals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np

from kdump.errors import KdumpError
from kdump.kernel import btf
from kdump.kernel import globals as kernel_globals
from kdump.kernel.kallsyms import Symbol
from kdump.kernel.kernel import Kernel

TEXT = "tTwW"  # nm's letters of functions
BANNER: Final = "linux_banner"
_LONGEST: Final = 1024
_TIME: Final = "tk_core"  # kernel/time/timekeeping.c; up to 6.12 a sequence counter and the timekeeper, in that order


class Typed(NamedTuple):
    """A variable of `size` bytes (0: not known): arrays (`counts` from the left) of `stars`-fold pointers to the type
    with the number `type`; or a struct without a name, of which that type is known: the name and the place of a member.
    """

    symbol: Symbol
    size: int
    type: int
    stars: int = 0
    counts: tuple[int, ...] = ()
    member: tuple[str, int] | None = None


def banner(kernel: Kernel) -> bytes:
    """The text by which tools recognize a kernel, with its NUL. Raises `KdumpError` if the dump lacks it."""
    return kernel.virtual.cstring(kernel.symbols.address(BANNER), _LONGEST) + b"\0"


def typed(kernel: Kernel, symbols: Iterable[Symbol]) -> Iterator[Typed]:
    """The variables among `symbols` whose type is known; of several that share a name, the first."""
    types = kernel.types
    first: dict[str, Symbol] = {}
    for symbol in symbols:
        if symbol.type not in TEXT:
            first.setdefault(symbol.name, symbol)
    for kind, name, target in declared(types):
        if kind == btf.VAR and name in first:
            yield Typed(first.pop(name), _size(types.by_id(target)), target)
    if _TIME in first and not types.has_struct("tk_data") and types.has_struct("timekeeper"):
        timekeeper = types.struct("timekeeper")
        yield Typed(first.pop(_TIME), 8 + timekeeper.size, timekeeper.id, member=("timekeeper", 8))
    own: dict[str, list[str]] = {}  # what is of another length in each kernel
    with suppress(KdumpError):
        own[BANNER] = [f"char [{len(banner(kernel))}]"]
    for name, candidates in kernel_globals.names():
        if name not in first:
            continue
        chosen = kernel_globals.choose(types, own.get(name, candidates), first[name].size, kernel.vmcoreinfo.release)
        if chosen is not None:
            size = chosen.size if chosen.stars or chosen.counts else _size(chosen.type)
            yield Typed(first[name], size, chosen.type.id, chosen.stars, chosen.counts)


def _size(kind: btf.Type) -> int:
    """Bytes of a variable of this type, 0 if it ends in an array of any length, for which a variable may have room."""
    found = kind.resolve()
    if found.kind == btf.STRUCT:
        last = next(reversed(list(found.types.direct_members(found))), None)
        if last is not None and not found.types.by_id(last[1]).sizeof():
            return 0
    return kind.sizeof()


def declared(types: btf.Btf) -> Iterator[tuple[int, str, int]]:
    """Kind, name and type of what a section declares: functions and variables."""
    raw = types.raw
    kinds = raw.words[raw.starts + 1] >> 24 & 0x7F
    for index in np.flatnonzero((kinds == btf.FUNC) | (kinds == btf.VAR)).tolist():
        found = types.by_id(raw.first_id + index)
        yield found.kind, found.name, found.target
