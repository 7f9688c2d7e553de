"""Which modules an entry module needs: found by importing it in a fresh interpreter, not listed by hand.

Imports inside the functions of our own modules are followed too. A module of ours may declare more, where a name is
made at run time, as `__capture_imports__ = ("package.module", …)`, and packages or modules that it imports inside
functions but never in the capture kernel as `__capture_omits__ = ("package", …)`. Shared libraries beside it that it
uses if they are there are `__capture_files__ = ("name.so", …)`.
"""

from __future__ import annotations

import marshal
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import kdump
from kdump.errors import KdumpError
from kdump.image.bytecode import Compilers, Interpreter
from kdump.image.made import Made, content_digest, file_digest
from kdump.image.platform import NATIVE, Found, Platform
from kdump.image.stand_ins import stand_ins

# Codecs are looked up by name, so no import shows them; these are what start-up and text files ask for.
_ALWAYS = ("encodings", "encodings.aliases", "encodings.utf_8", "encodings.latin_1", "encodings.ascii")


# What is left out though it can be imported here: OpenSSL's library is 5 MB. hashlib does as well without it; who talks
# TLS names ssl among the modules that are wanted.
_WITHOUT = ("_hashlib", "_ssl")


@dataclass(frozen=True)
class PythonModule:
    """A module of the closure. `code` is its .pyc, or empty for an extension module, which is the file `path`."""

    name: str
    path: Path
    package: bool
    code: bytes

    @property
    def place(self) -> str:
        """Where it belongs below the image's library directory."""
        base = self.name.replace(".", "/")
        if not self.code:
            return f"{base.rpartition('/')[0]}/{self.path.name}".lstrip("/")
        return f"{base}/__init__.pyc" if self.package else f"{base}.pyc"


@dataclass(frozen=True)
class Closure:
    """`modules` in the order of import; of them `first`, that what is to run first needs.

    `missing`: imports inside functions that fail here, and so would there.
    """

    modules: tuple[PythonModule, ...]
    first: tuple[PythonModule, ...]
    missing: tuple[str, ...]


def find(entry: str, *more: str, first: str = "", made: Made | None = None) -> Closure:
    """The closure of `entry`, a module or a package with a `__main__`, and of the modules `more`.

    What the module `first` needs comes before all others. Built-in and frozen modules are left out. What `made` knows
    is not compiled again.

    Raises KdumpError if a module cannot be imported.
    """
    return Search(entry, first=first, made=made).find(*more)


