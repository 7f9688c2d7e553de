"""The network lies: whatever comes in, each protocol's edge raises one family of errors, in bounded time and memory."""

from __future__ import annotations

import argparse
import errno
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address, ip_interface
from typing import Any

import pytest
from tests.attack.peers import answering

from kdump.capture import dhcp, dhcp6, netlink, network
from kdump.cli import values
from kdump.errors import KdumpError
from kdump.fleet import objects
from kdump.host import config
from kdump.host.config.tables import ConfigError
from kdump.targets import collector, https, names, s3http, sftp

DICE = random.Random(7)


def reply(options: bytes, given: bytes = b"\xc0\x00\x02\x07", kind: int = 2) -> bytes:
    zero = bytes(4)
    return dhcp._FIXED.pack(
        kind, 1, 6, 0, 77, 0, 0, zero, given, zero, zero, b"", b"", b"", dhcp._COOKIE
    ) + options  # fmt: skip


def option(code: int, value: bytes) -> bytes:
    return bytes([code, len(value) & 255]) + value[:255]


def test_dhcp_replies_of_any_kind() -> None:
    usable = 0
    for _ in range(20_000):
        codes = DICE.choices((1, 3, 6, 51, 53, 54, 121, 255, 0, 12), k=DICE.randrange(8))
        body = b"".join(option(code, DICE.randbytes(DICE.choice((0, 1, 3, 4, 4, 5, 8, 12)))) for code in codes)
        if DICE.random() < 0.3:
            body = body[: DICE.randrange(len(body) + 1)]
        answer = dhcp.parse(reply(option(53, b"\5") + body, DICE.randbytes(4)), 77)
        if answer is None or not dhcp._fit(answer):
            continue
        lease = dhcp.lease_in(*answer)
        assert ip_interface(lease.address).version == 4
        assert all(ip_address(server).version == 4 for server in lease.dns)
        usable += 1
    assert usable > 5_000


@pytest.mark.parametrize(
    ("mask", "length"),
    [("ffffff00", 24), ("ffffffff", 32), ("ff000000", 8), ("ff00ff00", 24), ("00ffffff", 24), ("00000000", 24),
     ("ffff", 24), ("", 24), ("ffffff0000", 24), ("fffffffe", 31), ("80000000", 1)],
)  # fmt: skip
def test_odd_masks(mask: str, length: int) -> None:
    assert dhcp.lease_in(IPv4Address("192.0.2.7"), {1: bytes.fromhex(mask)}).address == f"192.0.2.7/{length}"


