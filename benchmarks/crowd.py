"""A crashed machine of very many threads, to measure reports on."""

from __future__ import annotations

from pathlib import Path

from kdump.image.kernel_tree import KernelTree
from kdump.lab.causes import find_cause
from kdump.lab.crash import GIB, Scenario, crash

_EACH = 40 << 10  # bytes of the machine for a thread: its task, its kernel stack, page tables
_OTHERS = 2000  # processes, and control groups


def machine(tree: KernelTree, threads: int, scratch: Path) -> Path:
    """The level-31 dump of a crashed machine with so many threads."""
    memory = 2 * GIB + threads * _EACH
    made = Scenario(
        tree, find_cause("cpu"), memory=memory, cpus=2, crashkernel="512M", timeout=1800, work=8 << 20,
        crowd=(threads, min(_OTHERS, threads), min(_OTHERS, threads)),
    )  # fmt: skip
    return crash(made, scratch).directory / "vmcore"
