"""The cpio writer, read back by GNU cpio."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kdump.image import cpio
from kdump.image.tree import Tree


def sample() -> Tree:
    tree = Tree()
    tree.file("bin/tool", b"\x7fELF" + bytes(range(256)), 0o755)
    tree.file("a/b/c/empty", b"")
    tree.symlink("lib", "usr/lib")
    tree.directory("tmp", 0o1777)
    return tree


@pytest.mark.skipif(not shutil.which("cpio"), reason="GNU cpio is the judge")
def test_gnu_cpio_reads_what_was_written(tmp_path: Path) -> None:
    data = cpio.archive(sample())
    done = subprocess.run(["cpio", "-idm", "--quiet"], input=data, cwd=tmp_path, capture_output=True, check=True)
    assert done.stderr == b""
    tool = tmp_path / "bin/tool"
    assert tool.read_bytes() == b"\x7fELF" + bytes(range(256))
    assert tool.stat().st_mode & 0o7777 == 0o755
    assert tool.stat().st_mtime == 0
    assert (tmp_path / "a/b/c/empty").read_bytes() == b""
    assert (tmp_path / "lib").readlink() == Path("usr/lib")
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_devices_alignment_and_order() -> None:
    tree = Tree()
    tree.character_device("dev/console", 5, 1)
    tree.file("x", b"12345")
    data = cpio.archive(tree)
    assert len(data) % 4 == 0
    assert data.startswith(b"070701")
    console = data.index(b"dev/console\0") - 110
    assert data[console + 6 + 9 * 8 : console + 6 + 11 * 8] == b"0000000500000001"  # rdevmajor, rdevminor
    assert data.index(b"dev\0") < data.index(b"dev/console\0") < data.index(b"x\0") < data.index(b"TRAILER!!!\0")
    shuffled = Tree(sorted(tree.items(), reverse=True))
    assert cpio.archive(shuffled) == data
