"""Manual pages and completion say what --help says, and are what man and the shells take."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kdump.cli import completion, roff
from kdump.cli.commands import COMMANDS
from kdump.cli.main import main
from kdump.cli.parsers import pages
from kdump.host import template

PAGES = {page.command.name: page for page in pages()}


def test_every_command_has_a_page_with_all_its_options() -> None:
    assert list(PAGES) == [command.name for command in COMMANDS]
    for page in PAGES.values():
        text = roff.manual(page)
        for option in page.options:
            for flag in option.flags:
                assert flag.replace("-", r"\-") in text
    assert set(PAGES["config"].actions) == {"show", "check", "import"}


def test_every_key_of_the_configuration_is_explained() -> None:
    text = roff.configuration()
    assert text.count(".TP") == len(re.findall(r"^#?\w+ = ", template.render(), re.MULTILINE))
    assert r"\fBpanic_on_oops\fR = 1" in text


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
@pytest.mark.parametrize("name", ["kdump.toml", *PAGES])
def test_groff_has_nothing_to_complain_of(name: str) -> None:
    text = roff.manual(PAGES[name]) if name in PAGES else roff.configuration()
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-K", "utf8"], input=text, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_pages_are_installed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "man").mkdir()
    assert main(["man", "--install", str(tmp_path)]) == 0
    pages8 = tmp_path / "man/man8"
    assert {path.name for path in pages8.iterdir()} == {"kdump.8", *(f"kdump-{name}.8" for name in PAGES)}
    assert all(rf"\fBkdump\-{name}\fR(8)" in (pages8 / "kdump.8").read_text() for name in ("status", "save"))
    assert (tmp_path / "bash-completion/completions/kdump").read_text() == completion.bash(PAGES.values())
    assert main(["man", "--remove", str(tmp_path)]) == 0
    assert [*tmp_path.rglob("*")] == [tmp_path / "man"]
    capsys.readouterr()
    assert main(["man", "nothing"]) == 2
    assert "no command 'nothing'" in capsys.readouterr().err


def complete(*words: str) -> set[str]:
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in ("kdump", *words))
    script = (
        completion.bash(PAGES.values())
        + f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _kdump; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_bash_completes() -> None:
    assert complete("st") == {"status"}
    assert {"--json", "--quiet"} <= complete("status", "--")
    assert complete("config", "ch") == {"check"}
    assert complete("completion", "") >= {"bash", "zsh", "fish"}


@pytest.mark.parametrize(("shell", "arguments"), [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_the_scripts_parse(shell: str, arguments: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(getattr(completion, shell)(PAGES.values()))
    assert "rehearse" in script.read_text()
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, *arguments, str(script)], check=True)
