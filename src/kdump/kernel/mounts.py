"""Mounted file systems, and the paths of what is in them.

Sources: fs/mount.h (`list` of a mount namespace until 6.7, a tree since), fs/d_path.c.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdump.kernel.objects import Objects, Struct

_DEEP = 64  # directories in a path, mounts on top of each other


def mounts(objects: Objects, task: Struct) -> Iterator[Struct]:
    """Mounts of a task's namespace, in order of mounting."""
    namespace = task.nsproxy.mnt_ns
    if objects.types.struct("mount").has("mnt_node"):
        yield from objects.rbtree(namespace.mounts, "mount", "mnt_node")
    else:
        yield from objects.list(namespace.list, "mount", "mnt_list")


def path_of_mount(objects: Objects, mount: Struct) -> str:
    """Where a mount is visible from its namespace's root."""
    return "/" + "/".join(_above(objects, mount))


def path_of_file(objects: Objects, path: Struct) -> str:
    """Where a struct path is visible from its namespace's root; of what is mounted nowhere, its names there."""
    mount = objects.container(path.mnt, "mount", "mnt")
    return "/" + "/".join([*_above(objects, mount), *names(objects, path.dentry, path.mnt.mnt_root)])


def _above(objects: Objects, mount: Struct) -> list[str]:
    parts: list[str] = []
    for _ in range(_DEEP):
        parent = mount.mnt_parent
        if not parent or int(parent) == objects.address(mount):
            break
        parts = [*names(objects, mount.mnt_mountpoint, parent.mnt.mnt_root), *parts]
        mount = objects.struct("mount", parent)
    return parts


def names(objects: Objects, entry: Struct, root: Struct) -> list[str]:
    """Names from a file system's root (a dentry) down to an entry."""
    found: list[str] = []
    for _ in range(_DEEP):
        if entry == int(root) or entry.d_parent == int(entry):
            break
        found.insert(0, objects.string(entry.d_name.name))
        entry = entry.d_parent
    return found
