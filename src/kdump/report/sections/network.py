"""Network devices, their addresses, sockets by protocol, and TCP sockets by state.

Sources: include/linux/netdevice.h, include/linux/inetdevice.h, include/net/inet_hashtables.h, include/net/tcp_states.h,
include/net/sock.h and net/core/sock.c (`proto_list`, counts of each network namespace and CPU).
"""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter

import numpy as np

from kdump.kernel.columns import Addresses, Table
from kdump.kernel.objects import Objects, Struct
from kdump.kernel.sockets import tcp_sockets
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.model import Column, Fact, Facts, Finding, Section, Value
from kdump.report.model import Table as _Table

TITLE = "Network"
NEEDS_DUMP = True
_UP = 1
_SHOWN, _FINDINGS = 100, 5
_STUCK = 4  # times that data were sent again
_SEQUENCE, _MAX_QUEUE = (1 << 32) - 1, 1 << 31
# A socket that waits for its last packet, or is half open, is a smaller struct.
_FULL_SOCKETS = frozenset((
    "established", "syn_sent", "fin_wait1", "fin_wait2", "close_wait", "last_ack", "closing", "listen",
))  # fmt: skip
_OPERATIONAL = ("unknown", "absent", "down", "lower layer down", "testing", "dormant", "up")


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    rows: list[tuple[Value, ...]] = []
    for device in objects.list(objects.variable("init_net").dev_base_head, "net_device", "dev_list"):
        address = (
            bytes(objects.bytes(int(device.dev_addr), min(int(device.addr_len), 32))).hex(":")
            if device.addr_len
            else ""
        )
        operational = int(device.operstate)
        state = _OPERATIONAL[operational] if operational < len(_OPERATIONAL) else str(operational)
        up = "up" if int(device.flags) & _UP else "down"
        addresses = ", ".join(_addresses(objects, device))
        rows.append((clean(objects.string(device.name)), up, state, int(device.mtu), address, addresses))
    columns = [
        Column("name", "Device"), Column("admin", "Set"), Column("state", "State"), Column("mtu", "MTU"),
        Column("address", "Address"), Column("ip", "IP"),
    ]  # fmt: skip
    section.blocks.append(_Table("devices", "", columns, rows))
    try:
        rows = [(name, count) for name, count in sorted(_protocols(objects).items()) if count]
        columns = [Column("protocol", "Protocol"), Column("sockets", "Sockets")]
        section.blocks.append(_Table("sockets", "Sockets", columns, rows))
    except DAMAGE as error:
        section.notes.append(f"sockets: {error}")
    try:
        names = {value: name.removeprefix("TCP_").lower() for name, value in _states(objects).items()}
        sockets, fields = tcp_sockets(objects)
        states: Counter[str] = Counter()
        for state, count in zip(*np.unique(fields["skc_state"][fields.ok], return_counts=True), strict=True):
            states[names.get(int(state), str(int(state)))] += int(count)
        section.blocks.append(Facts("tcp", [Fact(name, f"TCP {name}", count) for name, count in states.most_common()]))
        _tell_queues(section, _queues(objects, sockets, fields, names))
    except DAMAGE as error:
        section.notes.append(f"TCP sockets: {error}")


def _tell_queues(section: Section, rows: list[tuple[Value, ...]]) -> None:
    if not rows:
        return
    columns = [
        Column("local", "Local"), Column("remote", "Remote"), Column("state", "State"),
        Column("received", "Not read"), Column("sent", "Not acknowledged"), Column("again", "Sent again"),
    ]  # fmt: skip
    title = "TCP sockets with queues"
    section.blocks.append(_Table("queues", title, columns, rows[:_SHOWN], max(0, len(rows) - _SHOWN)))
    for local, remote, state, received, sent, again in rows:
        if state == "listen" and int(received or 0) > int(sent or 0):
            text = f"the listener at {local} had {received} connections waiting to be accepted, its limit is {sent}"
            section.findings.append(Finding("warning", text))
        elif int(again or 0) >= _STUCK:
            text = f"the TCP connection from {local} to {remote} had sent the same data {again} times without an answer"
            section.findings.append(Finding("warning", text))
        if len(section.findings) >= _FINDINGS:
            break


