"""The squashfs writer, read back by unsquashfs; the lab's tests mount it."""

from __future__ import annotations

import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.image import squashfs
from kdump.image.tree import Tree

needs_unsquashfs = pytest.mark.skipif(not shutil.which("unsquashfs"), reason="unsquashfs is the judge")


def sample(block: int) -> Tree:
    noise = random.Random(7)
    tree = Tree()
    tree.file("empty", b"")
    tree.file("one byte", b"x")
    tree.file("secret", b"key", 0o600)
    tree.file("exact block", b"y" * block)
    tree.file("block and tail", noise.randbytes(block) + b"tail")
    tree.file("incompressible", noise.randbytes(3 * block + 17))
    tree.file("hole", b"begin" * block + bytes(4 * block) + b"end")
    tree.file("only holes", bytes(2 * block))
    tree.symlink("link", "deep/er/file")
    tree.symlink("dangling", "/nowhere/" + "x" * 200)
    tree.file("deep/er/file", b"z" * 1000, 0o755)
    tree.directory("nothing in it", 0o700)
    for number in range(3000):  # several runs and metadata blocks; a listing longer than 64 KiB
        tree.file(f"many/{'n' * 24}{number}", b"%d" % number)
    return tree


@needs_unsquashfs
@pytest.mark.parametrize("block", [4 << 10, 128 << 10])
def test_unsquashfs_reads_what_was_written(tmp_path: Path, block: int) -> None:
    tree = sample(block)
    image = tmp_path / "image"
    data = squashfs.pack(tree, block_size=block)
    image.write_bytes(data)
    assert len(data) % 4096 == 0
    root = tmp_path / "root"
    done = subprocess.run(["unsquashfs", "-no-progress", "-d", root, image], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for path, node in tree.items():
        there = root / path
        if stat.S_ISLNK(node.mode):
            assert there.readlink() == Path(node.content.decode())
        elif stat.S_ISDIR(node.mode):
            assert there.is_dir()
        else:
            assert there.read_bytes() == node.content, path
        if not stat.S_ISLNK(node.mode):
            assert there.stat().st_mode == node.mode, path
    assert len(list(root.rglob("*"))) == len(tree)
    assert len(data) < sum(len(node.content) for node in tree.values())  # holes take no space


@needs_unsquashfs
def test_an_empty_tree(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(squashfs.pack(Tree()))
    done = subprocess.run(["unsquashfs", "-s", image], capture_output=True, text=True, check=True)
    assert "Number of inodes 1\n" in done.stdout
    assert "Compression zstd" in done.stdout


def test_the_same_tree_gives_the_same_bytes() -> None:
    assert squashfs.pack(sample(4096), block_size=4096) == squashfs.pack(sample(4096), block_size=4096)


def test_special_files_are_refused() -> None:
    tree = Tree()
    tree.character_device("dev/console", 5, 1)
    with pytest.raises(KdumpError, match="dev/console cannot be stored"):
        squashfs.pack(tree)
