"""libkdump.so is refused unless it was built from these sources, and shows only what Python calls."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.native import build, library

SOURCES = Path(library.HERE)


def test_the_sources_compile_without_a_warning(tmp_path: Path) -> None:
    target = tmp_path / "libkdump.so"
    assert build.compile_library(SOURCES, target, (*build.OPTIMISED, *build.STRICT))
    table = subprocess.run(["nm", "-D", "--defined-only", target], capture_output=True, text=True, check=True).stdout
    shown = {line.split()[-1] for line in table.splitlines()}
    assert "kdump_pack" in shown and all(name.startswith("kdump_") for name in shown)


def copy(tmp_path: Path) -> Path:
    place = tmp_path / "native"
    place.mkdir()
    for path in SOURCES.glob("*.[ch]"):
        shutil.copy(path, place)
    return place


def opened(monkeypatch: pytest.MonkeyPatch, place: Path) -> ctypes.CDLL | None:
    monkeypatch.setattr(library, "LIBRARY", place / "libkdump.so")
    found: ctypes.CDLL | None = library.library.__wrapped__()
    return found


def test_a_library_of_other_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = copy(tmp_path)
    assert library.source_digest(place) == library.source_digest()
    with (place / "marks.c").open("a") as file:
        file.write("/* another version */\n")
    assert build.compile_library(place, place / "libkdump.so")
    with pytest.raises(KdumpError, match="does not belong to this kdump") as caught:
        opened(monkeypatch, place)
    assert "tools/bootstrap" in caught.value.remedy


def test_a_library_from_before_the_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.c").write_text("int kdump_pack(void) { return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "libkdump.so", tmp_path / "old.c"], check=True)
    with pytest.raises(KdumpError, match="does not belong"):
        opened(monkeypatch, tmp_path)


def test_without_sources_beside_it_the_library_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the capture image, which is made where the sources were compared."""
    shutil.copy(SOURCES / "libkdump.so", tmp_path)
    assert library.source_digest(tmp_path) is None
    monkeypatch.setattr(library, "HERE", str(tmp_path))
    assert opened(monkeypatch, tmp_path) is not None


def test_without_a_library_the_plain_engine_is_chosen(tmp_path: Path) -> None:
    shutil.copytree(SOURCES.parent, tmp_path / "kdump", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    code = "from kdump.native.engine import engine; print(engine.NAME)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "plain\n"


def test_without_a_compiler_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not build.compile_library(SOURCES, tmp_path / "libkdump.so")
