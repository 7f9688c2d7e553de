"""A target for each parser of bytes that others wrote: what it starts from, and what it does with one input.

A target may raise KdumpError (and, where its interface says so, OSError); anything else is a defect, as is more than 5
seconds or 512 MiB for an input.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from kdump.errors import KdumpError

Seeds = Callable[[], Mapping[str, bytes]]


class Target(NamedTuple):
    """Small inputs to start from, what is done with one, and the modules whose branches guide the search."""

    seeds: Seeds
    one: Callable[[bytes], None]
    modules: tuple[str, ...]


def _path(data: bytes, name: str = "input") -> Path:
    """A file with the input; the same one each time."""
    path = Path(_DIRECTORY.name, name)
    path.write_bytes(data)
    return path


_DIRECTORY = tempfile.TemporaryDirectory(prefix="fuzz-")


# Dumps and what is in them


def dump_seeds() -> dict[str, bytes]:
    """A small dump of every format."""
    from tests.memory import test_fuzz
    from tests.memory.writers import PAGE, Load, elf, flattened, kdump, note

    notes = note("CORE", 1, b"x" * 16) + note("VMCOREINFO", 0, b"OSRELEASE=6.1\n")
    pages = {0: b"a" * PAGE, 1: bytes(PAGE), 3: b"OSRELEASE=".ljust(PAGE, b"x")}
    small = {f"codec-{codec:#x}": kdump(pages, ram=[(0, 4)], codec=codec, notes=notes) for codec in (0, 1, 2, 4, 0x20)}
    small["elf"] = elf([Load(0, b"".join(pages.values())), Load(0x1000, pages[1])], notes)
    small["xnum"] = elf([Load(0, pages[0])], notes, xnum=True)
    small |= {f"flattened-{name}": flattened(data, size=3000) for name, data in small.items()}
    large = {name.replace(" ", "-"): data for name, data in test_fuzz.FILES.items() if len(data) < 40000}
    return small | large


def dump(data: bytes) -> None:
    """All that a reader of dumps does."""
    from tests.memory.test_fuzz import exercise

    exercise(_path(data))


def vmcoreinfo_seeds() -> dict[str, bytes]:
    """The note of a machine."""
    from tests.memory.test_fuzz import MACHINE

    return {"x86_64": MACHINE.vmcoreinfo}


def vmcoreinfo(data: bytes) -> None:
    """The note, and a dump whose note it is."""
    from tests.memory.test_fuzz import MACHINE
    from tests.memory.writers import Load, elf, note

    from kdump.kernel import vmcoreinfo

    info = vmcoreinfo.parse(data)
    _ = info.release, info.build_id, info.page_size, info.crash_time, info.kaslr_offset
    dump(elf([Load(0, bytes(MACHINE.memory))], note("VMCOREINFO", 0, data)))


def log_seeds() -> dict[str, bytes]:
    """Logs as different transports give them."""
    crash = (
        b"[   12.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000\n"
        b"[   12.000001] Oops: 0000 [#1] SMP\n[   12.000002] CPU: 0 PID: 1 Comm: sh Tainted: G O 6.1.0 #1\n"
        b"[   12.000003] RIP: 0010:f+0x1/0x10 [m]\n[   12.000004] Call Trace:\n[   12.000005]  <TASK>\n"
        b"[   12.000006]  g+0x2/0x20\n[   12.000007]  </TASK>\n[   12.000008] Kernel panic - not syncing: Fatal\n"
    )
    return {"oops": crash, "utf-16": crash.decode().encode("utf-16"), "journal": crash.replace(b"[", b"host kernel: [")}


def log(data: bytes) -> None:
    """A log as text, to the report in every form."""
    from kdump.report import json as as_json
    from kdump.report import text
    from kdump.report.build import build
    from kdump.report.context import Context
    from kdump.report.html import render
    from kdump.report.logtext import decode, from_text

    context = Context(None, from_text(decode(data)))
    report = build(context, "log")
    for lines in (text.render(report), as_json.render(report), render(report, context.lines)):
        for _ in lines:
            pass


def report_seeds() -> dict[str, bytes]:
    """The JSON of a report."""
    from kdump.report import json as as_json
    from kdump.report.build import build
    from kdump.report.context import Context
    from kdump.report.logtext import decode, from_text

    context = Context(None, from_text(decode(log_seeds()["oops"])))
    return {"oops": "\n".join(as_json.render(build(context, "log"))).encode()}


def report(data: bytes) -> None:
    """A report as JSON, compared with another."""
    from kdump.foreign import load_object
    from kdump.report.diff import compare
    from kdump.report.json import SHAPE

    document = load_object(data, "report", SHAPE)
    if not SHAPE.keys() - document.keys():
        compare(document, json.loads(next(iter(report_seeds().values()))))


# Files beside dumps


def manifest_seeds() -> dict[str, bytes]:
    """A manifest as the capture kernel writes it."""
    from kdump.files.digest import Pieces

    pieces = Pieces()
    pieces.add(0, b"x")
    content = {
        "format": "kdump-manifest/1", "status": "complete", "host": "h", "panic_time": 1.5, "release": "6.1",
        "signature": "s", "title": "t", "problems": [], "files": [{"name": "vmcore", **pieces.describe()}],
    }  # fmt: skip
    return {"complete": json.dumps(content).encode()}


def manifest(data: bytes) -> None:
    """A manifest, and the crash that it is of."""
    from kdump.cli.list import lines
    from kdump.dump import manifest as manifests
    from kdump.host import stored

    place = Path(_DIRECTORY.name, "crash")
    if not place.exists():
        place.mkdir()
        (place / "vmcore").write_bytes(b"x")
    (place / "manifest.json").write_bytes(data)
    assert lines(stored.read(place))
    for entry in manifests.read(place / "manifest.json")["files"]:
        list(manifests.check(place, entry))


def journal_seeds() -> dict[str, bytes]:
    """A journal of a setup."""
    entry = {"path": "/etc/x", "before": None, "after": "a", "mode": 420, "written": ["a"]}
    commands = [{"argv": ["systemctl", "enable", "x"], "undo": ["systemctl", "disable", "x"], "again": True}]
    return {"one": json.dumps({"files": [entry], "commands": commands, "directories": ["/etc/kdump"]}).encode()}


def journal(data: bytes) -> None:
    """A journal: it is only read, for what it says would be done to this machine."""
    from kdump.host.changes import Journal

    assert Journal.read(_path(data)) is not None


def record_seeds() -> dict[str, bytes]:
    """Records of an image, of a load and of a rehearsal."""
    built = {"image": "/x", "release": "6.1", "vmlinuz": "/k", "size": 1, "built": 1.5, "parts": {"kernel": "x"}}
    loaded = {"kernel": "/k", "initrd": "/i", "cmdline": "c", "method": "file", "chosen": "file", "seen": {"boot": "x"}}
    rehearsed = {"when": 1.5, "passed": True, "release": "6.1", "proved": ["x"]}
    return {
        name: json.dumps(each).encode()
        for name, each in {"built": {**built, "digest": "d"}, "loaded": loaded, "rehearsed": rehearsed}.items()
    }


def record(data: bytes) -> None:
    """Each record, and what is asked of it."""
    from kdump.host import built, rehearsed
    from kdump.kexec import record as loads

    path = _path(data, rehearsed.NAME)
    now = loads.Loaded("/k", "", "c", "file", "file", {"kernel": "", "image": "", "machine": "", "boot": "b"})
    loads.changes(loads.read_record(path), now)
    rehearsed.last(path.parent)
    if found := built.Record.read(path):
        built.stale(found, dict.fromkeys(built.PARTS, ""))
        built.damage(found)


def rawstore_seeds() -> dict[str, bytes]:
    """A header slot."""
    from kdump.targets.rawstore import SAVED, START, RawFile, RawHeader

    return {"saved": RawHeader(SAVED, "h-20261123T120000Z-0001", (RawFile("vmcore", START, 1, 1),), 3).pack()}


def rawstore(data: bytes) -> None:
    """A header, with the check sum made right: a forger would do the same."""
    import zlib

    from kdump.host.fetch import fetch
    from kdump.targets import rawstore as raw

    slot = bytearray(data[: raw.SLOT].ljust(raw.SLOT, b"\0"))
    at = raw._HEADER.size - 4
    slot[at : at + 4] = bytes(4)
    slot[at : at + 4] = struct.pack("<I", zlib.crc32(slot))
    path = _path(bytes(raw.START + 8192))
    with path.open("r+b") as file:
        for place in raw.SLOTS:
            file.seek(place)
            file.write(slot)
    to = Path(tempfile.mkdtemp(dir=_DIRECTORY.name))
    try:
        fetch(str(path), to, keep=True)
    finally:
        import shutil

        shutil.rmtree(to)


def age_seeds() -> dict[str, bytes]:
    """A file for the identity of `age`."""
    import pyrage

    identity = pyrage.x25519.Identity.from_str(_identity())
    return {"short": pyrage.encrypt(b"hello", [identity.to_public()])}


def _identity() -> str:
    """An identity that is the same in every run: the corpus is for it."""
    from kdump.targets.age import _polymod

    alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    words = [number % 32 for number in range(51)] + [16]  # 256 bits, and 4 of padding
    prefix = "age-secret-key-"
    expanded = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    check = _polymod([*expanded, *words, *[0] * 6]) ^ 1
    words += [(check >> 5 * (5 - place)) & 31 for place in range(6)]
    return (prefix + "1" + "".join(alphabet[word] for word in words)).upper()


def age(data: bytes) -> None:
    """An encrypted file."""
    from kdump.targets.age import decrypt

    for _ in decrypt(io.BytesIO(data), [_identity()], "input"):
        pass


# Networks


def dhcp_seeds() -> dict[str, bytes]:
    """An acknowledgement."""
    from kdump.capture import dhcp

    options = {
        1: b"\xff\xff\xff\0",
        3: b"\xc0\0\2\1",
        6: b"\xc0\0\2\2",
        54: b"\xc0\0\2\3",
        121: b"\x18\xc0\0\2\0\0\0\0",
    }
    message = bytearray(dhcp._message(77, b"\2\0\0\0\0\1", 5, options))
    message[0], message[16:20] = 2, b"\xc0\0\2\7"
    return {"ack": bytes(message)}


def dhcp(data: bytes) -> None:
    """An answer, whose identifier is the one that was asked with."""
    from kdump.capture import dhcp as protocol

    answer = protocol.parse(data[:4] + (77).to_bytes(4, "big") + data[8:], 77)
    if answer is not None and protocol._TYPE in answer[1] and protocol._fit(answer):
        protocol.lease_in(*answer)


def dhcp6_seeds() -> dict[str, bytes]:
    """A reply with an address and a name server."""
    address = struct.pack("!HH16sII", 5, 24, b"\x20\1\x0d\xb8" + bytes(12), 60, 60)
    association = struct.pack("!III", 1, 0, 0) + address
    body = struct.pack("!HH", 3, len(association)) + association + struct.pack("!HH16s", 23, 16, bytes(16))
    return {"reply": b"\7abc" + body}


def dhcp6(data: bytes) -> None:
    """A reply."""
    from kdump.capture import dhcp6 as protocol

    found = protocol.parse(b"\7abc" + data[4:], 7, b"abc")
    if found:
        protocol.address_in(found.get(3, b""))


def dns_seeds() -> dict[str, bytes]:
    """Answers with an address of each kind, one of them behind a pointer."""
    question = b"\4host\7example\0\0\1\0\1"
    head = struct.pack("!HHHHHH", 1, 0x8180, 1, 2, 0, 0)
    four = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + b"\xc0\0\2\1"
    six = b"\xc0\x0c" + struct.pack("!HHIH", 28, 1, 60, 16) + bytes(16)
    return {"both": head + question + four + six}


def dns(data: bytes) -> None:
    """An answer."""
    from kdump.targets import names

    for kind in (1, 28):
        names.addresses(data, kind)


def sftp_seeds() -> dict[str, bytes]:
    """A server's side of a conversation."""
    from kdump.targets.sftp import _string

    def packet(content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + content

    def status(number: int) -> bytes:
        return packet(struct.pack(">BII", 101, number, 0) + _string("") + _string(""))

    version = packet(
        b"\2\0\0\0\3" + _string("limits@openssh.com") + _string("1") + _string("fsync@openssh.com") + _string("1")
    )
    limits = packet(struct.pack(">BI4Q", 201, 1, 1 << 18, 1 << 18, 1 << 18, 100))
    entry = _string("x") + _string("-rw") + bytes(4)
    handle = packet(struct.pack(">BI", 102, 2) + _string("h"))
    listed = packet(struct.pack(">BII", 104, 3, 1) + entry)
    end = packet(struct.pack(">BII", 101, 4, 1) + _string("") + _string(""))
    return {"listing": version + limits + handle + listed + end + status(5), "bare": packet(b"\2\0\0\0\3") + status(1)}


def sftp(data: bytes) -> None:
    """All that a server may say after each other, whatever it is asked."""
    from kdump.targets.sftp import Sftp

    receive, server = os.pipe()
    send = os.open(os.devnull, os.O_WRONLY)
    try:
        os.write(server, data[:60000])
        os.close(server)
        client = Sftp(send, receive, lambda: KdumpError("the connection ended"), 1)
        calls: tuple[Callable[[], Any], ...] = (
            lambda: client.listing("/x"), lambda: client.read("/x"), lambda: client.free("/x"),
            lambda: client.make_directory("/x"), lambda: client.write(b"h", "x", memoryview(b"y"), 0), client.settle,
        )  # fmt: skip
        for call in calls:
            with suppress(KdumpError):
                call()
    finally:
        os.close(send)
        os.close(receive)


def s3_seeds() -> dict[str, bytes]:
    """Answers of HTTP."""
    error = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    upload = b"<UploadId>abc</UploadId>"
    head = b"HTTP/1.1 200 OK\r\nETag: x\r\n"
    return {
        "length": head + b"Content-Length: %d\r\n\r\n" % len(upload) + upload,
        "chunked": head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        "refused": b"HTTP/1.1 403 Forbidden\r\n\r\n" + error,
        "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"\r\n",
    }


def s3(data: bytes) -> None:
    """An answer to a request, and the error that is made of it."""
    import http.client

    from kdump.targets import https, s3http

    ours, theirs = socket.socketpair()
    connection = http.client.HTTPConnection("h")
    connection.response_class = https._Response
    connection.sock = ours
    try:
        ours.settimeout(1)
        theirs.sendall(data[:60000])
        theirs.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            answer = https.exchange(connection, "GET", "/", b"", {})
            client = s3http.Client("http://127.0.0.1:1", "b", "r", s3http.Credentials("k", "s"), "127.0.0.1")
            assert str(client.refusal("refused", answer))
    finally:
        connection.close()
        ours.close()
        theirs.close()


def netlink_seeds() -> dict[str, bytes]:
    """The kernel's answers about a link, and an address."""
    from kdump.capture import netlink as protocol

    def message(kind: int, body: bytes) -> bytes:
        return protocol._HEADER.pack(16 + len(body), kind, 0, 1, 0) + body

    name = protocol._attribute(protocol._IFLA_IFNAME, b"eth0\0")
    link = message(16, protocol._LINK.pack(0, 0, 2, 0, 0) + name)
    address = message(20, protocol._ADDRESS.pack(2, 24, 0, 0, 2) + protocol._attribute(1, b"\xc0\0\2\1"))
    return {"link": link + message(3, b""), "address": address + message(3, b""), "error": message(2, b"\xff" * 4)}


def netlink(data: bytes) -> None:
    """The answers of a kernel."""
    from kdump.capture import netlink as protocol

    class Kernel:
        """Says the input, then that it was all."""

        def __init__(self) -> None:
            self.answers = [data]

        def send(self, _data: bytes) -> None:
            """Asked."""

        def recv(self, _size: int) -> bytes:
            return self.answers.pop() if self.answers else protocol._HEADER.pack(16, protocol._DONE, 0, 1, 0)

    asked: tuple[Callable[[protocol.Netlink], object], ...] = (
        lambda each: each.links(), lambda each: each.addresses(2), lambda each: each.set_link(2, up=True),
    )  # fmt: skip
    for ask in asked:
        made = protocol.Netlink.__new__(protocol.Netlink)
        made._socket, made._sequence = Kernel(), 0  # type: ignore[assignment]
        with suppress(OSError):
            ask(made)


# Devices


def superblock_seeds() -> dict[str, bytes]:
    """The heads of file systems."""
    found = {"swap": bytes(4086) + b"SWAPSPACE2", "luks": b"LUKS\xba\xbe\0\2" + bytes(1016), "btrfs": bytes(0x10040)}
    found["btrfs"] += b"_BHRfS_M" + bytes(512)
    found["ext4"] = bytes(1080) + b"\x53\xef" + bytes(512)
    found["xfs"] = b"XFSB" + bytes(508)
    found["fat"] = bytes(54) + b"FAT16   " + bytes(448) + b"\x55\xaa"
    found["lvm"] = bytes(512) + b"LABELONE" + bytes(12) + b"\x20\0\0\0" + b"LVM2 001" + b"a" * 32
    return found


def superblock(data: bytes) -> None:
    """What is on a device."""
    from kdump.targets import superblock as blocks
    from kdump.targets.rawstore import foreign_content

    with _path(data).open("rb") as file:
        found = blocks.identify_open(file.fileno())
    foreign_content(found, data[:0x11000])


# Configurations


def toml_seeds() -> dict[str, bytes]:
    """The template, and all tables in use."""
    from kdump.host import template

    short = 'targets = ["ssh://u@h/x"]\n[dump]\nlevel = 31\n[[network.interface]]\nname = "eth0"\nvlan = 5'
    return {"template": template.render().encode(), "short": short.encode()}


def toml(data: bytes) -> None:
    """A configuration."""
    from kdump.host import config

    config.parse(data.decode("utf-8", "replace"))


def import_seeds() -> dict[str, bytes]:
    """The configurations of other tools."""
    return {
        "fedora": b"ssh u@h\npath /x\ncore_collector makedumpfile -l -d 31\nsshkey /k\nfinal_action reboot\n",
        "sysconfig": b'KDUMP_COMMANDLINE_APPEND="irqpoll nr_cpus=1"\nKEXEC_ARGS="-s"\n',
        "debian": b'USE_KDUMP=1\nKDUMP_COREDIR="/x"\nMAKEDUMP_ARGS="-c -d 31"\nSSH="u@h"\n',
        "suse": b'KDUMP_SAVEDIR="nfs://h/x"\nKDUMP_DUMPLEVEL="31"\nKDUMP_KEEP_OLD_DUMPS="5"\n',
    }


def imports(data: bytes) -> None:
    """A foreign configuration, and the kdump.toml that is made of it."""
    from kdump.host import template
    from kdump.host.importers import detect

    template.render(detect.read([_path(data)]).config())


def plan_seeds() -> dict[str, bytes]:
    """A capture plan."""
    from kdump.capture.plan import CapturePlan

    return {"plain": CapturePlan().to_json().encode()}


def plan(data: bytes) -> None:
    """A capture plan."""
    from kdump.capture.plan import CapturePlan

    CapturePlan.from_json(data.decode("utf-8", "replace"), "plan")


def crashkernel_seeds() -> dict[str, bytes]:
    """Values of crashkernel=, and routes."""
    return {"ranges": b"2G-64G:256M,64G-:512M@16M", "high": b"512M,high 128M,low", "cma": b"64M,cma",
            "route": b"192.0.2.0/24 via 192.0.2.1 src 192.0.2.7 metric 9"}  # fmt: skip


def words(data: bytes) -> None:
    """What stands on command lines and in tables as one text."""
    from kdump.capture.routes import parse_route
    from kdump.host.crashkernel import parse

    text = data.decode("latin-1")
    with suppress(KdumpError, ValueError):
        parse(text)
    with suppress(KdumpError, ValueError):
        parse_route(text)


# Kernels


def kernel_seeds() -> dict[str, bytes]:
    """A kernel of every format, packed in every way."""
    from tests.kexec import kernels

    uki = kernels.pe({".linux": kernels.bzimage(), ".initrd": b"i", ".cmdline": b"c"})
    found = {"bzimage": kernels.bzimage(), "vmlinux": kernels.VMLINUX, "uki": uki}
    for name, pack in kernels.PACKERS.items():
        found[name] = pack(kernels.VMLINUX)
        found[f"inside-{name}"] = kernels.packed_bzimage(kernels.packed(kernels.VMLINUX, name))
    return found


def kernel(data: bytes) -> None:
    """As a kernel, also unpacked, and as text of /proc/iomem."""
    from kdump.kexec.formats import compressed, parse_kernel, unpacked
    from kdump.kexec.memory_map import parse_iomem

    parse_iomem(data.decode("latin-1"))
    first = parse_kernel(memoryview(bytearray(data)))
    for each in (first, unpacked(first)):
        if sum(len(part.data) for part in each.parts) > compressed.RATIO_MAX * len(data):
            raise AssertionError("more memory than the input may ask for")


TARGETS: dict[str, Target] = {
    "dumps": Target(dump_seeds, dump, ("kdump.memory", "kdump.kernel")),
    "vmcoreinfo": Target(vmcoreinfo_seeds, vmcoreinfo, ("kdump.kernel",)),
    "logs": Target(log_seeds, log, ("kdump.report",)),
    "reports": Target(report_seeds, report, ("kdump.foreign", "kdump.report")),
    "manifests": Target(manifest_seeds, manifest, ("kdump.foreign", "kdump.dump", "kdump.host")),
    "journals": Target(journal_seeds, journal, ("kdump.host.changes",)),
    "records": Target(record_seeds, record, ("kdump.foreign", "kdump.host", "kdump.kexec")),
    "rawstore": Target(rawstore_seeds, rawstore, ("kdump.targets", "kdump.host.fetch")),
    "age": Target(age_seeds, age, ("kdump.targets.age",)),
    "dhcp": Target(dhcp_seeds, dhcp, ("kdump.capture",)),
    "dhcp6": Target(dhcp6_seeds, dhcp6, ("kdump.capture",)),
    "dns": Target(dns_seeds, dns, ("kdump.targets.names",)),
    "sftp": Target(sftp_seeds, sftp, ("kdump.targets.sftp",)),
    "s3": Target(s3_seeds, s3, ("kdump.targets", "http.client")),
    "netlink": Target(netlink_seeds, netlink, ("kdump.capture.netlink",)),
    "superblocks": Target(superblock_seeds, superblock, ("kdump.targets",)),
    "toml": Target(toml_seeds, toml, ("kdump.host.config", "tomllib")),
    "imports": Target(import_seeds, imports, ("kdump.host.importers",)),
    "plans": Target(plan_seeds, plan, ("kdump.capture.plan",)),
    "words": Target(crashkernel_seeds, words, ("kdump.host.crashkernel", "kdump.capture.routes")),
    "kernels": Target(kernel_seeds, kernel, ("kdump.kexec",)),
}


def once(target: Target, data: bytes) -> None:
    """One input; an error of ours is an answer."""
    try:
        target.one(data)
    except KdumpError as error:
        assert str(error)
