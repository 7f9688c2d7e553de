"""Where arguments are found again: in code assembled here, every way a value survives or is lost."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kdump.arch.aarch64.arguments import Engine as AArch64
from kdump.arch.arguments import State
from kdump.arch.x86_64.arguments import Engine as X86
from kdump.kernel.kallsyms import Symbol

START = 0xFFFFFFFF81000000
CROSS = "aarch64-linux-gnu-"
FAR = {"": ("call 0x1000", ".byte 0xe8, 0, 0, 0, 0x10"), CROSS: ("bl far", ".inst 0x94100000")}  # needs no linker


def state(source: str, tmp_path: Path, tools: str = "") -> State | None:
    """The state before the instruction of the label `here`, in a function of assembler; `tools` are binutils."""
    if not shutil.which(f"{tools}as"):
        pytest.skip(f"{tools}as is not installed")
    text = tmp_path / "code.s"
    text.write_text(f".text\nfunction:\n{source.replace(*FAR[tools])}\nend:\n")
    subprocess.run([f"{tools}as", "-o", tmp_path / "code.o", text], check=True)
    copy = [f"{tools}objcopy", "-O", "binary", "-j", ".text"]
    subprocess.run([*copy, tmp_path / "code.o", tmp_path / "code"], check=True)
    names = subprocess.run([f"{tools}nm", tmp_path / "code.o"], check=True, capture_output=True, text=True).stdout
    here = int(re.search(r"^([0-9a-f]+) t here$", names, re.MULTILINE)[1], 16)  # type: ignore[index]
    code = (tmp_path / "code").read_bytes()

    def at(address: int) -> Symbol | None:
        inside = START <= address < START + len(code)
        name = "ftrace_caller" if source.startswith("call") else "other"
        return Symbol("function", START, "t", len(code)) if inside else Symbol(name, address, "t", 16)

    kernel = SimpleNamespace(
        virtual=SimpleNamespace(read=lambda address, size: code[address - START : address - START + size]),
        symbolizer=SimpleNamespace(at=at),
    )
    engine = (AArch64 if tools else X86)(cast("Any", kernel))
    return engine.at(START, len(code), START + here, called=False)


@pytest.mark.parametrize(
    ("source", "register", "places"),
    [
        ("push %rbx\n mov %rdi, %rbx\n call 0x1000\n here: nop\n ret", "di", ["bx"]),
        ("push %rbx\n mov %rdi, %rbx\n call 0x1000\n here: nop\n ret", "bx", [-16]),
        ("sub $24, %rsp\n mov %rsi, 8(%rsp)\n call 0x1000\n here: nop", "si", [-24]),
        ("push %rbp\n mov %rsp, %rbp\n mov %rdx, -8(%rbp)\n and $-64, %rsp\n call 0x1000\n here: nop", "dx", [-24]),
        # Loaded again from where it was spilled.
        ("sub $24, %rsp\n mov %rsi, 8(%rsp)\n call 0x1000\n mov 8(%rsp), %rcx\n here: nop", "si", ["cx", -24]),
        # A call to ftrace at the very beginning keeps everything.
        ("call 0x1000\n here: nop", "di", ["di"]),
        ("nop\n nop\n nop\n nop\n nop\n call 0x1000\n here: nop", "di", []),
        # Changed on one of two ways.
        ("push %rbx\n mov %rdi, %rbx\n test %rsi, %rsi\n je 1f\n inc %rbx\n 1: call 0x1000\n here: nop", "di", []),
        # Changed only later, but a loop comes back.
        ("push %rbx\n mov %rdi, %rbx\n 1: call 0x1000\n here: dec %rbx\n jne 1b\n ret", "di", []),
        # Others may write to a slot whose address was given away.
        ("sub $24, %rsp\n mov %rdi, 8(%rsp)\n lea 8(%rsp), %rsi\n call 0x1000\n here: nop", "di", []),
        # Half of it was written over.
        ("sub $24, %rsp\n mov %rdi, 8(%rsp)\n movl $1, 12(%rsp)\n call 0x1000\n here: nop", "di", []),
        ("push %rbx\n mov %rdi, %rbx\n mov $1, %bl\n call 0x1000\n here: nop", "di", []),
        # What is written through an index on the stack may be anywhere on it.
        ("sub $24, %rsp\n mov %rdi, 8(%rsp)\n mov %rax, (%rsp,%rcx,8)\n call 0x1000\n here: nop", "di", []),
        # Behind a trap of WARN() the function goes on.
        ("push %rbx\n mov %rdi, %rbx\n ud2\n call 0x1000\n here: nop", "di", ["bx"]),
    ],
)
def test_places(source: str, register: str, places: list[str | int], tmp_path: Path) -> None:
    found = state(source, tmp_path)
    assert found is not None and found.places(register) == places


def test_half_of_a_register(tmp_path: Path) -> None:
    found = state("push %rbx\n mov %edi, %ebx\n call 0x1000\n here: nop", tmp_path)
    assert found is not None
    assert (found.places("di"), found.halves("di")) == ([], ["bx"])


def test_an_indirect_jump_gives_the_function_up(tmp_path: Path) -> None:
    assert state("push %rbx\n mov %rdi, %rbx\n jmp *(%rax)\n call 0x1000\n here: nop", tmp_path) is None


PROLOGUE = "stp x29, x30, [sp, #-48]!\n mov x29, sp\n stp x19, x20, [sp, #16]\n"


@pytest.mark.parametrize(
    ("source", "register", "places"),
    [
        (PROLOGUE + "mov x19, x0\n bl far\n here: nop", "x0", ["x19"]),
        (PROLOGUE + "mov x19, x0\n bl far\n here: nop", "x20", ["x20", -24]),
        (PROLOGUE + "mov x19, x0\n bl far\n here: nop", "x29", [-48]),
        (PROLOGUE + "str x1, [sp, #40]\n bl far\n here: nop", "x1", [-8]),
        (PROLOGUE + "stur x1, [x29, #40]\n bl far\n ldr x3, [x29, #40]\n here: nop", "x1", ["x3", -8]),
        ("sub sp, sp, #4096\n stp x2, x3, [sp, #504]\n bl far\n here: nop", "x3", [-3584]),
        # The end of a function gives back what the beginning saved.
        (PROLOGUE + "mov x19, x0\n bl far\n ldp x19, x20, [sp, #16]\n ldp x29, x30, [sp], #48\n here: ret", "x19",
         ["x19", -32]),
        # ftrace's call, behind what keeps the return address, keeps all arguments.
        ("mov x9, x30\n bl far\n here: nop", "x0", ["x0"]),
        ("mov x9, x30\n bl far\n here: nop", "x9", []),
        ("mov x10, x30\n bl far\n here: nop", "x0", []),
        # Changed on one of two ways.
        (PROLOGUE + "mov x19, x0\n cbz x1, 1f\n add x19, x19, #8\n 1: bl far\n here: nop", "x0", []),
        (PROLOGUE + "mov x19, x0\n tbz x1, #3, 1f\n add x20, x19, #8\n 1: bl far\n here: nop", "x0", ["x19"]),
        # Changed only later, but a loop comes back.
        (PROLOGUE + "mov x19, x0\n 1: bl far\n here: subs x19, x19, #1\n b.ne 1b\n ret", "x0", []),
        # Others may write to a slot whose address was given away; what the function saved for its caller they may not.
        (PROLOGUE + "str x0, [sp, #40]\n add x0, sp, #40\n bl far\n here: nop", "x0", []),
        (PROLOGUE + "str x0, [sp, #40]\n add x0, sp, #32\n bl far\n here: nop", "x19", ["x19", -32]),
        # Written over: a half of it, by a pair, by a vector, through an index, by what has moved its base.
        (PROLOGUE + "str x0, [sp, #40]\n str wzr, [sp, #44]\n mov x0, #1\n here: nop", "x0", []),
        (PROLOGUE + "str x0, [sp, #40]\n stp xzr, xzr, [sp, #32]\n mov x0, #1\n here: nop", "x0", []),
        (PROLOGUE + "str x0, [sp, #40]\n str q0, [sp, #32]\n mov x0, #1\n here: nop", "x0", []),
        (PROLOGUE + "str x0, [sp, #40]\n str x1, [sp, x2, lsl #3]\n mov x0, #1\n here: nop", "x0", []),
        (PROLOGUE + "mov x19, x0\n str x1, [x19], #8\n bl far\n here: nop", "x0", []),
        # Registers that other instructions write: compare and swap, its status, a second one, a system register.
        (".arch armv8-a+lse\n mov x5, x3\n mov x3, #0\n cas x5, x1, [x2]\n here: nop", "x3", []),
        ("mov x9, x3\n mov x3, #0\n stxr w9, x1, [x2]\n here: nop", "x3", []),
        ("mov x9, x3\n mov x3, #0\n ldxp x1, x9, [x2]\n here: nop", "x3", []),
        ("mov x9, x3\n mov x3, #0\n mrs x9, sp_el0\n here: nop", "x3", []),
        ("mov x9, x3\n mov x3, #0\n csel x9, x1, x2, eq\n here: nop", "x3", []),
        (".arch armv8-a+lse\n mov x9, x3\n mov x3, #0\n ldadd x9, x1, [x2]\n here: nop", "x3", ["x9"]),
        ("mov x9, x3\n mov x3, #0\n smc #0\n here: nop", "x3", []),
        # Comparing writes nothing, nor does what begins a function that signs its return address.
        ("paciasp\n cmp x0, x1\n ccmp x2, #1, #0, ne\n tst x3, x4\n here: nop", "x0", ["x0"]),
        ("cmp sp, x1\n str x0, [sp, #-16]!\n mov x0, #1\n here: nop", "x0", [-16]),
        # Behind a trap of WARN() the function goes on; the pointer before the next function is no instruction.
        (PROLOGUE + "mov x19, x0\n brk #0x800\n bl far\n here: nop\n bl far\n .balign 8\n"
         ".quad 0xffffa5c9c3617720", "x0", ["x19"]),
    ],
)  # fmt: skip
def test_places_on_aarch64(source: str, register: str, places: list[str | int], tmp_path: Path) -> None:
    found = state(source, tmp_path, CROSS)
    assert found is not None and found.places(register) == places


def test_halves_on_aarch64(tmp_path: Path) -> None:
    found = state(PROLOGUE + "mov w19, w0\n str w1, [sp, #44]\n bl far\n here: nop", tmp_path, CROSS)
    assert found is not None
    assert [(found.places(name), found.halves(name)) for name in ("x0", "x1")] == [([], ["x19"]), ([], [-4])]


# As GCC writes a switch of three cases.
SWITCH = (
    PROLOGUE
    + """mov x19, x0
 {compare}
 .inst 0x90000002  // adrp x2, of this page
 add x2, x2, #0x100
 {load}
 {middle} adr x3, base
 add x2, x3, w2, sxt{size} #2
 br x2
