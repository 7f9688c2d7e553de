"""Walks to where a kernel keeps secrets, a module for each kind. What cannot be found is said, never passed over."""

from __future__ import annotations

from collections.abc import Callable, Collection

from kdump.dump.scrub import arguments, ciphers, keyrings, tls, wireguard
from kdump.dump.scrub.found import Found, Walk
from kdump.dump.scrub.kinds import KEYRINGS, KEYS, PASSWORDS, TLS, WIREGUARD
from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel

_DAMAGE = (KdumpError, AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError)
_WALKS: dict[str, Callable[[Walk], None]] = {
    KEYRINGS: keyrings.walk,
    KEYS: ciphers.walk,
    TLS: tls.walk,
    WIREGUARD: wireguard.walk,
    PASSWORDS: arguments.walk,
}


def look(kernel: Kernel, kinds: Collection[str], *, processes: bool) -> Found:
    """What there is of each kind (`kinds.KINDS`). A kind that cannot be looked for is noted with the reason.

    `processes`: whether memory of any is kept; without, there are no command lines to look at.
    """
    found = Found(tuple(kinds))
    for kind, walk in _WALKS.items():
        if kind not in kinds:
            continue
        found.counts[kind] = {}
        if kind == PASSWORDS and not processes:
            continue
        try:
            kernel.objects.problems.clear()
            walk(Walk(kernel, kind, found))
            for problem in kernel.objects.problems:
                found.fail(kind, problem)
        except _DAMAGE as error:
            why = (
                f"{error.what}{f': {error.why}' if error.why else ''}" if isinstance(error, KdumpError) else repr(error)
            )
            found.fail(kind, why)
    return found
