"""Network devices, their addresses, sockets by protocol, and TCP sockets by state.

Sources: include/linux/netdevice.h, include/linux/inetdevice.h, include/net/inet_hashtables.h, include/net/tcp_states.h,
include/net/sock.h and net/core/sock.c (`proto_list`, counts of each network namespace and CPU).
"""

from __future__ import annotations

import ipaddress
from collections import Counter

import numpy as np

from kdump.kernel.objects import Objects, Struct
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.model import Column, Fact, Facts, Section, Table, Value

TITLE = "Network"
NEEDS_DUMP = True
_UP = 1
_MAX_BUCKETS = 1 << 22
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
    section.blocks.append(Table("devices", "", columns, rows))
    try:
        rows = [(name, count) for name, count in sorted(_protocols(objects).items()) if count]
        columns = [Column("protocol", "Protocol"), Column("sockets", "Sockets")]
        section.blocks.append(Table("sockets", "Sockets", columns, rows))
    except DAMAGE as error:
        section.notes.append(f"sockets: {error}")
    try:
        states = _tcp(objects)
        section.blocks.append(Facts("tcp", [Fact(name, f"TCP {name}", count) for name, count in states.most_common()]))
    except DAMAGE as error:
        section.notes.append(f"TCP sockets: {error}")


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


def _tcp(objects: Objects) -> Counter[str]:
    """Established and closing connections and listeners, of all network namespaces."""
    names = {value: name.removeprefix("TCP_").lower() for name, value in _states(objects).items()}
    table = objects.struct("inet_hashinfo", objects.symbols.address("tcp_hashinfo"))
    counts: Counter[str] = Counter()
    for heads, size in ((table.ehash, int(table.ehash_mask) + 1), (table.lhash2, int(table.lhash2_mask) + 1)):
        if not heads or size > _MAX_BUCKETS:
            continue
        step = heads[0]._type.sizeof()
        words = np.frombuffer(objects.kernel.virtual.view(int(heads), size * step), "<u8").reshape(size, -1)
        column = (
            objects.field(heads[0]._type, "nulls_head" if heads[0]._type.has("nulls_head") else "chain").offset // 8
        )
        sockets = objects.columns.chains(words[:, column])
        common = objects.types.struct("sock_common")
        found = objects.columns.table(common, sockets - np.uint64(common.offset("skc_nulls_node")), "skc_state")
        for state, count in zip(*np.unique(found["skc_state"][found.ok], return_counts=True), strict=True):
            counts[names.get(int(state), str(int(state)))] += int(count)
    return counts


def _states(objects: Objects) -> dict[str, int]:
    found = objects.types.enumeration("TCP_ESTABLISHED")
    return found.enumerators() if found else {}
