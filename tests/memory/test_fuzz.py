"""Dumps come from machines one does not trust: whatever is in a file, readers raise `KdumpError` or nothing.

Small files of every format are damaged at random, with more weight on headers; all that a reader does is then tried on
them. Memory is measured too: nothing may be allocated beyond a constant and a multiple of the file's size.
"""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kernel.ring import Ring
from tests.memory.machine import Machine
from tests.memory.writers import PAGE, Load, elf, flattened, kdump, note

from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.kernel.summary import summarize
from kdump.memory import open_dump
from kdump.memory.protocol import Dump

MANY = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_machine() -> Machine:
    ring = Ring()
    for number in range(50):
        ring.add(b"record %d" % number)
    machine = Machine(192 << 10, phys_base=0x1000)
    ring.into(machine)
    return machine


MACHINE = small_machine()
PAGES = {pfn: bytes(MACHINE.memory[pfn * PAGE :][:PAGE]) for pfn in range(48)}
NOTES = note("CORE", 1, b"x" * 336) + note("VMCOREINFO", 0, MACHINE.vmcoreinfo)


def compressed(codec: int, **options: tuple[int, int]) -> bytes:
    return kdump(PAGES, ram=[(0, 48)], codec=codec, vmcoreinfo=MACHINE.vmcoreinfo, notes=NOTES, **options)  # type: ignore[arg-type]


FILES = {
    "elf": MACHINE.elf(),
    "elf without note": MACHINE.elf(with_note=False),
    "raw": compressed(0),
    "zlib": compressed(1),
    "lzo": compressed(2),
    "snappy": compressed(4),
    "zstd": compressed(0x20),
    "part": compressed(0x20, split=(8, 32)),
    "flattened": flattened(compressed(0x20), size=900),
    "flattened elf": flattened(MACHINE.elf(), size=5000),
}


MAGICS = (b"\x7fELF\2\1\1", b"KDUMP   ", b"makedumpfile\0\0\0\0", b"")


def use(dump: Dump) -> None:
    """Everything that can be asked of a dump; errors of one question do not keep the next from being asked."""
    memory = dump.memory
    kernel = Kernel(dump)

    def everything() -> None:
        for each in memory.ranges:
            memory.view(each.start, min(each.size, 1 << 20))

    questions: tuple[Callable[[], object], ...] = (
        everything,
        lambda: summarize(dump),
        lambda: memory.present(0, 100),
        lambda: list(itertools.islice(memory.held(), 1000)),
        *(lambda pfn=pfn: memory.view(pfn * PAGE, PAGE) for pfn in range(48)),
        lambda: memory.view(PAGE - 1, 3 * PAGE),
        kernel.log,
        lambda: list(itertools.islice(kernel.virtual.extents(0xFFFF888000000000, 1 << 31), 1000)),
    )
    for question in questions:
        try:
            question()
        except KdumpError as error:
            assert str(error)


def exercise(path: Path) -> None:
    try:
        dump = open_dump(path)
    except KdumpError as error:
        assert str(error)
        return
    with dump:
        use(dump)


NUMBERS = (0, 1, 7, 8, 0x7F, 0xFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1)
numbers = st.sampled_from(NUMBERS).map(lambda number: struct.pack("<Q", number))
edits = st.lists(
    st.tuples(
        st.floats(0, 1), st.booleans(), st.one_of(st.binary(min_size=1, max_size=8), numbers)
    ),
    max_size=6,
)  # fmt: skip


def damaged(data: bytes, changes: list[tuple[float, bool, bytes]], keep: float) -> bytes:
    result = bytearray(data)
    for where, header, value in changes:
        at = int(where * (2048 if header else len(result)))
        if header:
            at = at // 8 * 4
        result[at : at + len(value)] = value[: len(result) - at]
    return bytes(result[: int(keep * len(result))] if keep < 1 else result)


@pytest.mark.parametrize("kind", FILES)
@MANY
@given(changes=edits, keep=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_damaged_files(tmp_path: Path, kind: str, changes: list[tuple[float, bool, bytes]], keep: float) -> None:
    path = tmp_path / "dump"
    path.write_bytes(damaged(FILES[kind], changes, keep))
    exercise(path)


LINES = MACHINE.vmcoreinfo.splitlines()
values = st.one_of(st.sampled_from((*NUMBERS, -1, -8, -4096, 10**30, -(10**30))), st.integers(0, 200))


@MANY
@given(changes=st.lists(st.tuples(st.integers(0, len(LINES) - 1), values), min_size=1, max_size=4))
def test_lying_vmcoreinfo(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    lines = list(LINES)
    for index, value in changes:
        name = lines[index].split(b"=")[0]
        lines[index] = name + (b"=%x" if name.startswith(b"SYMBOL") else b"=%d") % value
    text = b"\n".join(lines) + b"\n"
    path = tmp_path / "dump"
    path.write_bytes(elf([Load(0, bytes(MACHINE.memory))], note("VMCOREINFO", 0, text)))
    exercise(path)
    path.write_bytes(kdump(PAGES, ram=[(0, 48)], codec=0, vmcoreinfo=text))
    exercise(path)


@pytest.mark.parametrize("kind", FILES)
def test_truncated_anywhere_in_the_headers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "dump"
    data = FILES[kind]
    for size in {*range(0, 700, 3), *range(700, len(data), len(data) // 50)}:
        path.write_bytes(data[:size])
        exercise(path)


@MANY
@given(
    data=st.binary(max_size=20000), kind=st.sampled_from([b"\x7fELF\2\1\1", b"KDUMP   ", b"makedumpfile\0\0\0\0", b""])
)
def test_noise(tmp_path: Path, data: bytes, kind: bytes) -> None:
    path = tmp_path / "dump"
    path.write_bytes(kind + data)
    exercise(path)


@pytest.mark.parametrize("kind", FILES)
def test_memory_is_bounded_by_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "dump"
    data, random = FILES[kind], np.random.default_rng(5)
    exercise(path_of(path, data))
    tracemalloc.start()
    try:
        for _ in range(25):
            mutant = bytearray(data)
            for at in random.integers(0, 600, 3).tolist():
                mutant[at * 8 : at * 8 + 8] = int(random.choice([1 << 20, 1 << 31, 1 << 40, 1 << 62])).to_bytes(
                    8, "little"
                )
            tracemalloc.reset_peak()
            exercise(path_of(path, bytes(mutant)))
            assert tracemalloc.get_traced_memory()[1] < 16 * len(data) + (8 << 20)
    finally:
        tracemalloc.stop()


def path_of(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
