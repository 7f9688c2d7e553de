"""Where arguments are found again: in code assembled here, every way a value survives or is lost."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kdump.arch.x86_64.arguments import Engine, State
from kdump.kernel.kallsyms import Symbol

START = 0xFFFFFFFF81000000
pytestmark = pytest.mark.skipif(not shutil.which("as"), reason="needs an assembler")


def state(source: str, tmp_path: Path) -> State | None:
    """The state before the call of the label `here`'s instruction, in a function of AT&T assembler."""
    text = tmp_path / "code.s"
    far = ".byte 0xe8, 0, 0, 0, 0x10"  # a call out of the function, which needs no linker
    text.write_text(f".text\nfunction:\n{source.replace('call 0x1000', far)}\nend:\n")
    subprocess.run(["as", "-o", tmp_path / "code.o", text], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "code.o", tmp_path / "code"], check=True)
    names = subprocess.run(["nm", tmp_path / "code.o"], check=True, capture_output=True, text=True).stdout
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
    engine = Engine(cast("Any", kernel))
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
