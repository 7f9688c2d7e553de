"""The shell's ways to run without a terminal, over a program that needs no dump."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from drgn import Program

from kdump.cli import shell
from kdump.cli.main import main


def test_python_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert shell._python(Program(), ["x = 6 * 7", "print(x)"]) == 0
    assert capsys.readouterr().out == "42\n"
    assert shell._python(Program(), ["print(1)", "1 / 0", "print(2)"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("1\n", "ZeroDivisionError: division by zero\n")
    assert shell._python(Program(), ["not python"]) == 1
    assert "--crash" not in capsys.readouterr().err
    for command in ("bt", "bt -a"):
        assert shell._python(Program(), [command]) == 1
        assert capsys.readouterr().err.endswith("\n  bt is a command of crash: add --crash\n")


def test_crash_commands_from_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\nno_such_command\nquit\nnever_reached\n"))
    assert shell._crash(Program(), None) == 1
    # The empty program is no kernel, so it has no crash commands at all; one was tried, then `quit` left.
    assert capsys.readouterr().err == "crash: command not found\n  `help` lists the commands\n"


def test_errors_are_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "no-dump"
    path.write_bytes(b"\0" * 10000)
    assert main(["shell", str(path)]) == 1
    assert "Traceback" not in capsys.readouterr().err
