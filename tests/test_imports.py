"""Imports, lazy ones too: none in a circle, none on the capture path of what a capture kernel cannot carry."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
CAPTURE_PATH = ("capture", "targets", "dump", "kernel", "memory", "native", "arch")
# Debuggers, frameworks and large parts of the standard library: none is needed to save a dump.
BANNED = {
    "asyncio", "capstone", "concurrent", "drgn", "elftools", "httptools", "jinja2", "multiprocessing", "msgspec",
    "pydoc", "rich", "setuptools", "starlette", "tkinter", "unittest", "urllib3", "uvicorn",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """The package's modules by name."""
    found = {}
    for path in (SOURCE / "kdump").rglob("*.py"):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Everything that a module imports when it runs, in functions too; not what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imported(other)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node)


def graph(known: Mapping[str, str]) -> dict[str, set[str]]:
    """Which modules each of `known` (name → source) imports, of these."""
    found: dict[str, set[str]] = {}
    for name, text in known.items():
        found[name] = set()
        for target in imported(ast.parse(text)):
            while target and target not in known:
                target = target.rpartition(".")[0]
            if target and target != name:
                found[name].add(target)
    return found


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """One circle, its first module again at its end; empty without any."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges[name]):
            if found := visit(target, [*way, name]):
                return found
        done.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in sorted(edges))), [])


def test_no_imports_go_in_a_circle() -> None:
    sys.setrecursionlimit(5000)
    assert circle(graph({name: path.read_text() for name, path in modules().items()})) == []


def test_a_circle_is_found() -> None:
    lazy = {"kdump.a": "import kdump.b", "kdump.b": "def f():\n    from kdump.c import g", "kdump.c": "import kdump.a"}
    assert circle(graph(lazy)) == ["kdump.a", "kdump.b", "kdump.c", "kdump.a"]
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import kdump.a"
    assert circle(graph({**lazy, "kdump.c": typing})) == []


def roots(text: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(ast.parse(text))}


def omitted(text: str) -> set[str]:
    """What a module says that it never imports in the capture kernel."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == ["__capture_omits__"]:
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("package", CAPTURE_PATH)
def test_the_capture_path_imports_nothing_that_is_banned(package: str) -> None:
    paths = list((SOURCE / "kdump" / package).rglob("*.py"))
    assert paths
    texts = {path.name: path.read_text() for path in paths}
    found = {name: banned for name, text in texts.items() if (banned := (roots(text) & BANNED) - omitted(text))}
    assert found == {}


def test_a_banned_import_is_found() -> None:
    assert roots("def f():\n    from drgn.helpers import linux") & BANNED == {"drgn"}


def test_the_image_holds_nothing_that_is_banned() -> None:
    """What is really imported, by others too: the list of modules that an image gets."""
    from kdump.image.python import python_modules

    names = {module.name.partition(".")[0] for module in python_modules("kdump.capture").modules}
    assert "numpy" in names
    assert names & (BANNED | {"_hashlib"}) == set()
