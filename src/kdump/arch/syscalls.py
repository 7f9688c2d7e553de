"""Numbers of the system calls that Python and the C library do not wrap.

Sources: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h, arch/powerpc/kernel/syscalls/
syscall.tbl, arch/s390/kernel/syscalls/syscall.tbl.
"""

from __future__ import annotations

from typing import Final

from kdump.arch.architecture import SyscallNumbers

X86_64: Final = SyscallNumbers(kexec_load=246, kexec_file_load=320, finit_module=313, bpf=321)
GENERIC: Final = SyscallNumbers(kexec_load=104, kexec_file_load=294, finit_module=273, bpf=280)  # aarch64, riscv64
POWERPC: Final = SyscallNumbers(kexec_load=268, kexec_file_load=382, finit_module=353, bpf=361)
S390: Final = SyscallNumbers(kexec_load=277, kexec_file_load=381, finit_module=344, bpf=351)
