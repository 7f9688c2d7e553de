"""What has to change on this machine to make it ready, as one edit that can be shown, applied and undone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kdump.errors import KdumpError
from kdump.host import bootloaders, changes, crashkernel, expected, neighbours, policy, template, units
from kdump.host.bootloaders import kernel_install
from kdump.host.changes import Edit, Journal, Runner, combined, file_change, run_command
from kdump.host.config import CONFIG_PATH, Config
from kdump.kexec.state import read_state
from kdump.targets import NETWORKED

ROOT: Final = Path("/")


@dataclass(frozen=True)
class Setup:
    """The plan of the set-up: the edit, whether the reservation needs a reboot, and notes for the user."""

    edit: Edit
    reboot: bool
    notes: tuple[str, ...]


def plan(
    config: Config,
    root: Path = ROOT,
    *,
    boot_loader: bool = True,
    write_config: bool = True,
    notes: Iterable[str] = (),
) -> Setup:
    """Everything that setting up `config` would change on the machine below `root`. Changes nothing.

    `notes` come before its own.
    Raises KdumpError if this kernel cannot load a capture kernel, or no boot loader is known where one has to change.
    """
    state = read_state(root)
    if not state.supported:
        raise KdumpError(
            "this kernel cannot load a capture kernel",
            why="/sys/kernel/kexec_crash_loaded is missing",
            remedy="use a kernel with CONFIG_KEXEC_FILE and CONFIG_CRASH_DUMP",
        )
    wanted = expected.wanted(config, root)
    parameters = parameters_for(config, wanted)
    reboot = state.reserved < wanted.size
    edits = []
    told = [*notes, f"reserve {wanted.value} (by {wanted.reason}); reserved now: {state.reserved >> 20}M"]
    if write_config:
        secret = config.notify.webhook or config.notify.command  # a URL is often all that protects a webhook
        mode = 0o600 if secret else 0o644
        edits.append(Edit(file_change(str(CONFIG_PATH), template.render(config), root, mode)))
    edits.append(Edit(file_change(str(policy.SYSCTL_FILE), policy.sysctl_file(config.panic), root)))
    networked = any(url.partition("://")[0] in NETWORKED for url in config.targets)
    fleet = any(url.startswith("collector+") for url in config.targets)
    allowed, watch = units.local(config), units.watched(config)
    edits.append(units.edit(root, networked=networked, fleet=fleet, allowed=allowed, watch=watch))
    edits += neighbours.edit(root)
    if boot_loader and (reboot or config.crashkernel.value != "auto"):
        found = bootloaders.detect(root)
        if not found and reboot:
            raise KdumpError(
                "no boot loader was found whose configuration kdump knows",
                why="looked for rpm-ostree, bootc, GRUB, grubby, kernel-install, extlinux and unified kernel images",
                remedy=f"add {' '.join(parameters)} to the kernel command line yourself, then --no-boot-loader",
            )
        for loader in found:
            edits.append(loader.edit(root, parameters))
            told.append(f"boot loader: {loader.name}")
    return Setup(combined(edits), reboot, tuple(told))


def parameters_for(config: Config, wanted: expected.Estimate) -> list[str]:
    """The crashkernel= parameters that the configuration or the estimate comes to."""
    value = config.crashkernel.value
    return crashkernel.parameters(wanted.value if value == "auto" else value)


def undo(journal: Journal, root: Path = ROOT, run: Runner = run_command) -> list[str]:
    """Take back everything in the journal, and what boot loader entries written since have from us.

    Returns what could not be taken back, and why; it stays in the journal.
    """
    left = kernel_install.take_out(journal, root)
    # With its entry in the journal, another attempt knows what to take out.
    return left + changes.undo(journal, root, run, keep=[kernel_install.CMDLINE] if left else [])
