"""The one configuration, /etc/kdump/kdump.toml: read on the healthy machine, carried into the capture image.

Every key is declared once, below: its default, how its value is read and what it means. The commented template and
the documentation are made from these declarations.
"""
# ruff: noqa: RUF009 -- the calls in defaults are the declarations

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kdump.capture import plan
from kdump.capture.routes import parse_route
from kdump.dump.scrub.kinds import KINDS
from kdump.errors import FormatError, KdumpError, one_of
from kdump.foreign import read_text
from kdump.host.config import tables
from kdump.host.config.tables import Duration, Reader, Size, boolean, choice, integer, key, list_of, table, text
from kdump.memory.codecs import CODECS
from kdump.targets import SCHEMES

CONFIG_PATH: Final = Path("/etc/kdump/kdump.toml")
_EFFORTS: Final = ", ".join(f"{each.name} {each.allowed}" for each in CODECS.values() if each.levels)
_PLAN: Final = (
    plan.CapturePlan()
)  # what the capture kernel does unless told otherwise: the one source of these defaults
_LARGEST: Final = 1 << 20  # bytes of a configuration
_BRIEF: Final = Duration(1, 3600)  # of one step in the capture kernel
KEEP: Final = "keep"  # a panic policy that is left as the system has it


def _route(value: Any) -> str:
    return str(parse_route(text(value)))


def _url(value: Any) -> str:
    scheme, colon, rest = text(value).partition("://")
    if not colon or not rest:
        raise ValueError('a URL such as "file:///var/crash" or "ssh://kdump@server/srv/crash"')
    if scheme not in SCHEMES:
        raise ValueError(one_of(scheme, SCHEMES, "a URL with "))
    try:
        port = urlsplit(value).port
    except ValueError as error:  # its brackets, or its port
        raise ValueError(f"a URL with a port from 1 to 65535, and an IPv6 address in brackets ({error})") from None
    if port == 0:
        raise ValueError("a URL with a port from 1 to 65535")
    if not value.isprintable():
        raise ValueError("a URL without control characters")
    if any(part.startswith("-") for part in rest.partition("/")[0].split("@")):  # an option, to ssh and similar tools
        raise ValueError("a URL whose host and user do not begin with a hyphen")
    if scheme in ("file", "block") and not rest.startswith("/"):
        raise ValueError(f"a URL with an absolute path: {scheme}:///{rest}")
    return str(value)


def _path(value: Any) -> str:
    if not text(value).startswith("/"):
        raise ValueError("an absolute path")
    return str(value)


def _optional_path(value: Any) -> str:
    return _path(value) if text(value) else ""


def _endpoint(value: Any) -> str:
    from kdump.targets.https import Server

    if text(value):
        try:
            Server.of(value)
        except KdumpError:
            raise ValueError("https://host or http://host:port") from None
    return str(value)


def _interface_name(value: Any) -> str:
    # dev_valid_name() in net/core/dev.c
    if text(value) and (not re.fullmatch(r"[^\s/:\0]{1,15}", value) or value in (".", "..")):
        raise ValueError("the name of an interface: up to 15 characters, none of them space, / or :")
    return str(value)


def _mac(value: Any) -> str:
    if text(value) and not re.fullmatch(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5,19}", value):
        raise ValueError('a hardware address such as "52:54:00:12:34:56"')
    return str(value)


def _address(value: Any) -> str:
    try:
        ipaddress.ip_address(text(value))
    except ValueError:
        raise ValueError('an address such as "192.0.2.1" or "2001:db8::1"') from None
    return str(value)


def _domain(value: Any) -> str:
    if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", text(value)):
        raise ValueError('a domain such as "example.net"')
    return str(value)


def _with_prefix(value: Any) -> str:
    try:
        ipaddress.ip_interface(text(value))
    except ValueError:
        raise ValueError('an address with its prefix length, "192.0.2.7/24" or "2001:db8::7/64"') from None
    return str(value)


