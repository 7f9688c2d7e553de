"""The Ansible role does what it says, twice nothing, and nothing in check mode; the other tools' examples can be read.

`kdump config check` is the real one. `kdump setup` and `kdump status` are a stand-in: the machine that runs tests has
no memory reserved, and must not be changed. tests/host/test_in_force.py shows what `setup --unattended` prints.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kdump.host import config

ROOT = Path(__file__).parent.parent.parent
ROLES = ROOT / "packaging/ansible"
EXAMPLES = ROOT / "packaging/examples"
STAND_IN = """#!/bin/sh
echo "$*" >> {log}
case "$1 $2" in
    "config check") exec {python} -m kdump "$@" ;;
    "setup --unattended")
        changed=true
        [ -e {done} ] && changed=false
        [ "$3" = --dry-run ] || touch {done}
        echo "for people" >&2
        echo "{{\\"changed\\": $changed, \\"reboot\\": {reboot}}}" ;;
    "status --json") echo "{{}}"; exit {ready} ;;
esac
"""
# The role writes to /etc/kdump: it gets a copy of /etc, in a mount namespace of its own.
PRIVATE = 'cp -a /etc "$0" && mount --bind "$0" /etc && exec "$@"'

needs_root = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a mount namespace needs root")


class Machine:
    """One that the role is applied to, again and again."""

    def __init__(self, place: Path, *, reboot: str = "false", ready: int = 0) -> None:
        self.place = place
        self.log = place / "log"
        self.command = place / "kdump"
        facts = {"log": self.log, "done": place / "done", "python": sys.executable, "reboot": reboot, "ready": ready}
        self.command.write_text(STAND_IN.format(**facts))
        self.command.chmod(0o755)

    def apply(self, text: str, *options: str) -> tuple[int, dict[str, int], str]:
        """Exit status, Ansible's counts, and what it printed, with `text` as the configuration."""
        self.log.write_text("")
        variables = {"kdump_config": text, "kdump_command": str(self.command)}
        play = [{"hosts": "localhost", "gather_facts": False, "roles": ["kdump"], "vars": variables}]
        (self.place / "play.json").write_text(json.dumps(play))
        ansible = str(Path(sys.executable).with_name("ansible-playbook"))
        private = ["unshare", "--mount", "sh", "-c", PRIVATE, str(self.place / "etc")]
        settings = {"ANSIBLE_ROLES_PATH": str(ROLES), "ANSIBLE_LOCALHOST_WARNING": "0", "LC_ALL": "C.UTF-8"}
        settings |= {"ANSIBLE_HOME": str(self.place / "home"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
        done = subprocess.run(
            [*private, ansible, "-i", "localhost,", "-c", "local", *options, str(self.place / "play.json")],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        recap = re.search(r"^localhost +: (.*)$", done.stdout, re.M)
        counts = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", recap[1] if recap else "")}
        return done.returncode, counts, done.stdout + done.stderr


@needs_root
@pytest.mark.timeout(180)
def test_the_role(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    status, counts, printed = machine.apply("[dump]\nlevel = 31\n", "--check")
    assert status == 0, printed
    assert counts["changed"] >= 2  # the file, and setup, which would
    assert "setup --unattended --dry-run" in machine.log.read_text() and not (tmp_path / "done").exists()
    assert "status" not in machine.log.read_text()
    status, counts, printed = machine.apply("[dump]\nlevel = 31\n")
    assert status == 0 and counts["failed"] == 0, printed
    assert [line.split()[0] for line in machine.log.read_text().splitlines()] == ["config", "setup", "status"]
    shutil.rmtree(tmp_path / "etc")
    status, counts, printed = machine.apply("")
    assert status == 0 and counts["changed"] == 0, printed


@needs_root
@pytest.mark.timeout(180)
def test_a_configuration_that_is_wrong_is_never_put_in_place(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    status, counts, printed = machine.apply("[dump]\nlevel = 99\n")
    assert status != 0 and counts["failed"] == 1
    assert "expected a number from 0 to 31" in printed or "0 to 31" in printed
    assert "setup" not in machine.log.read_text()


@needs_root
@pytest.mark.timeout(180)
def test_a_machine_that_is_not_ready_fails_unless_it_only_needs_its_reboot(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert Machine(tmp_path / "a", ready=3).apply("")[0] != 0
    waiting = Machine(tmp_path / "b", ready=3, reboot="true")
    status, _, printed = waiting.apply("")
    assert status == 0, printed
    assert "status" not in waiting.log.read_text()


def test_examples_can_be_read() -> None:
    instance = yaml.safe_load((EXAMPLES / "cloud-init.yaml").read_text())
    ignition = yaml.safe_load((EXAMPLES / "ignition.bu").read_text())
    cluster = yaml.safe_load((EXAMPLES / "daemonset.yaml").read_text())
    files = [instance["write_files"][0]["content"], ignition["storage"]["files"][0]["contents"]["inline"]]
    assert [config.parse(text).targets[1] for text in files] == ["file:///var/crash"] * 2
    assert cluster["kind"] == "DaemonSet"
    assert config.parse('targets = ["file:///var/crash"]\n') == config.Config()  # NixOS' default setting
