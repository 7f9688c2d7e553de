"""Command lines that scripts give to makedumpfile: Debian's and ours end alike, and leave the same kind of files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from tests.conftest import CrashMaker, Once
from tests.report.machines import MACHINES

from kdump.cli.main import main
from kdump.elf import PHDR, PT_LOAD

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

KDUMP = [sys.executable, "-m", "kdump", "makedumpfile"]
# V: an ELF vmcore; K: a kdump-compressed one; S1, S2: a split set; F: a flattened dump; I: VMCOREINFO of this kernel;
# G: something that is no dump; VT, KT: the first megabyte of V and K, VH: a part of V's head; OLD: a file that exists.
# A, B, C are free names. "<F": F on standard input.
ALIKE = """
V A -d 31 -c
-c -d 31 V A
-cd31 V A
-d 31 -c V A
-l -d 31 V A
-p -d 31 V A
-d 0 V A
V A
-E V A
-d 0,31 -c V A
-c -d 1 --message-level 1 V A
-c -d 31 --message-level 0 V A
-c -d 31 --message-level 31 V A
-c -d 31 --cyclic-buffer 1024 V A
-c -d 31 --non-cyclic V A
-c -d 31 --non-mmap V A
-c -d 31 --show-stats V A
-D -c -d 31 V A
-c -f -d 31 V OLD
-c -d 31 V OLD
-c -d 31 --work-dir . V A
-F -c -d 31 V
-F V
-F --dump-dmesg V
-R A <F
-R OLD <F
-R -f OLD <F
--split -c -d 31 V A B
--split -c -d 31 V A
--split --splitblock-size 4 -c -d 31 V A B
--reassemble S1 S2 A
--reassemble S2 S1 A
--reassemble S1 S2 OLD
--reassemble S1 S2
--dump-dmesg V A
--dump-dmesg K A
--dump-dmesg V OLD
--dump-dmesg -f V OLD
--dump-dmesg V
--dump-dmesg
--dump-dmesg V A B
--dump-dmesg -d 31 V A
--dump-dmesg -c V A
--dump-dmesg --split V A B
--dump-dmesg G A
--dump-dmesg S1 A
--dump-dmesg VT A
--dump-dmesg KT A
--dump-dmesg VH A
--dump-dmesg EMPTY A
--dump-dmesg -f VT OLD
--dump-dmesg /nonexistent A
--dump-dmesg V /nonexistent/A
-F --dump-dmesg VT
-F --dump-dmesg G
-F --dump-dmesg V A
--dump-dmesg --partial-dmesg V A
--partial-dmesg V OLD
--partial-dmesg G A
-g A -i I
-c -d 31 G A
-c -d 31 /nonexistent A
-c -d 31 V /nonexistent/A
-c -d 31 V
-c -d 31
-d 32 V A
-d -1 V A
-c -d 31 --message-level 32 V A
-c -d 31 --cyclic-buffer abc V A
-c -E -d 31 V A
-E --split -d 31 V A B
-F --split -c -d 31 V A B
-c -d 31 V A B
-c -d 31 -L abc V A
--check-params -c -d 31 V A
--check-params -d 64 V A
--check-params -c -d 31 V
--check-params -F -c -d 31 V
--dry-run -c -d 31 V A
--dry-run --dump-dmesg V A
--no-such-option V A
-q V A
-v
--mess 1 -c -d 31 V A
--config nonexistent -c -d 31 V A
--config
--vtop ffffffff81000000 V
--reassemble
--split
-R
""".strip().splitlines()

# What ends otherwise here: our exit status, and why.
DIFFERENT = {
    "--reassemble S1 A": (1, "there the lost part goes unnoticed"),
    "--split -d 31 V A B C": (0, "there three parts of so few pages fail"),
    "-R A <G": (1, "there it waits for ever"),
    "-d abc V A": (1, "there no number is 0"),
    "-d 0x1f V A": (1, "there it is 0"),
    "-d 31,0 V A": (1, "there a list may fall"),
    "-c -d 31 --message-level abc V A": (1, "there no number is 0"),
    "-c -d 31 --num-threads -1 V A": (1, "there it is ignored"),
    "-c -d 31 -L 1000 V A": (1, "there what was cut short has the name of a whole dump"),
    "-x nonexistent -c -d 31 V A": (0, "here no vmlinux is needed"),
    "-d 31 -c K A": (0, "there a dump that was filtered cannot be filtered again with the level that it has"),
    "-c -d 31 -i I V A": (0, "there VMCOREINFO of the same kernel is refused if the vmcore has some"),
    "-E -d 31 V A": (0, "there it dies of SIGSEGV on this file"),
    "--dump-dmesg F A": (0, "there a flattened dump has to be rearranged first"),
    "--partial-dmesg V A": (0, "there --dump-dmesg has to stand beside it"),
    "-F -E -d 31 V": (0, "there it dies of SIGSEGV on this file"),
}


@pytest.fixture(scope="module")
def given(lab_crash: CrashMaker, once: Once) -> Path:
    """The inputs; ours, for what Debian's makes of this vmcore is not the same in each run."""

    def make(directory: Path) -> Path:
        vmcore = lab_crash("6.1", **MACHINES["6.1"]).directory / "vmcore"
        assert main(["convert", "--elf", str(vmcore), str(directory / "V")]) == 0
        without_zeros(directory / "V")
        for words in ("-c -d 31 V K", "--split -c -d 31 V S1 S2", "-g I V"):
            subprocess.run([*KDUMP, *words.split()], cwd=directory, check=True, capture_output=True)
        with (directory / "F").open("wb") as file:
            subprocess.run([*KDUMP, "-F", "-c", "-d", "31", "V"], cwd=directory, check=True, stdout=file)
        for name, source, size in (("VT", "V", 1 << 20), ("KT", "K", 1 << 20), ("VH", "V", 100), ("EMPTY", "V", 0)):
            with (directory / source).open("rb") as whole:
                (directory / name).write_bytes(whole.read(size))
        (directory / "G").write_bytes(b"no dump" * 1000)
        return directory

    found: Path = once("makedumpfile's inputs", make)
    return found


