"""Keys of ciphers: dm-crypt's, and how to recognize contexts of all transforms, which `scan` looks for everywhere.

Sources: include/linux/crypto.h (struct crypto_tfm, crypto_alg, CRYPTO_ALG_TYPE_*), crypto/api.c.
"""

from __future__ import annotations

from kdump.dump.scrub.found import Contexts, Walk
from kdump.errors import KdumpError
from kdump.kernel.dmcrypt import Devices, Transforms

_TYPE_MASK = 0xF
_UNKEYED = (0x2, 0xA, 0xB)  # compression
_LEAST = 8  # bytes: a context that is smaller holds no key, but a checksum


def walk(walk: Walk) -> None:
    """Blank the keys in the tables of dm-crypt, and say how contexts are told."""
    walk.found.contexts = _contexts(walk)
    kernel_has = walk.objects.types.has_struct("crypt_config")
    if "dm_crypt" not in walk.modules and not kernel_has:
        walk.count("dm-crypt volumes", 0)
        return
    for address, size in Devices(walk.kernel).inline_keys():
        if not size:
            continue
        walk.count("dm-crypt volumes")
        walk.blank(address, size, seek=any(walk.objects.bytes(address, size)))


def _contexts(walk: Walk) -> Contexts | None:
    objects = walk.objects
    if objects.symbols.get("crypto_alg_list") is None:
        raise KdumpError("contexts of ciphers are not found", why="the kernel has no symbol crypto_alg_list")
    tfm, algorithm = objects.types.struct("crypto_tfm"), objects.types.struct("crypto_alg")
    found = Contexts(algorithm=tfm.offset("__crt_alg"), context=tfm.offset("__crt_ctx"))
    found.node = tfm.offset("node") if tfm.has("node") else -1
    found.leave = tfm.offset("exit") if tfm.has("exit") else -1
    for address, size in Transforms(walk.kernel).sizes.items():
        flags = int(objects.struct("crypto_alg", address).cra_flags)
        if flags & _TYPE_MASK in _UNKEYED or not _LEAST <= size <= 1 << 16:
            continue
        found.sizes[address] = size
        found.algorithms += [
            (each.physical, each.physical + each.size) for each in walk.kernel.virtual.extents(address, algorithm.size)
        ]
    symbols = objects.symbols
    start = symbols.get("_stext") or symbols.address("_text")
    found.code = [(start, symbols.get("_etext") or symbols.address("_end"))]
    found.code += [part for module in walk.modules.values() for part in module.text]
    return found
