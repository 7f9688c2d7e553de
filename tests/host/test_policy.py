"""The panic policy: one table, its sysctl.d file, and what the machine has."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from kdump.cli.main import main
from kdump.host import policy
from kdump.host.config import Panic


def test_the_table_is_the_configurations() -> None:
    assert [entry.name for entry in fields(Panic)] == [sysctl.key for sysctl in policy.TABLE]


def test_the_documentation_has_the_same_words() -> None:
    page = (Path(__file__).parent.parent.parent / "docs/administration.md").read_text()
    for sysctl in policy.TABLE:
        wanted = getattr(Panic(), sysctl.key)
        assert f"| `{sysctl.name}` | {wanted} | {sysctl.on} | {sysctl.off} |" in page


def test_what_is_kept_is_not_written() -> None:
    text = policy.sysctl_file(Panic(panic="keep", panic_on_oom=2))
    settings = dict(line.lstrip("-").split(" = ") for line in text.splitlines() if " = " in line and line[0] == "-")
    assert settings == {
        "kernel.panic_on_oops": "1",
        "kernel.hardlockup_panic": "1",
        "kernel.unknown_nmi_panic": "1",
        "vm.panic_on_oom": "2",
    }


def test_a_machine_is_compared_and_set(tmp_path: Path) -> None:
    place = tmp_path / "proc/sys/kernel"
    place.mkdir(parents=True)
    (place / "panic").write_text("0\n")
    (place / "panic_on_oops").write_text("1\n")
    found = {setting.sysctl.key: setting for setting in policy.settings(Panic(), tmp_path)}
    assert found["panic"].now == 0
    assert not found["panic"].as_wanted
    assert found["panic"].meaning.endswith("hangs until somebody resets it")
    assert found["panic_on_oops"].as_wanted
    assert found["hardlockup_panic"].now is None  # this kernel lacks it: nothing can be done
    assert found["hardlockup_panic"].as_wanted
    assert policy.apply(Panic(), tmp_path) == ["kernel.panic = 10"]
    assert (place / "panic").read_text() == "10\n"


def test_every_name_of_this_kernel_is_a_sysctl() -> None:
    known = [sysctl.name for sysctl in policy.TABLE if Path("/", sysctl.path).exists()]
    assert "kernel.panic" in known
    assert "vm.panic_on_oom" in known


def test_the_table_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", "--policy", "--json"])
    assert [row["sysctl"]["name"] for row in json.loads(capsys.readouterr().out)] == [
        each.name for each in policy.TABLE
    ]
    main(["status", "--policy"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == [each.name for each in policy.TABLE]
    assert all(len(line) < 80 for line in lines)
