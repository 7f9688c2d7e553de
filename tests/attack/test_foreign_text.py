"""Foreign text drives no terminal and forges no line, and no stream that fails, in no locale, ends in a traceback."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.attack import every_command
from tests.attack.test_hostile_directories import crash
from tests.kernel.ring import Ring
from tests.memory.machine import Machine
from tests.memory.writers import Load, elf, note

from kdump.cli.commands import COMMANDS
from kdump.display import paragraph, shown
from kdump.errors import KdumpError, describe
from kdump.report.page import escape

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202egpj\u2066\u200b\u2028\x85\x7f\0z"
SENSE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """A dump, a directory of crashes, one of them, and a configuration, all of an attacker's making."""
    ring = Ring()
    ring.add(b"Kernel panic - not syncing: " + EVIL.encode(), level=0)
    machine = Machine(1 << 20)
    ring.into(machine)
    lines = machine.vmcoreinfo.decode().splitlines()
    release = EVIL.replace("\r", "").replace("\0", "").replace("\x85", "").replace("\u2028", "")
    said = [line for line in lines if not line.startswith("OSRELEASE")] + [f"OSRELEASE=6.1{release}"]
    notes = note(f"N\n{EVIL[:20]}", 1, b"") + note("VMCOREINFO", 0, "\n".join([*said, ""]).encode())
    (tmp_path / "dump").write_bytes(elf([Load(0, bytes(machine.memory))], notes))
    place = tmp_path / "crashes"
    place.mkdir()
    path = crash(place, 1, b"x")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest |= {"host": EVIL, "release": EVIL + "\nforged: line", "title": EVIL + "\nforged: line", "signature": EVIL}
    manifest["files"].append({"name": f"vmcore-{EVIL[:20]}", "size": 1, "pieces": [], "sha256": "0" * 64})
    (path / "manifest.json").write_text(json.dumps(manifest))
    (place / "h-20261123T120000Z-0001\n forged\x1b[31m").mkdir()
    (tmp_path / "crash").symlink_to(path)
    (tmp_path / "toml").write_text(f'targets = ["file://{place}"]\n')
    return tmp_path


def ended(ground: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack.every_command", ground], stdout=subprocess.PIPE, text=True, check=True,
        env={"PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": "."}, cwd=ROOT,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_command_is_run() -> None:
    assert set(every_command.COMMANDS) == {command.name for command in COMMANDS}


@pytest.mark.timeout(600)
def test_no_stream_and_no_locale_gives_a_traceback(ground: Path) -> None:
    found = ended(ground)
    assert len(found) > 8 * len(COMMANDS)
    wrong = [
        each
        for each in found
        if each["status"] not in (0, 1, 2, 3)
        or each["trace"]
        or any(word in each[name] for word in ("Traceback", "Error:") for name in ("stdout", "stderr"))
        or (each["encoding"] == "ascii:strict" and not_text(each))
    ]
    assert wrong == []
    full = [each for each in found if each["streams"] == "full" and each["line"].startswith(("--help", "list", "info"))]
    assert full and all((each["status"], "No space left" in each["stderr"]) == (1, True) for each in full)


def not_text(each: dict[str, Any]) -> bool:
    """Whether anything that drives a terminal came out, or a line that an attacker wrote begins one."""
    flat = each["line"].startswith(("save --flat", "makedumpfile -F"))  # a dump
    texts = [each["stderr"]] + ([] if flat else [each["stdout"]])
    return any(SENSE.search(text) or re.search(r"^ ?forged", text, re.M) for text in texts)


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"LC_ALL": "xx_XX.nonsense"},
     {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii:strict"}, {"PYTHONIOENCODING": "utf-16:strict"}],
)  # fmt: skip
def test_a_real_start_in_any_locale(environment: dict[str, str], ground: Path) -> None:
    for words in (["list", str(ground / "crashes")], ["info", "/näh\udcff\x1b"]):
        done = subprocess.run(
            [sys.executable, "-m", "kdump", *words], capture_output=True, check=False,
            env={"PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": "src"} | environment, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode in (0, 1, 3)
        assert done.stdout + done.stderr
        assert not re.search(rb"Traceback|Error|\x1b|\x1b\0", done.stdout + done.stderr)


def test_a_real_pipe_and_a_real_descriptor() -> None:
    for line in ("--help | head -1", "man | head -1", "--help >&-", "--help >/dev/full", "--help >&- 2>&- <&-"):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m kdump {line}"], capture_output=True, text=True, check=False, cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": "src"},
        )  # fmt: skip
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr
        assert ("No space left" in done.stderr) == ("full" in line)


def test_nothing_is_written_into_what_took_the_number_of_a_closed_stream(tmp_path: Path, ground: Path) -> None:
    command = f"{sys.executable} -m kdump save {ground}/dump {tmp_path}/out >&- 2>&-"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "src"}
    assert subprocess.run(["bash", "-c", command], check=False, cwd=ROOT, env=environment).returncode in (0, 3)
    command = f"{sys.executable} -m kdump verify --deep {tmp_path}/out"
    assert subprocess.run(["bash", "-c", command], check=False, cwd=ROOT, env=environment).returncode in (0, 3)


def test_a_terminal_gets_colour_and_nothing_of_the_dumps(ground: Path) -> None:
    """On a terminal the report is coloured: what is left without the colours is plain."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "kdump", "report", str(ground / "dump")]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "src", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment) as process:
        os.close(terminal)
        text = b"".join(pieces(controller)).decode()
        process.wait()
    os.close(controller)
    plain, colours = re.subn(r"\x1b\[[0-9;]*m", "", text.replace("\r\n", "\n"))
    assert colours >= 2
    assert not SENSE.search(plain)


def pieces(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:  # EIO: the other end is closed
            return
        if not data:
            return
        yield data


def test_html_has_no_control_characters(ground: Path, tmp_path: Path) -> None:
    from kdump.cli.main import main

    assert main(["report", "--html", str(ground / "dump"), "-o", str(tmp_path / "page")]) in (0, 3)
    assert not SENSE.search((tmp_path / "page").read_text())
    assert "owned" in (tmp_path / "page").read_text()


@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Co"])))
def test_what_is_shown_is_one_line_of_letters(text: str) -> None:
    for result in (shown(text), escape(text), shown(text.encode("utf-8", "surrogatepass")), describe(OSError(5, text))):
        assert not [letter for letter in result if unicodedata.category(letter)[0] == "C" and letter != "\t"]
        assert len(result.splitlines()) <= 1
    assert all(line.startswith("  ") for line in paragraph(text).split("\n")[1:])


def test_an_error_cannot_forge_a_line() -> None:
    error = KdumpError("/x\nkdump save: done", why="no\nkdump: fine\x1b[2J", remedy="look")
    assert str(error) == "/x\n  kdump save: done: no\n  kdump: fine\\x1b[2J\n  look"
    assert describe(error) == "/x\\x0akdump save: done: no\\x0akdump: fine\\x1b[2J"


def test_bytes_of_names_are_shown_as_they_are() -> None:
    assert shown(os.fsdecode(b"a\xff\xc3\xa4\x1b")) == "a\\xffä\\x1b"
    assert shown(b"a\xff\xc3\xa4\x1b") == "a\\xffä\\x1b"
