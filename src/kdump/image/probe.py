"""Runs in a fresh interpreter: imports the module it is told, and writes what was imported for that to its output.

Both are marshalled. In: (sys.path, modules wanted before it, modules to do without, {module: source in its place}), and
later, for it may be known later, (modules wanted besides, modules not to do without after all). Out: (name, file, is a
package, has source) of each in the order of import, None behind those that what is wanted before needs, and last [lazy
imports that failed]. Nothing that it imports for its own use is there.
"""

import _imp
import gc
import marshal
import posix
import sys

_before = set(sys.modules)
from opcode import opmap  # noqa: E402

for _name in set(sys.modules) - _before:  # nothing that was asked for
    del sys.modules[_name]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

_IMPORT_NAME, _EXTENDED_ARG = opmap["IMPORT_NAME"], opmap["EXTENDED_ARG"]
_IN_FUNCTION = 0x02  # inspect.CO_NEWLOCALS: not so of a class's body
_OWN = "kdump"  # of our own modules the imports inside functions are followed too


def main(entry: str) -> None:
    """Import, follow lazy imports, report."""
    gc.disable()  # little of what imports make is garbage
    sys.path[:], first, without, stand_ins = marshal.load(sys.stdin.buffer)  # noqa: S302
    sys.modules.update(dict.fromkeys(without))  # None makes an import fail
    sys.meta_path.insert(0, _StandIns(stand_ins))
    seen: set[str] = set()
    for name in first:
        __import__(name)
    _report(seen)
    _write(None)
    __import__(entry)
    if hasattr(sys.modules[entry], "__path__"):
        __import__(f"{entry}.__main__")
    _report(seen)
    more, after_all = marshal.load(sys.stdin.buffer)  # noqa: S302
    for name in after_all:
        del sys.modules[name]
    for name in more:
        __import__(name)
    _report(seen)
    _write(_follow_lazy_imports(seen))
    sys.stdout.buffer.flush()
    posix._exit(0)  # taking the interpreter apart takes longer than starting it


def _report(seen: set[str]) -> None:
    """Write what was imported since the last time."""
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.name in seen or spec.origin in (None, "built-in"):
            continue
        seen.add(spec.name)
        origin = spec.origin
        if origin == "frozen":
            if spec.name != "os":  # the interpreter looks for the file os.pyc to know where its library is
                continue
            origin = str(module.__file__)
        package = spec.submodule_search_locations is not None
        _write((spec.name, origin, package, not origin.endswith(tuple(_imp.extension_suffixes()))))
        for name in getattr(module, "__capture_files__", ()):
            beside = f"{origin.rpartition('/')[0]}/{name}"
            try:
                open(beside, "rb").close()
            except OSError:  # the module does without it here, and so will there
                continue
            parent = spec.name if package else spec.name.rpartition(".")[0]
            _write((f"{parent}.{name.partition('.')[0]}", beside, False, False))
    sys.stdout.buffer.flush()


def _write(answer: "tuple[str, str, bool, bool] | list[str] | None") -> None:
    sys.stdout.buffer.write(marshal.dumps(answer))


class _StandIns:
    """Finds modules where they are, and runs another source in their place."""

    def __init__(self, sources: dict[str, bytes]) -> None:
        self.sources = sources

    def find_spec(self, name: str, path: "Sequence[str] | None", _target: object = None, /) -> "ModuleSpec | None":
        if name not in self.sources:
            return None
        spec: ModuleSpec | None = sys.modules["_frozen_importlib_external"].PathFinder.find_spec(name, path)
        if spec:
            spec.loader = self  # type: ignore[assignment]
        return spec

    def create_module(self, _spec: "ModuleSpec") -> None:
        """As usual."""

    def exec_module(self, module: "ModuleType") -> None:
        exec(self.sources[module.__name__], module.__dict__)  # noqa: S102 - our parent's


def _follow_lazy_imports(seen: set[str]) -> list[str]:
    """Import what our modules import inside functions, or declare in `__capture_imports__`, until nothing is new.

    Returns those that failed.
    """
    done: set[str] = set()
    missing: list[str] = []
    while True:
        modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == _OWN]
        wanted = dict.fromkeys(name for module in modules for name in _lazy_imports(module) if name not in done)
        if not wanted:
            return missing
        for name in wanted:
            done.add(name)
            try:
                __import__(name)
            except ImportError:
                # "package.name" may name an attribute, not a module. Private modules come and go with Python's version.
                parent, _, attribute = name.rpartition(".")
                if not name.startswith("_") and not hasattr(sys.modules.get(parent), attribute):
                    missing.append(name)
            _report(seen)


def _lazy_imports(module: "ModuleType") -> list[str]:
    if module.__name__ not in _found:
        found: list[str] = []
        _imports_in_functions(module.__loader__.get_code(module.__name__), False, found)  # type: ignore[union-attr]
        omitted = getattr(module, "__capture_omits__", ())
        kept = (name for name in found if not any(f"{name}.".startswith(f"{each}.") for each in omitted))
        _found[module.__name__] = [*getattr(module, "__capture_imports__", ()), *kept]
    return _found[module.__name__]


_found: dict[str, list[str]] = {}


def _imports_in_functions(code: "CodeType", inside: bool, found: list[str]) -> None:
    """By their instructions, two bytes each: the byte code is available, and parsing sources takes long.

    `from a import b` is a LOAD_CONST of ("b",) and an IMPORT_NAME of "a"; with `import a` the constant is None.
    """
    raw = code.co_code
    at = raw.find(_IMPORT_NAME) if inside else -1
    while at >= 0:
        if at % 2 == 0:
            name, before = _argument(raw, at)
            names, _ = _argument(raw, before)
            parent = code.co_names[name]
            found += [parent, *(f"{parent}.{each}" for each in code.co_consts[names] or ())]
        at = raw.find(_IMPORT_NAME, at + 1)
    for part in code.co_consts:
        if hasattr(part, "co_code"):
            _imports_in_functions(part, inside or bool(part.co_flags & _IN_FUNCTION), found)


def _argument(raw: bytes, at: int) -> tuple[int, int]:
    """An instruction's argument, with what EXTENDED_ARGs before it add; where the instruction before these is."""
    value, shift = raw[at + 1], 8
    while at >= 2 and raw[at - 2] == _EXTENDED_ARG:
        at -= 2
        value |= raw[at + 1] << shift
        shift += 8
    return value, at - 2


if __name__ == "__main__":
    main(sys.argv[1])
