"""Commands under other tools' names: exit statuses and the lines that scripts look for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kdump.cli import dropins
from kdump.cli.main import main
from kdump.errors import KdumpError
from kdump.host import expected
from kdump.host.changes import Journal, apply, undo


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be called of our own commands; a stand-in, for they would load a kernel on this machine."""
    made: list[list[str]] = []

    def call(arguments: list[str]) -> int:
        made.append(list(arguments))
        return 0

    monkeypatch.setattr(dropins, "call", call)
    monkeypatch.setattr(dropins, "operational", lambda: True)
    return made


LOAD = ["build", "--if-stale", "--load"]


@pytest.mark.parametrize(
    ("arguments", "called", "says"),
    [
        (["kdumpctl", "start"], [LOAD], "kdump: Starting kdump: [OK]"),
        (["kdumpctl", "reload"], [LOAD], "kdump: Starting kdump: [OK]"),
        (["kdumpctl", "stop"], [["unload"]], "kdump: Stopping kdump: [OK]"),
        (["kdumpctl", "restart"], [["unload"], LOAD], "kdump: Starting kdump: [OK]"),
        (["kdumpctl", "rebuild"], [["build"]], "[OK]"),
        (["kdumpctl", "status"], [], "kdump: Kdump is operational"),
        (["kdumpctl", "reset-crashkernel"], [["setup", "--yes"]], ""),
        (["kdumpctl", "reset-crashkernel", "--kernel=ALL"], [["setup", "--yes"]], ""),
        (["kdumpctl", "propagate", "--yes"], [["propagate", "--yes"]], ""),
        (["kdump-config", "load"], [LOAD], "loaded kdump kernel."),
        (["kdump-config", "unload"], [["unload"]], "unloaded kdump kernel."),
        (["kdump-config", "reload"], [["unload"], LOAD], "loaded kdump kernel."),
        (["kdump-config", "test"], [["load", "--explain"]], ""),
        (["kdump-config", "try-reload"], [], ""),  # nothing is loaded here
        (["kdump-config", "status"], [], "ready to kdump"),
        (["kdump-config", "show"], [], "USE_KDUMP:"),
        (["vmcore-dmesg", "/proc/vmcore"], [["dmesg", "/proc/vmcore"]], ""),
    ],
)
def test_verbs(
    arguments: list[str], called: list[list[str]], says: str, calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    assert calls == called
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["kdumpctl", "stop", "--dry-run"],
        ["kdumpctl", "restart", "now"],
        ["kdumpctl", "status", "-q"],
        ["kdumpctl", "reset-crashkernel", "--kernel=ALL", "--reboot"],
        ["kdump-config", "unload", "--help"],
        ["kdump-config", "try-reload", "--dry-run"],
        ["kdump-config", "show", "x\x1b"],
    ],
)
def test_what_a_verb_could_only_ignore_is_refused(
    arguments: list[str], calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert calls == []
    assert "nothing was done" in capsys.readouterr().err


def test_not_ready_has_each_tools_own_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dropins, "operational", lambda: False)
    assert main(["kdumpctl", "status"]) == 3
    assert capsys.readouterr().out == "kdump: Kdump is not operational\n"
    assert main(["kdump-config", "status"]) == 1
    assert "Not ready to kdump" in capsys.readouterr().out


def test_a_failure_is_said_and_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dropins, "call", lambda _arguments: 1)
    assert main(["kdumpctl", "start"]) == 1
    assert "Starting kdump: [FAILED]" in capsys.readouterr().out
    assert main(["kdump-config", "load"]) == 1
    assert "failed to load kdump kernel" in capsys.readouterr().out
    assert main(["kdump-config", "unload"]) == 1


