"""The entry point: errors are messages; a reader that goes away is not an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdump.cli.main import main

ENTRY = "import sys; from kdump.cli.main import entry; sys.argv[0] = 'kdump'; entry()"


def without_reader(arguments: Sequence[str]) -> tuple[int, str]:
    """Run the command with nobody at the other end of its standard output."""
    command = [sys.executable, "-c", ENTRY, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        return process.wait(60), process.stderr.read()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["man"], ["save", "--help"], ["config", "show"]])
def test_a_reader_that_goes_away_gets_no_traceback(arguments: list[str]) -> None:
    status, said = without_reader(arguments)
    assert said == "" and status in (0, 1)  # argparse ignores it


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("save --elf --split 2 in out", "an ELF vmcore is neither compressed nor split"),
        ("save --elf -z in out", "an ELF vmcore is neither compressed nor split"),
        ("save --estimate -d 1 --elf --scrub all in", "--estimate does not go with -d, --elf, --scrub"),
        ("convert --elf --codec-level 3 in out", "an ELF vmcore is neither compressed nor split"),
        ("report --live vmcore", "--live reads the running kernel and no other dump"),
        ("report", "no dump is named"),
        ("estimate --ram 64G", "--ram needs a value to explain"),
        ("load --command-line quiet --append x", "--append and --cpus do not go with it"),
        ("load --command-line quiet --cpus 2", "--append and --cpus do not go with it"),
        ("load --explain --if-changed", "--explain loads nothing"),
        ("test --confirm here", "--confirm goes with --real"),
        ("collect --force /dev/x", "--force goes with --format"),
        ("collect --format --new --json /dev/x", "--format does nothing else: --new, --json"),
        ("setup --unattended --json", "--json makes no changes"),
        ("estimate --shrink 128M 256M", "--shrink goes with no value to explain"),
    ],
)
def test_an_option_that_could_only_be_ignored_is_refused(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").write_bytes(b"\x7fELF")
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["save", "--scrub", "", "in", "out"], "--scrub"),
        (["save", "--keep=", "in", "out"], "--keep"),
        (["save", "", "out"], "FILE"),
        (["fleet", "token", "--revoke", ""], "--revoke"),
        (["setup", "--target", ""], "--target"),
    ],
)
def test_a_value_that_a_script_left_empty_is_refused(
    arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert f"argument {name}: the value is empty" in capsys.readouterr().err


def test_a_command_line_may_be_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "--command-line", "", "--append=", "--help"]) == 0
    assert main(["kexec", "--append=", "--help"]) == 0


def test_the_exit_status_is_the_commands() -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-c", ENTRY, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert run("--version")[0] == 0
    assert run("nonsense")[::2] == (2, "kdump: unknown command 'nonsense'\n  `kdump --help` lists the commands\n")
    assert run("reprot")[::2] == (2, "kdump: unknown command 'reprot'\n  did you mean 'report'?\n")
    status, out, err = run("info", "/nonexistent")
    assert (status, out) == (1, "") and err.startswith("kdump info: /nonexistent")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["report", "x", "--sections", "log"], "unrecognized arguments: --sections log\n  did you mean '--section'?\n"),
        (["report", "x", "--html", "x.html"], "unrecognized arguments: x.html\n  -o names the file to write\n"),
        (["fleet", "token", "--raeder", "x"], "unrecognized arguments: --raeder\n  did you mean '--reader'?\n"),
        (["config", "--template", "show"], "unrecognized arguments: --template\n  it goes after these actions: show\n"),
        (["config", "check", "--json"], "--json\n  it goes after these actions: show, import\n"),
        (["config", "show", "--template", "x"], "neither a file nor --json goes with it\n"),
        (["status", "--nonsense"], "unrecognized arguments: --nonsense\n"),
        (["config"], "the following arguments are required: ACTION\n  one of show, check, import\n"),
        (["info"], "the following arguments are required: DUMP\n"),
        (["completion"], "the following arguments are required: {bash,zsh,fish}\n"),
        (["report", "x", "--section", "memroy"], "there is no section 'memroy'\n  did you mean 'memory'?\n"),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(
    arguments: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith(advice)


def test_help_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "info"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: kdump info") and main(["info", "--help"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_file_that_takes_only_a_part_of_the_output_is_an_error(unbuffered: str, tmp_path: Path) -> None:
    """As on a full disk: write(2) takes what there is room for, and only the next one fails."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1024,) * 2)"
    command = [sys.executable, "-c", f"{limit}; {ENTRY}"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    for arguments in (["completion", "bash"], ["man", "save"], ["config", "show", "--template"]):
        with (tmp_path / "out").open("wb") as out:
            done = subprocess.run(
                [*command, *arguments], stdout=out, stderr=subprocess.PIPE, text=True, check=False, env=environment
            )
        assert (tmp_path / "out").stat().st_size == 1024
        assert done.returncode == 1
        assert done.stderr == f"kdump {arguments[0]}: standard output: File too large\n"


def test_bytes_of_a_log_are_written_whole_or_an_error(tmp_path: Path) -> None:
    code = """import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096,) * 2)
from kdump.cli import streams; streams.guard()
try: streams.write_bytes(b"x" * 10000)
except OSError as error: streams.discard_output(); raise SystemExit(error.filename)"""
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-u", "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "standard output\n")


_UNFINISHED = """import os, signal, sys, time
from kdump.cli import main
from kdump.files.drafts import Draft

def work():
    draft = Draft(sys.argv[1])
    try:
        if not os.fork():
            print(os.getpid(), flush=True)
        time.sleep(60)
    finally:
        draft.discard()

signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[2] == "nohup" else signal.SIG_DFL)
main.main = work
main.entry()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_is_ended_by_a_signal_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    """As by timeout(1), systemd or a session that ends. A draft is removed by the process that made it, only."""
    nohup = "nohup" if number == signal.SIGTERM else ""
    command = [sys.executable, "-c", _UNFINISHED, str(tmp_path / "out"), nohup]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        child = int(process.stdout.readline())
        os.kill(child, number)
        while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert len(list(tmp_path.iterdir())) == 1
        if nohup:
            process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        assert process.wait(60) == -number
        assert process.stderr.read() == ""
    assert not list(tmp_path.iterdir())