def _mtu(value: Any) -> int:
    # ETH_MIN_MTU and ETH_MAX_MTU in include/uapi/linux/if_ether.h
    if value == 0 and not isinstance(value, bool):
        return 0
    try:
        return int(integer(68, 65535)(value))
    except ValueError as error:
        raise ValueError(f"{error}, or 0 for the driver's") from None


def _recipient(value: Any) -> str:
    if not re.fullmatch(r"age1[02-9ac-hj-np-z]{58}", text(value)):
        raise ValueError('an age public key, "age1…" (`age-keygen` prints it)')
    return str(value)


def _process(value: Any) -> str:
    if not text(value) or not value.isprintable() or value == "/":
        raise ValueError('the name of a process, or the path of a control group such as "/system.slice/db.service"')
    return str(value)


def _policy(high: int) -> Reader:
    def read(value: Any) -> int | str:
        if value == KEEP:
            return KEEP
        try:
            return int(integer(-1, high)(int(value) if isinstance(value, bool) else value))
        except ValueError as error:
            raise ValueError(f'{error}, or "{KEEP}" to leave it as it is') from None

    return read


@dataclass(frozen=True)
class Dump:
    """The dump's contents and compression."""

    level: int = key(
        _PLAN.level, integer(0, 31), "Pages to leave out, a sum: 1 zero, 2 cache, 4 private cache, 8 user, 16 free."
    )
    codec: str = key(_PLAN.codec, choice(*CODECS), "Compression: " + ", ".join(CODECS) + ".")
    codec_level: int = key(
        _PLAN.codec_level,
        integer(-50, 22),
        f"Compression level ({_EFFORTS}); 0: kdump's choice. The other codecs have no levels.",
    )
    keep: tuple[str, ...] = key(
        _PLAN.processes,
        list_of(_process),
        "Processes whose memory is kept at any level: names as ps -o comm has them, or control groups (/PATH).",
    )
    scrub: tuple[str, ...] = key(
        _PLAN.scrub,
        list_of(choice(*KINDS)),
        "Secrets that are zeros in the dump: " + ", ".join(KINDS) + ". The manifest says what was found.",
    )
    report: bool = key(
        _PLAN.report, boolean, "Write a short report in the capture kernel, before the dump, if memory allows."
    )

    def faults(self) -> dict[str, str]:
        """See `kdump.host.config.tables`."""
        facts = CODECS[self.codec]
        if facts.takes(self.codec_level):
            return {}
        return {"codec_level": f"0 with codec {self.codec!r}, which has no levels"}


@dataclass(frozen=True)
class Encrypt:
    """Encryption to public keys, before anything leaves the machine."""

    recipients: tuple[str, ...] = key(
        (),
        list_of(_recipient),
        "age public keys; with any, all but the crash's name is encrypted. Keep the private key elsewhere.",
    )


@dataclass(frozen=True)
class Action:
    """The last action of the capture kernel."""

    success: str = key(
        _PLAN.on_success, choice(*plan.ACTIONS), "When the dump is saved: " + ", ".join(plan.ACTIONS) + "."
    )
    failure: str = key(_PLAN.on_failure, choice(*plan.ACTIONS), "When it could not be saved.")


@dataclass(frozen=True)
class Hooks:
    """Executables that the capture kernel runs; they are copied into the image with the libraries they need."""

    pre: tuple[str, ...] = key((), list_of(_path), "Before anything is saved.")
    post: tuple[str, ...] = key((), list_of(_path), "After the dump is saved.")
    failed: tuple[str, ...] = key((), list_of(_path), "After the dump could not be saved.")
    timeout: int = key(_PLAN.hooks.seconds, _BRIEF, "Each is killed after this long.")
    network: bool = key(False, boolean, "Bring the network up before the first of them.")


