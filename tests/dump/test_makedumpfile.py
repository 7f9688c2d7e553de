"""The drop-in: makedumpfile's options and exit statuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dump.machine import PAGE, Block, PageMachine, fill

from kdump.cli.main import main
from kdump.memory import open_dump


@pytest.fixture
def vmcore(tmp_path: Path) -> Path:
    machine = PageMachine("6.1")
    machine.use([Block(2048, 9, "free"), Block(3072, 4, "cache")])
    fill(machine, 1024)
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    return path


def makedumpfile(*arguments: object) -> int:
    return main(["makedumpfile", *map(str, arguments)])


def pages_of(path: Path) -> dict[int, bytes]:
    """Its pages, by pfn."""
    with open_dump(path) as dump:
        pfns = np.flatnonzero(dump.memory.present(0, 16 << 20 >> 12)).tolist()
        return {pfn: bytes(dump.memory.view(pfn * PAGE, PAGE)) for pfn in pfns}


def status_of(path: Path) -> int:
    with open_dump(path) as dump:
        return int(str(dump.header["status"]))


@pytest.mark.parametrize(("option", "bit"), [("-c", 1), ("-l", 2), ("-p", 4), ("-z", 0x20), ("-f", 0)])
def test_the_header_names_the_compression_that_was_used(option: str, bit: int, vmcore: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert makedumpfile(option, "-d", "31", vmcore, out) == 0
    assert status_of(out) == bit
    assert not list(tmp_path.glob("*.json"))
    with open_dump(out) as dump:
        assert dump.header["dump_level"] == 31


def test_clustered_options_and_silence(vmcore: Path, tmp_path: Path, capfd: Any) -> None:
    assert makedumpfile("--message-level", "0", "-zfd31", vmcore, tmp_path / "out") == 0
    assert capfd.readouterr() == ("", "")


def test_split_and_reassemble_keep_the_compression(vmcore: Path, tmp_path: Path) -> None:
    one, two, joined = tmp_path / "one", tmp_path / "two", tmp_path / "joined"
    assert makedumpfile("--split", "-c", "-d", "31", vmcore, one, two) == 0
    assert makedumpfile("--reassemble", one, two, joined) == 0
    assert status_of(joined) == 1
    assert makedumpfile("-c", "-d", "31", vmcore, tmp_path / "whole") == 0
    # Data of a part that is written at once begin with what opens a dump: the order is another, all else is the same.
    assert joined.stat().st_size == (tmp_path / "whole").stat().st_size
    assert pages_of(joined) == pages_of(tmp_path / "whole")


def test_a_limit_ends_in_an_incomplete_dump_and_status_1(vmcore: Path, tmp_path: Path, capsys: Any) -> None:
    assert makedumpfile("-z", "-d", "1", "-L", 1 << 20, vmcore, tmp_path / "out") == 1
    assert "incomplete" in capsys.readouterr().err
    assert status_of(tmp_path / "out.incomplete") == 0x28


def test_a_list_of_levels_goes_on_to_one_that_fits(vmcore: Path, tmp_path: Path) -> None:
    size = 14 << 20
    assert makedumpfile("-d", "0,16", "-L", size, vmcore, tmp_path / "out") == 1
    assert makedumpfile("-d", "0,31", "-L", size, vmcore, tmp_path / "out") == 0
    with open_dump(tmp_path / "out") as dump:
        assert dump.header["dump_level"] == 31


@pytest.mark.parametrize(
    "arguments",
    [
        ("-d", "99", "x", "y"),
        ("x",),
        ("-X", "x", "y"),
        ("--vtop", "0", "x"),
        ("--eppic", "a", "x", "y"),
        ("x", "y", "z"),
    ],
)
def test_what_cannot_be_done_is_named_with_status_1(arguments: tuple[str, ...], capsys: Any) -> None:
    assert makedumpfile(*arguments) == 1
    said = capsys.readouterr()
    assert "makedumpfile Failed." in said.out + said.err


@pytest.mark.parametrize("arguments", [("-L", "4M", "x", "y"), ("--no-such-option", "x", "y")])
def test_wrong_usage_is_status_1_as_there(arguments: tuple[str, ...], capsys: Any) -> None:
    assert makedumpfile(*arguments) == 1
    said = capsys.readouterr().err
    assert arguments[0] in said
    assert "makedumpfile Failed." in said


def test_ignored_options_are_named(vmcore: Path, tmp_path: Path, capsys: Any) -> None:
    ignored = ("--cyclic-buffer", "64", "--splitblock-size", "4", "--non-mmap")
    assert makedumpfile(*ignored, "-l", "-d", "31", vmcore, tmp_path / "out") == 0
    assert "--cyclic-buffer, --splitblock-size, --non-mmap" in capsys.readouterr().err


def test_checks_and_dry_runs_write_nothing(vmcore: Path, tmp_path: Path, capsys: Any) -> None:
    before = sorted(tmp_path.iterdir())
    assert makedumpfile("--check-params", "-z", "-d", "31", "--cyclic-buffer", "64", "--non-mmap") == 0
    assert makedumpfile("--check-params", "-d", "64") == 1
    assert makedumpfile("--dry-run", "--show-stats", "-d", "31", vmcore) == 0
    assert "Remaining pages: 3568" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_vmcoreinfo_of_another_kernel_is_status_2(vmcore: Path, tmp_path: Path) -> None:
    other = tmp_path / "info"
    assert makedumpfile("-g", other, vmcore) == 0
    assert makedumpfile("-i", other, "-z", "-d", "31", vmcore, tmp_path / "out") == 0
    other.write_text(other.read_text().replace("6.1.0-test", "6.12.0-test"))
    assert main(["makedumpfile", "-i", str(other), "-d", "31", str(vmcore), str(tmp_path / "two")]) == 2
