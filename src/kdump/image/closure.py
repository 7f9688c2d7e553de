"""Which modules an entry module needs: found by importing it in a fresh interpreter, not listed by hand.

Imports inside the functions of our own modules are followed too. A module of ours may declare more, where a name is
made at run time, as `__capture_imports__ = ("package.module", …)`, and top-level packages that it imports inside
functions but never in the capture kernel as `__capture_omits__ = ("package", …)`. Shared libraries beside it that it
uses if they are there are `__capture_files__ = ("name.so", …)`.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import kdump
from kdump.errors import KdumpError
from kdump.image.made import Made, content_digest

# Codecs are looked up by name, so no import shows them; these are what start-up and text files ask for.
_ALWAYS = ("encodings", "encodings.aliases", "encodings.utf_8", "encodings.latin_1", "encodings.ascii")


# What is left out though it can be imported here: OpenSSL's library is 5 MB. hashlib does as well without it; who talks
# TLS names ssl among the modules that are wanted.
_WITHOUT = ("_hashlib", "_ssl")

_COMPILERS = 4  # processes; the same everywhere, for what else a process compiles shows in the bytes

# What takes half of the time of imports and is of no use there: NumPy's documentation, its types for annotations (in
# their place is a class that can be subscripted as they can) and its hooks for arrays of others; what documentation is
# tidied up with; and the standard library's way to make dataclasses.
_LEAN_DATACLASSES = Path(__file__).with_name("lean_dataclasses.py")
_STAND_INS = {
    "inspect": b"""\
getattr_static = getattr

def cleandoc(text):
    return text
""",
    "numpy._core._add_newdocs": b"",
    "numpy._core._add_newdocs_scalars": b"",
    "numpy._core.overrides": b"""\
ARRAY_FUNCTIONS = set()
array_function_like_doc = ""

def array_function_dispatch(*_given, **_options):
    return lambda implementation: implementation

def array_function_from_dispatcher(implementation, *_given, **_options):
    return lambda _dispatcher: implementation

def set_module(_name):
    return lambda named: named

def finalize_array_function_like(function):
    return function

set_array_function_like_doc = finalize_array_function_like

def get_array_function_like_doc(*_given):
    return ""
""",
    "numpy._typing": b"""\
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return list
""",
}


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
    """`modules` in the order of import; `missing`: imports inside functions that fail here, and so would there."""

    modules: tuple[PythonModule, ...]
    missing: tuple[str, ...]


def find(entry: str, *more: str, made: Made | None = None) -> Closure:
    """The closure of `entry`, a module or a package with a `__main__`, and of the modules `more`.

    Built-in and frozen modules are left out. What `made` knows is not compiled again.

    KdumpError if the module cannot be imported.
    """
    made = made or Made()
    path = [str(Path(kdump.__file__).parent.parent), *filter(None, sys.path)]
    without = [name for name in _WITHOUT if name.lstrip("_") not in more]
    question = (entry, [*_ALWAYS, *more], path, without, {**_STAND_INS, "dataclasses": _LEAN_DATACLASSES.read_bytes()})
    recipe = f"imports {sys.version}"
    answer = made.get(recipe, marshal.dumps(question), lambda: _probe(*question), lambda answer: _holds(answer, path))
    found, missing, stand_ins, _ = marshal.loads(answer)  # noqa: S302 - our own child wrote it
    sources = [
        (_shown(name, package), stand_ins[name] if name in stand_ins else Path(origin).read_bytes())
        for name, origin, package, source in found
        if source
    ]
    # All are one recipe: the code of one depends on what else is compiled, see compile.py.
    compiled = made.get(f"byte code {sys.version}", marshal.dumps(sources), lambda: _compile(sources))
    codes = iter(marshal.loads(compiled))  # noqa: S302 - our own child wrote it
    modules = (
        PythonModule(name, Path(origin), package, next(codes) if source else b"")
        for name, origin, package, source in found
    )
    return Closure(tuple(modules), tuple(missing))


def _probe(entry: str, always: list[str], path: list[str], without: list[str], stand_ins: dict[str, bytes]) -> bytes:
    """What probe.py answers, the stand-ins that did, and the ground on which it holds; marshalled."""
    try:
        found, missing = _fresh("probe.py", (path, always, without, stand_ins), entry)
    except KdumpError:  # perhaps this NumPy cannot do with them
        stand_ins = {}
        found, missing = _fresh("probe.py", (path, always, without, stand_ins), entry)
    return marshal.dumps((found, missing, stand_ins, _ground(found, path)))


def _holds(answer: bytes, path: list[str]) -> bool:
    """Whether an answer of `_probe` would be the same today."""
    found, _missing, _stand_ins, ground = marshal.loads(answer)  # noqa: S302 - our own child wrote it
    return bool(_ground(found, path) == ground)


def _ground(found: list[tuple[str, str, bool, bool]], path: list[str]) -> str:
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
            parts.append(Path(origin).read_bytes())
        except OSError:  # it was there when it was imported
            return ""
    return content_digest(parts)


def _shown(name: str, package: bool) -> str:
    """The file's name in tracebacks."""
    return name.replace(".", "/") + ("/__init__.py" if package else ".py")


def _compile(sources: list[tuple[str, bytes]]) -> bytes:
    """The .pyc of each, marshalled."""
    with ThreadPoolExecutor(_COMPILERS) as pool:
        parts = pool.map(lambda number: _fresh("compile.py", sources[number::_COMPILERS]), range(_COMPILERS))
        return marshal.dumps([code for row in zip_longest(*parts) for code in row if code is not None])


def _fresh(script: str, given: Any, entry: str = "") -> Any:
    """What a script beside this one answers to what it is given, both marshalled, in an interpreter of its own."""
    # A fixed hash seed and a fresh process make the byte code the same every time.
    environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    command = [sys.executable, "-s", "-S", "-P", str(Path(__file__).with_name(script)), entry]
    result = subprocess.run(command, input=marshal.dumps(given), capture_output=True, env=environment, check=False)
    if result.returncode:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        what = entry or "the capture kernel's Python"
        raise KdumpError(f"{what} cannot be put in an image", why=f"{script} failed: " + " ".join(lines[-1:]))
    return marshal.loads(result.stdout)  # noqa: S302 - our own child wrote it
