"""NumPy imported lean: nothing that the package calls is a stand-in, and what is one still does its work."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kdump
from kdump import lean_numpy

pytestmark = pytest.mark.skipif(
    not np.__version__.startswith(lean_numpy.TRIED),
    reason="a NumPy that this was not tried with: try it, and say so there",
)
LEAN = "from kdump import lean_numpy\nlean_numpy.install()\nimport numpy as np, sys\n"


def ran(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def used() -> set[str]:
    """What the package's modules take from NumPy, by the names it has there."""
    found: set[str] = set()
    for path in Path(kdump.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                found.add(node.attr)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpy":
                assert node.module == "numpy.typing", f"{path}: {node.module}"
    return found


def test_nothing_that_is_called_is_a_stand_in() -> None:
    names = used()
    assert {"uint8", "flatnonzero", "packbits"} < names
    code = f"""
def is_stand_in(name):
    found = getattr(np, name)
    return isinstance(found, type) and found.__module__ == "kdump.lean_numpy"
import json
print(json.dumps([[name for name in {sorted(names)!r} if is_stand_in(name)], is_stand_in("diff")]))
"""
    assert json.loads(ran(LEAN + code)) == [[], True]


def test_it_is_lean() -> None:
    parts = "print([name for name, module in sys.modules.items() if 'numpy.' in name and hasattr(module, '__file__')])"
    assert "numpy.linalg._linalg" in ran("import numpy, sys\n" + parts)
    lean = ran(LEAN + parts)
    assert "numpy._core.numeric" in lean and "_linalg" not in lean and "_function_base_impl" not in lean


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("np.diff([1, 3, 6]).tolist()", "[2, 3]"),
        ("np.linalg.norm([3, 4])", "5.0"),
        ("np.r_[1:3].tolist()", "[1, 2]"),
        ("np.median([1, 2, 6])", "2.0"),
        ("np.einsum('i,i', [1, 2], [3, 4])", "11"),
        ("np.histogram([1, 2, 2], 2)[0].tolist()", "[1, 2]"),
        ("np.packbits([1]).tolist()", "[128]"),
        ("isinstance(np.arange(2), np.matrix)", "False"),
    ],
)
def test_what_is_called_after_all_is_loaded(expression: str, value: str) -> None:
    assert ran(LEAN + f"print({expression})").strip() == value


def test_a_version_that_it_was_not_tried_with_is_imported_whole() -> None:
    ask = "print('numpy.linalg._linalg' in sys.modules)"
    assert ran(LEAN.replace("lean_numpy.install()", "lean_numpy.TRIED = ()\nlean_numpy.install()") + ask) == "True\n"
    assert ran(LEAN + ask) == "False\n"


def test_no_unique_that_needs_masked_arrays() -> None:
    """np.unique() without counts or indices imports numpy.ma, which is not in capture images."""
    source = Path(kdump.__file__).parent
    bare = [
        f"{path.relative_to(source)}:{node.lineno}"
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "np.unique"
        and not any((each.arg or "").startswith("return_") for each in node.keywords)
    ]
    assert bare == []
