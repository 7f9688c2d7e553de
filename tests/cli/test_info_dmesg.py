"""`kdump info` and `kdump dmesg` on synthetic dumps: texts, JSON, exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kernel.ring import Ring
from tests.memory.machine import Machine
from tests.memory.writers import PAGE

from kdump.cli.main import main


@pytest.fixture
def machine() -> Machine:
    ring = Ring()
    ring.add(b"Linux version 6.1", level=5)
    ring.add(b"first\nsecond \x1b[31m", level=3, caller=42)
    made = Machine(1 << 20)
    ring.into(made)
    return made


@pytest.fixture
def dump(machine: Machine, tmp_path: Path) -> str:
    path = tmp_path / "vmcore"
    path.write_bytes(machine.kdump(drop=frozenset({200, 201})))
    return str(path)


def test_dmesg(dump: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["dmesg", dump]) == 0
    assert capfdbinary.readouterr().out == (
        b"[    0.123456] Linux version 6.1\n[    1.123456] first\n[    1.123456] second \\x1b[31m\n"
    )
    assert main(["dmesg", "--level", "err", "--raw", "--caller", dump]) == 0
    assert capfdbinary.readouterr().out.startswith(b"<3>[    1.123456][   T42] first\n")


def test_dmesg_json(dump: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dmesg", "--json", dump]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert records[1] == {
        "sequence": 1, "timestamp": 1123456789, "level": 3, "facility": 0, "caller": "T42",
        "text": "first\nsecond \x1b[31m", "subsystem": "", "device": "",
    }  # fmt: skip


def test_dmesg_that_lacks_something_says_so(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = Ring()
    ring.add(b"one")
    ring.add(b"two", state=0)
    other = Machine(1 << 20)
    ring.into(other)
    path = tmp_path / "vmcore"
    path.write_bytes(other.elf())
    assert main(["dmesg", str(path)]) == 3
    assert "still being written" in capsys.readouterr().err


def test_info(dump: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", dump]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80 or len(dump) > 60
    for expected in ("kdump version 6", "6.1.0-test x86_64", "complete     yes", "dump level   31", "zstd", "1.00 MiB"):
        assert expected in text


def test_info_json(dump: str, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", dump]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kernel"]["release"] == "6.1.0-test"
    assert facts["ranges"] == [{"start": 0, "end": 1 << 20}]
    pages = facts["pages"]
    blank = sum(
        not any(machine.memory[at : at + PAGE]) for at in range(0, 1 << 20, PAGE) if at // PAGE not in (200, 201)
    )
    assert pages == {"memory": 256, "dumped": 254 - blank, "zero": blank, "excluded": 2, "missing": 0}
    assert facts["size"] == Path(dump).stat().st_size
    assert facts["ratio"] > 1


def test_info_of_a_truncated_dump(dump: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(dump)
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["info", dump]) == 3
    assert "complete     no" in capsys.readouterr().out


def test_info_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"%PDF-1.7" * 100)
    assert main(["info", str(path)]) == 1
    assert "not a dump in a known format" in capsys.readouterr().err


def test_dmesg_does_without_numpy(machine: Machine, tmp_path: Path) -> None:
    """In the capture kernel the log is saved first, before anything large is loaded."""
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    code = f"""
import sys
sys.modules["numpy"] = None
from kdump.kernel.kernel import Kernel
from kdump.memory import open_dump
print(len(Kernel(open_dump({str(path)!r})).log().records))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "2\n"


def test_the_directory_of_a_crash_stands_for_its_dump(
    machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every command that reads a dump takes the directory; what it lacks is said."""
    crash = tmp_path / "crash"
    crash.mkdir()
    out = str(tmp_path / "out")
    for command in (
        ["info"], ["dmesg"], ["report"], ["serve"], ["shell"], ["debuginfo", "-o", out], ["export", "--elf", "-o", out],
        ["save", "--estimate"],
    ):  # fmt: skip
        assert main([*command, str(crash)]) == 1
        assert f"{crash}: there is no vmcore" in capfd.readouterr().err
    (crash / "vmcore.age").write_bytes(b"")
    assert main(["convert", str(crash), out]) == 1
    assert "`kdump decrypt`" in capfd.readouterr().err
    (crash / "vmcore").write_bytes(machine.kdump(drop=frozenset()))
    assert main(["dmesg", str(crash)]) == 0
    assert "Linux version 6.1" in capfd.readouterr().out
    assert main(["info", str(crash)]) == 0
    assert f"{crash}/vmcore" in capfd.readouterr().out
    assert main(["convert", str(crash), out]) == 0
    assert main(["export", str(crash), "--elf", "-f", "-o", str(crash / "vmcore")]) == 1  # not over its own input
    assert "is the input" in capfd.readouterr().err


def test_every_command_takes_several_files(dump: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for command in (
        ["info"], ["dmesg"], ["report"], ["serve"], ["shell"], ["debuginfo", "-o", out], ["export", "--elf", "-o", out],
        ["save", "--estimate"],
    ):  # fmt: skip
        assert main([*command, dump, dump]) == 1  # not a split set
        assert "split" in capfd.readouterr().err
