"""Debian's and Ubuntu's /etc/default/kdump-tools."""

from __future__ import annotations

from typing import Final

from kdump.host.importers import Draft, number
from kdump.host.policy import TABLE
from kdump.units import integer

COREDIR: Final = "/var/crash"
NO_EQUIVALENT: Final = {
    "KDUMP_KERNEL": "the running kernel captures, unless [capture] kernel names one",
    "KDUMP_INITRD": "kdump builds its own image",
    "KDUMP_KEXEC_ARGS": "kdump loads the kernel itself",
    "KDUMP_CMDLINE": "the command line is made from the running kernel's; see [capture] cmdline_add",
    "KDUMP_DUMP_DMESG": "the kernel log is always saved",
    "HOSTTAG": "crashes have the host's name; see name",
    "FTP": "there is no FTP target; ssh or s3 can take its place",
    "FTP_PORT": "there is no FTP target",
    "NFS_TIMEO": "see [nfs] options",
    "NFS_RETRANS": "see [nfs] options",
    "NFS_MOUNT_RETRY": "see [deadlines] target",
}
# What the package sets that means nothing here, or what kdump does anyway.
_SHIPPED: Final = {
    ("USE_KDUMP", "1"),
    ("KDUMP_KERNEL", "/var/lib/kdump/vmlinuz"),
    ("KDUMP_INITRD", "/var/lib/kdump/initrd.img"),
    ("KDUMP_DUMP_DMESG", "1"),
}


def read(text: str, source: str, draft: Draft) -> None:
    """The assignments of kdump-tools' defaults."""
    found = draft.variables(text, source)
    coredir = found.get("KDUMP_COREDIR") or COREDIR
    for name, value in found.items():
        origin = f"{source}: {name}={value}"
        if value.strip() and (name, value) not in _SHIPPED and name != "KDUMP_COREDIR":
            _one(name, value, coredir, origin, draft)
    if "targets" not in draft.values:
        draft.set("targets", [f"file://{coredir}"], f"{source}: KDUMP_COREDIR={coredir}")


def _one(name: str, value: str, coredir: str, origin: str, draft: Draft) -> None:
    if name == "MAKEDUMP_ARGS":
        draft.makedumpfile(value, origin)
    elif name == "KDUMP_SYSCTL":
        _sysctls(value, origin, draft)
    elif name == "KDUMP_CMDLINE_APPEND":
        draft.cmdline(value, origin)
    elif name == "KDUMP_NUM_DUMPS":
        draft.set("retention.keep", number(value), origin)
    elif name == "SSH":
        draft.ssh(value, coredir, origin)
    elif name == "SSH_KEY":
        draft.set("ssh.identity", value, origin)
    elif name == "NFS":
        draft.nfs(value, "", origin)
    elif name == "KDUMP_FAIL_CMD" and (command := _command(value)) in ("reboot", "poweroff", "halt"):
        draft.set("action.failure", command, origin)
    elif name == "KDUMP_FAIL_CMD":
        draft.lose(origin, "commands are not run; see [action] failure and [hooks] failed")
    elif name == "USE_KDUMP":
        draft.lose(origin, "it was switched off; `kdump setup` switches kdump on")
    else:
        draft.lose(origin, NO_EQUIVALENT.get(name, "not a setting that kdump knows"))


def _command(value: str) -> str:
    """The name of the program that a command line runs."""
    return value.split(maxsplit=1)[0].rpartition("/")[2]


def _sysctls(words: str, origin: str, draft: Draft) -> None:
    keys = {sysctl.name: sysctl.key for sysctl in TABLE}
    for word in words.split():
        name, _, value = word.partition("=")
        if name in keys and integer(value) is not None:
            draft.set(f"panic.{keys[name]}", number(value), origin)
        else:
            draft.lose(f"{origin} ({word})", "not one of the sysctls in [panic]")
