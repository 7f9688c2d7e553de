"""SUSE's /etc/sysconfig/kdump, kdump(5) there."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from kdump.host.importers import Draft, number

SAVEDIR: Final = "/var/crash"
CODECS: Final = {"compressed": "zlib", "lzo": "lzo", "snappy": "snappy", "zstd": "zstd", "none": "none"}
MEBIBYTE: Final = 1 << 20
NO_EQUIVALENT: Final = {
    "KDUMP_COMMANDLINE": "the command line is made from the running kernel's; see [capture] cmdline_add",
    "KEXEC_OPTIONS": "kdump loads the kernel itself",
    "KDUMP_TRANSFER": "scripts do not replace the dump; see [hooks]",
    "KDUMP_NETCONFIG": "see [network]; the running configuration is copied by default",
    "KDUMP_HOST_KEY": "put the server's key into [ssh] known_hosts",
    "KDUMP_SMTP_SERVER": "mail goes through the local sendmail",
    "KDUMP_SMTP_USER": "mail goes through the local sendmail",
    "KDUMP_SMTP_PASSWORD": "mail goes through the local sendmail; passwords are not kept",
    "KDUMP_NOTIFICATION_CC": "one address; an alias can have several",
    "KDUMP_AUTO_RESIZE": "the reservation is sized by measurement: see `kdump estimate`",
    "KDUMP_FADUMP": "firmware-assisted dump is not supported",
    "KDUMP_FADUMP_SHELL": "firmware-assisted dump is not supported",
    "KDUMPTOOL_FLAGS": "kdumptool is not used",
}
# What the package ships and what needs no word: defaults that are ours, too, or that only steer their scripts.
_QUIET: Final = {
    ("KDUMP_NETCONFIG", "auto"),
    *((name, off) for name in ("KDUMP_FADUMP", "KDUMP_FADUMP_SHELL", "KDUMP_AUTO_RESIZE") for off in ("no", "false")),
    ("KDUMP_COPY_KERNEL", "yes"),
    ("KDUMP_COPY_KERNEL", "no"),
}


def read(text: str, source: str, draft: Draft) -> None:
    """The assignments of SUSE's sysconfig file."""
    for name, value in draft.variables(text, source).items():
        origin = f"{source}: {name}={value}"
        if value.strip() and (name, value) not in _QUIET and name not in ("KDUMP_VERBOSE", "KDUMP_NET_TIMEOUT"):
            _one(name, value, origin, draft)
    if "targets" not in draft.values:
        draft.set("targets", [f"file://{SAVEDIR}"], f"{source}: without KDUMP_SAVEDIR")


def _one(name: str, value: str, origin: str, draft: Draft) -> None:
    switch = value.lower() in ("yes", "true", "1", "on")
    if name == "KDUMP_SAVEDIR":
        for url in value.split():
            _target(url, draft)
    elif name == "KDUMP_DUMPLEVEL":
        draft.set("dump.level", number(value), origin)
    elif name == "KDUMP_DUMPFORMAT" and value.lower() in CODECS:
        draft.set("dump.codec", CODECS[value.lower()], origin)
    elif name == "KDUMP_DUMPFORMAT" and value.lower() == "raw":
        draft.set("dump.level", 0, origin)  # all of memory, as it is
        draft.set("dump.codec", "none", origin)
    elif name == "KDUMP_DUMPFORMAT":
        draft.lose(origin, "dumps are written in the kdump-compressed format; `kdump convert` makes others of it")
    elif name == "KDUMP_KEEP_OLD_DUMPS":
        # There 0 keeps all, -1 none of the old ones, and -2 all for which there is room (KDUMP_FREE_DISK_SIZE).
        draft.set("retention.keep", {"-1": 1, "-2": 0}.get(value, number(value)), origin)
    elif name == "KDUMP_FREE_DISK_SIZE":
        mebibytes = number(value)
        draft.set("retention.min_free", mebibytes * MEBIBYTE if isinstance(mebibytes, int) else value, origin)
    elif name == "KDUMP_CPUS":
        draft.set("capture.cpus", number(value), origin)  # 0 is all, here as there
    elif name == "KDUMP_KERNELVER":
        draft.set("capture.kernel", f"/boot/vmlinuz-{value}", origin)
    elif name == "KDUMP_COMMANDLINE_APPEND":
        draft.cmdline(value, origin)
    elif name == "KDUMP_IMMEDIATE_REBOOT":
        draft.set("action.success", "reboot" if switch else "shell", origin)
    elif name == "KDUMP_CONTINUE_ON_ERROR":
        draft.set("action.failure", "reboot" if switch else "shell", origin)
    elif name in ("KDUMP_PRESCRIPT", "KDUMP_POSTSCRIPT") and value.split(maxsplit=1)[0].endswith("/fence_kdump_send"):
        draft.fence(value.split()[1:], origin)
    elif name in ("KDUMP_PRESCRIPT", "KDUMP_POSTSCRIPT"):
        draft.hook(["hooks.pre" if name == "KDUMP_PRESCRIPT" else "hooks.post"], value, origin)
    elif name == "KDUMP_REQUIRED_PROGRAMS":
        _programs(value, origin, draft)
    elif name == "KDUMP_SSH_IDENTITY":
        first, *more = value.split()
        draft.set("ssh.identity", first, origin)
        if more:
            draft.lose(f"{origin} ({' '.join(more)})", "one key for all ssh targets")
    elif name == "KDUMP_NOTIFICATION_TO":
        draft.set("notify.mail", ", ".join(value.split()), origin)
    elif name == "MAKEDUMPFILE_OPTIONS":
        draft.makedumpfile(value, origin)
    else:
        draft.lose(origin, NO_EQUIVALENT.get(name, "not a setting that kdump knows"))


def _target(url: str, draft: Draft) -> None:
    origin = f"KDUMP_SAVEDIR={url}"
    try:
        parts = urlsplit(url if "://" in url else f"file://{url}")
    except ValueError as error:
        draft.lose(origin, f"not a URL: {error}")
        return
    scheme = {"sftp": "ssh"}.get(parts.scheme, parts.scheme)
    if scheme == "file":
        draft.set("targets", [f"file://{parts.path}"], origin)
    elif scheme in ("ssh", "nfs"):
        host = parts.netloc.rpartition("@")[2]
        user = f"{parts.username}@" if parts.username and scheme == "ssh" else ""
        draft.set("targets", [f"{scheme}://{user}{host}{parts.path}"], origin)
        if parts.password:
            draft.lose(origin, "the password: ssh targets use a key, see [ssh] identity")
    else:
        draft.lose(origin, f"there is no {parts.scheme} target; ssh, nfs or s3 can take its place")


def _programs(value: str, origin: str, draft: Draft) -> None:
    absolute = [word for word in value.split() if word.startswith("/")]
    if absolute:
        draft.set("capture.files", absolute, origin)
    for word in value.split():
        if not word.startswith("/"):
            draft.lose(f"{origin} ({word})", "not an absolute path: add it to [capture] files")
