"""Setting up and taking back, on a tree laid out like a Debian machine; the commands are recorded, not run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdump.cli.main import main
from kdump.errors import KdumpError
from kdump.host import changes, config, setup
from kdump.host.config import Config

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "proc/cmdline": "quiet\n",
        "proc/meminfo": "MemTotal: 2000000 kB\n",
        "proc/iomem": "00100000-7fffffff : System RAM\n",
        "proc/sys/kernel/osrelease": "6.1.0\n",
        "sys/kernel/kexec_crash_loaded": "0\n",
        "sys/kernel/kexec_crash_size": "0\n",
        "etc/default/grub": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n',
        "etc/default/grub.d/x.cfg": "",
        "usr/sbin/update-grub": "",
        "boot/grub/grub.cfg": "",
        "etc/kernel/postinst.d/x": "",
        "run/systemd/system/x": "",
        "opt/kdump/bin/kdump": "",
    }
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    return tmp_path / "root"


def everything(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def here(root: Path) -> Config:
    return Config(targets=(f"file://{root}/var/crash",))


def test_there_and_back(root: Path, tmp_path: Path) -> None:
    before = everything(root)
    wanted = here(root)
    found = setup.plan(wanted, root)
    assert found.reboot
    assert found.notes[0].startswith("reserve 224M (by formula)")
    ran: list[Sequence[str]] = []
    journal = changes.Journal(tmp_path / "setup.json")
    changes.apply(found.edit, journal, root, ran.append)
    assert [command[:2] for command in ran] == [
        ("systemctl", "daemon-reload"),
        *[("systemctl", "enable")] * 3,
        ("update-grub",),
    ]
    after = everything(root)
    assert config.parse(after["etc/kdump/kdump.toml"]) == wanted
    assert "crashkernel=224M" in after["etc/default/grub.d/zz-kdump.cfg"]
    assert "kernel.panic_on_oops = 1" in after["etc/sysctl.d/90-kdump.conf"]
    assert changes.undo(changes.Journal.read(journal.path), root, ran.append) == []
    assert everything(root) == before


def test_a_second_time_there_is_nothing_to_do(root: Path, tmp_path: Path) -> None:
    wanted = here(root)
    changes.apply(setup.plan(wanted, root).edit, changes.Journal(tmp_path / "j"), root, lambda _argv: None)
    for unit in ("linux-kdump.service", "linux-kdump-reload.path", "linux-kdump-collect.service"):
        link = root / "etc/systemd/system/multi-user.target.wants" / unit
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(f"../{unit}")
    (root / "sys/kernel/kexec_crash_size").write_text(str(224 * MIB))
    again = setup.plan(wanted, root)
    assert not again.edit
    assert not again.reboot


def test_values_of_ones_own(root: Path) -> None:
    text = f'targets = ["file://{root}/c"]\n[crashkernel]\nvalue = "512M,high 128M,low"\n[notify]\nwebhook = "https://x/secret"\n'
    wanted = config.parse(text)
    found = setup.plan(wanted, root)
    grub = next(change.after for change in found.edit.files if change.path.endswith("zz-kdump.cfg"))
    assert grub is not None
    assert "crashkernel=512M,high crashkernel=128M,low" in grub
    assert next(change.mode for change in found.edit.files if change.path == "/etc/kdump/kdump.toml") == 0o600
    with pytest.raises(KdumpError, match="crashkernel=64MB is rejected"):
        setup.plan(config.parse('[crashkernel]\nvalue = "64MB"'), root)


def test_machines_that_cannot(root: Path) -> None:
    (root / "boot/grub/grub.cfg").unlink()
    with pytest.raises(KdumpError, match="no boot loader was found"):
        setup.plan(here(root), root)
    assert setup.plan(here(root), root, boot_loader=False).reboot
    (root / "sys/kernel/kexec_crash_loaded").unlink()
    with pytest.raises(KdumpError, match="cannot load a capture kernel"):
        setup.plan(here(root), root)


def test_undo_without_set_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(changes, "JOURNAL", tmp_path / "setup.json")
    assert main(["setup", "--undo"]) == 0
    assert "nothing to undo" in capsys.readouterr().out


@pytest.mark.parametrize("how", [["--dry-run"], ["--json"], ["--dry-run", "--unattended"], ["--dry-run", "--yes"]])
def test_undo_that_is_only_to_be_shown_changes_nothing(
    how: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(changes, "JOURNAL", tmp_path / "setup.json")
    (tmp_path / "old").write_text("old\n")
    files = tuple(changes.file_change(str(tmp_path / name), "ours\n", Path("/"))[0] for name in ("old", "new"))
    ran: list[Sequence[str]] = []
    commands = (changes.Command(("on",), undo=("off",)), changes.Command(("again",), again=True))
    changes.apply(changes.Edit(files, commands), changes.Journal(tmp_path / "setup.json"), run=ran.append)
    before = everything(tmp_path)
    monkeypatch.setattr(setup, "undo", lambda _journal: pytest.fail("it was undone"))
    assert main(["setup", "--undo", *how]) == 0
    said = "".join(capsys.readouterr())
    if "--json" in how:
        paths = {"remove": [str(tmp_path / "new")], "restore": [str(tmp_path / "old")]}
        assert json.loads(said) == paths | {"commands": [["off"], ["again"]]}
    else:
        shown = [f"restore {tmp_path}/old", f"remove {tmp_path}/new", "run: off", "run: again"]
        assert [line for line in said.splitlines() if line in shown] == shown
    assert everything(tmp_path) == before


def test_undo_takes_no_wishes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", "--undo", "--no-boot-loader", "--target", "file:///x"]) == 2
    assert "--target, --no-boot-loader does not go with it" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b'# caf\xe9\r\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\r\n', b"# \xff\xfe\n", b""])
def test_files_that_are_not_utf_8_come_back_byte_for_byte(content: bytes, root: Path, tmp_path: Path) -> None:
    """Without grub.d the file itself is edited."""
    (root / "etc/default/grub").write_bytes(content)
    (root / "etc/default/grub.d/x.cfg").unlink()
    (root / "etc/default/grub.d").rmdir()
    journal = changes.Journal(tmp_path / "setup.json")
    changes.apply(setup.plan(here(root), root).edit, journal, root, lambda _argv: None)
    assert b"crashkernel=" in (root / "etc/default/grub").read_bytes()
    assert changes.undo(changes.Journal.read(journal.path), root, lambda _argv: None) == []
    assert (root / "etc/default/grub").read_bytes() == content
