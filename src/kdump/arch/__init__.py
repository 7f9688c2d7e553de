"""Facts of an architecture, as data: one module each, chosen by `by_machine`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from kdump.errors import KdumpError

if TYPE_CHECKING:  # the loader wants only system call numbers from this package
    from kdump.arch.paging import Paging


class Architecture(NamedTuple):
    """What must be known about a machine to read its dumps.

    `kernel_paging(symbols, numbers)` gives the kernel's page tables from VMCOREINFO's SYMBOL and NUMBER tables; it
    raises `KeyError` with the name of what is missing.
    """

    name: str  # as `uname -m` prints it
    elf_machine: int
    kernel_paging: Callable[[Mapping[str, int], Mapping[str, int]], Paging]


def by_machine(machine: str | int) -> Architecture:
    """The architecture named by `uname -m` or by an ELF header's e_machine. Raises `KdumpError` if not supported."""
    from kdump.arch import x86_64

    known = (Architecture(x86_64.NAME, x86_64.ELF_MACHINE, x86_64.kernel_paging),)
    for arch in known:
        if machine in (arch.name, arch.elf_machine):
            return arch
    raise KdumpError(
        f"dumps of the architecture {machine or 'unknown'} cannot be interpreted yet",
        why=f"supported: {', '.join(arch.name for arch in known)}",
    )
