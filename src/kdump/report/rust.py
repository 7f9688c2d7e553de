"""Names of Rust functions as people write them, out of the mangled ones that kallsyms holds.

Mangled names carry hashes of the crates, which change from build to build; the readable path does not. Source: RFC 2603
(v0 mangling). Generic arguments are left out: the path is enough to identify a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBER = re.compile(r"\d+")
_BASE62 = re.compile(r"[0-9a-zA-Z]*_")
_DEEP = 32


def demangle(name: str) -> str:
    """The path of a mangled function ("_RNv…"), `<type>::method` for methods; the name itself if it is not mangled."""
    if not name.startswith("_R"):
        return name
    reader = _Reader(name[2:])
    try:
        return reader.path(_DEEP) or name
    except (IndexError, ValueError):
        return name


class _Reader:
    """Reads one mangled name from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def path(self, deep: int) -> str:
        """<path>: crate root, inherent or trait implementation, nested path, generics, or a back reference."""
        if not deep:
            raise ValueError("too deep")
        tag = self._take()
        match tag:
            case "C":
                self._disambiguator()
                return self._identifier()
            case "M" | "X":
                self._disambiguator()
                self.path(deep - 1)  # where the implementation stands
                kind = self._type(deep - 1)
                if tag == "X":
                    return f"<{kind} as {self.path(deep - 1)}>"
                return f"<{kind}>"
            case "Y":
                kind = self._type(deep - 1)
                return f"<{kind} as {self.path(deep - 1)}>"
            case "N":
                space = self._take()
                outer = self.path(deep - 1)
                self._disambiguator()
                inner = self._identifier()
                if space.isupper():
                    inner = "{closure}" if space == "C" else "{shim}"
                return f"{outer}::{inner}"
            case "I":
                found = self.path(deep - 1)
                while self.text[self.at] != "E":
                    self._argument(deep - 1)
                self.at += 1
                return found
            case "B":
                return self._back(lambda: self.path(deep - 1))
        raise ValueError(f"unknown path {tag!r}")

    def _type(self, deep: int) -> str:
        if not deep:
            raise ValueError("too deep")
        tag = self.text[self.at]
        if tag in "CMXYNI":
            return self.path(deep - 1)
        self.at += 1
        if tag == "B":
            return self._back(lambda: self._type(deep - 1))
        if tag in "RQ":
            if self.text[self.at] == "L":
                self.at += 1
                self._base62()
            return ("&mut " if tag == "Q" else "&") + self._type(deep - 1)
        if tag in "PO":
            return ("*const " if tag == "P" else "*mut ") + self._type(deep - 1)
        if tag == "S":
            return f"[{self._type(deep - 1)}]"
        if tag == "T":
            parts = []
            while self.text[self.at] != "E":
                parts.append(self._type(deep - 1))
            self.at += 1
            return f"({', '.join(parts)})"
        if tag in _BASIC:
            return _BASIC[tag]
        raise ValueError(f"unknown type {tag!r}")

    def _argument(self, deep: int) -> None:
        if self.text[self.at] == "L":
            self.at += 1
            self._base62()
        elif self.text[self.at] == "K":
            raise ValueError("constants are not read")
        else:
            self._type(deep)

    def _back(self, read: Callable[[], str]) -> str:
        place = self._base62()
        here, self.at = self.at, place
        if place >= here:
            raise ValueError("a reference must point back")
        found = read()
        self.at = here
        return found

    def _take(self) -> str:
        self.at += 1
        return self.text[self.at - 1]

    def _disambiguator(self) -> None:
        if self.text[self.at] == "s":
            self.at += 1
            self._base62()

    def _base62(self) -> int:
        """A number in base 62, "_" being 0, "0_" 1, and so on."""
        found = _BASE62.match(self.text, self.at)
        if not found:
            raise ValueError("no number")
        self.at = found.end()
        digits = found[0][:-1]
        if not digits:
            return 0
        value = 0
        for digit in digits:
            value = value * 62 + "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".index(digit)
        return value + 1

    def _identifier(self) -> str:
        if self.text[self.at] == "u":
            self.at += 1
        found = _NUMBER.match(self.text, self.at)
        if not found:
            raise ValueError("no identifier")
        size = int(found[0])
        start = found.end() + (self.text[found.end() : found.end() + 1] == "_")
        self.at = start + size
        if self.at > len(self.text):
            raise ValueError("the identifier is cut off")
        return self.text[start : self.at]


_BASIC = {
    "a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8", "i": "isize", "j": "usize",
    "l": "i32", "m": "u32", "n": "i128", "o": "u128", "s": "i16", "t": "u16", "u": "()", "v": "...", "x": "i64",
    "y": "u64", "z": "!", "p": "_",
}  # fmt: skip
