"""Boot loaders that the test machines do not boot by: their real tools write menus from what setup changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.system import debian

from kdump.host import changes, setup
from kdump.host.bootloaders import detect
from kdump.host.changes import Journal, combined

WANTED = ["crashkernel=256M"]
MACHINE = "0123456789abcdef0123456789abcdef"
ENTRIES = "boot/loader/entries"
MENU = "boot/extlinux/extlinux.conf"

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="making a Debian takes root"),
    pytest.mark.skipif(not shutil.which("debootstrap"), reason="debootstrap is not installed"),
]


class Tree:
    """A Debian below a directory, whose tools run there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.release = next((root / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")
        self.journal = Journal(root / "journal")

    def run(self, argv: Sequence[str]) -> None:
        """Run a command of the tree."""
        changes.run_command(["chroot", str(self.root), *argv])

    def write(self, name: str, text: str) -> None:
        """Write a file of the tree."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def set_up(self) -> list[str]:
        """Make setup's edits; returns the names of the boot loaders that were found."""
        found = detect(self.root)
        edit = combined([loader.edit(self.root, WANTED) for loader in found])
        changes.apply(edit, self.journal, self.root, self.run)
        assert not combined([loader.edit(self.root, WANTED) for loader in found])
        return [loader.name for loader in found]

    def undo(self) -> None:
        """Take them back."""
        assert setup.undo(self.journal, self.root, self.run) == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("debian")
    subprocess.run(["tar", "-C", root, "-xf", debian.base(debian.PACKAGES)], check=True)
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    install = "apt-get update && apt-get install -y --no-install-recommends systemd-boot u-boot-menu"
    changes.run_command(["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", install])
    shutil.rmtree(root / "boot/grub")
    (root / "etc/default/grub").unlink(missing_ok=True)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def tree(installed: Path) -> Iterator[Tree]:
    yield Tree(installed)
    for name in ("boot/loader", "boot/extlinux", f"boot/{MACHINE}", "etc/kernel/cmdline", "etc/kernel/install.conf"):
        path = installed / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def lines(path: Path, key: str) -> list[list[str]]:
    """The words of each line that begins with the key."""
    return [line.split()[1:] for line in path.read_text().splitlines() if line.split()[:1] == [key]]


@pytest.fixture
def entry(tree: Tree) -> Callable[[], list[str]]:
    """kernel-install has written one entry; the words of its command line."""
    tree.write("etc/machine-id", f"{MACHINE}\n")
    tree.write("etc/kernel/cmdline", "root=/dev/vda1 quiet\n")
    tree.write("etc/kernel/install.conf", "layout=bls\nBOOT_ROOT=/boot\n")
    for name in (ENTRIES, f"boot/{MACHINE}"):
        (tree.root / name).mkdir(parents=True)
    tree.run(["kernel-install", "add", tree.release, f"/boot/vmlinuz-{tree.release}"])

    def options() -> list[str]:
        (path,) = (tree.root / ENTRIES).glob("*.conf")
        (words,) = lines(path, "options")
        return words

    return options


def test_kernel_install_and_its_entries(tree: Tree, entry: Callable[[], list[str]]) -> None:
    before = entry()
    assert tree.set_up() == ["systemd-boot (kernel-install)"]
    assert sorted(entry()) == sorted([*before, *WANTED])
    tree.run(["kernel-install", "remove", tree.release])
    tree.run(["kernel-install", "add", tree.release, f"/boot/vmlinuz-{tree.release}"])
    assert sorted(entry()) == sorted([*before, *WANTED])
    tree.undo()
    assert entry() == before


@pytest.mark.parametrize("cmdline", ["", "root=/dev/vda1 console=ttyS0 quiet\n"])
def test_extlinux_by_u_boot_update(tree: Tree, cmdline: str) -> None:
    if cmdline:
        tree.write("etc/kernel/cmdline", cmdline)
    (tree.root / "boot/extlinux").mkdir()
    tree.run(["u-boot-update"])
    before = (tree.root / MENU).read_text()
    appended = lines(tree.root / MENU, "append")
    assert appended
    assert "extlinux" in tree.set_up()
    after = lines(tree.root / MENU, "append")
    assert [sorted(words) for words in after] == [sorted([*words, *WANTED]) for words in appended]
    tree.undo()
    assert (tree.root / MENU).read_text() == before
