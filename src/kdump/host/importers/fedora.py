"""Fedora's and RHEL's kdump.conf(5) and /etc/sysconfig/kdump."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Final

from kdump.host.importers import Draft, assignments

PATH: Final = "/var/crash"  # `path` without one
FILESYSTEMS: Final = ("ext2", "ext3", "ext4", "xfs", "btrfs", "minix", "f2fs", "vfat", "virtiofs")
ACTIONS: Final = ("reboot", "halt", "poweroff", "shell")
NO_EQUIVALENT: Final = {
    "auto_reset_crashkernel": "`kdump estimate` and `kdump setup` size the reservation",
    "force_rebuild": "not needed: the image is rebuilt when its contents would change",
    "force_no_rebuild": "the image is rebuilt when its contents would change",
    "dracut_args": "the image is not built by dracut; see [capture] modules and files",
    "fence_kdump_args": "fence_kdump is not sent; a hook (pre) can",
    "fence_kdump_nodes": "fence_kdump is not sent; a hook (pre) can",
    "override_resettable": "devices are always reset",
    "link_delay": "links are waited for, see [deadlines] network",
    "disk_timeout": "see [deadlines] target",
    "debug_mem_level": "the manifest always says what the memory was used for",
}


def read(text: str, source: str, draft: Draft) -> None:
    """kdump.conf: a directive and its value on each line."""
    directives = [_directive(line) for line in text.splitlines()]
    given = [(name, value) for name, value in directives if name]
    path = next((value for name, value in given if name == "path"), PATH)
    for name, value in given:
        _one(name, value, path, f"{source}: {name} {value}".rstrip(), draft)
    if "targets" not in draft.values:
        draft.set("targets", [f"file://{path}"], f"{source}: path {path}")
    if any(name in ("failure_action", "default") and value == "dump_to_rootfs" for name, value in given):
        draft.set("targets", [f"file://{PATH}"], f"{source}: failure_action dump_to_rootfs")


def _one(name: str, value: str, path: str, origin: str, draft: Draft) -> None:
    if name in ("path", "default", "failure_action") and value in (path, "dump_to_rootfs"):
        return
    if name == "ssh":
        draft.ssh(value, path, origin)
    elif name == "nfs":
        draft.nfs(value, path, origin)
    elif name == "raw":
        draft.set("targets", [f"block://{value}"], origin)
    elif name in FILESYSTEMS:
        _filesystem(value, path, origin, draft)
    elif name == "sshkey":
        draft.set("ssh.identity", value, origin)
    elif name == "core_collector":
        _collector(value, origin, draft)
    elif name == "kdump_pre":
        draft.set("hooks.pre", [value], origin)
    elif name == "kdump_post":
        # It runs whether the dump succeeded or not, and is told by its argument; ours by its environment.
        draft.set("hooks.post", [value], origin)
        draft.set("hooks.failed", [value], origin)
    elif name == "extra_modules":
        draft.set("capture.modules", value.split(), origin)
    elif name == "extra_bins":
        draft.set("capture.files", value.split(), origin)
    elif name in ("failure_action", "default", "final_action") and value in ACTIONS:
        draft.set("action.success" if name == "final_action" else "action.failure", value, origin)
    else:
        draft.lose(origin, NO_EQUIVALENT.get(name, "not a directive that kdump knows"))


def _filesystem(device: str, path: str, origin: str, draft: Draft) -> None:
    """`ext4 DEVICE`: the directory below wherever that device is mounted now."""
    points = _mount_points(device)
    if points:
        draft.set("targets", [f"file://{points[0].rstrip('/')}/{path.strip('/')}"], origin)
    else:
        draft.lose(origin, f"not mounted: mount it and add file://MOUNTPOINT/{path.strip('/')} to targets")


def _mount_points(device: str, table: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """Where a device ("/dev/…", "UUID=…", "LABEL=…") is mounted with its root, by its major:minor or its name."""
    tag, equals, value = device.partition("=")
    node = f"/dev/disk/by-{tag.lower()}/{value.strip(chr(34))}" if equals else device
    real = os.path.realpath(node)
    points = []
    for line in table.read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        if words[3] == "/" and os.path.realpath(rest.split(" ")[1]) == real and real.startswith("/dev/"):
            points.append(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4]))
    return points


def _collector(value: str, origin: str, draft: Draft) -> None:
    words = shlex.split(value)
    if words and words[0].endswith("makedumpfile"):
        draft.makedumpfile(shlex.join(words[1:]), origin)
    elif words and words[0] in ("cp", "scp"):
        draft.set("dump.level", 0, origin)
    else:
        draft.lose(origin, "dumps are filtered by kdump itself; a hook can do more")


def read_sysconfig(text: str, source: str, draft: Draft) -> None:
    """/etc/sysconfig/kdump."""
    for name, value in assignments(text, source):
        origin = f"{source}: {name}={value}"
        if not name:
            draft.lose(f"{source}: {value}", "not an assignment, and never run")
        elif not value:
            continue
        elif name == "KDUMP_KERNELVER":
            draft.set("capture.kernel", f"/boot/vmlinuz-{value}", origin)
        elif name == "KDUMP_COMMANDLINE_APPEND":
            draft.cmdline(value, origin)
        elif name == "KDUMP_COMMANDLINE_REMOVE":
            _remove(value, origin, draft)
        elif name == "KDUMP_COMMANDLINE":
            draft.lose(origin, "the command line is made from the running kernel's; see [capture] cmdline_add")
        elif name in ("KEXEC_ARGS", "KDUMP_BOOTDIR", "KDUMP_IMG", "KDUMP_IMG_EXT", "MKDUMPRD_ARGS"):
            if value not in ("-s", "/boot", "vmlinuz"):
                draft.lose(origin, "kdump loads the kernel itself")
        elif name == "VMCORE_CREATION_NOTIFICATION":
            draft.lose(origin, "nobody is told at log-in: see [notify] and `kdump list`")
        elif not name.endswith("LOGLVL"):
            draft.lose(origin, "not a setting that kdump knows")


def _remove(value: str, origin: str, draft: Draft) -> None:
    from kdump.kexec.cmdline import capture_command_line

    for name in value.split():
        decision = capture_command_line(f"{name}=x").decisions[0]
        if decision.action == "kept":
            draft.set("capture.cmdline_remove", [name], origin)


def _directive(line: str) -> tuple[str, str]:
    name, _, value = line.partition("#")[0].strip().partition(" ")
    return name, value.strip()
