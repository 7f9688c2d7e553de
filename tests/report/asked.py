"""Names that drgn's helpers and crash commands, and drgn-tools' corelens, ask a program for: all must have a type.

Those of drgn are read out of the package that is installed. drgn-tools is on no index, so the names that it asks for
beyond those are in corelens.txt: found in the same way in its sources of June 2026.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import drgn

from kdump.kernel.kernel import Kernel
from kdump.report.program import open_program

_METHODS = ("variable", "object")


def names() -> set[str]:
    """What is asked for."""
    corelens = (Path(__file__).parent / "corelens.txt").read_text().split()
    found = {name for path in Path(drgn.__file__).parent.rglob("*.py") for name in _in(ast.parse(path.read_text()))}
    assert len(found) > 150 < len(corelens)
    return found | set(corelens)


def _in(tree: ast.AST) -> Iterator[str]:
    """NAME of `prog["NAME"]` and `prog.variable("NAME")`."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Name(id=who) | ast.Attribute(attr=who), slice=ast.Constant(value=str(name))):
                if "prog" in who:
                    yield name
            case ast.Call(func=ast.Attribute(attr=method), args=[ast.Constant(value=str(name)), *_]):
                if method in _METHODS:
                    yield name


def without_type(vmcore: Path, kernel: Kernel) -> list[str]:
    """Names of variables that the kernel or one of its modules has, but of which no type is known."""
    program = open_program([str(vmcore)], kernel, default=False)
    there = {symbol.name for module in kernel.modules for symbol in module.symbols()}
    lacking = []
    for name in sorted(names()):
        if kernel.symbols.get(name) is None and name not in there:
            continue
        try:
            program[name]
        except LookupError:
            lacking.append(name)
    return lacking
