"""Everything that is an architecture's, in a package each; nothing outside of this one names an architecture.

`by_machine` finds one by name or ELF machine, `native` the one that this process runs on.
"""

from __future__ import annotations

import functools
import os

from kdump.arch.architecture import BOOT_PARAMS, DEVICE_TREE, Architecture
from kdump.errors import KdumpError

__all__ = [
    "BOOT_PARAMS", "DEVICE_TREE", "Architecture", "by_boot_params", "by_machine", "elf_name", "in_dump", "known",
    "native",
]  # fmt: skip

# Others that Linux runs on, or did: e_machine (elf.h).
_OTHERS = {
    2: "sparc", 3: "i386", 4: "m68k", 8: "mips", 15: "parisc", 20: "ppc", 40: "arm", 42: "sh", 43: "sparc64",
    50: "ia64", 92: "openrisc", 93: "arc", 94: "xtensa", 113: "nios2", 164: "hexagon", 189: "microblaze",
    195: "arcv2", 252: "csky", 258: "loongarch64", 0x9026: "alpha",
}  # fmt: skip


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
        f"the architecture {elf_name(machine) if isinstance(machine, int) else machine or 'unknown'} is not supported",
        why=f"kdump knows {', '.join(arch.name for arch in known())}",
    )


def in_dump(machine: str | int) -> Architecture | None:
    """The architecture that the header of a dump names so, by an e_machine or a name; None if it is not supported."""
    name = machine.lower() if isinstance(machine, str) else machine  # QEMU writes S390X
    return next((arch for arch in known() if name in (arch.name, arch.elf_machine)), None)


def elf_name(number: int) -> str:
    """An ELF header's e_machine in words."""
    found = next((arch.name for arch in known() if arch.elf_machine == number), None) or _OTHERS.get(number)
    return found or f"unknown (ELF machine {number})"


def by_boot_params() -> Architecture:
    """The architecture whose kernels are bzImages and take boot_params."""
    return next(each for each in known() if each.handover == BOOT_PARAMS)


def native() -> Architecture:
    """The architecture of this machine. Raises `KdumpError` if it is not supported."""
    return by_machine(os.uname().machine)
