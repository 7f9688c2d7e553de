"""struct -o, union -o: where members lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from drgn import Type, TypeKind
from drgn.commands import CommandError, argument
from drgn.commands._crash.common import _guess_type, _parse_type_name_and_members

from kdump.bench.commands.base import NAMESPACE, Session, extend

if TYPE_CHECKING:
    import argparse

_OFFSETS = argument(
    "-o", dest="offsets", action="store_true", help="offsets of members; with an address: where they are"
)
_ANONYMOUS = (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS)


def _layout(kind: str) -> None:
    @extend(kind, _OFFSETS)
    def layout(session: Session, args: argparse.Namespace, theirs: Callable[[], Any]) -> Any:
        if not args.offsets:
            return theirs()
        name, members = _parse_type_name_and_members(args.name)
        try:
            found = _guess_type(session.program, name, kind)
        except LookupError as error:
            raise CommandError(str(error)) from error
        while found.kind == TypeKind.TYPEDEF:
            found = found.type
        start = session.address(args.address_or_symbol) if args.address_or_symbol else None
        print("\n".join(lines(found, members, start)))
        return None


for _kind in ("struct", "union", "*"):
    _layout(_kind)
    _parser: Any = vars(NAMESPACE._commands[_kind])["_parser"]
    _parser.parse_args = _parser.parse_intermixed_args  # `struct list_head -o ADDRESS`, as crash takes it


def lines(kind: Type, members: list[str], start: int | None) -> Iterator[str]:
    """A type's definition, in front of each member where it is; only some members, if any are named.

    Raises `CommandError` for a type that is only declared and for a member that it has not.
    """
    if not kind.is_complete():
        raise CommandError(f"{kind.type_name()} is only declared")
    text = iter(str(kind).splitlines())
    yield next(text)
    rows = list(_rows(kind, 0, text, 1))
    if members:
        wanted = set(members)
        unknown = wanted - {name for _, _, name, _ in rows}
        if unknown:
            raise CommandError(f"{kind.type_name()} has no member {', '.join(sorted(unknown))}")
        rows = [(at, 1, name, line) for at, _, name, line in rows if name in wanted]
    places = [f"[{at + start:x}]" if start is not None else f"[{at}]" for at, _, _, _ in rows if at is not None]
    width = max([6, *(len(place) + 2 for place in places)])
    for at, depth, _, line in rows:
        place = "" if at is None else f"[{at + start:x}]" if start is not None else f"[{at}]"
        yield f"{place:>{width}} {'    ' * (depth - 1)}{line}"
    yield "}"
    yield f"SIZE: {kind.size}"


def _rows(kind: Type, base: int, text: Iterator[str], depth: int) -> Iterator[tuple[int | None, int, str, str]]:
    """(offset in bytes or None, depth, the member's name, text) for each line of a definition as drgn writes it."""
    for member in kind.members or ():
        at = base + member.bit_offset // 8
        line = next(text).strip()
        inner = member.type
        while inner.kind == TypeKind.ARRAY:
            inner = inner.type
        if inner.kind in _ANONYMOUS and inner.tag is None:
            yield None, depth, "", line
            yield from _rows(inner, at, text, depth + 1)
            line = next(text).strip()
            yield (at if member.name else None), depth, member.name or "", line
            continue
        if inner.kind == TypeKind.ENUM and inner.tag is None and line.endswith("{"):
            yield None, depth, "", line
            while not (line := next(text).strip()).startswith("}"):
                yield None, depth + 1, "", line
        yield at, depth, member.name or "", line
