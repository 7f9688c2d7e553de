"""The cache: whole entries or none, made once however many want them, a full disk explained."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.lab import cache


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kdump"


def test_two_that_want_the_same_entry_make_it_once(home: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        (path / "file").write_text("content")
        time.sleep(0.2)

    results: list[str] = []
    workers = [
        threading.Thread(target=lambda: results.append((cache.entry("a/b", make) / "file").read_text()))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == ["content"] * 4
    assert len(made) == 1
    assert [path.name for path in (home / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("failure", [ValueError("broken"), OSError(errno.ENOSPC, "no space left")])
def test_a_failure_leaves_nothing_and_the_next_one_can_succeed(home: Path, failure: Exception) -> None:
    def fail(path: Path) -> None:
        (path / "half").write_text("half")
        raise failure

    kind = KdumpError if isinstance(failure, OSError) else ValueError
    with pytest.raises(kind, match=r"broken|no room for x in the cache.*(?s:.*)XDG_CACHE_HOME"):
        cache.entry("x", fail)
    assert [path.name for path in home.iterdir()] == ["locks"]
    assert cache.entry("x", lambda path: None) == home / "x"


def test_the_default_is_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / ".cache/kdump"
