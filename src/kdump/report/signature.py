"""The signature: the same for every occurrence of one crash, whatever the boot, KASLR, or the compiler's suffixes.

Version 2, written `2-` and 16 hexadecimal digits: the first 64 bits of the SHA-256 of these lines, each ended by a
newline:

1. `kdump signature 2`
2. the id of the kind (`kdump.report.kinds`)
3. its detail, numbers and addresses replaced by `N`: what a sanitizer, list or reference counter check calls the
   error, or a panic's own message
4. up to `FRAMES` functions, one per line, from the guilty frame outwards to the task's entry into the kernel, without
   compiler suffixes, without inlined calls and without functions that notice faults or are called from everywhere; none
   for kinds whose stack is chance (out of memory, machine check, NMI, a killed init)

Where the kind needs a stack and no frame of it can be guilty, there is no signature (an empty string): such crashes
are told apart by nothing, so none is a copy of another. The coarser key beside it (`coarse`) is the kind and the guilty
function.

Frames come from the call trace in the log, and only if that has none from unwinding the dump, so that a dump and its
dmesg give the same signature. A change of any of this, also of what counts as machinery, takes a new version.
Signatures of version 1 are of other lists: what is stored of such a crash (its log or report) gives version 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from kdump.files.digest import sha256
from kdump.report import frames as names
from kdump.report import kinds
from kdump.report.kinds import Kind
from kdump.report.model import Frame

VERSION = 2
FRAMES = 2
_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,16}\b|\d+")


class Parts(NamedTuple):
    """The parts of a signature. `functions` is empty for kinds without a stack; `usable` is false without one."""

    kind: Kind
    detail: str
    functions: list[str]
    usable: bool


def parts(kind: Kind, detail: str, frames: Sequence[Frame], symbol: Frame | None = None) -> Parts:
    """The parts of a crash's signature. `symbol` is the function in the headline; it counts if no frame was read."""
    functions: list[str] = []
    if kind.stack:
        functions = _functions(kind, frames, symbol)
    own_words = kind is kinds.GENERIC_PANIC and bool(detail) and not kinds.AFTER_OOPS.search(detail)
    usable = kind is not kinds.NONE and (bool(functions) or not kind.stack or own_words)
    return Parts(kind, _NUMBER.sub("N", detail), functions, usable)


def _functions(kind: Kind, frames: Sequence[Frame], symbol: Frame | None) -> list[str]:
    if kind.named and symbol is not None and not names.is_reporting(symbol.function):
        return [names.normalise(symbol.function)]
    functions = names.significant(frames, FRAMES, kind)
    if functions and (kind.stuck or kind.id == "hung-task") and (found := names.gathering(functions[0])):
        return [found.id]
    if not functions and symbol is not None and names.family(symbol.function, kind) is None:
        return [names.normalise(symbol.function)]
    return functions


def signature(found: Parts) -> str:
    """The signature of a crash, empty if nothing tells it apart; see the module for the algorithm."""
    if not found.usable:
        return ""
    lines = [f"kdump signature {VERSION}", found.kind.id, found.detail, *found.functions]
    digest = sha256()
    digest.update("".join(f"{line}\n" for line in lines).encode())
    return f"{VERSION}-{digest.hexdigest()[:16]}"


def is_current(text: str) -> bool:
    """Whether a signature is of this version, or empty, which it is in every version."""
    return not text or text.startswith(f"{VERSION}-")


def coarse(found: Parts) -> str:
    """The coarser key: kind and guilty function, or the detail of a kind without a stack; empty without a signature."""
    if not found.usable:
        return ""
    return f"{found.kind.id} {found.functions[0] if found.functions else found.detail}".strip()
