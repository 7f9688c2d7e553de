"""kernel-install's command line, and the boot loader entries that were made from it for systemd-boot.

Sources: kernel-install(8) (/etc/kernel/cmdline), the Boot Loader Specification (type 1 entries, `options`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdump.host.bootloaders.base import crashkernels, with_parameters
from kdump.host.changes import Edit, FileChange, Journal, below, file_change, put, text_of

CMDLINE: Final = "/etc/kernel/cmdline"
PLACES: Final = ("boot/loader/entries", "efi/loader/entries", "boot/efi/loader/entries")
# Of what is on the running command line, what a boot loader added itself.
_TRANSIENT: Final = ("BOOT_IMAGE=", "initrd=")


class KernelInstall:
    """systemd-boot with entries made by kernel-install."""

    name = "systemd-boot (kernel-install)"

    def found(self, root: Path) -> bool:
        """The machine has entries and no grubby to keep them, or a command line for kernel-install."""
        grubby = any((root / place / "grubby").exists() for place in ("usr/sbin", "usr/bin"))
        return not grubby and ((root / CMDLINE.lstrip("/")).exists() or bool(_entries(root)))

    def edit(self, root: Path, parameters: Sequence[str]) -> Edit:
        """The line for future kernels, and each existing entry; no tool has to run."""
        cmdline = root / CMDLINE.lstrip("/")
        if cmdline.exists():
            before = text_of(cmdline) or ""
        else:
            words = (root / "proc/cmdline").read_text(errors="surrogateescape").split()
            before = " ".join(word for word in words if not word.startswith(_TRANSIENT))
        files = file_change(CMDLINE, with_parameters(before.rstrip("\n"), parameters) + "\n", root)
        return Edit(files) + entries_edit(root, parameters)


def entries_edit(root: Path, parameters: Sequence[str]) -> Edit:
    """The edit that gives every existing entry these crashkernel= parameters and no others."""
    files: tuple[FileChange, ...] = ()
    for entry in _entries(root):
        path = "/" + str(entry.relative_to(root))
        files += file_change(path, edit_entry(text_of(entry) or "", parameters), root)
    return Edit(files)


def before_setup(journal: Journal) -> list[str] | None:
    """The crashkernel= parameters of before the journal began; None if it changed no command line of ours.

    Entries that kernel-install wrote since (of a newer kernel, or anew) have ours, and no text of before to go back to.
    """
    texts = {entry["path"]: entry["before"] for entry in journal.files}
    if CMDLINE not in texts:
        return None
    entries = [text for path, text in texts.items() if path.startswith(tuple(f"/{place}/" for place in PLACES))]
    return next((crashkernels(text) for text in (texts[CMDLINE], *entries) if text is not None), [])


def take_out(journal: Journal, root: Path) -> list[str]:
    """Take our parameters out of entries for which the journal has no text: written by kernel-install or by hand since.

    Returns what could not be changed, and why.
    """
    parameters = before_setup(journal)
    left = []
    for change in entries_edit(root, parameters).files if parameters is not None else ():
        if journal.restores(change.path, change.before):
            continue
        journal.forget(change.path)
        try:
            put(below(root, change.path), change.after, change.mode)
        except OSError as error:
            left.append(f"{change.path}: {error.strerror or error}")
    return left


def edit_entry(text: str, parameters: Sequence[str]) -> str:
    """A boot loader entry with the parameters on its last `options` line; several such lines add up."""
    lines = text.splitlines()
    options = [number for number, line in enumerate(lines) if re.match(r"options\s", line)]
    if not options:
        return text.rstrip("\n") + "\noptions " + " ".join(parameters) + "\n"
    for number in options:
        wanted = parameters if number == options[-1] else ()
        key, _, rest = lines[number].partition("options")
        blank = rest[: len(rest) - len(rest.lstrip())]
        lines[number] = f"{key}options{blank}{with_parameters(rest.strip(), wanted)}"
    return "\n".join(lines) + "\n"


def _entries(root: Path) -> list[Path]:
    return [entry for place in PLACES for entry in sorted((root / place).glob("*.conf"))]
