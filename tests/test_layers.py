"""Imports point downward only: the source tree reads in the order in which a dump lives."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "kdump"

# Top to bottom; a package may import from those after it, and everything may import the modules beside them (errors …).
LAYERS = (
    "cli", "assist", "fleet", "lab", "host", "image", "kexec", "capture", "targets", "bench", "report", "dump",
    "kernel", "memory", "native", "files", "arch",
)  # fmt: skip


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path: Path, text: str) -> list[str]:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    rank = LAYERS.index(own) if own in LAYERS else len(LAYERS)
    found = []
    for name in imported(ast.parse(text)):
        parts = name.split(".")
        if parts[0] == "kdump" and len(parts) > 1 and parts[1] in LAYERS:
            below = LAYERS.index(parts[1])
            if below < rank and own != "__main__":
                found.append(f"{own} imports {name}, which lies above it")
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downward(path: Path) -> None:
    assert violations(path, path.read_text()) == []


def test_an_upward_import_is_found() -> None:
    assert violations(SOURCE / "memory" / "x.py", "from kdump.report import model")
    assert violations(SOURCE / "errors.py", "import kdump.arch.x86_64")
    assert not violations(SOURCE / "report" / "x.py", "from kdump.memory.protocol import Memory")


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages == set(LAYERS)
