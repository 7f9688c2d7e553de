"""NumPy without the parts that nothing here calls, which are half of the time that its import takes.

NumPy imports them for their names only. After `install` each of these names is a class in whose place the part is
loaded when somebody calls it after all, so that nothing is missing. Versions of NumPy that this was not tried with are
imported whole. The capture image has stand-ins for the same parts and some more (`kdump.image.stand_ins`).
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["ANNOTATIONS", "DOCUMENTATION", "TRIED", "UNCALLED", "install"]

TRIED = ("2.0.", "2.1.", "2.2.", "2.3.", "2.4.")

# Polynomials, files of arrays, matrices, linear algebra ...
UNCALLED = (
    "numpy._core.einsumfunc",
    "numpy._core.records",
    "numpy.lib._arraypad_impl",
    "numpy.lib._format_impl",
    "numpy.lib._function_base_impl",
    "numpy.lib._histograms_impl",
    "numpy.lib._index_tricks_impl",
    "numpy.lib._nanfunctions_impl",
    "numpy.lib._npyio_impl",
    "numpy.lib._polynomial_impl",
    "numpy.lib._scimath_impl",
    "numpy.lib._stride_tricks_impl",
    "numpy.lib._twodim_base_impl",
    "numpy.lib._type_check_impl",
    "numpy.lib._ufunclike_impl",
    "numpy.lib._utils_impl",
    "numpy.linalg",
    "numpy.matrixlib",
    "numpy.matrixlib.defmatrix",
)
DOCUMENTATION = ("numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars")
ANNOTATIONS = ("numpy.typing", "numpy._typing")

_STARRED = {"numpy._core.einsumfunc": ["einsum", "einsum_path"]}  # what `import *` shall bring; of the others, nothing
_ELSEWHERE = {"packbits", "unpackbits"}  # of what the parts hand on, this is called


def install() -> None:
    """Import NumPy like this in this process; call it before the first import."""
    sys.meta_path.insert(0, _FINDER)


class _Finder:
    """Finds stand-ins: an importer, as `sys.meta_path` has them."""

    def __init__(self) -> None:
        self._tried: bool | None = None

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if not name.startswith("numpy.") or name not in _NAMES:
            return None
        if self._tried is None:
            self._tried = _version().startswith(TRIED)
        is_package = name in ("numpy.linalg", "numpy.matrixlib")
        return ModuleSpec(name, self, is_package=is_package) if self._tried else None  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> None:
        """An ordinary one."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name in DOCUMENTATION:
            return

        def stand_in(wanted: str) -> object:
            if wanted.startswith("__"):
                raise AttributeError(wanted)
            if name in ANNOTATIONS:  # can be subscripted as they can
                return list
            found = import_module("numpy._core._multiarray_umath") if wanted in _ELSEWHERE else None
            made = getattr(found, wanted) if found else _stand_in(name, wanted)
            setattr(module, wanted, made)
            return made

        module.__getattr__ = stand_in  # type: ignore[method-assign]
        module.__all__ = _STARRED.get(name, [])  # type: ignore[attr-defined]


_FINDER = _Finder()
_NAMES = {*UNCALLED, *DOCUMENTATION, *ANNOTATIONS}


def _stand_in(module: str, name: str) -> type:
    """Some objects are asked whether they are one: so it is a class."""

    def real() -> object:
        if _FINDER in sys.meta_path:
            sys.meta_path.remove(_FINDER)
        if not hasattr(sys.modules[module], "__file__"):
            del sys.modules[module]
        return getattr(import_module(module), name)

    def call(_cls: type, *given: object, **options: object) -> object:
        return real()(*given, **options)  # type: ignore[operator]

    def item(_cls: type, key: object) -> object:
        return real()[key]  # type: ignore[index]

    return type(name, (), {"__new__": call, "__class_getitem__": item})


def _version() -> str:
    """NumPy's, without importing it."""
    spec = PathFinder.find_spec("numpy")
    for place in (spec and spec.submodule_search_locations) or ():
        try:
            with open(f"{place}/version.py", encoding="utf-8") as source:
                return source.read().partition('version = "')[2].partition('"')[0]
        except OSError:
            continue
    return ""