@dataclass(frozen=True)
class Deadlines:
    """Time limits in the capture kernel. A stage that exceeds its limit is abandoned, and the next one begins."""

    network: int = key(_PLAN.deadlines.network, _BRIEF, "To set up links and addresses and to resolve names.")
    target: int = key(
        _PLAN.deadlines.target,
        _BRIEF,
        "For a target's device to appear (a SAN may need minutes), or its server to answer.",
    )
    dmesg: int = key(_PLAN.deadlines.dmesg, _BRIEF, "To open the dead kernel's memory and save its log.")
    report: int = key(_PLAN.deadlines.report, _BRIEF, "To make the short report.")
    stall: int = key(_PLAN.deadlines.stall, Duration(10, 86400), "For a dump without any progress.")
    total: int = key(_PLAN.deadlines.total, Duration(60, 7 * 86400), "For everything; then the failure action runs.")


@dataclass(frozen=True)
class Retention:
    """Old crashes on a target. An old crash is deleted only after the new one is safe."""

    keep: int = key(5, integer(0, 10000), "Newest crashes to keep; 0: all. The only crash of a kind is deleted last.")
    max_age: int = key(0, Duration(), "Delete crashes older than this; 0: never.")
    max_size: int = key(0, Size(), "All crashes together stay below this; 0: no bound.")
    min_free: int = key(1 << 30, Size(), "This much of the file system stays free.")


@dataclass(frozen=True)
class Interface:
    """Interfaces to bring up. None: those that lead to the targets, as configured when the image is built."""

    name: str = key(
        "", _interface_name, "Its name in the capture kernel (and in links below); empty: as the port is named now."
    )
    mac: str = key("", _mac, 'Hardware address of the port, "52:54:00:12:34:56"; empty for vlan, bond and bridge.')
    device: str = key(
        "",
        text,
        "For a port without a hardware address of its own: its place, as `readlink -f /sys/class/net/usb0/device` "
        "prints it. `mac` is then the address that it is given.",
    )
    dhcp: bool = key(False, boolean, "Ask for an IPv4 address.")
    dhcp6: bool = key(False, boolean, "Ask for an IPv6 address by DHCPv6; with `ra`, for the default route.")
    ra: bool = key(False, boolean, "Take IPv6 addresses and the default route from router advertisements.")
    addresses: tuple[str, ...] = key((), list_of(_with_prefix), 'Static addresses, "192.0.2.7/24" or "2001:db8::7/64".')
    gateways: tuple[str, ...] = key((), list_of(_address), "Default routers, at most one of each family.")
    routes: tuple[str, ...] = key(
        (),
        list_of(_route),
        'Further routes, "10.0.0.0/8 via 192.0.2.2", with "src ADDRESS" and "metric NUMBER" if needed.',
    )
    mtu: int = key(0, _mtu, "0: the driver's.")
    vlan: int = key(0, integer(0, 4094), "VLAN id; `links` names the interface below.")
    bond: str = key("", text, 'Bonding mode, "active-backup", "802.3ad" …; `links` names the ports.')
    bridge: bool = key(False, boolean, "A bridge; `links` names the ports.")
    links: tuple[str, ...] = key((), list_of(_interface_name), "Interfaces below this one.")


@dataclass(frozen=True)
class Network:
    """The network of the capture kernel; used only if a target needs it."""

    dns: tuple[str, ...] = key((), list_of(_address), "Name servers; none: the machine's own when the image is built.")
    search: tuple[str, ...] = key(
        (), list_of(_domain), "Domains to append to short names; none: the machine's own when the image is built."
    )
    interface: tuple[Interface, ...] = tables.tables(Interface)


@dataclass(frozen=True)
class Fence:
    """Messages of fence_kdump to a cluster's nodes, so that they do not fence this machine during a dump."""

    nodes: tuple[str, ...] = key((), list_of(text), "Names or addresses of the other nodes; none: no messages.")
    port: int = key(_PLAN.fence.port, integer(1, 65535), "Where fence_kdump(8) listens.")
    interval: int = key(_PLAN.fence.interval, _BRIEF, "Time between two messages.")


