"""Hatchling's hook: manual pages and completions, made from the same texts as --help, become part of the wheel."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Share(BuildHookInterface[Any]):
    """Files below share/, as `kdump.cli.share` makes them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write them and name them to the wheel; one that is editable has none."""
        self._place = tempfile.TemporaryDirectory(prefix="kdump-share-")
        if version == "editable":
            return
        sys.path.insert(0, str(Path(self.root) / "src"))
        from kdump.cli import share

        for name, text in share.files().items():
            path = Path(self._place.name) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(path)] = f"share/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is written."""
        self._place.cleanup()
