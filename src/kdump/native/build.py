"""Compiles libkdump.so. Used by the wheel's build and by `make sanitize`; never by kdump itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kdump.native.library import source_digest

FLAGS = ("-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
OPTIMISED = ("-O3",)
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
STRICT = ("-Werror",)  # where kdump is developed: another compiler's new warning must not stop an installation


def compile_library(
    sources: Path, target: Path, flags: Sequence[str] = OPTIMISED, *, compiler: str | None = None
) -> bool:
    """Compile the C files in the directory `sources` into `target`; False if there is no C compiler.

    Raises `subprocess.CalledProcessError` if the compiler fails.
    """
    compiler = compiler or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return False
    digest = f"-DKDUMP_SOURCES={source_digest(sources)}u"
    subprocess.run([compiler, *FLAGS, *flags, digest, "-o", target, *sorted(sources.glob("*.c"))], check=True)
    return True
