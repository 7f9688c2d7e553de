"""The capture image's typing serves every class of the package as the standard library's does."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kdump
from kdump.capture import plan
from kdump.image import lean_typing as lean
from kdump.memory import protocol
from kdump.targets.protocol import Spec


def named_tuples() -> Iterator[type]:
    """Every one of the package."""
    for module in pkgutil.walk_packages(kdump.__path__, "kdump."):
        if not module.name.endswith(("__main__", ".libkdump")):
            found = importlib.import_module(module.name)
            for value in vars(found).values():
                if isinstance(value, type) and value.__module__ == module.name and hasattr(value, "_field_defaults"):
                    yield value


WHAT = "[each._fields, sorted(each._field_defaults), sorted(vars(each)), each.__bases__]"
SAME = f"""
import importlib, sys, types
import numpy.typing  # has its own stand-in
stand_in = types.ModuleType("typing")
exec(open(sys.argv[1]).read(), stand_in.__dict__)
sys.modules["typing"] = stand_in
for line in sys.stdin:
    module, name = line.split()
    each = getattr(importlib.import_module(module), name)
    print(name, {WHAT})
assert sys.modules["typing"] is stand_in
"""


def test_every_named_tuple_of_the_package_is_the_same() -> None:
    kinds = list(named_tuples())
    lines = [f"{each.__module__} {each.__name__}" for each in kinds]
    command = [sys.executable, "-c", SAME, str(Path(str(lean.__file__)))]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = ("__orig_bases__", "__match_args__")
    for line, each in zip(done.stdout.splitlines(), kinds, strict=True):
        expected = f"{each.__name__} {eval(WHAT)}"
        assert _without(line, ours) == _without(expected, ours)
    assert len(kinds) > 50


def _without(text: str, names: tuple[str, ...]) -> str:
    for name in names:
        text = text.replace(f"{name!r}, ", "")
    return text


def test_hints_of_the_plan_are_read_alike() -> None:
    for kind in (plan.CapturePlan, plan.Deadlines, plan.Hooks, Spec):
        hints = typing.get_type_hints(kind)
        assert lean.get_type_hints(kind).keys() == hints.keys()
        for name, hint in lean.get_type_hints(kind).items():
            assert lean.get_origin(hint) == typing.get_origin(hints[name]), name
            assert lean.get_args(hint) == typing.get_args(hints[name]), name


def test_instances_are_told_by_their_methods() -> None:
    class Reads:
        def readinto(self) -> None: ...

    class Both(Reads):
        def lend(self) -> None: ...
        def places(self) -> None: ...

    members = {name: value for name, value in vars(protocol.ReadsInto).items() if name in vars(Both) | vars(Reads)}
    structural: Any = type(lean.Protocol)
    kind = lean.runtime_checkable(structural("ReadsInto", (lean.Protocol,), members))
    for checked in (kind, protocol.ReadsInto):
        assert isinstance(Both(), checked) and not isinstance(Reads(), checked)


def test_names_for_annotations_serve_as_such() -> None:
    names: Any = lean
    one, other = names.Literal, names.Callable
    assert names.Literal is one
    for made in (one[int], one | int, int | one, one | other, list[int] | one, names.TypeVar("T") | list[int]):
        assert isinstance(made, lean._Form)
    assert names.cast(int, "x") == "x" and names.final(Path) is Path
    assert names.Generic[one] is lean.Generic and names.Protocol[one] is lean.Protocol
    with pytest.raises(AttributeError, match="__wrapped__"):
        names.__wrapped__  # noqa: B018


def test_a_named_tuple_is_one_and_nothing_else() -> None:
    body = {"__annotations__": {"x": "int", "y": "int"}, "y": 3, "__module__": __name__}
    made = lean._Named("Point", (lean._tuple,), dict(body))
    assert (made(1), made(1)._replace(x=2)) == ((1, 3), (2, 3))
    with pytest.raises(TypeError, match="more bases"):
        lean._Named("Point", (lean._tuple, int), dict(body))
    with pytest.raises(KeyError, match="__annotations__"):
        lean._Named("Point", (lean._tuple,), {"__module__": __name__})
    assert issubclass(type(lean.TypedDict).__mro_entries__(lean.TypedDict, ())[0], dict)
