"""Where each boot loader keeps the command line, on file trees laid out as distributions lay them out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.host import setup
from kdump.host.bootloaders import detect, kernel_install
from kdump.host.bootloaders.base import with_parameters
from kdump.host.bootloaders.grub import edit_defaults
from kdump.host.bootloaders.kernel_install import edit_entry
from kdump.host.changes import Command, Edit, Journal, apply

WANTED = ["crashkernel=256M"]


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def the_edit(root: Path, name: str) -> Edit:
    (loader,) = detect(root)
    assert loader.name == name
    return loader.edit(root, WANTED)


DEBIAN = {
    "etc/default/grub": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n',
    "etc/default/grub.d/init-select.cfg": "",
    "usr/sbin/update-grub": "",
    "boot/grub/grub.cfg": "",
}


def test_debian_gets_a_drop_in(tmp_path: Path) -> None:
    edit = the_edit(tree(tmp_path, DEBIAN), "GRUB")
    (change,) = edit.files
    assert change.path == "/etc/default/grub.d/zz-kdump.cfg"
    assert change.after is not None
    assert 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=256M"' in change.after
    assert [command.argv for command in edit.commands] == [("update-grub",)]
    tree(tmp_path, {change.path.lstrip("/"): change.after})
    assert not the_edit(tmp_path, "GRUB")


OURS = (
    "# Written by `kdump setup`. The last crashkernel= of a kind counts.\n"
    'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=256M"\n'
)


def test_suse_gets_its_defaults_edited(tmp_path: Path) -> None:
    text = '# x\nGRUB_CMDLINE_LINUX_DEFAULT="splash crashkernel=300M,high crashkernel=72M,low quiet"\nGRUB_TIMEOUT=8\n'
    edit = the_edit(tree(tmp_path, {"etc/default/grub": text, "boot/grub2/grub.cfg": ""}), "GRUB")
    assert edit.files[0].after == '# x\nGRUB_CMDLINE_LINUX_DEFAULT="splash quiet"\nGRUB_TIMEOUT=8\n' + OURS
    assert edit.commands[0].argv == ("grub2-mkconfig", "-o", "/boot/grub2/grub.cfg")


def test_defaults_that_have_the_parameters_stay_as_they_are() -> None:
    for text in ("GRUB_CMDLINE_LINUX=crashkernel=256M\n", edit_defaults("GRUB_TIMEOUT=8\n", WANTED)):
        assert edit_defaults(text, WANTED) == text


def test_new_parameters_replace_ours() -> None:
    text = "GRUB_TIMEOUT=8\n"
    assert edit_defaults(edit_defaults(text, ["crashkernel=1G,high", "crashkernel=72M,low"]), WANTED) == text + OURS


def sourced(text: str, tmp_path: Path) -> list[str]:
    """The command line that grub-mkconfig would write, word by word, as bash says."""
    file = tmp_path / "grub"
    file.write_text(text)
    script = '. "$0"; printf "%s " "$GRUB_CMDLINE_LINUX" "$GRUB_CMDLINE_LINUX_DEFAULT"'
    return subprocess.check_output(["bash", "-c", script, file], text=True, env={"PATH": os.defpath}).split()


# What administrators write; grub-mkconfig sources the file, so all of shell is possible.
SHELL = [
    "",
    'GRUB_CMDLINE_LINUX_DEFAULT="quiet" # crashkernel= was here',
    "GRUB_CMDLINE_LINUX='a crashkernel=auto' # x",
    r'GRUB_CMDLINE_LINUX_DEFAULT="a dyndbg=\"file x.c +p\" crashkernel=1G b"',
    'export GRUB_CMDLINE_LINUX_DEFAULT="quiet crashkernel=128M"',
    'GRUB_CMDLINE_LINUX_DEFAULT="a \\\n  crashkernel=1G \\\n  b"\nGRUB_TIMEOUT=1',
    "GRUB_CMDLINE_LINUX_DEFAULT=a\nGRUB_CMDLINE_LINUX_DEFAULT+=' crashkernel=9M'".replace(
        "+=", '="$GRUB_CMDLINE_LINUX_DEFAULT"'
    ),
    "A='x y'\nGRUB_CMDLINE_LINUX=\"$A crashkernel=1G\"",
    "GRUB_CMDLINE_LINUX_DEFAULT=crashkernel=1G",
    'GRUB_CMDLINE_LINUX_DEFAULT="a"; GRUB_TIMEOUT=3',
    'if true; then\n  GRUB_CMDLINE_LINUX_DEFAULT="a crashkernel=2G-:128M"\nfi',
    'GRUB_CMDLINE_LINUX="xcrashkernel=1 my.crashkernel=2"',
]


@pytest.mark.parametrize("text", SHELL)
def test_a_shell_finds_the_old_words_and_ours(text: str, tmp_path: Path) -> None:
    before = [word for word in sourced(text, tmp_path) if not word.startswith("crashkernel=")]
    after = edit_defaults(text, WANTED)
    assert sourced(after, tmp_path) == [*before, *WANTED]
    assert edit_defaults(after, WANTED) == after
    kept = [line for line in text.splitlines() if "crashkernel=" not in line]
    assert [line for line in after.splitlines() if line in kept] == kept


@pytest.mark.parametrize(
    "text",
    [
        "C=crashkernel=1G\nGRUB_CMDLINE_LINUX=$C",  # from a variable that is not ours to edit
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet\ncrashkernel=1G"',  # a value of two lines
        "GRUB_CMDLINE_LINUX=$(echo crashkernel=1G)",
        "GRUB_CMDLINE_LINUX='a",  # a shell refuses it
        "exit 0",
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_refused(text: str) -> None:
    with pytest.raises(KdumpError, match="/etc/default/grub cannot be"):
        edit_defaults(text, WANTED)


RHEL = {
    "etc/default/grub": 'GRUB_CMDLINE_LINUX="ro"\n',
    "boot/grub2/grub.cfg": "",
    "usr/sbin/grubby": "",
    "boot/loader/entries/0-rescue.conf": "options root=/dev/sda1\n",
    "boot/loader/entries/1-5.14.0.conf": "title RHEL\noptions root=/dev/sda1 crashkernel=1G-4G:192M,4G-64G:256M\n",
}


def test_rhel_goes_through_grubby_and_back(tmp_path: Path) -> None:
    edit = the_edit(tree(tmp_path, RHEL), "GRUB with boot loader entries (grubby)")
    (command,) = edit.commands
    assert command.argv == ("grubby", "--update-kernel=ALL", "--args=crashkernel=256M")
    assert command.undo == ("grubby", "--update-kernel=ALL", "--args=crashkernel=1G-4G:192M,4G-64G:256M")
    tree(tmp_path, {"boot/loader/entries/1-5.14.0.conf": "options a\n"})
    assert (
        the_edit(tmp_path, "GRUB with boot loader entries (grubby)").commands[0].undo[-1] == "--remove-args=crashkernel"
    )
    tree(tmp_path, {"boot/loader/entries/1-5.14.0.conf": "options a crashkernel=256M\n"})
    assert not the_edit(tmp_path, "GRUB with boot loader entries (grubby)")


def test_systemd_boot_entries_and_kernel_installs_line(tmp_path: Path) -> None:
    files = {
        "efi/loader/entries/m-6.1.conf": "title x\nlinux /m/6.1/linux\noptions root=UUID=1 quiet\n",
        "proc/cmdline": "initrd=\\m\\6.1\\initrd BOOT_IMAGE=x root=UUID=1 quiet\n",
    }
    edit = the_edit(tree(tmp_path, files), "systemd-boot (kernel-install)")
    assert {change.path: change.after for change in edit.files} == {
        "/etc/kernel/cmdline": "root=UUID=1 quiet crashkernel=256M\n",
        "/efi/loader/entries/m-6.1.conf": "title x\nlinux /m/6.1/linux\noptions root=UUID=1 quiet crashkernel=256M\n",
    }
    assert edit.commands == ()


def test_entries_of_kernels_that_came_since_are_undone_too(tmp_path: Path) -> None:
    """kernel-install writes an entry anew, or one of a new kernel, with the line that has our parameters."""
    entry = "title x\noptions root=UUID=1 {}quiet\n"
    one, two = "boot/loader/entries/m-6.1.conf", "boot/loader/entries/m-6.12.conf"
    tree(tmp_path, {one: entry.format("crashkernel=64M "), "etc/kernel/cmdline": "root=UUID=1 crashkernel=64M quiet\n"})
    journal = Journal(tmp_path / "journal")
    apply(the_edit(tmp_path, "systemd-boot (kernel-install)"), journal, tmp_path)
    tree(tmp_path, {each: entry.format("crashkernel=256M ") for each in (one, two)})
    assert the_edit(tmp_path, "systemd-boot (kernel-install)").files == ()
    assert setup.undo(journal, tmp_path) == []
    assert (tmp_path / "etc/kernel/cmdline").read_text() == "root=UUID=1 crashkernel=64M quiet\n"
    for each in (one, two):
        assert (tmp_path / each).read_text() == entry.format("").replace("quiet", "quiet crashkernel=64M")


@pytest.mark.parametrize("before", ["root=UUID=1 quiet\n", None], ids=["a line of its own", "none"])
def test_an_entry_that_cannot_be_written_is_undone_by_another_attempt(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a boot partition that was mounted read-only after an error."""
    newer = "boot/loader/entries/m-6.12.conf"
    files = {"proc/cmdline": "root=UUID=1 quiet\n", "etc/kernel/cmdline": before, newer: "title x\noptions quiet\n"}
    tree(tmp_path, {name: text for name, text in files.items() if text is not None})
    loader = "systemd-boot (kernel-install)"
    apply(the_edit(tmp_path, loader), Journal.read(tmp_path / "journal"), tmp_path)
    again = Command(("daemon-reload",), again=True)
    apply(Edit((), (again,)), Journal.read(tmp_path / "journal"), tmp_path, lambda _argv: None)
    tree(tmp_path, {newer: "title y\noptions crashkernel=256M quiet\n"})
    ran: list[Sequence[str]] = []

    def refuse(_path: Path, _text: str | None, _mode: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(kernel_install, "put", refuse)
        for _ in range(2):
            left = setup.undo(Journal.read(tmp_path / "journal"), tmp_path, ran.append)
            assert left == [f"/{newer}: Read-only file system"]
    assert setup.undo(Journal.read(tmp_path / "journal"), tmp_path, ran.append) == []
    assert (tmp_path / newer).read_text() == "title y\noptions quiet\n"
    assert not (tmp_path / "journal").exists()
    assert (tmp_path / "etc/kernel/cmdline").exists() == (before is not None)
    assert ran == [["daemon-reload"]] * 3


def test_entries_of_every_shape() -> None:
    assert edit_entry("options a crashkernel=1G\noptions b\n", WANTED) == "options a\noptions b crashkernel=256M\n"
    assert edit_entry("title x", WANTED) == "title x\noptions crashkernel=256M\n"


MENU = "label l0\n\tlinux /vmlinuz\n\tappend root=/dev/vda1 ro\nlabel l0r\n  APPEND root=/dev/vda1 single\n"


def test_extlinux(tmp_path: Path) -> None:
    edit = the_edit(tree(tmp_path, {"boot/extlinux/extlinux.conf": MENU}), "extlinux")
    assert edit.files[0].after == MENU.replace(" ro\n", " ro crashkernel=256M\n").replace(
        "single", "single crashkernel=256M"
    )


def test_extlinux_written_by_u_boot_update(tmp_path: Path) -> None:
    files = {
        "boot/extlinux/extlinux.conf": MENU,
        "usr/sbin/u-boot-update": "",
        "etc/default/u-boot": "U_BOOT_UPDATE=true\n",
    }
    edit = the_edit(tree(tmp_path, files), "extlinux")
    assert edit.files[0].after == 'U_BOOT_UPDATE=true\nU_BOOT_PARAMETERS="ro quiet crashkernel=256M"\n'
    assert edit.commands[0].argv == ("u-boot-update",)
    (tmp_path / "usr/sbin/u-boot-update").write_text("for file in /etc/u-boot-menu/conf.d/*.conf")
    (drop_in,) = the_edit(tmp_path, "extlinux").files
    assert drop_in.path == "/etc/u-boot-menu/conf.d/zz-kdump.conf"
    assert 'U_BOOT_PARAMETERS="${U_BOOT_PARAMETERS:-ro quiet} crashkernel=256M"' in str(drop_in.after)


def test_extlinux_whose_command_line_is_kernel_installs(tmp_path: Path) -> None:
    files = {
        "boot/extlinux/extlinux.conf": MENU,
        "usr/sbin/u-boot-update": "",
        "etc/kernel/cmdline": "root=/dev/vda1 quiet\n",
    }
    kernel_install, extlinux = detect(tree(tmp_path, files))
    assert [change.path for change in kernel_install.edit(tmp_path, WANTED).files] == ["/etc/kernel/cmdline"]
    edit = extlinux.edit(tmp_path, WANTED)
    assert edit.files == ()
    assert edit.commands[0].argv == ("u-boot-update",)


def test_a_unified_kernel_image_gets_an_addon(tmp_path: Path) -> None:
    stub = "sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    tree(tmp_path, {stub: "", "usr/bin/ukify": "", "boot/efi/EFI/Linux/l.efi": ""})
    edit = the_edit(tmp_path, "unified kernel image (addon)")
    build = edit.commands[-1]
    assert build.argv[1:] == ("build", "--cmdline=crashkernel=256M", "--output=/boot/efi/loader/addons/kdump.addon.efi")
    assert build.undo == ("rm", "-f", "/boot/efi/loader/addons/kdump.addon.efi")


OSTREE = {
    **RHEL,  # its tools and files may be there, and are not the ones to use
    "run/ostree-booted": "",
    "usr/bin/rpm-ostree": "",
    "boot/loader/entries/ostree-1.conf": "title x\nversion 1\noptions root=UUID=1 crashkernel=512M\n",
    "boot/loader/entries/ostree-10.conf": "title x\nversion 10\noptions rw crashkernel=1G,high  crashkernel=72M,low\n",
}
# In rpm-ostree's place: the kernel arguments are lines of $KARGS. Fails for whatever rpm-ostree kargs does not have.
RPM_OSTREE = """\
import os, sys
path = os.environ["KARGS"]
kargs = open(path).read().split()
assert sys.argv[1] == "kargs"
for word in sys.argv[2:]:
    option, _, value = word.partition("=")
    if option == "--append-if-missing":
        kargs += [value] * (value not in kargs)
    elif option == "--delete-if-present":
        kargs = [each for each in kargs if each != value]
    else:
        sys.exit(f"unknown option {word}")
open(path, "w").write(" ".join(kargs))
"""


def test_rpm_ostree_adds_and_takes_back(tmp_path: Path) -> None:
    (command,) = the_edit(tree(tmp_path, OSTREE), "rpm-ostree").commands
    before = "rw crashkernel=1G,high crashkernel=72M,low"
    tree(tmp_path, {"kargs": before, "tool": RPM_OSTREE})

    def run(argv: tuple[str, ...]) -> str:
        assert argv[0] == "rpm-ostree"
        environment = {"KARGS": str(tmp_path / "kargs")}
        subprocess.run([sys.executable, tmp_path / "tool", *argv[1:]], check=True, env=environment)
        return (tmp_path / "kargs").read_text()

    assert run(command.argv) == "rw crashkernel=256M"
    assert command.undo is not None
    assert run(command.undo) == before
    tree(tmp_path, {"boot/loader/entries/ostree-11.conf": "version 11\noptions rw crashkernel=256M\n"})
    assert not the_edit(tmp_path, "rpm-ostree")


def test_bootc_takes_a_file_of_the_image(tmp_path: Path) -> None:
    (change,) = the_edit(tree(tmp_path, {"usr/bin/bootc": ""}), "bootc (kargs.d)").files
    assert change.path == "/usr/lib/bootc/kargs.d/50-kdump.toml"
    assert tomllib.loads(change.after or "") == {"kargs": WANTED}
    tree(tmp_path, {"run/ostree-booted": ""})
    with pytest.raises(KdumpError, match="comes from the image") as caught:
        the_edit(tmp_path, "bootc (kargs.d)")
    assert 'kargs = ["crashkernel=256M"]' in caught.value.remedy
    tree(tmp_path, {change.path.lstrip("/"): change.after or ""})
    assert not the_edit(tmp_path, "bootc (kargs.d)")


def test_a_machine_without_any(tmp_path: Path) -> None:
    assert detect(tmp_path) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "crashkernel=256M"),
        ("a  b", "a b crashkernel=256M"),
        ("crashkernel=1G,high a crashkernel=72M,low", "a crashkernel=256M"),
        ("xcrashkernel=1", "xcrashkernel=1 crashkernel=256M"),
    ],
)
def test_parameters_are_replaced(before: str, after: str) -> None:
    assert with_parameters(before, WANTED) == after
