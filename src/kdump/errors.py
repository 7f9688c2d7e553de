"""Errors are values for people: what happened, why, and what to do next.

Every error that a user can meet is a `KdumpError`; the command line prints it without a traceback and exits with
its `exit_status` (1 failed, 2 wrong usage). Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from kdump.display import paragraph, shown


class KdumpError(Exception):
    """A failure that a person can act on.

    `what` happened, `why` (may be empty when `what` says it), and the `remedy`: what to do next.
    """

    exit_status = 1

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        text = paragraph(self.what)
        if self.why:
            text += f": {paragraph(self.why)}"
        if self.remedy:
            text += f"\n  {paragraph(self.remedy)}"
        return text


class UsageError(KdumpError):
    """The command was called in a way that cannot work; exit status 2."""

    exit_status = 2


class FormatError(KdumpError):
    """A file is not what it claims to be. Names the file, the offset (bytes) and the field that is wrong."""

    def __init__(
        self,
        what: str,
        *,
        path: str | os.PathLike[str] = "",
        offset: int | None = None,
        field: str = "",
        why: str = "",
        remedy: str = "",
    ) -> None:
        self.path = os.fspath(path)
        self.offset = offset
        self.field = field
        where = self.path
        if field:
            where += f" [{field}]"
        if offset is not None:
            where += f" at offset {offset:#x}"
        super().__init__(f"{where}: {what}" if where else what, why=why, remedy=remedy)


class NotPresentError(KdumpError):
    """A physical or virtual address that the dump does not hold (excluded page, hole, unmapped)."""

    def __init__(self, address: int, size: int = 1, *, virtual: bool = False, why: str = "not in the dump") -> None:
        self.address = address
        self.size = size
        self.virtual = virtual
        kind = "virtual" if virtual else "physical"
        super().__init__(f"{kind} address {address:#x} (+{size:#x}) cannot be read", why=why)


def meant(word: str, known: Iterable[str]) -> str:
    """ "did you mean 'report'?" if one of the known words is nearly this one, else an empty string."""
    import difflib  # only where something is wrong

    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else ""


def one_of(word: str, known: Collection[str], kind: str = "") -> str:
    """The words that are accepted instead of an unknown one, such as "one of a, b; did you mean 'a'?"."""
    near = meant(word, known)
    return f"{kind}one of {', '.join(known)}" + (f"; {near}" if near else "")


def reason(error: BaseException) -> str:
    """The reason of a failure in words: of an OSError without the number and the file name that str() adds."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def describe(error: BaseException) -> str:
    """An exception in one line, with the place where it arose if it is not one of ours."""
    if isinstance(error, KdumpError):
        return shown(error.what + (f": {error.why}" if error.why else ""))
    if isinstance(error, OSError):
        return shown(f"{error.filename}: {reason(error)}" if error.filename else reason(error))
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename.rpartition('/')[2]}:{place.tb_lineno})" if place else ""
    return f"{type(error).__name__}: {shown(error)}{where}" if str(error) else f"{type(error).__name__}{where}"