def test_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    estimate = expected.Estimate(176 << 20, "formula", (("kernel, image, filter", 160 << 20), ("network", 16 << 20)))
    monkeypatch.setattr(expected, "wanted", lambda *_args: estimate)
    assert main(["kdumpctl", "get-default-crashkernel"]) == 0
    assert capsys.readouterr().out == "176M\n"
    assert main(["kdumpctl", "estimate"]) == 0
    assert "Recommended crashkernel: 176M" in capsys.readouterr().out
    assert main(["kdumpctl", "showmem"]) == 0
    assert capsys.readouterr().out == "kdump: Reserved 0MB memory for crash kernel\n"


def test_unknown_verbs_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("kdumpctl", "kdump-config"):
        assert main([name, "frobnicate"]) == 2
        assert main([name]) == 2
    assert "frobnicate" in capsys.readouterr().err


def test_wrappers_are_installed_on_request_and_taken_back(tmp_path: Path) -> None:
    command = tmp_path / "kdump"
    command.write_text('#!/bin/sh\necho "$0" "$@"\n')
    command.chmod(0o755)
    journal = Journal(tmp_path / "journal")
    apply(dropins.edit(str(command), tmp_path), journal, tmp_path)
    for name in dropins.NAMES:
        said = subprocess.check_output([tmp_path / f"usr/local/sbin/{name}", "a b", "c"], text=True)
        assert said == f"{command} {name} a b c\n"
    assert not dropins.edit(str(command), tmp_path)
    undo(Journal.read(journal.path), tmp_path)
    assert not (tmp_path / "usr/local/sbin").exists() or not list((tmp_path / "usr/local/sbin").iterdir())


COPY_ID = """\
#!/bin/sh
# A stand-in: the real one would write into the authorized_keys of whoever runs the tests.
while [ $# -gt 1 ]; do [ "$1" = -i ] && key=$2; printf '%s\\n' "$1" >> "$COPIED"; shift; done
echo "$1" >> "$COPIED"
cat "$key" >> "$AUTHORIZED"
"""


def test_propagate_puts_the_key_on_a_server_whose_host_key_it_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.targets.servers import sshd

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh-copy-id").write_text(COPY_ID)
    (tmp_path / "bin/ssh-copy-id").chmod(0o755)
    with sshd(tmp_path / "sshd") as server:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        monkeypatch.setenv("COPIED", str(tmp_path / "copied"))
        monkeypatch.setenv("AUTHORIZED", str(server.directory / "authorized"))
        toml = tmp_path / "kdump.toml"
        toml.write_text(
            f'targets = ["ssh://root@127.0.0.1:{server.port}{tmp_path}/x"]\n'
            f'[ssh]\nidentity = "{tmp_path}/new/id"\nknown_hosts = "{tmp_path}/new/known_hosts"\n'
        )
        for _twice in range(2):
            assert main(["propagate", "--yes", "--config", str(toml), "--", "-f"]) == 0
        assert (tmp_path / "new/id").stat().st_mode & 0o777 == 0o600
        assert {"-f", f"{tmp_path}/new/id.pub", "root@127.0.0.1"} <= set((tmp_path / "copied").read_text().split())
        known = (tmp_path / "new/known_hosts").read_text().splitlines()
        assert len(known) == len(set(known)) >= 1
        # The real server takes the key, and is the one that was asked.
        options = ["-i", f"{tmp_path}/new/id", "-o", f"UserKnownHostsFile={tmp_path}/new/known_hosts"]
        ssh = [
            "ssh",
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            *options,
            "-p",
            str(server.port),
            "root@127.0.0.1",
            "echo",
            "in",
        ]
        assert subprocess.check_output(ssh, text=True) == "in\n"


def test_propagate_without_an_ssh_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = tmp_path / "kdump.toml"
    toml.write_text('targets = ["file:///x"]\n')
    assert main(["propagate", "--config", str(toml)]) == 1
    assert "there is no ssh target" in capsys.readouterr().err


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    from tests.targets.servers import free_port

    from kdump.cli.propagate import trust

    with pytest.raises(KdumpError, match=r"ssh-keyscan failed|sent no host key"):
        trust("127.0.0.1", str(free_port()), tmp_path / "known", ask=False)
