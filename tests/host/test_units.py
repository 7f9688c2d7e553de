"""Units, rules and hooks: valid to the tools that read them, installed where they are of use."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kdump.host import config, units
from kdump.host.config import Config, Notify


def test_every_file_of_the_package_is_installed_somewhere() -> None:
    here = {path.name for path in Path(units.__file__).parent.iterdir() if path.suffix != ".py" and path.is_file()}
    assert here == {each.name for each in units.FILES}
    assert all("@KDUMP@" not in units.text(each.name, "/usr/bin/kdump") for each in units.FILES)


def test_only_what_is_of_use_is_installed(tmp_path: Path) -> None:
    assert units.edit(tmp_path, "/usr/bin/kdump").files == ()
    for place in ("run/systemd/system", "etc/kernel/postinst.d"):
        (tmp_path / place).mkdir(parents=True)
    edit = units.edit(tmp_path, "/opt/kdump")
    assert {change.path for change in edit.files} == {
        "/etc/systemd/system/linux-kdump.service",
        "/etc/systemd/system/linux-kdump-reload.service",
        "/etc/systemd/system/linux-kdump-reload.path",
        "/etc/systemd/system/linux-kdump-collect.service",
        "/etc/kernel/postinst.d/zz-kdump",
    }
    assert [command.argv[1] for command in edit.commands] == ["daemon-reload", "enable", "enable", "enable"]
    service = next(change.after for change in edit.files if change.path.endswith("/linux-kdump.service"))
    assert service is not None
    assert "ExecStart=/opt/kdump build --if-stale --load\n" in service


def test_a_target_across_the_network_is_looked_at_again(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    with_network = {change.path for change in units.edit(tmp_path, "/x", networked=True).files}
    without = {change.path for change in units.edit(tmp_path, "/x").files}
    assert with_network - without == {"/etc/systemd/system/linux-kdump-collect.service.d/network.conf"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    names = [each.name for each in units.FILES if each.name.endswith((".service", ".path"))]
    for name in names:
        (tmp_path / name).write_text(units.text(name, "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", *[str(tmp_path / name) for name in names]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "kdump" in line]
    assert ours == []


def test_the_hooks_are_shell_and_never_fail(tmp_path: Path) -> None:
    for name in ("kernel-postinst", "kernel-postrm", "kernel.install"):
        hook = tmp_path / name
        hook.write_text(units.text(name, "/bin/false"))
        for arguments in ([], ["add", "../../etc", "x", "/nonexistent"], ["add", "6.1", "x", "/nonexistent"], ["../x"]):
            assert subprocess.run(["sh", str(hook), *arguments], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", [each.name for each in units.FILES if each.name.endswith(".service")])
def test_the_units_are_hardened(name: str, tmp_path: Path) -> None:
    """systemd's own scale: 0 is nothing exposed, 10 everything."""
    (tmp_path / name).write_text(units.text(name, "/bin/true"))
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=39", "--no-pager", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


def test_files_that_the_configuration_names_are_watched(tmp_path: Path) -> None:
    """Those in /etc/kdump are watched by the unit itself."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert units.watched(Config()) is None
    text = (
        'targets = ["ssh://a@b/c", "s3://b/p"]\n[ssh]\nidentity = "/root/.ssh/id"\n[s3]\nca_file = "/etc/ca/100%.pem"\n'
    )
    watched = units.watched(config.parse(text))
    assert watched is not None
    assert watched.splitlines()[1:] == ["[Path]", "PathChanged=/root/.ssh/id", "PathChanged=/etc/ca/100%%.pem"]
    [change] = [each for each in units.edit(tmp_path, "/x", watch=watched).files if each.path == units.WATCHED]
    assert change.after == watched
    if shutil.which("systemd-analyze"):
        (tmp_path / "kdump-test.path").write_text(watched)
        (tmp_path / "kdump-test.service").write_text("[Service]\nExecStart=/bin/true\n")
        command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "kdump-test.path")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if "kdump-test" in line] == []


def test_what_the_configuration_needs_is_allowed_and_no_more(tmp_path: Path) -> None:
    assert units.local(Config(targets=("file:///var/crash", "ssh://a@b/c"))) is None
    odd = units.local(Config(targets=('file:///srv/100% "dumps"',)))
    assert odd is not None and 'ReadWritePaths="-/srv/100%% \\"dumps\\""' in odd
    mail = units.local(Config(notify=Notify(mail="root")))
    assert mail is not None and 'ReadWritePaths="-/var/spool"' in mail and "ProtectSystem" not in mail
    command = units.local(Config(notify=Notify(command=("/usr/local/bin/tell",))))
    assert command is not None and "ProtectSystem=full" in command
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    paths = {change.path for change in units.edit(tmp_path, "/x", allowed=odd).files}
    assert paths - {change.path for change in units.edit(tmp_path, "/x").files} == {units.LOCAL}