class Search:
    """The work of `find`, begun before everything besides `entry` is known.

    In a `with` statement it runs from the beginning, unless `made` has something, which may be the answer.
    """

    def __init__(
        self, entry: str, *more: str, first: str = "", made: Made | None = None, platform: Platform = NATIVE
    ) -> None:
        self.made = made or Made()
        self._platform = platform
        self._entry = entry
        self._more = more
        self._path = [str(Path(kdump.__file__).parent.parent), *filter(None, sys.path)]
        self._first = [*_ALWAYS, *filter(None, [first])]
        self._stand_ins = stand_ins()
        self._compilers = Compilers(self.made)
        self._begun: _Probe | None = None

    def __enter__(self) -> Search:
        if self.made.empty:
            self._begun = self._probe(self._stand_ins)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what was begun."""
        if self._begun:
            self._begun.close()
        self._compilers.close()

    def find(self, *more: str) -> Closure:
        """The closure, with that of the modules `more`; to be called once. Raises KdumpError."""
        wanted = [*self._more, *more]
        question = (self._entry, self._path, self._first, wanted, self._stand_ins)
        try:
            answer = self.made.get(
                f"imports {sys.version}",
                marshal.dumps(question),
                lambda: marshal.dumps(self._answer(wanted)),
                lambda answer: _holds(answer, self._path),
            )
            found, before, missing, used, _ = marshal.loads(answer)  # noqa: S302 - as _answer made it
            placed = [self._platform.place(each) for each in found]
            codes = [_begin(self._compilers, each, used) if each else None for each in placed]
            modules = [
                PythonModule(each[0], Path(each[1]), each[2], code.result() if code else b"") if each else None
                for each, code in zip(placed, codes, strict=True)
            ]
        finally:
            self.close()
        first = tuple(module for module in modules[:before] if module)
        return Closure(tuple(module for module in modules if module), first, tuple(missing))

    def _answer(self, more: list[str]) -> tuple[list[Found], int, list[str], dict[str, bytes], str]:
        """The answer of probe.py, the stand-ins that worked, and the conditions under which it holds."""
        used = self._stand_ins
        try:
            found, before, missing = (self._begun or self._probe(used)).answer(more)
        except KdumpError:
            found, before, missing = [], 0, [self._entry]
        if missing:  # perhaps this NumPy cannot do with them
            used = {}
            found, before, missing = self._probe(used).answer(more)
        return found, before, missing, used, _ground(found, self._path)

    def _probe(self, used: dict[str, bytes]) -> _Probe:
        return _Probe(self._entry, self._path, self._first, used, self._compilers if self._platform is NATIVE else None)


class _Probe:
    """probe.py at work. What it finds is compiled while it looks for more, if `compilers` are given."""

    def __init__(
        self,
        entry: str,
        path: list[str],
        first: list[str],
        used: dict[str, bytes],
        compilers: Compilers | None,
    ) -> None:
        self._used = used
        self._compilers = compilers
        self._found: list[Found] = []
        self._before = 0  # how many of them `first` needs
        self._interpreter = Interpreter("probe.py", entry)
        self._interpreter.tell((path, first, list(_WITHOUT), used))
        self._hearing = ThreadPoolExecutor(1)
        self._missing = self._hearing.submit(self._hear)

    def _hear(self) -> list[str]:
        while not isinstance(answer := self._interpreter.hear(), list):
            if answer:
                self._found.append(answer)
                if self._compilers:
                    _begin(self._compilers, answer, self._used)
            else:
                self._before = len(self._found)
        return answer

    def answer(self, more: list[str]) -> tuple[list[Found], int, list[str]]:
        """All modules, how many of them `first` needs, those that are missing. Raises `KdumpError`."""
        after_all = [name for name in _WITHOUT if name.lstrip("_") in more]
        self._interpreter.tell((more, after_all))
        try:
            missing = self._missing.result()
        finally:
            self.close()
        return self._found, self._before, missing

    def close(self) -> None:
        """Give up what it does."""
        self._interpreter.kill()
        self._hearing.shutdown()
        self._interpreter.close()


def _begin(compilers: Compilers, found: Found, used: dict[str, bytes]) -> Future[bytes] | None:
    """The module's byte code, in time; None if it is an extension."""
    name, origin, package, has_source = found
    if not has_source:
        return None
    shown = name.replace(".", "/") + ("/__init__.py" if package else ".py")  # in tracebacks
    return compilers.begin(shown, used[name] if name in used else Path(origin))


def _holds(answer: bytes, path: list[str]) -> bool:
    """Whether an answer of `_probe` would be the same today."""
    found, _before, _missing, _used, ground = marshal.loads(answer)  # noqa: S302 - our own child wrote it
    return bool(_ground(found, path) == ground)


def _ground(found: list[Found], path: list[str]) -> str:
    """A digest of all that decides which modules are imported: their contents, the directories searched for them."""
    parts: list[bytes] = []
    for place in sorted({*path, *(os.path.dirname(origin) for _, origin, *_ in found)}):  # noqa: PTH120
        try:
            names = sorted(set(os.listdir(place)) - {"__pycache__"})  # noqa: PTH208
        except OSError:
            names = []
        parts.append(repr((place, names)).encode())
    for _, origin, *_ in found:
        try:
            parts.append(file_digest(Path(origin)).encode())
        except OSError:  # it was there when it was imported
            return ""
    return content_digest(parts)
