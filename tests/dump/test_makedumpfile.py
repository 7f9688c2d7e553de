"""The drop-in: makedumpfile's options and exit statuses."""

from __future__ import annotations

import subprocess
import sys
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
    assert "--cyclic-buffer, --splitblock-size, --non-mmap" in capsys.readouterr().out


def test_checks_and_dry_runs_write_nothing(vmcore: Path, tmp_path: Path, capsys: Any) -> None:
    before = sorted(tmp_path.iterdir())
    assert makedumpfile("--check-params", "-z", "-d", "31", "--cyclic-buffer", "64", "--non-mmap", "x", "y") == 0
    assert makedumpfile("--check-params", "-d", "64", "x", "y") == 1
    assert makedumpfile("--check-params", "-d", "31", "x") == 1
    assert makedumpfile("--dry-run", "--show-stats", "-d", "31", vmcore) == 0
    assert "Remaining pages: 3568" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


def test_vmcoreinfo_of_another_kernel_is_status_2(vmcore: Path, tmp_path: Path) -> None:
    other = tmp_path / "info"
    assert makedumpfile("-g", other, vmcore) == 0
    assert makedumpfile("-i", other, "-z", "-d", "31", vmcore, tmp_path / "out") == 0
    other.write_text(other.read_text().replace("6.1.0-test", "6.12.0-test"))
    assert main(["makedumpfile", "-i", str(other), "-d", "31", str(vmcore), str(tmp_path / "two")]) == 2


def test_options_between_files_and_abbreviated_ones(vmcore: Path, tmp_path: Path) -> None:
    assert makedumpfile(vmcore, "-c", "--message", "0", tmp_path / "out", "-d", "31") == 0
    assert status_of(tmp_path / "out") == 1


@pytest.mark.parametrize("arguments", [("-d", "32"), ("-d", "0x1f"), ("-E", "-c"), ("-F", "--split")])
def test_what_makedumpfile_has_not_is_refused(arguments: tuple[str, ...], vmcore: Path, tmp_path: Path) -> None:
    assert makedumpfile(*arguments, vmcore, tmp_path / "out") == 1
    assert list(tmp_path.iterdir()) == [vmcore]


def test_a_missing_part_is_named_and_fails(vmcore: Path, tmp_path: Path, capsys: Any) -> None:
    parts = [tmp_path / name for name in ("one", "two", "three")]
    assert makedumpfile("--split", "-c", vmcore, *parts) == 0
    with open_dump(parts[1]) as dump:
        assert "a part is missing" in dump.lacks
    capsys.readouterr()
    assert makedumpfile("--reassemble", parts[0], parts[2], tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "no file has the pages (pfns) 0x" in said.err
    assert "Failed" in said.out
    assert set(pages_of(tmp_path / "out.incomplete")) == {*pages_of(parts[0]), *pages_of(parts[2])}


def test_a_truncated_vmcore_fails_and_what_it_has_is_saved(vmcore: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "cut").write_bytes(vmcore.read_bytes()[: 14 << 20])
    assert makedumpfile("-c", "-d", "16", tmp_path / "cut", tmp_path / "out") == 1
    assert "ends early" in capsys.readouterr().err
    with open_dump(tmp_path / "out.incomplete") as dump:
        assert dump.incomplete
        assert dump.header["dump_level"] == 16


def test_a_link_is_written_through_and_a_dangling_one_refused(vmcore: Path, tmp_path: Path) -> None:
    link, real = tmp_path / "link", tmp_path / "real"
    link.symlink_to(real)
    assert makedumpfile("-f", "-c", vmcore, link) == 1
    assert not real.exists()
    real.touch()
    assert makedumpfile("-c", vmcore, link) == 1
    assert makedumpfile("-f", "-c", vmcore, link) == 0
    assert link.is_symlink()
    assert status_of(real) == 1


def test_a_closed_pipe_is_status_141(vmcore: Path) -> None:
    command = [sys.executable, "-m", "kdump", "makedumpfile", "-F", str(vmcore)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout
        running.stdout.read(10)
        running.stdout.close()
        assert running.wait(60) == 141


def test_v_lists_the_codecs(capsys: Any) -> None:
    assert makedumpfile("-v") == 0
    assert "zstd\tenabled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("magic", "name"),
    [(b"QFI\xfb", "qcow2"), (b"QEVM", "migration"), (b"LibvirtQemudSave", "virsh save"), (b"EMiL", "LiME")],
)
def test_strangers_are_refused_by_name(magic: bytes, name: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "stranger").write_bytes(magic + bytes(4096))
    assert makedumpfile(tmp_path / "stranger", tmp_path / "out") == 1
    assert name in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
