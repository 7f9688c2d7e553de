"""Remove the capture kernel from the reservation."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`kdump unload` has no options."""


def run(_: argparse.Namespace) -> int:
    """Unload."""
    from kdump.kexec.load import unload

    unload()
    print("unloaded: a panic will not be captured")
    return 0