base: bl far
 b last
 one: mov x19, #0
 bl far
 b last
 two: bl far
last: {here} nop
 ret
 .org function + 0x100
 {table}
"""
)


def switch(
    tmp_path: Path,
    *,
    compare: str = "cmp w1, #2\n b.hi last",
    load: str = "ldrb w2, [x2, w1, uxtw]",
    size: str = "b",
    middle: str = "",
    table: str = ".byte 0, (one - base) / 4, (two - base) / 4, 127",
    here: str = "here:",
) -> State | None:
    source = SWITCH.format(compare=compare, load=load, size=size, middle=middle, table=table, here=here)
    return state(source, tmp_path, CROSS)


WIDE = ".hword 0, (one - base) / 4, (two - base) / 4, 0x7fff"


def test_a_switch_on_aarch64_is_followed_to_each_case(tmp_path: Path) -> None:
    found = switch(tmp_path)
    assert found is not None and found.places("x0") == []  # one of the cases has changed it
    assert found.places("x19") == [-32]
    found = switch(tmp_path, compare="cmp w1, #0\n b.hi last")  # the table has the first entry only
    assert found is not None and found.places("x0") == ["x19"]
    found = switch(tmp_path, load="ldrh w2, [x2, w1, uxtw #1]", size="h", table=WIDE)
    assert found is not None and found.places("x0") == []
    found = switch(tmp_path, compare="nop")  # of unknown length: up to the entry that leads out of the function
    assert found is not None and found.places("x0") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"compare": "cmp w1, #3\n b.hi last"},  # one of its entries leads out of the function
        {"load": "ldrb w2, [x4, w1, uxtw]"},  # of another table
        {"load": "ldrh w2, [x2, w1, uxtw]", "size": "h", "table": WIDE},  # the index counts bytes
        {"size": "h"},  # entries of another size
        {"middle": "nop\n"},
        {"compare": "cbz x5, inside", "middle": "inside:"},  # somebody jumps in with another entry
    ],
)
def test_switches_on_aarch64_that_are_written_in_another_way_are_given_up(
    changes: dict[str, str], tmp_path: Path
) -> None:
    assert switch(tmp_path, **changes) is None


@pytest.mark.parametrize(
    ("source", "known"),
    [
        (PROLOGUE + "adr x1, here\n add x1, x1, w2, sxtb #2\n br x1\n here: nop", False),  # a table
        ("adr x1, here\n add x1, x1, w2, sxtb #2\n br x1\n here: nop", False),
        ("cbz x0, here\n ldr x1, [x0, #8]\n br x1\n here: nop", True),  # a call as the last thing that it does
        ("cbz x0, here\n ldr x1, [x3, x0, lsl #3]\n br x1\n here: nop", False),
        (".arch armv8-a+sve\n addvl x0, x0, #1\n here: nop", False),
    ],
)
def test_aarch64_functions_that_are_given_up(source: str, known: bool, tmp_path: Path) -> None:
    assert (state(source, tmp_path, CROSS) is not None) == known
