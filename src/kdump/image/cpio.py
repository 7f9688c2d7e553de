"""The newc cpio archive that the kernel unpacks as its initramfs.

Source: Documentation/driver-api/early-userspace/buffer-format.rst. Reproducible: no times, owner root, inode numbers
in the order of the entries.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

from kdump.image.tree import Node

_TRAILER = "TRAILER!!!"


def archive(nodes: Mapping[str, Node]) -> bytes:
    """The archive of a tree (see `kdump.image.tree`), parents before what is in them; a multiple of 4 bytes long."""
    parts: list[bytes] = []
    for number, path in enumerate(sorted(nodes), 1):
        _append(parts, path, nodes[path], number)
    _append(parts, _TRAILER, Node(0), 0)
    return b"".join(parts)


def _append(parts: list[bytes], path: str, node: Node, number: int) -> None:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    device = node.device
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (number, node.mode, 0, 0, links, 0, len(node.content), 0, 0, device >> 8, device & 255, len(name), 0)
    parts.append(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
    parts.append(bytes(-(110 + len(name)) % 4))
    parts.append(node.content)
    parts.append(bytes(-len(node.content) % 4))
