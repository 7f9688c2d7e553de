"""NumPy without the parts that nothing here calls, which are half of the time that its import takes.

NumPy imports them for their names only. After `install` each of these names is a class in whose place the part is
loaded when somebody calls it after all, so that nothing is missing. Versions of NumPy that this was not tried with are
imported whole. The capture image has stand-ins for the same parts and some more (`kdump.image.stand_ins`).
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

from kdump import processor

__all__ = ["ANNOTATIONS", "DOCUMENTATION", "HANDED_ON", "STARRED", "TRIED", "UNCALLED", "install"]

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

STARRED = {"numpy._core.einsumfunc": ["einsum", "einsum_path"]}  # what `import *` shall bring; of the others, nothing
HANDED_ON = {"numpy.lib._npyio_impl": ["packbits", "unpackbits"]}  # numpy._core._multiarray_umath's, and called


def install() -> None:
    """Import NumPy like this in this process; call it before the first import."""
    sys.meta_path.insert(0, _FINDER)


class _Finder:
    """Finds stand-ins: an importer, as `sys.meta_path` has them."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name == "numpy":  # it would end the process without a word
            processor.require_numpy()
        # NumPy tells its version before it imports any of these.
        if name not in _NAMES or not getattr(sys.modules["numpy"], "__version__", "").startswith(TRIED):
            return None
        is_package = name in ("numpy.linalg", "numpy.matrixlib")
        return ModuleSpec(name, self, is_package=is_package)  # type: ignore[arg-type]

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
            if wanted in HANDED_ON.get(name, ()):
                return getattr(import_module("numpy._core._multiarray_umath"), wanted)
            made = _stand_in(name, wanted)
            setattr(module, wanted, made)
            return made

        module.__getattr__ = stand_in  # type: ignore[method-assign]
        module.__all__ = STARRED.get(name, [])  # type: ignore[attr-defined]


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