@pytest.mark.parametrize("kind", [b"", b"\5\5", b"\0"])
def test_a_reply_without_a_type_is_no_answer(kind: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    class Sock:
        def sendto(self, _data: bytes, _where: object) -> None:
            theirs.send(reply(option(53, kind)))
            theirs.send(reply(option(53, b"\2"), b"\0\0\0\0"))
            theirs.send(reply(option(53, b"\2")))

        def __getattr__(self, name: str) -> Any:
            return getattr(ours, name)

    found = dhcp._exchange(Sock(), b"", 77, (2,), time.monotonic() + 5, "eth0")  # type: ignore[arg-type]
    assert str(found[0]) == "192.0.2.7"


def test_dhcp6_replies_of_any_kind() -> None:
    for _ in range(5_000):
        body = b"".join(
            struct.pack("!HH", DICE.choice((1, 2, 3, 5, 13, 23)), DICE.choice((0, 1, 12, 24, 40))) + DICE.randbytes(24)
            for _ in range(DICE.randrange(5))
        )
        found = dhcp6.parse(b"\7abc" + body, 7, b"abc")
        if found:
            dhcp6.address_in(found.get(3, b""))


def test_one_interface_that_breaks_the_code_does_not_end_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def links(self) -> list[Any]:
            return []

        def close(self) -> None:
            """Nothing to close."""

    up = []

    class Interface:
        def __init__(self, _netlink: object, wanted: dict[str, Any], *_rest: object) -> None:
            self.name = wanted["name"]

        def up(self) -> list[str]:
            if self.name == "bad0":
                raise ValueError("not a network mask")
            up.append(self.name)
            return ["192.0.2.53"]

    monkeypatch.setattr(network, "Netlink", Nothing)
    monkeypatch.setattr(network, "_Interface", Interface)
    degraded: list[str] = []
    plan = {"interface": [{"name": "bad0"}, {"name": "good0"}]}
    assert network.bring_up(plan, 5, lambda _text: None, degraded.append) == ["192.0.2.53"]
    assert up == ["good0"]
    assert "not a network mask" in degraded[0]


# DNS


def dns_server(answer: Callable[[bytes], list[bytes]]) -> Iterator[int]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                asked, who = sock.recvfrom(4096)
            except OSError:
                return
            for each in answer(asked):
                sock.sendto(each, who)

    threading.Thread(target=serve, daemon=True).start()
    yield sock.getsockname()[1]
    sock.close()


@pytest.fixture
def flooding() -> Iterator[int]:
    yield from dns_server(lambda asked: [b"xx" + asked[2:]] * 200)


@pytest.mark.timeout(60)
def test_a_flood_of_answers_to_others_ends(flooding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_PORT", flooding)
    began = time.monotonic()
    assert names.resolve("host.example", ["127.0.0.1"], ["192.0.2.9"], seconds=1) == ["192.0.2.9"]
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "host", ["höst.example", "a" * 64, "a..b", ".", "x" * 300, "\ud800", "a\0b", ".".join(["abcdefg"] * 40), ""]
)
def test_names_that_do_not_encode_use_the_fallback(host: str) -> None:
    assert names.resolve(host, ["127.0.0.1"], ["192.0.2.9"], seconds=1) == ["192.0.2.9"]
    with pytest.raises(KdumpError):
        names.resolve(host, ["127.0.0.1", "not an address"], seconds=0.2)
    with pytest.raises(KdumpError):
        names.system_addresses(host + "\ud800")


def test_dns_answers_of_any_kind() -> None:
    question = b"\4host\7example\0\0\1\0\1"
    for _ in range(20_000):
        head = struct.pack("!HHHHHH", 1, 0x8180, DICE.randrange(3), DICE.choice((1, 2, 65535)), 0, 0)
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", DICE.choice((1, 28, 5)), 1, 60, DICE.choice((0, 3, 4, 16, 65535)))
            + DICE.randbytes(DICE.choice((0, 4, 16)))
            for _ in range(3)
        )  # fmt: skip
        raw = (head + question + records)[: DICE.randrange(120)]
        for kind in (1, 28):
            assert all(ip_address(each).version == (4 if kind == 1 else 6) for each in names.addresses(raw, kind))


def test_a_record_of_a_wrong_length_does_not_hide_the_next() -> None:
    head = struct.pack("!HHHHHH", 1, 0x8180, 0, 2, 0, 0)
    bad = b"\0" + struct.pack("!HHIH", 1, 1, 60, 3) + b"abc"
    good = b"\0" + struct.pack("!HHIH", 1, 1, 60, 4) + b"\xc0\0\2\1"
    assert names.addresses(head + bad + good, 1) == ["192.0.2.1"]


# HTTP, S3

