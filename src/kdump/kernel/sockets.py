"""TCP sockets, of all network namespaces, by the kernel's hash tables.

Source: include/net/inet_hashtables.h (struct inet_hashinfo), include/net/sock.h.
"""

from __future__ import annotations

import numpy as np

from kdump.kernel.columns import Addresses, Table
from kdump.kernel.objects import Objects

_MAX_BUCKETS = 1 << 22


def tcp_sockets(objects: Objects) -> tuple[Addresses, Table]:
    """struct sock of established and closing connections and listeners, of all network namespaces, and their states."""
    table = objects.struct("inet_hashinfo", objects.symbols.address("tcp_hashinfo"))
    found = []
    common = objects.types.struct("sock_common")
    for heads, size in ((table.ehash, int(table.ehash_mask) + 1), (table.lhash2, int(table.lhash2_mask) + 1)):
        if not heads or size > _MAX_BUCKETS:
            continue
        step = heads[0]._type.sizeof()
        words = np.frombuffer(objects.kernel.virtual.view(int(heads), size * step), "<u8").reshape(size, -1)
        column = (
            objects.field(heads[0]._type, "nulls_head" if heads[0]._type.has("nulls_head") else "chain").offset // 8
        )
        found.append(objects.columns.chains(words[:, column]) - np.uint64(common.offset("skc_nulls_node")))
    sockets = np.concatenate(found) if found else np.empty(0, np.uint64)
    fields = objects.columns.table(
        common, sockets, "skc_state", "skc_family", "skc_daddr", "skc_rcv_saddr", "skc_dport", "skc_num",
        *(("skc_v6_daddr", "skc_v6_rcv_saddr") if common.has("skc_v6_daddr") else ()),
    )  # fmt: skip
    return sockets, fields
