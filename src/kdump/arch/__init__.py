"""Everything that is an architecture's, in a package each; nothing outside of this one names an architecture.

`by_machine` finds one by name or ELF machine, `native` the one that this process runs on.
"""

from __future__ import annotations

import functools
import os

from kdump.arch.architecture import BOOT_PARAMS, DEVICE_TREE, Architecture
from kdump.errors import KdumpError

__all__ = ["BOOT_PARAMS", "DEVICE_TREE", "Architecture", "by_boot_params", "by_machine", "known", "native"]


@functools.cache
def known() -> tuple[Architecture, ...]:
    """All architectures that are supported, the most complete first."""
    from kdump.arch.aarch64 import AARCH64
    from kdump.arch.ppc64le import PPC64LE
    from kdump.arch.riscv64 import RISCV64
    from kdump.arch.s390x import S390X
    from kdump.arch.x86_64 import X86_64

    return (X86_64, AARCH64, RISCV64, PPC64LE, S390X)


def by_machine(machine: str | int) -> Architecture:
    """The architecture that `uname -m` or dpkg calls so, or of an ELF header's e_machine.

    Raises `KdumpError` if it is not supported.
    """
    for arch in known():
        if machine in (arch.name, arch.debian, arch.elf_machine):
            return arch
    raise KdumpError(
        f"the architecture {machine or 'unknown'} is not supported",
        why=f"supported: {', '.join(arch.name for arch in known())}",
    )


def by_boot_params() -> Architecture:
    """The architecture whose kernels are bzImages and take boot_params."""
    return next(each for each in known() if each.handover == BOOT_PARAMS)


def native() -> Architecture:
    """The architecture of this machine. Raises `KdumpError` if it is not supported."""
    return by_machine(os.uname().machine)
