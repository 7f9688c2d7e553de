"""A file system tree in memory: paths without a leading slash, each with its mode and content."""

from __future__ import annotations

import stat
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One file. `content` is a regular file's bytes or a symbolic link's target; `device` is major << 8 | minor."""

    mode: int
    content: bytes = b""
    device: int = 0


class Tree(dict[str, Node]):
    """Path to node; parents are made as needed, in the order in which the files should lie on the disk."""

    def _parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent and parent not in self:
            self.directory(parent)

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory."""
        self._parents(path)
        self[path] = Node(stat.S_IFDIR | mode)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._parents(path)
        self[path] = Node(stat.S_IFREG | mode, content)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._parents(path)
        self[path] = Node(stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._parents(path)
        self[path] = Node(stat.S_IFCHR | 0o600, device=major << 8 | minor)