@dataclass(frozen=True)
class Ssh:
    """ssh:// targets: a key and a known host, never a password."""

    identity: str = key("/etc/kdump/id_ed25519", _path, "Private key, without a passphrase, mode 0600.")
    known_hosts: str = key(
        "/etc/kdump/known_hosts",
        _path,
        "The servers' keys, as ssh-keyscan(1) prints them: compare them with the servers' own.",
    )


@dataclass(frozen=True)
class S3:
    """s3:// targets."""

    endpoint: str = key("", _endpoint, 'URL of the service, "https://s3.example.net"; empty: Amazon.')
    region: str = key("us-east-1", text, "Region.")
    credentials: str = key(
        "/etc/kdump/s3.toml",
        _path,
        "File, mode 0600, with access_key_id, secret_access_key and, if used, session_token.",
    )
    ca_file: str = key("", _optional_path, "Certificates that vouch for the endpoint; empty: the system's.")


@dataclass(frozen=True)
class Collector:
    """collector+https:// targets: a fleet's collector."""

    token: str = key(
        "/etc/kdump/collector.token",
        _path,
        "File, mode 0600, with the token that `kdump fleet token HOST` printed.",
    )
    certificate: str = key(
        "",
        _optional_path,
        "File, mode 0600, with this machine's certificate and its key (PEM), if the collector wants one.",
    )
    ca_file: str = key(
        "",
        _optional_path,
        "Certificates that vouch for the collector; empty: the system's.",
    )
    dump: str = key("asked", choice("asked", "always"), "Send the dump when the collector asks for it, or always.")
    least_level: int = key(31, integer(0, 31), "The lowest dump level (most memory) that the collector may ask for.")


@dataclass(frozen=True)
class Nfs:
    """nfs:// targets."""

    options: str = key("", text, 'Mount options, "nfsvers=4.2,sec=sys"; empty: the highest version that both speak.')


@dataclass(frozen=True)
class Capture:
    """The capture kernel and its image."""

    kernel: str = key("", text, "Kernel to capture with, a path; empty: the running one.")
    cpus: int = key(
        1,
        integer(0, 1024),
        "CPUs, at most those of the machine; 0: all. More compress in parallel, but need memory,\n"
        "and not every machine starts them.",
    )
    cmdline_add: tuple[str, ...] = key((), list_of(text), "Parameters to add to its command line.")
    cmdline_remove: tuple[str, ...] = key((), list_of(text), "Parameters of the running kernel to remove from it.")
    modules: tuple[str, ...] = key(
        (), list_of(text), "Kernel modules beyond those that the targets' devices are found to need."
    )
    files: tuple[str, ...] = key((), list_of(_path), "Files and directories to copy into the image.")


@dataclass(frozen=True)
class Crashkernel:
    """Memory to reserve for the capture kernel."""

    value: str = key(
        "auto",
        text,
        'Value of crashkernel=: "256M", "2G-64G:256M,64G-:512M", "512M,high 128M,low"; "auto": measured or estimated.',
    )
    margin: int = key(25, integer(0, 400), "Percent to add to the measured peak.")


