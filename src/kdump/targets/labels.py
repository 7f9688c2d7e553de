"""Labels of SELinux on what the capture kernel writes: the healthy host looked them up (`kdump.host.selinux`).

A kernel without a policy takes any label from root. Source: security/selinux/hooks.c (selinux_inode_setxattr).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

_ATTRIBUTE = "security.selinux"


class Labels:
    """Labels of directories and files of a target; none if the facts have none."""

    def __init__(self, facts: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._directory, self._file = facts.get("directory_label", ""), facts.get("file_label", "")
        self._say = say

    def directory(self, path: str) -> None:
        """Label a directory."""
        self._give(path, self._directory)

    def file(self, path: str) -> None:
        """Label a file."""
        self._give(path, self._file)

    def _give(self, path: str, label: str) -> None:
        if not label:
            return
        try:
            os.setxattr(path, _ATTRIBUTE, label.encode() + b"\0", follow_symlinks=False)
        except OSError as error:  # a file system without labels: the dump counts, restorecon comes later
            self._say(f"{path} gets no SELinux label: {error.strerror or error}")
            self._directory = self._file = ""
