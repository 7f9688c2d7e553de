"""The capture image's dataclasses behave as the standard library's, for what the package does with them."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kdump
from kdump.image import lean_dataclasses as lean


def both(frozen: bool) -> tuple[Any, Any]:
    """The same class by either."""

    def make(module: Any) -> Any:
        body = {"__annotations__": {"name": "str", "count": "int", "names": "list[str]"}, "count": 3}
        body |= {"names": module.field(default_factory=list), "__module__": __name__, "__qualname__": "Sample"}
        return module.dataclass(frozen=frozen)(type("Sample", (), body))

    return make(dataclasses), make(lean)


CALLS: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
    (("a",), {}), (("a", 1, ["x"]), {}), ((), {"name": "b", "names": ["y"]}), (("a",), {"count": 9}),
    ((), {}), (("a", 1, [], 4), {}), (("a",), {"name": "b"}), (("a",), {"other": 1}),
)  # fmt: skip


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("given", "named"), CALLS)
def test_instances_are_made_alike(frozen: bool, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    def outcome(kind: Any) -> object:
        try:
            made = kind(*given, **named)
        except TypeError:
            return TypeError
        return repr(made), vars(made), made == kind(*given, **named), made == kind("other"), made == 1

    standard, ours = map(outcome, both(frozen))
    assert ours == standard


def test_defaults_are_not_shared() -> None:
    _, ours = both(False)
    assert ours("a").names is not ours("a").names
    assert ours.count == 3 and not hasattr(ours, "names")


def test_frozen_ones_cannot_be_changed_and_have_a_hash() -> None:
    _, frozen = both(True)
    instance = frozen("a", 1, ())
    with pytest.raises(AttributeError):
        instance.name = "b"
    with pytest.raises(AttributeError):
        del instance.name
    assert hash(instance) == hash(frozen("a", 1, ())) and instance.name == "a"
    _, plain = both(False)
    with pytest.raises(TypeError):
        hash(plain("a"))


@pytest.mark.parametrize("frozen", [True, False])
def test_replacing_and_listing(frozen: bool) -> None:
    for module, kind in zip((dataclasses, lean), both(frozen), strict=True):
        inner = kind("i", names=[kind("deep")])
        outer = module.replace(kind("o"), names={"k": (inner, [inner])}, count=7)
        deep = {"name": "deep", "count": 3, "names": []}
        plain = {"name": "i", "count": 3, "names": [deep]}
        assert module.asdict(outer) == {"name": "o", "count": 7, "names": {"k": (plain, [plain])}}
        assert [each.name for each in module.fields(outer)] == ["name", "count", "names"]
        assert [each.type for each in module.fields(kind)] == ["str", "int", "list[str]"]
        assert module.fields(kind)[1].default == 3 and module.fields(kind)[0].default is module.MISSING
        assert module.is_dataclass(outer) and module.is_dataclass(kind) and not module.is_dataclass(int)
        with pytest.raises(TypeError):
            module.replace(outer, other=1)


def test_fields_are_inherited() -> None:
    for module, base in zip((dataclasses, lean), both(True), strict=True):
        body = {"__annotations__": {"more": "int", "count": "int"}, "more": 1, "count": 5, "__module__": __name__}
        kind = module.dataclass(frozen=True)(type("More", (base,), body))
        assert [(each.name, each.default) for each in module.fields(kind)][1::2] == [("count", 5), ("more", 1)]
        assert (kind("a").count, kind("a").more) == (5, 1)


def decorated() -> Iterator[type]:
    """Every dataclass of the package but the fleet's, which no capture image has: its libraries need the real ones."""
    for module in pkgutil.walk_packages(kdump.__path__, "kdump."):
        if not module.name.endswith(("__main__", ".libkdump")) and not module.name.startswith("kdump.fleet"):
            found = importlib.import_module(module.name)
            for value in vars(found).values():
                if isinstance(value, type) and value.__module__ == module.name and dataclasses.is_dataclass(value):
                    yield value


SAME = """
import importlib, sys, types
import kdump
stand_in = types.ModuleType("dataclasses")
exec(open(sys.argv[1]).read(), stand_in.__dict__)
sys.modules["dataclasses"] = stand_in
for line in sys.stdin:
    module, name, *expected = line.split()
    found = getattr(importlib.import_module(module), name)
    assert [each.name for each in stand_in.fields(found)] == expected, line
    assert found.__init__.__module__ == "dataclasses", line
    print(name)
"""


def test_every_dataclass_of_the_package_can_be_made_by_it() -> None:
    kinds = list(decorated())
    lines = [
        f"{each.__module__} {each.__name__} {' '.join(f.name for f in dataclasses.fields(each))}" for each in kinds
    ]
    source = str(Path(str(lean.__file__)))
    done = subprocess.run(
        [sys.executable, "-c", SAME, source], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [each.__name__ for each in kinds]
    assert len(kinds) > 50