@dataclass(frozen=True)
class Panic:
    """When the kernel panics. Numbers as sysctl(8) takes them; "keep": left as the system has it."""

    panic: int | str = key(
        10, _policy(86400), "kernel.panic: seconds to reboot if no capture kernel is loaded; 0: hang."
    )
    panic_on_oops: int | str = key(1, _policy(1), "An oops is a panic.")
    panic_on_warn: int | str = key(KEEP, _policy(1), "A warning is a panic.")
    hung_task_panic: int | str = key(KEEP, _policy(1), "A task stuck for hung_task_timeout_secs is a panic.")
    softlockup_panic: int | str = key(KEEP, _policy(1), "A CPU that does not schedule is a panic.")
    hardlockup_panic: int | str = key(1, _policy(1), "A CPU that takes no interrupts is a panic.")
    panic_on_rcu_stall: int | str = key(KEEP, _policy(1), "A stalled RCU grace period is a panic.")
    unknown_nmi_panic: int | str = key(1, _policy(1), "An NMI from a console or button (ipmitool, virsh) is a panic.")
    panic_on_unrecovered_nmi: int | str = key(KEEP, _policy(1), "An NMI that reports broken hardware is a panic.")
    panic_on_io_nmi: int | str = key(KEEP, _policy(1), "An NMI from an I/O error is a panic.")
    panic_on_oom: int | str = key(KEEP, _policy(2), "vm.panic_on_oom: out of memory is a panic (2: even in a cpuset).")
    sysrq: int | str = key(
        KEEP, _policy(511), "kernel.sysrq: bits of the allowed keys; 8 includes crash (c), 1 allows all."
    )


@dataclass(frozen=True)
class Notify:
    """Notifications of a crash, after the reboot."""

    command: tuple[str, ...] = key((), list_of(text), "Program and arguments; a JSON summary comes on standard input.")
    webhook: str = key("", text, "URL to which a JSON summary is posted.")
    mail: str = key("", text, "Address, through the local sendmail.")


@dataclass(frozen=True)
class Config:
    """Everything that /etc/kdump/kdump.toml can say. Sizes are bytes, durations seconds."""

    targets: tuple[str, ...] = key(
        ("file:///var/crash",),
        list_of(_url),
        "Where dumps go, in order of preference: file:///path, fs://UUID=…/path, fs://LABEL=…/path,\n"
        "block:///dev/disk/by-partuuid/…, nfs://server/export/path, ssh://user@host:port/path,\n"
        "s3://bucket/prefix, collector+https://host.",
    )
    save_to: str = key(_PLAN.mode, choice(plan.FIRST, plan.ALL), 'The "first" target that works, or "all" of them.')
    name: str = key("", text, "This machine's name in the names of crashes; empty: its host name.")
    dump: Dump = table(Dump)
    encrypt: Encrypt = table(Encrypt)
    action: Action = table(Action)
    hooks: Hooks = table(Hooks)
    deadlines: Deadlines = table(Deadlines)
    retention: Retention = table(Retention)
    network: Network = table(Network)
    fence: Fence = table(Fence)
    ssh: Ssh = table(Ssh)
    s3: S3 = table(S3)
    nfs: Nfs = table(Nfs)
    collector: Collector = table(Collector)
    capture: Capture = table(Capture)
    crashkernel: Crashkernel = table(Crashkernel)
    panic: Panic = table(Panic)
    notify: Notify = table(Notify)


def load(path: Path | None = None) -> Config:
    """The configuration in `path`, or in CONFIG_PATH; without that file, the defaults.

    Raises ConfigError (all faults, with lines), KdumpError if a file that was asked for cannot be read.
    """
    wanted = path or CONFIG_PATH
    try:
        content = read_text(wanted, _LARGEST)
    except FileNotFoundError:
        if path is None:
            return Config()
        raise KdumpError(f"{path}: no such file", remedy="`kdump setup` writes one") from None
    except FormatError as error:
        raise KdumpError(f"{wanted}: cannot be read", why=f"it is {error.what.rpartition(': ')[2]}") from None
    except OSError as error:
        raise KdumpError(f"{wanted}: cannot be read", why=error.strerror or str(error)) from None
    return parse(content, str(wanted))


def parse(content: str, source: str = "kdump.toml") -> Config:
    """The configuration that TOML text says; `source` names it in errors. Raises ConfigError."""
    return tables.parse(Config, content, source)


def from_dict(data: Mapping[str, Any]) -> Config:
    """The configuration in plain values, as `to_dict` or JSON gives them. Raises ConfigError."""
    return tables.from_dict(Config, data)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain dicts, lists, strings and numbers, for JSON."""
    return tables.to_dict(config)
