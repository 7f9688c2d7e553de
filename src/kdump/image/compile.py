"""Runs in a fresh interpreter: compiles the modules that it is told to, one after the other, until its input ends.

Both sides are marshalled. In: (file name to show, source). Out: its .pyc. It imports nothing.
"""

import marshal
import sys

_MAGIC: bytes = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER  # importlib.util would import more
_CODE = type(compile("", "", "exec"))


def main() -> None:
    """Answer."""
    while True:
        try:
            shown, source = marshal.load(sys.stdin.buffer)  # noqa: S302 - our own parent writes it
        except EOFError:
            return
        sys.stdout.buffer.write(marshal.dumps(_compile(shown, source)))
        sys.stdout.buffer.flush()


def _compile(shown: str, source: bytes) -> bytes:
    code = compile(source, shown, "exec", dont_inherit=True, optimize=2)
    # marshal notes of each object whether anything else refers to it, so names that the interpreter has in use besides
    # would show. Now something else refers to every one.
    held: list[object] = []
    _hold(code, held)
    # No flags, no time, no size: nothing checks a .pyc that has no source beside it.
    return _MAGIC + bytes(12) + marshal.dumps(code)


def _hold(part: object, held: list[object]) -> None:
    held.append(part)
    if isinstance(part, (tuple, frozenset)):
        for each in part:
            _hold(each, held)
    elif isinstance(part, _CODE):
        held += part.co_names + part.co_varnames + part.co_cellvars + part.co_freevars
        held += part.co_filename, part.co_name, part.co_qualname
        _hold(part.co_consts, held)


if __name__ == "__main__":
    main()
