"""Sources that stand in for modules in the capture image: what these do takes time at start and is of no use there.

They are tried where the image is built; if an import fails with them, as it may with another NumPy, none is used.
"""

from __future__ import annotations

from pathlib import Path

from kdump.image import numpy_parts

# Names that others import, and that nobody calls: polynomials, files of arrays, matrices. Classes, as some objects are
# asked whether they are one.
_NOBODY_CALLS = b"""\
__all__ = []

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def left_out(*_given, **_options):
        raise NotImplementedError(f"{__name__}.{name} is not in the capture image")

    globals()[name] = type(name, (), {"__new__": left_out})
    return globals()[name]
"""

# numpy.unique() counts with it.
_COUNTING = b"""\
def diff(a):
    return a[1:] - a[:-1]
"""

_SOURCES = {
    "datetime": b"from _datetime import *\n",  # what Python 3.12 has there
    # There are no locales in the image; subprocess, gettext and strptime ask for them nevertheless.
    "locale": b"""\
from _locale import *

def getlocale(_category=LC_CTYPE):
    return None, None

def getpreferredencoding(_do_setlocale=True):
    return "utf-8"

getencoding = getpreferredencoding

def normalize(name):
    return name
""",
    "platform": b"""\
def python_implementation():
    return "CPython"

def system():
    return "Linux"
""",
    "ast": _NOBODY_CALLS,
    "pickle": _NOBODY_CALLS,
    # Without OpenSSL's 5 MB of libcrypto, and without the hashes that nobody here computes.
    "hashlib": b"""\
try:
    from _sha2 import sha256
except ImportError:  # Python 3.11
    from _sha256 import sha256
""",
    # What documentation is tidied up with.
    "inspect": b"""\
getattr_static = getattr

def cleandoc(text):
    return text
""",
    # numpy.unique asks whether its argument is masked: nothing here is.
    "numpy.ma": b"def is_masked(_array):\n    return False\n",
    # NumPy's documentation, its hooks for arrays of others, its types for annotations (in their place is a class that
    # can be subscripted as they can).
    **dict.fromkeys(numpy_parts.DOCUMENTATION, b""),
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
    **dict.fromkeys(
        numpy_parts.ANNOTATIONS,
        b"""\
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return list
""",
    ),
    **dict.fromkeys(numpy_parts.UNCALLED, _NOBODY_CALLS),
    **{name: _NOBODY_CALLS + f"__all__ = {names}\n".encode() for name, names in numpy_parts.STARRED.items()},
    **{
        name: f"from numpy._core._multiarray_umath import {', '.join(names)}\n".encode() + _NOBODY_CALLS
        for name, names in numpy_parts.HANDED_ON.items()
    },
    numpy_parts.COUNTING[0]: _COUNTING + _NOBODY_CALLS,
}


def stand_ins() -> dict[str, bytes]:
    """The source of each by the module's name."""
    lean = {name: Path(__file__).with_name(f"lean_{name}.py").read_bytes() for name in ("dataclasses", "typing")}
    return _SOURCES | lean
