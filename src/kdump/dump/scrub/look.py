"""Looks where a kernel keeps secrets, with a module for each kind. What cannot be found is always reported."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module

from kdump.dump.scrub.found import Found, Walk
from kdump.dump.scrub.kinds import KEYRINGS, KEYS, PASSWORDS, TLS, WIREGUARD
from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel

_DAMAGE = (KdumpError, AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError)
_WALKS = {KEYRINGS: "keyrings", KEYS: "ciphers", TLS: "tls", WIREGUARD: "wireguard", PASSWORDS: "arguments"}

# Each is imported when it is asked for: importing them all takes longer than what they do.
__capture_imports__ = tuple(f"kdump.dump.scrub.{name}" for name in _WALKS.values())


def look(kernel: Kernel, kinds: Collection[str], *, processes: bool) -> Found:
    """What there is of each kind (`kinds.KINDS`). A kind that cannot be looked for is noted with the reason.

    `processes`: whether memory of any is kept; without, there are no command lines to look at.
    """
    found = Found(tuple(kinds))
    for kind, name in _WALKS.items():
        if kind not in kinds:
            continue
        found.counts[kind] = {}
        if kind == PASSWORDS and not processes:
            continue
        try:
            kernel.objects.problems.clear()
            import_module(f"kdump.dump.scrub.{name}").walk(Walk(kernel, kind, found))
            for problem in kernel.objects.problems:
                found.fail(kind, problem)
        except _DAMAGE as error:
            why = (
                f"{error.what}{f': {error.why}' if error.why else ''}" if isinstance(error, KdumpError) else repr(error)
            )
            found.fail(kind, why)
    return found
