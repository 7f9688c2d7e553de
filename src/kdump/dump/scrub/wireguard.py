"""WireGuard's keys: of each device its own, of each peer the shared one, those of handshakes and of sessions.

Sources: drivers/net/wireguard/device.h (struct wg_device, device_list in device.c), peer.h, noise.h, cookie.h.
"""

from __future__ import annotations

from typing import Any

from kdump.dump.scrub.found import Walk
from kdump.errors import KdumpError
from kdump.kernel.objects import Struct

_HANDSHAKE = (
    "ephemeral_private", "preshared_key", "precomputed_static_static", "hash", "chaining_key",
)  # fmt: skip
_MOST = 1 << 20


def walk(walk: Walk) -> None:
    """Blank all of them."""
    objects = walk.objects
    module = walk.modules.get("wireguard")
    types = module.types if module else objects.types
    if types is None or not types.has_struct("wg_device"):
        if module:
            raise KdumpError("WireGuard's keys are not found", why="the kernel has no types for the module wireguard")
        walk.count("devices", 0)
        return
    head = module.address("device_list") if module else objects.symbols.get("device_list")
    if head is None:
        raise KdumpError("WireGuard's devices are not found", why="it has no symbol device_list")
    device_kind, peer_kind = types.struct("wg_device"), types.struct("wg_peer")
    for node in objects.nodes(head, _MOST, "list of WireGuard's devices"):
        device = Struct(objects, device_kind, node - device_kind.offset("device_list"))
        walk.count("devices")
        _blank(walk, device.static_identity.static_private)
        if objects.has(device, "cookie_checker.secret"):
            _blank(walk, device.cookie_checker.secret)
        for place in objects.nodes(objects.address(device.peer_list), _MOST, "list of WireGuard's peers"):
            peer = Struct(objects, peer_kind, place - peer_kind.offset("peer_list"))
            walk.count("peers")
            for name in _HANDSHAKE:
                _blank(walk, getattr(peer.handshake, name))
            for name in ("current_keypair", "previous_keypair", "next_keypair"):
                pair = getattr(peer.keypairs, name)
                for key in (pair.sending, pair.receiving) if pair else ():
                    _blank(walk, key.key)
                    walk.count("session keys")


def _blank(walk: Walk, array: Any) -> None:
    address, size = walk.objects.address(array), len(array)
    walk.blank(address, size, seek=any(walk.objects.bytes(address, size)))
