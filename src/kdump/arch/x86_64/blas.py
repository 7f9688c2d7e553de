"""Machine code of BLAS's stand-in in the capture image (`kdump.image.blas`).

Source: the System V psABI for x86_64.
"""

from __future__ import annotations

import struct

from kdump.arch.stand_in import MESSAGE, StandIn

# Arguments of dot: n rdi, x rsi, increment of x rdx, y rcx, increment of y r8; the result in xmm0.
CODE = StandIn(
    dot={
        "s": bytes.fromhex(
            "0f57c0"  # xorps xmm0, xmm0
            "4885ff"  # test rdi, rdi
            "7e19"  # jle end
            "f30f100e"  # next: movss xmm1, [rsi]
            "f30f5909"  # mulss xmm1, [rcx]
            "f30f58c1"  # addss xmm0, xmm1
            "488d3496"  # lea rsi, [rsi + 4*rdx]
            "4a8d0c81"  # lea rcx, [rcx + 4*r8]
            "48ffcf"  # dec rdi
            "75e7"  # jnz next
            "c3"  # end: ret
        ),
        "d": bytes.fromhex(
            "0f57c0"
            "4885ff"
            "7e19"
            "f20f100e"  # the same with movsd, mulsd, addsd and steps of 8 bytes
            "f20f5909"
            "f20f58c1"
            "488d34d6"
            "4a8d0cc1"
            "48ffcf"
            "75e7"
            "c3"
        ),
    },
    widen=bytes.fromhex("4863ff4863d24d63c0"),  # movsxd rdi, edi; rdx, edx; r8, r8d
    die=b"".join(
        (
            bytes.fromhex("b801000000"),  # mov eax, 1: write(2)
            bytes.fromhex("bf02000000"),  # mov edi, 2
            bytes.fromhex("488d3509000000"),  # lea rsi, [rip + 9]: the message, behind this code
            b"\xba" + struct.pack("<I", len(MESSAGE)),  # mov edx, its length
            bytes.fromhex("0f05"),  # syscall
            bytes.fromhex("0f0b"),  # ud2
        )
    ),
    page=0x1000,
)
