"""The windows over a file: bounded, shared by threads, and valid for as long as a view is held."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from kdump.errors import FormatError, KdumpError
from kdump.memory import open_dump, source
from kdump.memory.source import FileSource

PATTERN = np.arange(1 << 18, dtype="<u4").tobytes()  # 1 MiB, every word another


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(source, "WINDOW", 64 << 10)
    monkeypatch.setattr(source, "WINDOWS", 3)
    file = tmp_path / "file"
    file.write_bytes(PATTERN)
    return file


def check(opened: FileSource) -> None:
    for offset, size in ((0, 4), (5, 100), (65530, 12), (0, 1 << 20), (1 << 19, 200_000), ((1 << 20) - 1, 1), (77, 0)):
        assert opened.view(offset, size) == PATTERN[offset : offset + size]


def test_every_place_reads_as_the_file_does(path: Path) -> None:
    check(FileSource(path))


def test_windows_are_few_and_views_outlive_them(path: Path) -> None:
    opened = FileSource(path)
    first = opened.view(100, 50)
    for offset in range(0, 1 << 20, 4096):
        opened.view(offset, 10)
    assert len(opened._windows) == 3
    opened.close()
    assert first == PATTERN[100:150]


def test_where_nothing_can_be_mapped_the_file_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(*args: object, **_: object) -> None:
        calls.append(args)
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", refuse)
    check(FileSource(path))
    assert len(calls) == 1, "once refused for good, mapping is not tried again"


def test_one_window_that_cannot_be_mapped_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = mmap.mmap

    def refuse(fd: int, size: int, flags: int, protection: int, *, offset: int) -> mmap.mmap:
        if offset == 0:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real(fd, size, flags, protection, offset=offset)

    monkeypatch.setattr(mmap, "mmap", refuse)
    check(FileSource(path))


@pytest.mark.parametrize(("offset", "size"), [(1 << 20, 1), (-1, 1), (0, (1 << 20) + 1), (1 << 62, 1 << 62), (5, -1)])
def test_past_the_end_is_an_error(path: Path, offset: int, size: int) -> None:
    with pytest.raises(FormatError, match="ends at"):
        FileSource(path).view(offset, size)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match="no such file"):
        open_dump(tmp_path / "nothing")
    with pytest.raises(KdumpError, match="not a file"):
        open_dump(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(FormatError, match="an empty file"):
        open_dump(tmp_path / "empty")


@pytest.mark.parametrize(
    ("start", "text"),
    [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"DISKDUMP", "diskdump"), (b"%PDF", "PDF")],
)
def test_strangers_are_named(tmp_path: Path, start: bytes, text: str) -> None:
    (tmp_path / "file").write_bytes(start + bytes(100))
    with pytest.raises(FormatError, match=text):
        open_dump(tmp_path / "file")


def test_only_what_is_mapped_from_the_beginning_is_lent(path: Path, tmp_path: Path) -> None:
    assert FileSource(path).lend(0, 4096) is None
    with (tmp_path / "pseudo").open("wb") as file:
        file.truncate(1 << 20)  # no block of it is anywhere, as with /proc/vmcore
    opened = FileSource(tmp_path / "pseudo")
    for offset, size in ((0, 4), (5000, 9000), (65530, 6), ((1 << 20) - 4096, 4096)):
        lent = opened.lend(offset, size)
        assert lent is not None and lent == bytes(size)
    assert opened.lend(65530, 12) is None  # in two windows
    assert opened.lend((1 << 20) - 10, 20) is None  # past the end


def test_pages_that_a_file_lost_are_counted(path: Path) -> None:
    from kdump.dump.pages import PageReader
    from kdump.memory.protocol import Memory, ReadsInto

    opened = FileSource(path)

    class Whole:
        page_size = 4096
        readinto, lend = opened.readinto, opened.lend

        def places(self, _pfns: object) -> None:
            """Of no matter here."""

    memory: Memory = Whole()  # type: ignore[assignment]
    assert isinstance(memory, ReadsInto)
    pages, unreadable = PageReader(memory)(np.arange(8))
    assert unreadable is None
    assert pages.tobytes() == PATTERN[: 8 * 4096]
    os.truncate(path, 5 * 4096)  # touching what is gone would be a SIGBUS
    pages, unreadable = PageReader(memory)(np.arange(8))
    assert unreadable is not None
    assert unreadable.tolist() == [False] * 5 + [True] * 3
    assert pages[:5].tobytes() == PATTERN[: 5 * 4096]
