"""s390x: known by name. Its dumps are big-endian: what is not read is refused by the readers of containers."""

from __future__ import annotations

from typing import Final

from kdump.arch import syscalls
from kdump.arch.architecture import Architecture
from kdump.elf import EM_S390


class _S390X(Architecture):
    name = "s390x"
    elf_machine = EM_S390
    debian = "s390x"
    triplet = "s390x-linux-gnu"
    page_sizes = (4096,)
    console = "ttysclp0"
    syscalls = syscalls.S390
    instruction_step = 2
    instruction_longest = 6


S390X: Final = _S390X()
