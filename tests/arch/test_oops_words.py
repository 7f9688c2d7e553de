"""What is an architecture's in the text of an oops: registers, instructions, and what the processor said."""

from __future__ import annotations

import pytest

from kdump import arch
from kdump.report.logtext import from_text
from kdump.report.oops import find

ARM, X86 = arch.by_machine("aarch64"), arch.by_machine("x86_64")


@pytest.mark.parametrize(
    ("syndrome", "access", "reason"),
    [
        ("96000006", "read", "nothing is mapped there (level 2 of the page tables)"),
        ("0000000096000044", "write", "nothing is mapped there (level 0 of the page tables)"),
        ("000000009600014f", "", "the mapping does not permit it (level 3 of the page tables)"),
        ("0000000086000005", "instruction fetch", "nothing is mapped there (level 1 of the page tables)"),
        ("0000000096000021", "read", "the address is unaligned"),
        ("0000000096000010", "read", "the memory answered with an error"),
        ("0000000096000011", "read", "the tag of the pointer is not that of the memory"),
        ("0000000072000000", "", "a failed pointer authentication"),
        ("00000000f2000800", "", "a BRK instruction"),
    ],
)  # fmt: skip
def test_a_syndrome_is_explained(syndrome: str, access: str, reason: str) -> None:
    for line in (f"  ESR = 0x{syndrome}", f"Internal error: Oops: {syndrome} [#1] SMP"):
        fault = ARM.explain_fault(line)
        assert fault is not None and (fault.access, fault.reason) == (access, reason)
    assert X86.explain_fault(f"  ESR = 0x{syndrome}") is None


def test_instructions_behind_code() -> None:
    found = ARM.failing_code("91006260 d2d40001 f2fbffe1 d343fc02 (38e16841) ")
    assert found is not None and found.fault == 16
    decoded = [each.mnemonic for each in ARM.disassembler().disasm(found.raw, 0)]
    assert decoded == ["add", "mov", "movk", "lsr", "ldrsb"]
    assert ARM.failing_code("?????????? (38e16841)") is None
    patchy = ARM.failing_code("91006260 ???????? d343fc02 (38e16841)")
    assert patchy is not None and patchy.fault == 4 and len(patchy.raw) == 8
    code = "00 00 e8 12 <0f> 0b 48"
    assert ARM.failing_code(code) is None
    other = X86.failing_code(code)
    assert other is not None and other.fault == 4 and other.raw[4] == 0x0F


OOPS = """\
[   34.407658] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000048
[   34.408000] Mem abort info:
[   34.408100]   ESR = 0x0000000096000046
[   34.409000] Internal error: Oops: 0000000096000046 [#1] SMP
[   34.410000] CPU: 1 UID: 0 PID: 99 Comm: insmod Not tainted 6.12.117+deb13-arm64 #1
[   34.410100] pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)
[   34.410200] pc : write_it+0x10/0x40 [crasher]
[   34.410300] lr : start+0x18/0x1000 [crasher]
[   34.410400] sp : ffff800080bfbb10
[   34.410500] x29: ffff800080bfbb10 x28: 0000000000000000 x27: 0000000000000001
[   34.410600] x2 : 0000000000000000 x1 : 0000000000000007 x0 : 0000000000000000
[   34.410700] Call trace:
[   34.410800]  write_it+0x10/0x40 [crasher]
[   34.410900]  start+0x18/0x1000 [crasher]
[   34.411000]  do_one_initcall+0x58/0x318
[   34.411100] Code: d503233f a9bf7bfd 910003fd (b9004801)
[   34.411200] ---[ end trace 0000000000000000 ]---
"""


def test_an_oops_is_read_whole() -> None:
    event = find(from_text(OOPS)).event
    assert event.registers == {
        "sp": 0xFFFF800080BFBB10, "x29": 0xFFFF800080BFBB10, "x28": 0, "x27": 1, "x2": 0, "x1": 7, "x0": 0, "far": 0x48,
    }  # fmt: skip
    assert event.fault is not None and event.fault.access == "write"
    assert [frame.function for frame in event.frames] == ["write_it", "start", "do_one_initcall"]
    assert event.code.endswith("(b9004801)")
