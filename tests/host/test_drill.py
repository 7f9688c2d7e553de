"""The real test: what is remembered before the crash, and what is looked for after the reboot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdump.cli import test as command
from kdump.cli.main import main
from kdump.errors import UsageError
from kdump.host import drill
from kdump.host.config import Config

BOOT = "proc/sys/kernel/random/boot_id"


def crash(place: Path, when: float, status: str = "complete") -> None:
    place.mkdir(parents=True)
    (place / "vmcore").touch()
    (place / "manifest.json").write_text(json.dumps({"status": status, "panic_time": when}))


def boot(root: Path, identity: str) -> None:
    (root / BOOT).parent.mkdir(parents=True, exist_ok=True)
    (root / BOOT).write_text(identity + "\n")


def test_before_and_after(tmp_path: Path) -> None:
    boot(tmp_path, "one")
    config = Config(targets=(f"file://{tmp_path}/crash",))
    assert drill.begun(tmp_path / "state") is None
    begun = drill.begin(tmp_path / "state", tmp_path)
    assert drill.begun(tmp_path / "state") == begun
    assert "not been rebooted" in drill.check(begun, config, tmp_path).problem
    boot(tmp_path, "two")
    crash(tmp_path / "crash/long-ago", begun.when - 1000)
    assert "no crash was stored" in drill.check(begun, config, tmp_path).problem
    crash(tmp_path / "crash/cut", begun.when + 2, "incomplete")
    assert drill.check(begun, config, tmp_path).problem.endswith("cut is incomplete")
    crash(tmp_path / "crash/first", begun.when + 1)
    assert drill.check(begun, config, tmp_path).problem == ""
    elsewhere = Config(targets=("ssh://a@b/c",))
    assert "look on the target" in drill.check(begun, elsewhere, tmp_path).problem


def test_crashing_is_one_write_to_sysrq(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    drill.crash(tmp_path)
    assert (tmp_path / "proc/sysrq-trigger").read_text() == "c\n"


def test_the_name_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "db1")
    command.confirm("db1")
    with pytest.raises(UsageError, match="nothing was done"):
        command.confirm("db2")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(UsageError, match="no terminal"):
        command.confirm(None)


def test_a_machine_that_is_not_ready_is_not_crashed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    toml = tmp_path / "kdump.toml"
    toml.write_text('[capture]\nkernel = "/nonexistent/vmlinuz"\n')
    assert main(["test", "--real", "--config", str(toml)]) == 1
    assert "kdump is not ready" in capsys.readouterr().err
