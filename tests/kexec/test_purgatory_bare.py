"""Purgatories with a device tree, run as they are on machines of QEMU that have no kernel at all.

The first one finds all of its segments whole, and enters what it takes for a kernel: the next purgatory. The last one
has a damaged segment: it names that on the serial port, and resets the machine.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kdump.arch.aarch64 import AARCH64
from kdump.arch.riscv64 import RISCV64
from kdump.kexec.checksum import checksum
from kdump.kexec.purgatory import Region, aarch64, riscv64
from kdump.kexec.syscalls import SEGMENTS_MAX
from kdump.lab.qemu import Spec, qemu_arguments

STEP, TIMEOUT = 1 << 16, 60
PL011 = 0x9000000  # of QEMU's machine "virt"
Make = Callable[[int, Sequence[Region]], bytes]


def arm(conduit: str) -> Make:
    def make(kernel: int, regions: Sequence[Region]) -> bytes:
        how = aarch64.CONDUITS[conduit]
        return aarch64.make(aarch64.Parameters(kernel, 0, uart=PL011, conduit=how, reset_after=1, regions=regions))

    return make


def riscv(kernel: int, regions: Sequence[Region]) -> bytes:
    return riscv64.make(riscv64.Parameters(kernel, 0, regions=regions))


@pytest.mark.parametrize(
    ("machine", "base", "start", "make", "extra"),
    [
        pytest.param(AARCH64.name, 0x42000000, ",cpu-num=0", arm("hvc"), (), id="aarch64-EL1"),
        pytest.param(
            AARCH64.name, 0x42000000, ",cpu-num=0", arm("smc"), ("-machine", "virtualization=on"), id="aarch64-EL2"
        ),
        pytest.param(RISCV64.name, 0x80200000, "", riscv, (), id="riscv64"),
    ],
)
def test_whole_segments_are_passed_and_a_damaged_one_is_named(
    machine: str, base: int, start: str, make: Make, extra: Sequence[str], tmp_path: Path
) -> None:
    source = random.Random(machine)
    pieces = [source.randbytes(8 * words) for words in (*range(2 * SEGMENTS_MAX - 2), 1024, 4099)]
    places = [base + STEP * (8 + number) for number in range(len(pieces))]
    regions = [Region(at, len(piece), checksum(piece)) for at, piece in zip(places, pieces, strict=True)]
    damaged = bytearray(pieces[-1])
    damaged[source.randrange(len(damaged))] ^= 1
    memory = bytearray(places[-1] + len(damaged) - base)
    for at, piece in zip(places, [*pieces[:-1], damaged], strict=True):
        memory[at - base : at - base + len(piece)] = piece
    # The last piece is checked last, so the first purgatory passes sixteen, and the second fifteen.
    for number in (0, 1):
        code = make(base + STEP * (number + 1), regions[SEGMENTS_MAX * number :][:SEGMENTS_MAX])
        memory[STEP * number : STEP * number + len(code)] = code
    path = tmp_path / "memory"
    path.write_bytes(memory)
    arguments = qemu_arguments(Spec(memory=128 << 20, machine=machine), "tcg", None)
    arguments += ["-device", f"loader,file={path},addr={base:#x},force-raw=on{start}", *extra]
    if not start:  # firmware goes there after itself
        arguments += ["-kernel", str(path)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    assert f"kdump: the segment at {places[-1]:#018x} is damaged; not booting it." in done.stdout
