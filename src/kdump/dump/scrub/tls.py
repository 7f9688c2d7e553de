"""Keys of TLS connections that the kernel encrypts (kTLS), and the contexts of their ciphers.

Sources: include/net/tls.h (struct tls_context, tls_sw_context_tx), include/uapi/linux/tls.h (struct tls_crypto_info),
include/net/inet_connection_sock.h (icsk_ulp_ops, icsk_ulp_data), net/tls/tls_main.c (tcp_tls_ulp_ops).
"""

from __future__ import annotations

from kdump.dump.scrub.found import Walk
from kdump.errors import KdumpError
from kdump.kernel.btf import Btf
from kdump.kernel.dmcrypt import Transforms
from kdump.kernel.objects import Struct
from kdump.kernel.sockets import tcp_sockets

_INFO = 4  # bytes of struct tls_crypto_info: version and cipher, which are no secrets
_TIME_WAIT, _NEW_SYN_RECV = 6, 12  # include/net/tcp_states.h: these are no whole sockets


def walk(walk: Walk) -> None:
    """Blank the keys of all connections in the tables of TCP."""
    objects = walk.objects
    module = walk.modules.get("tls")
    types = module.types if module else objects.types
    operations = module.address("tcp_tls_ulp_ops") if module else objects.symbols.get("tcp_tls_ulp_ops")
    if operations is None:
        if module:
            raise KdumpError("TLS connections are not found", why="the module tls has no symbol tcp_tls_ulp_ops")
        walk.count("connections", 0)
        return
    if types is None or not types.has_struct("tls_context"):
        raise KdumpError("TLS keys are not found", why="the kernel has no types for the module tls")
    sockets, fields = tcp_sockets(objects)
    state = fields["skc_state"]
    sockets = sockets[fields.ok & (state != _TIME_WAIT) & (state != _NEW_SYN_RECV)]
    layers = objects.columns.table("inet_connection_sock", sockets, "icsk_ulp_ops", "icsk_ulp_data")
    mine = layers.ok & (layers["icsk_ulp_ops"] == operations) & (layers["icsk_ulp_data"] != 0)
    walk.count("connections", 0)
    transforms = Transforms(walk.kernel)
    for place in layers["icsk_ulp_data"][mine].tolist():
        walk.count("connections")
        _blank(walk, types, transforms, Struct(objects, types.struct("tls_context"), place))


def _blank(walk: Walk, types: Btf, transforms: Transforms, context: Struct) -> None:
    objects = walk.objects
    for name in ("crypto_send", "crypto_recv"):
        place = objects.address(getattr(context, name))
        size = types.struct("tls_context").member(name).type.resolve().sizeof()
        walk.blank(place + _INFO, size - _INFO, seek=any(objects.bytes(place + _INFO, size - _INFO)))
    base = objects.types.struct("crypto_aead").offset("base")
    for private, kind, member in (
        ("priv_ctx_tx", "tls_sw_context_tx", "aead_send"), ("priv_ctx_rx", "tls_sw_context_rx", "aead_recv"),
    ):  # fmt: skip
        # Where a device encrypts, what is private is another struct, and without a cipher of the kernel's.
        conf = getattr(context, "tx_conf" if private == "priv_ctx_tx" else "rx_conf")
        if not (place := int(getattr(context, private))) or conf != types.enumerator("TLS_SW"):
            continue
        aead = int(getattr(Struct(objects, types.struct(kind), place), member))
        for address, content in transforms.contexts(aead + base) if aead else ():
            walk.blank(address, len(content), seek=False)
            walk.count("contexts of ciphers")
