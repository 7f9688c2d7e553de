"""What was made before is not made again, whatever happens to the file; images come out the same with and without."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from kdump.image import bytecode, closure, squashfs
from kdump.image.made import Made
from kdump.image.tree import Tree


class Maker:
    """Counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> bytes:
        self.calls += 1
        return b"made"


def test_a_result_is_made_once_for_a_recipe_and_a_source(tmp_path: Path) -> None:
    path, make = tmp_path / "cache", Maker()
    first = Made(path)
    assert [first.get("fold", source, make) for source in (b"a", b"b", b"a")] == [b"made"] * 3
    assert first.get("press", b"a", make) == b"made"
    assert make.calls == 3
    first.keep()
    assert path.stat().st_mode & 0o777 == 0o600
    again = Made(path)
    assert again.get("fold", b"a", make) == b"made"
    assert make.calls == 3
    again.keep()  # what was not used is forgotten
    Made(path).get("fold", b"b", make)
    assert make.calls == 4


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "directory"])
def test_a_damaged_file_is_no_file(tmp_path: Path, damage: str) -> None:
    path, make = tmp_path / "cache", Maker()
    made = Made(path)
    made.get("fold", b"a", make)
    made.keep()
    whole = path.read_bytes()
    if damage == "directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"cut": whole[:-1], "changed": whole[:-1] + b"!", "empty": b""}[damage])
    again = Made(path)
    assert again.get("fold", b"a", make) == b"made"
    assert make.calls == 2
    again.keep()
    assert [each.name for each in tmp_path.iterdir()] == ["cache"]  # no draft is left
    if damage != "directory":
        assert path.read_bytes() == whole


def test_byte_code_and_blocks_are_the_same_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree()
    tree.file("large", bytes(range(256)) * 1000)
    tree.file("holes", bytes(300_000))
    tree.file("small", b"x")

    def image(made: Made) -> tuple[closure.Closure, bytes]:
        return closure.find("colorsys", made=made), squashfs.pack(tree, made=made)

    plain = closure.find("colorsys"), squashfs.pack(tree)
    made = Made(tmp_path / "cache")
    assert image(made) == plain
    made.keep()

    def refuse(*_: object) -> bytes:
        raise AssertionError("made again")

    monkeypatch.setattr(bytecode, "Interpreter", refuse)
    assert image(Made(tmp_path / "cache")) == plain


def test_a_search_may_begin_before_all_is_known(tmp_path: Path) -> None:
    whole = closure.find("colorsys", "sched", first="kdump.image.stage0", made=Made(tmp_path / "cache"))
    with closure.Search("colorsys", first="kdump.image.stage0") as search:
        assert search._begun
        assert search.find("sched") == whole
    made = Made(tmp_path / "other")
    with closure.Search("colorsys", first="kdump.image.stage0", made=made) as search:
        assert search.find("sched") == whole
    made.keep()
    with closure.Search("colorsys", first="kdump.image.stage0", made=Made(tmp_path / "other")) as search:
        assert not search._begun  # the answer may be known
        assert search.find("sched") == whole
        assert not search._begun


def test_a_search_that_is_given_up_leaves_no_process() -> None:
    with contextlib.suppress(InterruptedError), closure.Search("colorsys") as search:
        raise InterruptedError
    assert search._begun
    assert search._begun._interpreter._process.returncode is not None
    assert all(process._process.returncode is not None for process in search._compilers._processes)


def test_imports_are_followed_again_when_something_they_depend_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("try:\n    import pack.more\nexcept ImportError:\n    import colorsys\n")
    probes: list[str] = []
    probe = closure._Probe

    def counted(entry: str, *others: Any) -> Any:
        probes.append(entry)
        return probe(entry, *others)

    monkeypatch.setattr(closure, "_Probe", counted)

    def names() -> set[str]:
        made = Made(tmp_path.parent / f"{tmp_path.name}.cache")
        found = {module.name for module in closure.find("pack", made=made).modules}
        made.keep()
        return found & {"colorsys", "pack.more", "sched", "heapq"}

    assert names() == {"colorsys"}
    assert names() == {"colorsys"}
    assert len(probes) == 1
    (package / "more.py").write_text("import colorsys, sched")  # a module that was looked for and missed
    assert names() == {"colorsys", "pack.more", "sched", "heapq"}
    assert len(probes) == 2
    (package / "more.py").write_text("import heapq")  # another content
    assert names() == {"pack.more", "heapq"}
    (tmp_path / "heapq.py").write_text("import colorsys")  # another module of that name, found sooner
    assert names() == {"pack.more", "heapq", "colorsys"}
    (package / "more.py").unlink()
    assert names() == {"colorsys"}
    assert len(probes) == 5
    (tmp_path / "unrelated.py").touch()  # the imports are the same, and from now on hold again
    assert names() == names() == {"colorsys"}
    assert len(probes) == 6