HEAD = b"HTTP/1.1 200 OK\r\n"
HTTP: dict[str, Callable[[socket.socket], None]] = {
    "length 1e20": lambda peer: peer.sendall(HEAD + b"Content-Length: 1e20\r\n\r\n" + b"x" * 3_000_000),
    "length of 20 digits": lambda peer: peer.sendall(HEAD + b"Content-Length: 99999999999999999999\r\n\r\nx"),
    "negative length": lambda peer: peer.sendall(HEAD + b"Content-Length: -5\r\n\r\n" + b"x" * 3_000_000),
    "body without end": lambda peer: flood(peer, HEAD + b"\r\n", b"x" * 65536),
    "chunks without end": lambda peer: flood(
        peer, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nabcd\r\n" * 999
    ),
    "a chunk of 2^64": lambda peer: peer.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx"),
    "no chunk at all": lambda peer: peer.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "headers without end": lambda peer: flood(peer, HEAD, b"A: b\r\n" * 100),
    "100 for ever": lambda peer: flood(peer, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "cut short": lambda peer: peer.sendall(HEAD + b"Content-Length: 10\r\n\r\nabc"),
    "noise": lambda peer: peer.sendall(DICE.randbytes(500)),
    "drip": lambda peer: drip(peer),
}


def flood(peer: socket.socket, first: bytes, more: bytes) -> None:
    peer.sendall(first)
    for _ in range(5000):
        peer.sendall(more)


def drip(peer: socket.socket) -> None:
    for byte in HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000:
        peer.sendall(bytes([byte]))
        time.sleep(0.02)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that answers as the parameter says."""
    with answering(HTTP[request.param]) as port:
        yield port


@pytest.mark.timeout(60)
@pytest.mark.parametrize("server", HTTP, indirect=True)
def test_an_s3_service_may_answer_anything(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3http, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(https, "_ANSWER_SECONDS", 1.0)
    client = s3http.Client(f"http://127.0.0.1:{server}", "b", "r", s3http.Credentials("k", "s"), "127.0.0.1")
    with pytest.raises(KdumpError, match="does not answer"):
        client.request("PUT", "x", body=b"y")
    client.close()


@pytest.mark.parametrize("url", ["http://[::1", "http://h:99999", "http://h:x", "ftp://h", "http://hö", "http://", ""])
def test_endpoints_that_are_none(url: str) -> None:
    with pytest.raises(KdumpError):
        https.Server.of(url)
    with pytest.raises(argparse.ArgumentTypeError, match="expected https://host"):
        values.web_address(url)
    if url:  # empty: Amazon's own
        with pytest.raises(ConfigError, match=r"s3\.endpoint.*https://host"):
            config.from_dict({"s3": {"endpoint": url}})
        with pytest.raises(KdumpError, match="not a server's address"):
            objects.opened(f"s3://bucket/prefix?endpoint={url}")


# SFTP


def conversation(answers: Callable[[int, bytes], bytes | None], seconds: float = 5) -> sftp.Sftp:
    """A client whose server answers packet (number, content) as `answers` says; None hangs up."""
    theirs, send = os.pipe()
    receive, ours = os.pipe()

    def exactly(size: int) -> bytes:
        found = b""
        while len(found) < size and (piece := os.read(theirs, size - len(found))):
            found += piece
        return found

    def serve() -> None:
        number = 0
        while len(head := exactly(4)) == 4:
            answer = answers(number, exactly(int.from_bytes(head, "big")))
            number += 1
            if answer is None:
                break
            try:
                os.write(ours, answer)
            except OSError:
                break
        os.close(ours)

    threading.Thread(target=serve, daemon=True).start()
    return sftp.Sftp(send, receive, lambda: KdumpError("the connection ended"), seconds)


def packet(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


VERSION = packet(b"\2\0\0\0\3" + sftp._string("fsync@openssh.com") + sftp._string("1"))


@pytest.mark.timeout(120)
def test_an_sftp_server_may_answer_anything() -> None:
    dice = random.Random(3)

    def answers(number: int, content: bytes) -> bytes | None:
        if number == 0:
            return VERSION
        asked = content[1:5] if dice.random() < 0.8 else dice.randbytes(4)
        kind = dice.choice((101, 102, 104, 105, 201, 3, 0))
        body = bytes([kind]) + asked + dice.randbytes(dice.choice((0, 1, 4, 8, 40)))
        if dice.random() < 0.3:
            body = bytes([kind]) + asked + struct.pack(">I", dice.choice((0, 1, 4, 1 << 31))) + dice.randbytes(20)
        return packet(body[: dice.randrange(1, len(body) + 1)])

    for _ in range(300):
        try:
            client = conversation(answers)
        except KdumpError:
            continue
        try:
            use(client, dice)
        except KdumpError as error:
            assert str(error)
        os.close(client._send)
        os.close(client._receive)


def use(client: sftp.Sftp, dice: random.Random) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client.make_directory("/x"),
        lambda: client.close(client.open("/x/y"), "y"),
        lambda: client.listing("/x"),
        lambda: client.read("/x"),
        lambda: client.free("/x"),
        lambda: client.rename("a", "b"),
        lambda: client.write(b"h", "x", memoryview(bytes(100000)), 0),
        client.settle,
    ]
    dice.shuffle(calls)
    for call in calls:
        call()


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\2",
        b"\0\0\0\7\2\0\0\0\3\0\0",
        b"SSH-2.0-x\r\n",
        packet(b"\2\0\0\0\3\0\0\1\0"),
    ],
)
def test_sftp_greetings(first: bytes) -> None:
    with pytest.raises(KdumpError):
        client = conversation(lambda _number, _content: first or None, 0.5)
        client.free("/")
        client.listing("/")


@pytest.mark.timeout(30)
def test_an_sftp_server_that_is_silent() -> None:
    with pytest.raises(KdumpError, match="in time"):
        conversation(lambda _number, _content: b"", 0.3)


@pytest.mark.timeout(60)
def test_a_listing_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "_NAMES", 1000)
    entry = sftp._string("x") + sftp._string("") + bytes(4)

    def answers(number: int, content: bytes) -> bytes:
        if number == 0:
            return VERSION
        if content[0] == 11:
            return packet(b"\x66" + content[1:5] + sftp._string("h"))
        if content[0] == 12:
            return packet(b"\x68" + content[1:5] + struct.pack(">I", 100) + entry * 100)
        return packet(b"\x65" + content[1:5] + bytes(4))

    with pytest.raises(KdumpError, match="no end"):
        conversation(answers).listing("/")


# netlink


class _Kernel:
    """A socket to a kernel that sends what it is given."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers

    def send(self, _data: bytes) -> None:
        """Asked."""

    def recv(self, _size: int) -> bytes:
        return self.answers.pop(0) if self.answers else netlink._HEADER.pack(16, 3, 0, 1, 0)


@pytest.mark.timeout(60)
def test_netlink_messages_of_any_kind() -> None:
    dice = random.Random(5)
    for _ in range(3000):
        made = netlink.Netlink.__new__(netlink.Netlink)
        body = dice.randbytes(dice.choice((0, 4, 8, 16, 40)))
        length = dice.choice((0, 1, 15, 16, 16 + len(body), 1 << 31))
        message = struct.pack("=IHHII", length, dice.choice((2, 16, 20)), 0, 1, 0) + body
        made._socket = _Kernel([message[: dice.randrange(len(message) + 1)]])  # type: ignore[assignment]
        made._sequence = 0
        try:
            made.links() if dice.random() < 0.5 else made.addresses(1)
        except OSError as error:
            assert error.errno
    assert netlink._damaged().errno == errno.EBADMSG


# A fleet's collector


def session(answer: bytes, status: int = 200) -> collector.CollectorSession:
    """A session with a collector that always says the same."""
    client = collector.Client(https.Server.of("https://c"), "192.0.2.1", "", "token", "h", 1)
    client.request = lambda *_: https.Answer(status, {}, answer)  # type: ignore[method-assign]
    made = collector.CollectorSession(client, "h-20261129T120000Z-0001", "h", always=False, least=1)
    made.secure = True
    return made


LIES = [
    b"", b"null", b"[]", b"{", b"\xff", b"[" * 200_000, b'{"a":' * 100_000, b'{"want": 5}',
    b'{"want": {"level": true}}', b'{"upload": "parts"}',
    b'{"want": {"dump": false, "why": "\\u001b[2J\\nkdump: saved"}, "title": [1], "fixed_in": {}}',
    b'{"upload": "parts", "urls": {"x": "http://a"}}', b'{"upload": "parts", "urls": {"1": 5}}', b'{"urls": NaN}',
    b'{"upload": "parts", "urls": {"1": "http://10.0.0.1/x"}}', b'{"upload": "parts", "urls": {"1": "https://[::1"}}',
]  # fmt: skip


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie[:40].decode("latin-1"))
def test_a_collector_may_answer_anything(lie: bytes, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "_FIRST_PAUSE", 0.001)
    made = session(lie, status)
    try:
        said = made.decide(b"{}")
    except KdumpError as error:
        assert "\x1b" not in str(error)
        return
    assert said.isprintable() and len(said) <= 500
    assert 0 <= made.level(31) <= 31
    stream = made.create("vmcore")
    stream.write(b"x")
    if made.answer.get("upload") == "parts":
        with pytest.raises(KdumpError):
            stream.seal()


def test_a_dump_is_not_sent_in_the_clear_to_the_bucket_of_a_collector_with_tls() -> None:
    made = session(b'{"upload": "parts", "urls": {"1": "http://10.0.0.1/x"}}')
    stream = made.create("vmcore")
    stream.write(b"x")
    with pytest.raises(KdumpError, match="unencrypted"):
        stream.seal()
