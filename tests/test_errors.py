"""Errors are for people: none shows the number and the repeated file name that str() gives of an OSError."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdump.errors import reason

SOURCE = Path(__file__).parent.parent / "src" / "kdump"
FAMILY = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, OSError)}


def bare(tree: ast.AST) -> Iterator[int]:
    """Lines that give str() of an OSError as the reason of an error."""
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler) or handler.type is None or handler.name is None:
            continue
        if not FAMILY & {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}:
            continue
        for call in ast.walk(handler):
            for keyword in call.keywords if isinstance(call, ast.Call) else ():
                value = keyword.value
                if (
                    keyword.arg == "why"
                    and isinstance(value, ast.Call)
                    and isinstance(value.func, ast.Name)
                    and value.func.id == "str"
                    and isinstance(value.args[0], ast.Name)
                    and value.args[0].id == handler.name
                ):
                    yield value.lineno


def test_reasons_are_words() -> None:
    found = {path: list(bare(ast.parse(path.read_text()))) for path in SOURCE.rglob("*.py")}
    assert {str(path.relative_to(SOURCE)): lines for path, lines in found.items() if lines} == {}


def test_the_rule_finds_what_it_looks_for(tmp_path: Path) -> None:
    text = "try:\n x()\nexcept (ValueError, FileNotFoundError) as error:\n raise E('x', why=str(error))\n"
    assert list(bare(ast.parse(text))) == [4]
    with pytest.raises(OSError, match="Errno 2") as caught:
        (tmp_path / "nothing").read_text()
    assert reason(caught.value) == "No such file or directory"
    assert reason(ValueError("so")) == "so" and reason(TimeoutError("late")) == "late"
