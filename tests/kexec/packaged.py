"""Images for architectures that kdump builds none for: Debian packages, unpacked, and a script as first process."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from kdump.arch import Architecture
from kdump.image.tree import Tree
from kdump.lab import apt, cache

BUSYBOX = "busybox-static"
START = "#!/bin/busybox sh\n" + "".join(
    f"/bin/busybox mount -t {kind} none /{place}\n"
    for kind, place in (("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev"))
)


def root(script: str) -> Tree:
    """The directories that every image has, and `script` as /init; it begins with START."""
    tree = Tree()
    for name in ("proc", "sys", "dev", "tmp", "run", "var/lib/kdump", "usr/bin", "usr/lib"):
        tree.directory(name)
    tree.character_device("dev/console", 5, 1)
    for name in ("bin", "lib"):
        tree.symlink(name, f"usr/{name}")
    tree.file("init", script.encode(), 0o755)
    return tree


def with_busybox(architecture: Architecture, script: str) -> Tree:
    """The same, with busybox."""
    tree = root(script)
    for unpacked, name in packages(architecture, BUSYBOX):
        if name == "usr/bin/busybox":
            copy(tree, unpacked, name)
    return tree


def packages(architecture: Architecture, *names: str) -> Iterator[tuple[Path, str]]:
    """The directory of all packages, and the name of each file in it."""

    def fetch(directory: Path) -> None:
        source = apt.stable(architecture.debian)
        for name in names:
            apt.extract(source.download(name, directory), directory)

    unpacked = cache.entry(f"packages/{architecture.name}-{'-'.join(names)}"[:120], fetch)
    for path in sorted(unpacked.rglob("*")):
        if not path.is_dir() or path.is_symlink():
            yield unpacked, str(path.relative_to(unpacked))


def copy(tree: Tree, unpacked: Path, name: str) -> None:
    """Add a file of a package to an image."""
    path = unpacked / name
    if path.is_symlink():
        tree.symlink(name, str(path.readlink()))
    else:
        tree.file(name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