def without_zeros(vmcore: Path) -> None:
    """No segment is longer in memory than in the file, as in what a kernel makes: Debian's dies of SIGBUS on others."""
    with vmcore.open("r+b") as file:
        headers = ELFFile(file)
        for number in range(headers.num_segments()):
            place = headers["e_phoff"] + number * PHDR.size
            file.seek(place)
            kind, *fields, size, _, align = PHDR.unpack(file.read(PHDR.size))
            if kind == PT_LOAD:
                file.seek(place)
                file.write(PHDR.pack(kind, *fields, size, size, align))


def kind(data: bytes) -> str:
    """What a file is, by its first bytes."""
    for start, name in (
        (b"KDUMP", "kdump"),
        (b"\x7fELF", "ELF"),
        (b"makedumpfile\0", "flattened"),
        (b"OSRELEASE", "info"),
    ):
        if data.startswith(start):
            return name
    return "log" if b"Linux version" in data else "text" if data else ""


def outcome(program: list[str], line: str, given: Path, place: Path) -> tuple[int, dict[str, str], str]:
    """Exit status, the kinds of files that are there afterwards, and what standard output is, if not mere words."""
    place.mkdir()
    for path in given.iterdir():
        if path.name not in ("A", "B", "C"):
            (place / path.name).symlink_to(path)
    (place / "OLD").write_text("old")
    words, _, source = line.partition(" <")
    with (place / "out").open("wb") as out, (given / source if source else Path(os.devnull)).open("rb") as file:
        status = subprocess.run(
            [*program, *words.split()], cwd=place, stdin=file, stdout=out, stderr=subprocess.DEVNULL, check=False,
            timeout=60,
        ).returncode  # fmt: skip
    said = kind((place / "out").read_bytes())
    files = {}
    for path in sorted(place.iterdir()):
        if not path.is_symlink() and path.name != "out" and not path.name.endswith(".incomplete"):
            with path.open("rb") as found:
                files[path.name] = kind(found.read(1 << 16))
    shutil.rmtree(place)
    return status, files, said if said in ("kdump", "ELF", "flattened", "log") else ""


@pytest.mark.parametrize("line", ALIKE)
def test_the_same_end(line: str, given: Path, tmp_path: Path) -> None:
    for number in range(6):  # Debian 12's dies of SIGSEGV now and then, when all is written
        theirs = outcome(["makedumpfile"], line, given, tmp_path / f"theirs{number}")
        if theirs[0] != -signal.SIGSEGV:
            break
    assert outcome(KDUMP, line, given, tmp_path / "ours") == theirs


@pytest.mark.parametrize("line", DIFFERENT)
def test_another_end_and_why(line: str, given: Path, tmp_path: Path) -> None:
    status, files, _ = outcome(KDUMP, line, given, tmp_path / "ours")
    assert status == DIFFERENT[line][0]
    assert ("A" in files) == (status == 0 and " A" in line)
