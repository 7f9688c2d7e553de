"""Aliases of kernel modules: names that others ask for ("crypto-crc32c") and patterns of device identities.

Source: kmod, libkmod-util.c (alias_normalize) and libkmod-index.c; matching is fnmatch(3)'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

_WILDCARD = re.compile(r"[*?[]")


def normalised(alias: str) -> str:
    """An alias with underscores, as kmod compares them; what is in brackets is a class of characters and stays."""
    parts = re.split(r"(\[[^]]*\])", alias)
    return "".join(part if number % 2 else part.replace("-", "_") for number, part in enumerate(parts))


def is_pattern(alias: str) -> bool:
    """Whether an alias has wildcards."""
    return _WILDCARD.search(alias) is not None


class Aliases:
    """Aliases and the modules that they stand for; most have wildcards, of which there are tens of thousands."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._exact: dict[str, list[str]] = {}
        self._patterns: dict[str, list[tuple[str, str]]] = {}  # by what precedes the first colon or wildcard
        for alias, name in pairs:
            pattern = normalised(alias)
            if _WILDCARD.search(pattern):
                self._patterns.setdefault(self._head(pattern), []).append((pattern, name))
            else:
                self._exact.setdefault(pattern, []).append(name)

    @staticmethod
    def _head(alias: str) -> str:
        """A key that a pattern and what it matches share, or "" for a pattern with a wildcard before its colon."""
        head, colon, _ = alias.partition(":")
        return head if colon and not _WILDCARD.search(head) else ""

    def find(self, alias: str) -> Iterator[str]:
        """Names of the modules that have the alias, each once."""
        alias = normalised(alias)
        heads = dict.fromkeys((self._head(alias), ""))
        candidates = [pair for head in heads for pair in self._patterns.get(head, ())]
        matches = [name for pattern, name in candidates if fnmatchcase(alias, pattern)]
        yield from dict.fromkeys([*self._exact.get(alias, ()), *matches])
