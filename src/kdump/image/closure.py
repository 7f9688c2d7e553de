"""Which modules an entry module needs: found by importing it in a fresh interpreter, not listed by hand.

Imports inside the functions of our own modules are followed too. A module of ours may declare more, where a name is
made at run time, as `__capture_imports__ = ("package.module", …)`, and top-level packages that it imports inside
functions but never in the capture kernel as `__capture_omits__ = ("package", …)`. Shared libraries beside it that it
uses if they are there are `__capture_files__ = ("name.so", …)`.
"""

from __future__ import annotations

import marshal
import os
import sys
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import kdump
from kdump.errors import KdumpError
from kdump.image.bytecode import Compilers, Interpreter
from kdump.image.made import Made, content_digest, file_digest
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

    KdumpError if the module cannot be imported.
    """
    made = made or Made()
    path = [str(Path(kdump.__file__).parent.parent), *filter(None, sys.path)]
    without = [name for name in _WITHOUT if name.lstrip("_") not in more]
    question = (entry, path, [*_ALWAYS, *filter(None, [first])], list(more), without, stand_ins())
    with Compilers(made) as compilers:
        answer = made.get(
            f"imports {sys.version}",
            marshal.dumps(question),
            lambda: marshal.dumps(_probe(question, compilers)),
            lambda answer: _holds(answer, path),
        )
        found, before, missing, used, _ = marshal.loads(answer)  # noqa: S302 - as _probe made it
        codes = [_begin(compilers, each, used) for each in found]
        modules = tuple(
            PythonModule(name, Path(origin), package, code.result() if code else b"")
            for (name, origin, package, _), code in zip(found, codes, strict=True)
        )
        return Closure(modules, modules[:before], tuple(missing))


_Found = tuple[str, str, bool, bool]  # what probe.py says of a module
_Question = tuple[str, list[str], list[str], list[str], list[str], dict[str, bytes]]  # the entry, and what it reads
_Answer = tuple[list[_Found], int, list[str]]  # modules, how many of them `first` needs, missing ones


def _probe(question: _Question, compilers: Compilers) -> tuple[list[_Found], int, list[str], dict[str, bytes], str]:
    """What probe.py answers, the stand-ins that did, and the ground on which it holds."""
    entry, path, first, more, without, used = question
    try:
        found, before, missing = _ask(question, compilers)
    except KdumpError:
        found, before, missing = [], 0, [entry]
    if missing:  # perhaps this NumPy cannot do with them
        used = {}
        found, before, missing = _ask((entry, path, first, more, without, used), compilers)
    return found, before, missing, used, _ground(found, path)


def _ask(question: _Question, compilers: Compilers) -> _Answer:
    """What probe.py answers; modules are compiled while it looks for more."""
    entry, *asked = question
    probe = Interpreter("probe.py", entry)
    found: list[_Found] = []
    before = 0
    try:
        answer = probe.ask(tuple(asked))
        while not isinstance(answer, list):
            if answer:
                found.append(answer)
                _begin(compilers, answer, question[-1])
            else:
                before = len(found)
            answer = probe.hear()
    finally:
        probe.close()
    return found, before, answer


def _begin(compilers: Compilers, found: _Found, used: dict[str, bytes]) -> Future[bytes] | None:
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


def _ground(found: list[_Found], path: list[str]) -> str:
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
