"""Numbers of the system calls that Python and the C library do not wrap.

Source: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

from typing import Final

from kdump.arch.architecture import SyscallNumbers

X86_64: Final = SyscallNumbers(kexec_load=246, kexec_file_load=320, finit_module=313, bpf=321)
GENERIC: Final = SyscallNumbers(kexec_load=104, kexec_file_load=294, finit_module=273, bpf=280)  # aarch64, riscv64
