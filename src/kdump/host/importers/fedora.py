"""Fedora's and RHEL's kdump.conf(5) and /etc/sysconfig/kdump."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Final
from urllib.parse import quote

from kdump.capture.plan import ACTIONS
from kdump.host.importers import Draft

PATH: Final = "/var/crash"  # `path` without one
FILESYSTEMS: Final = ("ext2", "ext3", "ext4", "xfs", "btrfs", "minix", "f2fs", "vfat", "virtiofs")
# Directives that may be repeated, each time adding to what is there: targets and lists.
_ADDING: Final = frozenset({"ssh", "nfs", "nfs4", "net", "raw", "extra_modules", "extra_bins", *FILESYSTEMS})
NO_EQUIVALENT: Final = {
    "auto_reset_crashkernel": "`kdump estimate` and `kdump setup` size the reservation",
    "force_rebuild": "not needed: the image is rebuilt when its contents would change",
    "force_no_rebuild": "the image is rebuilt when its contents would change",
    "dracut_args": "the image is not built by dracut; see [capture] modules and files",
    "override_resettable": "devices are always reset",
    "link_delay": "links are waited for, see [deadlines] network",
    "disk_timeout": "see [deadlines] target",
    "debug_mem_level": "the manifest always says what the memory was used for",
}


def read(text: str, source: str, draft: Draft) -> None:
    """kdump.conf: a directive and its value on each line; of one that is repeated, the last counts, as there."""
    given = [(name, value) for name, value in map(_directive, text.splitlines()) if name]
    last = dict(given)
    path = _unquoted(last.get("path", PATH))
    for number, (name, value) in enumerate(given):
        origin = f"{source}: {name} {value}".rstrip()
        if name not in _ADDING and name in (later for later, _value in given[number + 1 :]):
            draft.lose(origin, f"a later {name} overrides it")
        elif name != "path":
            _one(name, value, path, origin, draft)
    if "targets" not in draft.values:
        draft.set("targets", [f"file://{path}"], f"{source}: path {path}")
    if "dump_to_rootfs" in (last.get("failure_action"), last.get("default")):
        draft.set("targets", [f"file://{PATH}"], f"{source}: failure_action dump_to_rootfs")


def _one(name: str, value: str, path: str, origin: str, draft: Draft) -> None:
    plain = _unquoted(value)
    if name in ("default", "failure_action") and plain == "dump_to_rootfs":
        return
    if name == "ssh" or (name == "net" and "@" in plain):
        draft.ssh(plain, path, origin)
    elif name in ("nfs", "nfs4", "net"):
        draft.nfs(plain, path, origin)
    elif name == "raw":
        draft.set("targets", [f"block://{plain}"], origin)
    elif name in FILESYSTEMS:
        _filesystem(plain, path, origin, draft)
    elif name == "sshkey":
        draft.set("ssh.identity", plain, origin)
    elif name == "core_collector":
        _collector(value, origin, draft)
    elif name == "kdump_pre":
        draft.hook(["hooks.pre"], value, origin)
    elif name == "kdump_post":
        # It runs whether the dump succeeded or not, and is told by its argument; ours by its environment.
        draft.hook(["hooks.post", "hooks.failed"], value, origin)
    elif name == "fence_kdump_nodes":
        draft.set("fence.nodes", plain.split(), origin)
    elif name == "fence_kdump_args":
        draft.fence(plain.split(), origin)
    elif name == "extra_modules":
        draft.set("capture.modules", plain.split(), origin)
    elif name == "extra_bins":
        draft.set("capture.files", plain.split(), origin)
    elif name in ("failure_action", "default", "final_action") and plain in ACTIONS:
        draft.set("action.success" if name == "final_action" else "action.failure", plain, origin)
    else:
        draft.lose(origin, NO_EQUIVALENT.get(name, "not a directive that kdump knows"))


def _filesystem(device: str, path: str, origin: str, draft: Draft) -> None:
    """`ext4 DEVICE`: the directory below wherever that device is mounted now; if it is not, the file system by name."""
    points = _mount_points(device)
    named = re.fullmatch(r"(UUID|LABEL)=\"?([^\"/]+)\"?", device)
    if points:
        draft.set("targets", [f"file://{points[0].rstrip('/')}/{path.strip('/')}"], origin)
    elif named:
        draft.set("targets", [f"fs://{named[1]}={quote(named[2], safe='')}/{path.strip('/')}"], origin)
    else:
        draft.lose(origin, f"not mounted: mount it, or add fs://UUID=…/{path.strip('/')} to targets")


def _mount_points(device: str, table: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """Where a device ("/dev/…", "UUID=…", "LABEL=…") is mounted with its root, by its major:minor or its name."""
    tag, equals, value = device.partition("=")
    node = f"/dev/disk/by-{tag.lower()}/{value.strip(chr(34))}" if equals else device
    real = os.path.realpath(node)
    points = []
    for line in table.read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        if words[3] == "/" and os.path.realpath(rest.split(" ")[1]) == real and real.startswith("/dev/"):
            points.append(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4]))
    return points


def _collector(value: str, origin: str, draft: Draft) -> None:
    try:
        words = shlex.split(value)
    except ValueError as error:
        draft.lose(origin, f"not words as a shell reads them: {error}")
        return
    if words and words[0].endswith("makedumpfile"):
        draft.makedumpfile(shlex.join(words[1:]), origin)
    elif words and words[0] in ("cp", "scp"):
        draft.set("dump.level", 0, origin)
    else:
        draft.lose(origin, "dumps are filtered by kdump itself; a hook can do more")


def read_sysconfig(text: str, source: str, draft: Draft) -> None:
    """/etc/sysconfig/kdump."""
    for name, value in draft.variables(text, source).items():
        origin = f"{source}: {name}={value}"
        if not value.strip():
            continue
        if name == "KDUMP_KERNELVER":
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
    """Name and value, whatever blanks part them; a comment begins at any '#', as for their parser."""
    name, *value = line.partition("#")[0].split(maxsplit=1)[:2] or [""]
    return name, "".join(value).strip()


def _unquoted(value: str) -> str:
    """A value without the quotation marks around it."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value
