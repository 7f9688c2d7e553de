"""Without a kdump.toml another kdump's files are in force, and each value tells where it comes from."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from kdump.cli import config as command
from kdump.cli import setup as setting_up
from kdump.host import config, in_force, setup, template
from kdump.host.changes import Command, Edit, FileChange
from kdump.host.config import Config
from kdump.host.readiness import Examination

FEDORA = "nfs server.example:/export\npath /crash\ncore_collector makedumpfile -l -d 17\nfoo bar\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any configuration."""
    monkeypatch.setattr(config, "CONFIG_PATH", tmp_path / "etc/kdump/kdump.toml")
    (tmp_path / "etc/kdump").mkdir(parents=True)
    return tmp_path


def test_without_any_file_the_defaults_are_in_force(root: Path) -> None:
    found = in_force.read(root=root)
    assert found.config == Config() and not found.foreign and not found.source


def test_a_foreign_file_is_honoured_and_followed(root: Path) -> None:
    path = root / "etc/kdump.conf"
    path.write_text(FEDORA)
    found = in_force.read(root=root)
    assert found.config.targets == ("nfs://server.example/export/crash",)
    assert (found.config.dump.level, found.config.dump.codec) == (17, "lzo")
    assert found.source == str(path) and found.foreign
    assert found.origins["dump.level"] == (f"{path}: core_collector makedumpfile -l -d 17",)
    assert [line for line, _ in found.lost] == [f"{path}: foo bar"]
    path.write_text("path /srv/crash\n")
    assert in_force.read(root=root).config.targets == ("file:///srv/crash",)


def test_a_kdump_toml_counts_alone(root: Path) -> None:
    (root / "etc/kdump.conf").write_text(FEDORA)
    config.CONFIG_PATH.write_text("[dump]\nlevel = 1\n")
    found = in_force.read(root=root)
    assert found.config.dump.level == 1 and found.config.targets == Config().targets
    assert not found.foreign and found.source == str(config.CONFIG_PATH)


@pytest.mark.parametrize("content", [b"\xff\xfe path", b"x" * (65 << 10)], ids=["not UTF-8", "large"])
def test_a_foreign_file_that_cannot_be_read_is_lost_not_an_error(content: bytes, root: Path) -> None:
    (root / "etc/kdump.conf").write_bytes(content)
    (root / "etc/default").mkdir()
    (root / "etc/default/kdump-tools").write_text('USE_KDUMP=1\nKDUMP_COREDIR="/srv/crash"\n')
    found = in_force.read(root=root)
    assert found.config.targets == ("file:///srv/crash",)
    assert [line for line, _ in found.lost] == [str(root / "etc/kdump.conf")]


def test_show_says_where_each_value_comes_from(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "etc/kdump.conf"
    path.write_text(FEDORA)
    found = in_force.read(root=root)
    monkeypatch.setattr(in_force, "read", lambda *_: found)
    assert command.run(Namespace(action="show", template=False, json=False, file=None)) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"# In force: {path}\n") and config.parse(out) == found.config
    assert f"# From {path}: core_collector makedumpfile -l -d 17\nlevel = 17" in out
    assert f"LOST     {path}: foo bar" in err
    assert command.run(Namespace(action="show", template=False, json=True, file=None)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["source"] == str(path) and told["dump"]["level"] == 17 and "targets" in told["origins"]
    assert command.run(Namespace(action="check", file=None)) == 3
    assert "does not exist; in force: " in capsys.readouterr().out


def test_a_line_of_a_foreign_file_cannot_add_keys(root: Path) -> None:
    """A comment that shows it stays one line."""
    found = template.render(Config(), {"dump.level": ["x: a\n[panic]\npanic = 0\x1b[31m"]})
    assert config.parse(found) == Config()


def test_status_says_what_is_in_force(root: Path) -> None:
    (root / "etc/kdump.conf").write_text(FEDORA)
    (check,) = Examination(in_force.read(root=root)).configuration()
    assert check.answer == "note" and "1 line of another kdump's files has no equivalent" in check.found
    (root / "etc/kdump.conf").write_text("path /srv\n")
    (check,) = Examination(in_force.read(root=root)).configuration()
    assert check.answer == "yes" and "kdump.conf" in check.found
    assert list(Examination(Config()).configuration()) == []


def test_setup_leaves_a_foreign_configuration_in_force(root: Path) -> None:
    (root / "etc/kdump.conf").write_text(FEDORA)
    found = in_force.read(root=root)
    first, second = setting_up.in_place(found, changed=False)
    assert "whose changes are followed" in first and "foo bar" in second
    (note,) = setting_up.in_place(found, changed=True)
    assert "counts alone from now on" in note
    assert setting_up.in_place(InForceDefaults, changed=True) == []


InForceDefaults = in_force.InForce(Config())


def arguments(*words: str) -> Namespace:
    import argparse

    parser = argparse.ArgumentParser()
    setting_up.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("changes", [True, False])
def test_unattended_prints_one_object(
    changes: bool, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is for people goes to standard error."""
    edit = Edit((FileChange("/etc/x", None, "text\n", 0o644),), (Command(("true",)),)) if changes else Edit()
    monkeypatch.setattr(setup, "plan", lambda *_, **__: setup.Setup(edit, True, ("reserve 176M",)))
    monkeypatch.setattr("kdump.cli.share.edit", Edit)
    monkeypatch.setattr(in_force, "read", lambda *_: InForceDefaults)
    assert setting_up.run(arguments("--unattended", "--dry-run")) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["changed"] is changes and told["reboot"] is True and told["notes"] == ["reserve 176M"]
    assert told["files"] == (["/etc/x"] if changes else [])
    assert "reserve 176M" in err