def _addresses(objects: Objects, device: Struct) -> list[str]:
    found: list[str] = []
    if device.ip_ptr:
        address = device.ip_ptr.ifa_list
        while address and len(found) < 64:
            raw = bytes(objects.bytes(int(address) + objects.types.struct("in_ifaddr").offset("ifa_local"), 4))
            found.append(f"{ipaddress.IPv4Address(raw)}/{int(address.ifa_prefixlen)}")
            address = address.ifa_next
    return found


def _protocols(objects: Objects) -> Counter[str]:
    """Sockets in use by protocol, of all network namespaces, as /proc/net/protocols counts them."""
    cpus = objects.cpus("possible")
    values = objects.types.struct("prot_inuse").offset("val")
    places = [
        objects.at_cpu(net.core.prot_inuse, cpu) + values
        for net in objects.list(objects.variable("net_namespace_list"), "net", "list")
        for cpu in cpus
    ]
    counts: Counter[str] = Counter()
    for protocol in objects.list(objects.symbols.address("proto_list"), "proto", "node"):
        index = int(protocol.inuse_idx)
        counts[clean(objects.string(protocol.name))] += sum(objects.signed(place + 4 * index) for place in places)
    return counts


def _queues(objects: Objects, sockets: Addresses, fields: Table, names: dict[int, str]) -> list[tuple[Value, ...]]:
    """TCP sockets with something in their queues, the fullest first.

    What is received and not read, what is sent and not acknowledged (of a listener: connections not yet accepted, and
    how many it may have), and how often the last segment was sent again.
    """
    types = objects.types
    states = fields["skc_state"]
    full = fields.ok & np.isin(states, [number for number, name in names.items() if name in _FULL_SOCKETS])
    rows = np.flatnonzero(full)
    tcp = objects.columns.table(
        "tcp_sock", sockets[rows], "rcv_nxt", "copied_seq", "write_seq", "snd_una",
    )  # fmt: skip
    again = types.struct("inet_connection_sock").first("icsk_retransmits")
    sock = objects.columns.table("sock", sockets[rows], "sk_ack_backlog", "sk_max_ack_backlog")
    tries = (
        objects.columns.members(sockets[rows], {"tries": again})["tries"] if again else np.zeros(len(rows), np.int64)
    )
    found: list[tuple[int, tuple[Value, ...]]] = []
    for place, row in enumerate(rows.tolist()):
        if names.get(int(states[row])) == "listen":
            received, sent = int(sock["sk_ack_backlog"][place]), int(sock["sk_max_ack_backlog"][place])
            weight = received
        else:
            received = (int(tcp["rcv_nxt"][place]) - int(tcp["copied_seq"][place])) & _SEQUENCE
            sent = (int(tcp["write_seq"][place]) - int(tcp["snd_una"][place])) & _SEQUENCE
            weight = received + sent
        if weight and weight < _MAX_QUEUE:
            ends = (_end(fields, row, "rcv_saddr", int(fields["skc_num"][row])), _peer(fields, row))
            state = names.get(int(states[row]), str(int(states[row])))
            found.append((weight, (*ends, state, received, sent, int(tries[place]))))
    found.sort(key=lambda each: -each[0])
    return [row for _, row in found]


def _peer(fields: Table, row: int) -> str:
    port = int(fields["skc_dport"][row])
    return _end(fields, row, "daddr", (port & 0xFF) << 8 | port >> 8)


def _end(fields: Table, row: int, name: str, port: int) -> str:
    """An address and port of a socket, as ss(8) writes them."""
    if int(fields["skc_family"][row]) == socket.AF_INET6:
        raw: bytes = fields[f"skc_v6_{name}"][row]
        return f"[{ipaddress.IPv6Address(bytes(raw).ljust(16, bytes(1)))}]:{port}"
    return f"{ipaddress.IPv4Address(int(fields[f'skc_{name}'][row]).to_bytes(4, 'little'))}:{port}"


def _states(objects: Objects) -> dict[str, int]:
    found = objects.types.enumeration("TCP_ESTABLISHED")
    return found.enumerators() if found else {}
