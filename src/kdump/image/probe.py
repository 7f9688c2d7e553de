"""Runs in a fresh interpreter: imports the module it is told, and writes what was imported for that to its output.

Input and output are marshalled: (sys.path, modules always wanted) in; [(name, file, is a package, .pyc or b"")] out,
in the order of import. It must import nothing for its own use that is not in every interpreter already.
"""

import _imp
import marshal
import sys
from importlib.util import MAGIC_NUMBER


def main(entry: str) -> None:
    """Import, follow `__capture_imports__`, compile, report."""
    sys.path[:], always = marshal.load(sys.stdin.buffer)  # noqa: S302
    pending = [entry, *always]
    done: set[str] = set()
    while pending:
        name = pending.pop(0)
        if name not in done:
            done.add(name)
            __import__(name)
        for module in list(sys.modules.values()):
            pending += [name for name in getattr(module, "__capture_imports__", ()) if name not in done]
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
        code = b"" if _is_extension(origin) else _compile(spec.name, origin, package)
        found.append((spec.name, origin, package, code))
    sys.stdout.buffer.write(marshal.dumps(found))


def _is_extension(path: str) -> bool:
    return path.endswith(tuple(_imp.extension_suffixes()))


def _compile(name: str, origin: str, package: bool) -> bytes:
    shown = name.replace(".", "/") + ("/__init__.py" if package else ".py")
    with open(origin, "rb") as file:
        source = file.read()
    code = compile(source, shown, "exec", dont_inherit=True, optimize=2)
    # No flags, no time, no size: nothing checks a .pyc that has no source beside it.
    return MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


if __name__ == "__main__":
    main(sys.argv[1])
