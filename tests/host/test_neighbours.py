"""Other tools that load a capture kernel, on trees laid out as their packages lay them out."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdump.host import changes, neighbours
from kdump.lab import kernels

DEBIAN = {
    "lib/systemd/system/kdump-tools.service": "",
    "lib/udev/rules.d/50-kdump-tools.rules": "",
    "etc/kernel/postinst.d/kdump-tools": "#!/bin/sh",
    "etc/kernel/postrm.d/kdump-tools": "#!/bin/sh",
}
RHEL = {
    "usr/lib/systemd/system/kdump.service": "",
    "usr/lib/udev/rules.d/98-kexec.rules": "",
    "usr/lib/kernel/install.d/60-kdump.install": "",
    "usr/lib/kernel/install.d/92-crashkernel.install": "",
}
SUSE = {
    "usr/lib/systemd/system/kdump.service": "",
    "usr/lib/systemd/system/kdump-early.service": "",
    "usr/lib/udev/rules.d/70-kdump.rules": "",
}


def machine(root: Path, files: dict[str, str], enabled: Sequence[str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if "kernel/post" in name else 0o644)
    for unit in enabled:
        link = root / "etc/systemd/system/multi-user.target.wants" / unit
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/usr/lib/systemd/system/{unit}")
    return root


class Systemctl:
    """What systemctl(1) and chmod(1) do to the tree; a stand-in, for systemd does not run on a tree."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, given: Sequence[str]) -> None:
        argv = tuple(given)
        unit = self.root / "etc/systemd/system" / argv[-1]
        if argv[:2] == ("systemctl", "mask"):
            unit.parent.mkdir(parents=True, exist_ok=True)
            unit.symlink_to("/dev/null")
        elif argv[:2] == ("systemctl", "unmask"):
            unit.unlink()
        else:
            assert argv[0] == "chmod"
            subprocess.run(["chmod", argv[1], self.root / argv[2].lstrip("/")], check=True)


def snapshot(root: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            str(path.readlink()) if path.is_symlink() else path.read_text(),
        )
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize(
    ("files", "enabled"),
    [
        (DEBIAN, ["kdump-tools.service"]),
        (DEBIAN, []),
        (RHEL, ["kdump.service"]),
        (SUSE, ["kdump.service", "kdump-early.service"]),
    ],
)
def test_each_is_put_to_rest_and_given_back(files: dict[str, str], enabled: list[str], tmp_path: Path) -> None:
    root = machine(tmp_path / "root", files, enabled)
    (neighbour,) = neighbours.installed(root)
    assert neighbours.awake(root, neighbour) == enabled
    before = snapshot(root)
    journal = changes.Journal(tmp_path / "journal")
    run = Systemctl(root)
    for edit in neighbours.edit(root):
        changes.apply(edit, journal, root, run)
    assert neighbours.awake(root, neighbour) == []
    assert set(before) <= set(snapshot(root)), "something of theirs is gone"
    for name in (*files, *(f"etc/systemd/system/multi-user.target.wants/{unit}" for unit in enabled)):
        assert snapshot(root)[name][1] == before[name][1]
    for rule in (name for name in files if "rules.d" in name or "install.d" in name):
        shadow = (
            root / "etc" / Path(*Path(rule).parts[-3:])
            if "udev" in rule
            else root / "etc/kernel/install.d" / Path(rule).name
        )
        assert "kdump setup --undo" in shadow.read_text()
    for hook in (name for name in files if "kernel/post" in name):
        assert not (root / hook).stat().st_mode & 0o111
    assert not any(neighbours.edit(root)), "a second time changes something"
    assert changes.undo(changes.Journal.read(journal.path), root, run) == []
    assert snapshot(root) == before


def test_one_that_its_administrator_masked_stays_masked(tmp_path: Path) -> None:
    root = machine(tmp_path, {"usr/lib/systemd/system/kdump.service": ""}, ["kdump.service"])
    (root / "etc/systemd/system/kdump.service").symlink_to("/dev/null")
    assert not any(neighbours.edit(root))


def test_a_machine_without_any(tmp_path: Path) -> None:
    assert neighbours.installed(tmp_path) == []
    assert list(neighbours.edit(tmp_path)) == []


def test_debians_package_has_what_we_know_of_it() -> None:
    root = kernels.package("kdump-tools")
    (debian,) = neighbours.installed(root)
    assert debian.name == "Debian's kdump-tools"
    assert any((root / place / debian.rules[0]).is_file() for place in neighbours.RULES)
    for hook in debian.hooks:
        assert (root / hook.lstrip("/")).is_file()
