"""Machine code of BLAS's stand-in in the capture image (`kdump.image.blas`).

Source: AAPCS64.
"""

from __future__ import annotations

import struct

from kdump.arch.stand_in import MESSAGE, StandIn

# Arguments of dot: n x0, x x1, increment of x x2, y x3, increment of y x4; the result in s0 or d0.
CODE = StandIn(
    dot={
        "s": struct.pack(
            "<13I",
            0x2F00E400,  # movi d0, #0
            0xF100001F,  # cmp x0, #0
            0x5400014D,  # b.le end
            0xD37EF442,  # lsl x2, x2, #2
            0xD37EF484,  # lsl x4, x4, #2
            0xBD400021,  # next: ldr s1, [x1]
            0xBD400062,  # ldr s2, [x3]
            0x1F020020,  # fmadd s0, s1, s2, s0
            0x8B020021,  # add x1, x1, x2
            0x8B040063,  # add x3, x3, x4
            0xF1000400,  # subs x0, x0, #1
            0x54FFFF41,  # b.ne next
            0xD65F03C0,  # end: ret
        ),
        "d": struct.pack(
            "<13I",
            0x2F00E400,
            0xF100001F,
            0x5400014D,
            0xD37DF042,  # the same with d1, d2 and steps of 8 bytes
            0xD37DF084,
            0xFD400021,
            0xFD400062,
            0x1F420020,
            0x8B020021,
            0x8B040063,
            0xF1000400,
            0x54FFFF41,
            0xD65F03C0,
        ),
    },
    widen=struct.pack("<3I", 0x93407C00, 0x93407C42, 0x93407C84),  # sxtw x0, w0; x2, w2; x4, w4
    die=struct.pack(
        "<6I",
        0xD2800040,  # mov x0, #2
        0x100000A1,  # adr x1, the message, behind this code
        0xD2800002 | len(MESSAGE) << 5,  # mov x2, its length
        0xD2800808,  # mov x8, #64: write(2)
        0xD4000001,  # svc #0
        0,  # udf #0
    ),
    page=0x10000,
)
