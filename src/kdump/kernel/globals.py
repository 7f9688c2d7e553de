"""Types of the kernel's global variables, which BTF does not describe (except per-CPU variables).

The table beside this module holds what the kernels that Debian ships declare (tools/globals.py writes it, out of their
DWARF): a name, and its types from the newest kernel to the oldest; "7.2:" says since when the variable has had another
type than before. A type counts for a kernel if that kernel has the type and the variable has room for it: of several
for that release, the one that fills the room best. Lengths of arrays depend on how a kernel was configured: where none
fits, the array is as long as the room. Types that the user declares (`kdump shell --declare`) come first.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from kdump.errors import UsageError
from kdump.kernel import btf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kdump.kernel.btf import Btf, Type
    from kdump.kernel.kernel import Kernel

_POINTER = 8
_DECLARATION = re.compile(r"\s*((?:(?:struct|union|enum)\s+)?[A-Za-z_][\w ]*?)\s*(\**)\s*((?:\[\d*\])*)\s*")
_NAMED = re.compile(r"\s*((?:(?:struct|union|enum)\s+)?[\w ]+?)(?:\s+|\s*(\*+)\s*)(\w+)\s*((?:\[\d*\])*)\s*;?\s*")
_SINCE = re.compile(r"(?:(\d+)\.(\d+):)?(.*)")
_RELEASE = re.compile(r"(\d+)\.(\d+)")
_KINDS = {"struct": (btf.STRUCT,), "union": (btf.UNION,), "enum": (btf.ENUM, btf.ENUM64)}
_MAX_COUNT = 1 << 24
# C spells its integers in several orders; BTF has one.
SPELLINGS = {
    "unsigned long": "long unsigned int", "long": "long int", "unsigned short": "short unsigned int",
    "short": "short int", "unsigned long long": "long long unsigned int", "long long": "long long int",
    "bool": "_Bool", "unsigned": "unsigned int",
}  # fmt: skip


class Declaration(NamedTuple):
    """A variable's type: `text` as C spells it; arrays (`counts` from the left) of `stars`-fold pointers to `type`."""

    text: str
    type: Type
    stars: int = 0
    counts: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of a variable of this type."""
        total = _POINTER if self.stars else self.type.sizeof()
        for count in self.counts:
            total *= count
        return total


def parse(types: Btf, text: str) -> Declaration | None:
    """The type that C spells so, None if the kernel has none."""
    found = _DECLARATION.fullmatch(text)
    if found is None:
        return None
    base, stars, arrays = found.groups()
    counts = tuple(int(count or 0) for count in re.findall(r"\[(\d*)\]", arrays))
    if any(count > _MAX_COUNT for count in counts):
        return None
    word, _, name = base.partition(" ")
    if word in _KINDS:
        kind = types.find(name.strip(), *_KINDS[word])
    elif base == "void":
        kind = types.by_id(0) if stars else None
    else:
        spelling = " ".join(base.split())
        kind = types.find(spelling, btf.TYPEDEF, btf.INT) or types.find(
            SPELLINGS.get(spelling, ""), btf.TYPEDEF, btf.INT
        )
    return Declaration(text, kind, len(stars), counts) if kind is not None else None


def find(kernel: Kernel, name: str) -> Declaration | None:
    """The type of a global variable, None if it is not known."""
    address = kernel.symbols.get(name)
    candidates = _candidates(name)
    if address is None or not candidates:
        return None
    symbol = kernel.symbols.at(address)
    return choose(kernel.types, candidates, symbol.size if symbol else 0, kernel.vmcoreinfo.release)


def choose(types: Btf, candidates: tuple[str, ...] | list[str], room: int, release: str = "") -> Declaration | None:
    """Of several types for a kernel of this release (of any, if none of these fits) the one that fills `room` bytes
    best (0: not known, the first that the kernel has).
    """
    marked = [_SINCE.fullmatch(text) for text in candidates]
    since = [(int(found[1] or 0), int(found[2] or 0), found[3]) for found in marked if found]
    number = _RELEASE.match(release)
    if number:
        latest = max((each[:2] for each in since if each[:2] <= (int(number[1]), int(number[2]))), default=None)
        found = _fitting(types, [text for *version, text in since if tuple(version) == latest], room)
        if found is not None:
            return found
    return _fitting(types, [text for *_, text in since], room)


def _fitting(types: Btf, texts: list[str], room: int) -> Declaration | None:
    known = [found for text in texts if (found := parse(types, text)) is not None]
    fitting = [found for found in known if not room or found.size <= room]
    if not fitting:
        fitting = [shorter for found in known if (shorter := _shortened(found, room)) is not None]
    return max(fitting, key=lambda found: found.size if room else 0, default=None)


def _shortened(found: Declaration, room: int) -> Declaration | None:
    """An array of as many elements as `room` bytes hold; None if it is not an array, or they do not hold one."""
    if not found.counts or not found.size:
        return None
    count = room // (found.size // found.counts[0])
    if not count:
        return None
    return found._replace(text=found.text.replace(f"[{found.counts[0]}]", f"[{count}]", 1),
                          counts=(count, *found.counts[1:]))  # fmt: skip


def names() -> Iterator[tuple[str, list[str]]]:
    """Everything in the table: names, and the types they may have, for `choose`."""
    for line in _table().decode().splitlines():
        name, *candidates = line.split("\t")
        yield name, candidates


def declaration(text: str) -> tuple[str, str]:
    """`struct foo *bar[3]` as the user writes it: the variable's name, and its type. Raises `UsageError`."""
    found = _NAMED.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{text!r} declares no variable", remedy="write it as C does: 'struct foo *bar', 'unsigned long baz[4]'"
        )
    base, stars, name, arrays = found.groups()
    kind = " ".join(base.split())
    return name, f"{kind} {stars or ''}{arrays}".strip()


def _candidates(name: str) -> tuple[str, ...]:
    table = _table()
    place = table.find(b"\n" + name.encode() + b"\t")
    if place < 0:
        return ()
    return tuple(table[place + 1 : table.index(b"\n", place + 1)].decode().split("\t")[1:])


@cache
def _table() -> bytes:
    return b"\n" + resources.files("kdump.kernel").joinpath("globals.txt").read_bytes()
