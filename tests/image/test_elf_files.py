"""ELF reading: libraries against the dynamic linker's own answer, stripping against the libraries still working."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.memory.writers import elf

from kdump.elf import EHDR, PT_LOAD
from kdump.errors import FormatError, KdumpError
from kdump.image import elf_files

NUMPY = next((Path(np.__file__).parent / "_core").glob("_multiarray_umath*.so"))
INTERPRETER = Path("/proc/self/exe").resolve()


def ldd(path: Path) -> dict[str, Path]:
    """Name to file, as the dynamic linker itself resolves them."""
    output = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    pairs = (line.strip().split(" => ") for line in output.splitlines() if " => " in line)
    return {name: Path(target.rsplit(" (", 1)[0]) for name, target in pairs}


@pytest.mark.skipif(not shutil.which("ldd"), reason="the dynamic linker is the judge")
@pytest.mark.parametrize("path", [INTERPRETER, NUMPY, Path("/bin/sh")], ids=["python", "numpy", "sh"])
def test_libraries_are_those_the_dynamic_linker_finds(path: Path) -> None:
    found = {
        name: file.resolve()
        for name, file in elf_files.resolve([elf_files.parse(path)]).items()
        if "ld-linux" not in name
    }
    assert found == {name: file.resolve() for name, file in ldd(path).items() if "ld-linux" not in name}
    assert "libc.so.6" in found


def test_the_interpreter_is_read() -> None:
    assert Path(elf_files.parse(INTERPRETER).interpreter).name.startswith("ld-")
    assert elf_files.parse(INTERPRETER).machine == "x86_64"


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(Path("/bin/sh").read_bytes().replace(b"libc.so.6\0", b"libx.so.6\0"))
    with pytest.raises(KdumpError, match=r"libx\.so\.6 was not found.*broken\.so needs it"):
        elf_files.resolve([elf_files.parse(broken)])


def test_provided_names_and_what_they_need_are_left_out() -> None:
    everything = elf_files.resolve([elf_files.parse(NUMPY)])
    blas = next(name for name in everything if "blas" in name)
    rest = elf_files.resolve([elf_files.parse(NUMPY)], provided=[blas])
    assert rest.keys() < everything.keys()
    assert not any("fortran" in name or name == blas for name in rest)


OTHERS = {
    "empty": b"",
    "script": b"#!/bin/sh\n",
    "32 bit": b"\x7fELF\x01\x01" + bytes(60),
    "big-endian": elf([], machine=22, order=">"),
    "cut off": elf([])[:60],
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(FormatError, match="64-bit little-endian ELF"):
        elf_files.parse(path)


def test_sections_of_an_elf_file_of_another_kind_or_a_damaged_one_are_refused() -> None:
    for data in (OTHERS["big-endian"], OTHERS["32 bit"]):
        with pytest.raises(FormatError, match=r"module\.ko.*64-bit little-endian ELF"):
            elf_files.section(data, ".modinfo", "module.ko")
    whole = NUMPY.read_bytes()
    fields = list(EHDR.unpack_from(whole))
    for changed in ({6: len(whole) - 64}, {6: 1 << 63}, {11: 0}):  # where the table is, how large an entry is
        damaged = bytearray(whole)
        EHDR.pack_into(damaged, 0, *(changed.get(number, value) for number, value in enumerate(fields)))
        with pytest.raises(FormatError, match="outside the file"):
            elf_files.section(bytes(damaged), ".dynsym")


def test_stripping_keeps_every_loaded_byte_and_drops_the_rest() -> None:
    data = NUMPY.read_bytes()
    stripped = elf_files.strip(data)
    before, after = elf_files.parse(NUMPY, data), elf_files.parse(NUMPY, stripped)
    assert before == after
    for kind, _, start, _, _, size, *_ in before.programs:
        if kind == PT_LOAD:
            first = max(start, EHDR.size)
            assert stripped[first : start + size] == data[first : start + size]
    assert elf_files.section(data, ".dynsym")
    assert elf_files.section(stripped, ".dynsym") is None


def test_a_stripped_interpreter_runs(tmp_path: Path) -> None:
    files = [INTERPRETER, *elf_files.resolve([elf_files.parse(INTERPRETER)]).values()]
    for path in files:
        target = tmp_path / path.name
        target.write_bytes(elf_files.strip(path.read_bytes()))
        target.chmod(0o755)
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONHOME": sys.base_prefix}
    command = [str(tmp_path / INTERPRETER.name), "-c", "import json; print(json.dumps([6 * 7]))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[42]\n"
