"""Architectures are named in `kdump.arch` only, and each package there says what the others ask."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdump import arch
from kdump.errors import KdumpError
from kdump.kernel.vmcoreinfo import parse

SOURCE = Path(__file__).parents[2] / "src" / "kdump"

# A string or a number of code that is one architecture's; comments and docstrings may name sources.
NAMES = re.compile(
    r"""["'](?:[^"'\n]*[^\w"'\n])?(?:x86[_-]64|amd64|aarch64|arm64|riscv64|ppc64le|s390x)\b|\bEM_[A-Z0-9]\w*"""
)

# What still names one, and why; to be made shorter.
EXCEPTIONS = {
    "capture/system.py": "the image's first stage ships this file alone, with the number of one system call",
    "cli/kexec.py": "the names that kexec-tools gives kinds of files",
    "kexec/purgatory/code_aarch64.py": "machine code, and the name of its source",
    "kexec/purgatory/code_riscv64.py": "machine code, and the name of its source",
    "processor.py": "runs before anything of the package is imported, and NumPy's needs are those of one processor",
    "report/frames.py": "prefixes of functions in logs, whatever machine they came from",
    "report/families.py": "names of functions in logs, whatever machine they came from",
}


def named(text: str) -> list[str]:
    return [line for line in text.splitlines() if NAMES.search(line.split("  #")[0])]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_arch_names_an_architecture(path: Path) -> None:
    place = path.relative_to(SOURCE)
    if place.parts[0] not in ("arch", "elf.py") and str(place) not in EXCEPTIONS:
        assert named(path.read_text()) == []


@pytest.mark.parametrize("place", EXCEPTIONS)
def test_each_exception_is_needed(place: str) -> None:
    assert named((SOURCE / place).read_text())


def test_a_name_is_found() -> None:
    assert named('if machine == "x86_64":') and named("x = 'linux-image-arm64'") and named("machine != EM_X86_64")
    assert not named("# arch/arm64/kernel/smp.c") and not named('FIELDS = ("arm",)')


def test_architectures_are_found_by_all_their_names() -> None:
    for each in arch.known():
        assert all(arch.by_machine(name) is each for name in (each.name, each.debian, each.elf_machine))
        assert each.triplet.endswith("-linux-gnu") and each.page_sizes and each.console
    assert arch.native() in arch.known()
    with pytest.raises(KdumpError, match="sparc64 is not supported"):
        arch.by_machine("sparc64")
    with pytest.raises(KdumpError, match="architecture loongarch64 is not supported"):
        arch.by_machine(258)
    assert [arch.elf_name(number) for number in (62, 3, 9999)] == ["x86_64", "i386", "unknown (ELF machine 9999)"]


def test_what_an_architecture_lacks_is_refused_by_its_name() -> None:
    class Bare(arch.Architecture):
        name = "bare"

    class Nothing:
        def view(self, address: int, size: int) -> memoryview:
            raise AssertionError((address, size))

    for call in (lambda: Bare().registers(b""), lambda: Bare().kernel_paging(parse(b""), Nothing())):
        with pytest.raises(KdumpError, match="not supported on bare"):
            call()
