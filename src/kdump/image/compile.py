"""Runs in a fresh interpreter: compiles the modules that it is told to and writes their .pyc files to its output.

Both are marshalled. In: [(file name to show, source)]. Out: [.pyc]. It imports nothing, and has a process of its own:
how code is marshalled depends on which of its strings the interpreter has in use besides, and so on what else it has
compiled and whether the modules that were imported came from source or from a cache.
"""

import marshal
import sys

_MAGIC: bytes = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER  # importlib.util would import more


def main() -> None:
    """Compile one after the other."""
    wanted = marshal.load(sys.stdin.buffer)  # noqa: S302 - our own parent wrote it
    sys.stdout.buffer.write(marshal.dumps([_compile(*each) for each in wanted]))


def _compile(shown: str, source: bytes) -> bytes:
    code = compile(source, shown, "exec", dont_inherit=True, optimize=2)
    # No flags, no time, no size: nothing checks a .pyc that has no source beside it.
    return _MAGIC + bytes(12) + marshal.dumps(code)


if __name__ == "__main__":
    main()
