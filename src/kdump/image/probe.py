"""Runs in a fresh interpreter: imports the module it is told, and writes what was imported for that to its output.

Both are marshalled. In: (sys.path, modules always wanted, modules to do without, {module: source in its place}). Out:
([(name, file, is a package, has source)] in the order of import, [lazy imports that failed]). It imports nothing for
its own use that is not in every interpreter already.
"""

import _imp
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where a statement may have statements in it
_OWN = "kdump"  # of our own modules the imports inside functions are followed too


def main(entry: str) -> None:
    """Import, follow lazy imports, report."""
    sys.path[:], always, without, stand_ins = marshal.load(sys.stdin.buffer)  # noqa: S302
    sys.modules.update(dict.fromkeys(without))  # None makes an import fail
    sys.meta_path.insert(0, _StandIns(stand_ins))
    __import__(entry)
    if hasattr(sys.modules[entry], "__path__"):
        __import__(f"{entry}.__main__")
    for name in always:
        __import__(name)
    missing = _follow_lazy_imports()
    found = []
    seen = set()
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
        found.append((spec.name, origin, package, not origin.endswith(tuple(_imp.extension_suffixes()))))
        for name in getattr(module, "__capture_files__", ()):
            beside = f"{origin.rpartition('/')[0]}/{name}"
            try:
                open(beside, "rb").close()
            except OSError:  # the module does without it here, and so will there
                continue
            parent = spec.name if package else spec.name.rpartition(".")[0]
            found.append((f"{parent}.{name.partition('.')[0]}", beside, False, False))
    sys.stdout.buffer.write(marshal.dumps((found, missing)))


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


def _follow_lazy_imports() -> list[str]:
    """Import what our modules import inside functions, or declare in `__capture_imports__`, until nothing is new."""
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


def _lazy_imports(module: "ModuleType") -> list[str]:
    found: list[str] = []
    origin = getattr(module.__spec__, "origin", None)
    if origin:
        with open(origin, "rb") as file:
            source = file.read()
        if any(line[:1] in b" \t" and b"import " in line for line in source.splitlines()):
            _imports_in_functions(compile(source, origin, "exec", _ONLY_AST, dont_inherit=True), False, found)
    omitted = getattr(module, "__capture_omits__", ())
    return [*getattr(module, "__capture_imports__", ()), *(name for name in found if name.split(".")[0] not in omitted)]


def _imports_in_functions(node: "ast.AST", inside: bool, found: list[str]) -> None:
    kind = type(node).__name__
    if inside and kind == "Import":
        found += [alias.name for alias in node.names]  # type: ignore[attr-defined]
    elif inside and kind == "ImportFrom":
        parent = node.module  # type: ignore[attr-defined]
        found += [parent, *(f"{parent}.{alias.name}" for alias in node.names)]  # type: ignore[attr-defined]
    inside = inside or kind in ("FunctionDef", "AsyncFunctionDef")
    for field in _BLOCKS:
        for child in getattr(node, field, ()):
            _imports_in_functions(child, inside, found)


if __name__ == "__main__":
    main(sys.argv[1])
