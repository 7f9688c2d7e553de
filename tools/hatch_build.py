"""Hatchling's hook: what is made from the source becomes part of the wheel.

Manual pages and completions, from the same texts as --help; where there is a C compiler, libkdump.so. KDUMP_MACHINE in
the environment names another architecture ("aarch64") to compile that for.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = "src/kdump/native"


class Made(BuildHookInterface[Any]):
    """The C loops, and files below share/ as `kdump.cli.share` makes them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write them and name them to the wheel; one that is editable has the loops beside its source, and no more."""
        self._place = tempfile.TemporaryDirectory(prefix="kdump-made-")
        sources = Path(self.root) / SOURCES
        library = (sources if version == "editable" else Path(self._place.name)) / "libkdump.so"
        sys.path.insert(0, str(Path(self.root) / "src"))
        from kdump import arch
        from kdump.native import build

        machine = os.environ.get("KDUMP_MACHINE", "")
        compiler = shutil.which(f"{arch.by_machine(machine).triplet}-gcc") if machine else None
        if machine and not compiler:
            raise RuntimeError(f"there is no cross compiler for {machine}: install gcc-{machine}-linux-gnu")
        flags = (*build.OPTIMISED, *(build.STRICT if version == "editable" else ()))
        built = build.compile_library(sources, library, flags, compiler=compiler)
        if not built:
            self.app.display_warning("no C compiler: kdump will be slower, and cannot write LZO and snappy")
        if version == "editable":
            return
        if built:
            build_data["force_include"][str(library)] = "kdump/native/libkdump.so"
            build_data["pure_python"] = False
            platform = f"linux-{machine}" if machine else sysconfig.get_platform()
            build_data["tag"] = f"py3-none-{platform.replace('-', '_').replace('.', '_')}"
        from kdump.cli import share

        for name, text in share.files().items():
            path = Path(self._place.name) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(path)] = f"share/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is written."""
        self._place.cleanup()
