"""Payloads of the key retention service's keys: all in the tree of serial numbers, whoever possesses them.

Sources: include/linux/key.h (struct key), include/keys/user-type.h, encrypted-type.h, trusted-type.h, big_key-type.h,
include/linux/ceph (struct ceph_crypto_key), include/crypto/public_key.h, fs/crypto/keyring.c.
"""

from __future__ import annotations

from kdump.dump.scrub.found import Walk
from kdump.errors import KdumpError
from kdump.kernel.objects import Struct

_USER = ("user", "logon", "cifs.spnego", "pkcs11")  # struct user_key_payload
# What is public: names and addresses, certificates, hashes; keyrings have keys, not a payload.
_PUBLIC = ("keyring", "dns_resolver", "id_resolver", "id_legacy", "cifs.idmap", "blacklist", ".request_key_auth")
_LONGEST_DATA = 1 << 20  # bytes: of a big_key


def walk(walk: Walk) -> None:
    """Blank the payload of each key."""
    objects = walk.objects
    root = objects.symbols.get("key_serial_tree")
    if root is None:
        raise KdumpError("the dead kernel's keys are not found", why="it has no symbol key_serial_tree")
    unknown: dict[str, int] = {}
    for key in objects.rbtree(objects.struct("rb_root", root), "key", "serial_node"):
        kind = objects.string(key.type.name) if key.type else ""
        try:
            if kind in _PUBLIC or not (place := int(key.payload.data[0])):
                continue
            if kind == "asymmetric":
                _asymmetric(walk, place)
                continue
            if not _blank(walk, key, kind, place):
                unknown[kind] = unknown.get(kind, 0) + 1
                continue
            walk.count("payloads of keys")
        except KdumpError as error:
            walk.fail(f"a key of type {kind}: {error}")
    for kind, number in unknown.items():
        walk.fail(f"{number} keys of type {kind or 'without a name'}: their layout is not known")


def _blank(walk: Walk, key: Struct, kind: str, place: int) -> bool:
    """Blank a key's payload at a place; False if nobody knows how it is laid out."""
    objects = walk.objects
    if kind in _USER:
        payload = objects.struct("user_key_payload", place)
        size = int(payload.datalen)
        if size:
            walk.blank(objects.address(payload.data), size)
        return True
    if kind == "encrypted":
        payload = _typed(walk, "encrypted_keys", "encrypted_key_payload", place)
        walk.blank(int(payload.decrypted_data), int(payload.decrypted_datalen))
        return True
    if kind == "trusted":
        payload = _typed(walk, "trusted", "trusted_key_payload", place)
        walk.blank(objects.address(payload.key), min(int(payload.key_len), len(payload.key)))
        return True
    if kind == "big_key":
        payload = Struct(objects, objects.types.struct("big_key_payload"), objects.address(key.payload))
        # A large one is a file of a tmpfs, encrypted with what is here (ChaCha20-Poly1305, 32 bytes).
        size = 32 if payload.path.dentry else min(int(payload.length), _LONGEST_DATA)
        walk.blank(int(payload.data), size)
        return True
    if kind == "ceph":
        payload = _typed(walk, "libceph", "ceph_crypto_key", place)
        walk.blank(int(payload.key), int(payload.len))
        return True
    if kind == "fscrypt-provisioning":
        walk.blank(place, int(key.datalen))
        return True
    return False


def _asymmetric(walk: Walk, place: int) -> None:
    """A public key has nothing to hide; a private one is a struct public_key too."""
    objects = walk.objects
    if not objects.types.has_struct("public_key"):
        return
    key = objects.struct("public_key", place)
    if objects.has(key, "key_is_private") and key.key_is_private:
        walk.blank(int(key.key), int(key.keylen))
        walk.count("payloads of keys")


def _typed(walk: Walk, module: str, name: str, place: int) -> Struct:
    """A struct of a module's types, or of the kernel's where that is built in."""
    own = walk.modules[module].types if module in walk.modules else None
    types = own if own is not None and own.has_struct(name) else walk.objects.types
    return Struct(walk.objects, types.struct(name), place)
