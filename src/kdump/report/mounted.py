"""Where file systems are mounted.

Source: fs/mount.h (`list` of a mount namespace until 6.7, a tree since).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdump.kernel.objects import Objects, Struct
from kdump.report.context import Context

_DEEP = 64  # directories in a path, mounts on top of each other


def mounts(context: Context) -> Iterator[Struct]:
    """Mounts of the first process's namespace, in order of mounting."""
    objects = context.objects
    first = np.flatnonzero(context.tasks.all.columns["pid"] == 1)
    init = context.all_tasks[int(first[0])].struct if len(first) else None
    namespace = (init if init is not None and init.nsproxy else objects.variable("init_task")).nsproxy.mnt_ns
    if objects.types.struct("mount").has("mnt_node"):
        yield from objects.rbtree(namespace.mounts, "mount", "mnt_node")
    else:
        yield from objects.list(namespace.list, "mount", "mnt_list")


def path_of_mount(objects: Objects, mount: Struct) -> str:
    """Where a mount is visible from its namespace's root."""
    parts: list[str] = []
    for _ in range(_DEEP):
        parent = mount.mnt_parent
        if not parent or int(parent) == objects.address(mount):
            break
        parts = [*_names(objects, mount.mnt_mountpoint, parent.mnt.mnt_root), *parts]
        mount = objects.struct("mount", parent)
    return "/" + "/".join(parts)


def _names(objects: Objects, entry: Struct, root: Struct) -> list[str]:
    """Names from a file system's root (a dentry) down to an entry."""
    names: list[str] = []
    for _ in range(_DEEP):
        if entry == int(root) or entry.d_parent == int(entry):
            break
        names.insert(0, objects.string(entry.d_name.name))
        entry = entry.d_parent
    return names
