"""The volume keys of dm-crypt devices, found in the memory of the kernel that uses them.

LUKS1, and devices set up with the key in their table, have it in `crypt_config.key`. For LUKS2 the kernel took it from
its keyring and wiped that copy; what remains is the key schedule in the contexts of the ciphers. They are found by
following the transforms (struct crypto_tfm) from the device on: a word of a context is a transform if what its
`__crt_alg` points to is a registered algorithm.

Nothing here is believed before it is proved: callers get candidates, and compare what they decrypt.

Source: drivers/md/dm.c (_minor_idr, struct mapped_device in dm-core.h), dm-table.c, dm-ioctl.c (struct hash_cell),
dm-crypt.c (struct crypt_config, enum flags); include/linux/crypto.h, crypto/internal.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property
from itertools import permutations
from typing import NamedTuple

from kdump.errors import KdumpError
from kdump.kernel.aes import find_schedules
from kdump.kernel.btf import Btf, Type
from kdump.kernel.kernel import Kernel
from kdump.kernel.objects import Pointer, Struct

_MAX_KEY = 256  # bytes
_MAX_DEPTH = 8  # transforms within transforms
_MAX_CONTEXT = 1 << 16  # bytes
_MAX_SCHEDULES = 6  # different keys in one device's ciphers: XTS has two, ESSIV one more
_MAX_TARGETS = 1 << 16  # segments of a device
_TRANSFORMS = (
    "crypto_skcipher", "crypto_lskcipher", "crypto_cipher", "crypto_sync_skcipher", "crypto_aead", "crypto_ahash",
    "crypto_shash",
)  # fmt: skip


class Layout(NamedTuple):
    """Where a device's encrypted sectors are, and how they are encrypted: all that a table says but the key.

    `begin`, `length`, `start` and `iv_offset` are in sectors of 512 bytes; `sector_size` is in bytes.
    """

    cipher: str
    iv_offset: int
    start: int
    sector_size: int
    begin: int
    length: int


class Devices:
    """The device-mapper devices of a kernel. Raises KdumpError if it has none, or no types for them."""

    def __init__(self, kernel: Kernel) -> None:
        self._objects = kernel.objects
        self._modules = {module.name: module for module in kernel.modules}
        self._mapper = self._types("dm_mod", "mapped_device")
        self._crypt = self._types("dm_crypt", "crypt_config")

    def keys(self, uuid: str, layout: Layout) -> list[bytearray]:
        """Candidates for the volume key of the encrypted device with this device-mapper UUID, likeliest first.

        Raises KdumpError with the reason if there can be none: no such device, one that is laid out differently, a
        wiped key, ciphers in which none is found.
        """
        config, found = self._config(uuid)
        if found != layout:
            pairs = zip(Layout._fields, layout, found, strict=True)
            changed = [f"{name} {now}, was {then}" for name, then, now in pairs if then != now]
            raise KdumpError(
                "the encrypted volume has changed since the image was built",
                why="; ".join(changed),
                remedy="kdump build",
            )
        if not config.flags >> self._crypt.enumerator("DM_CRYPT_KEY_VALID") & 1:
            raise KdumpError("the volume has no key", why="it was wiped: the volume was suspended (luksSuspend)")
        if config.tfms_count != 1 or config.key_extra_size or config.key_mac_size:
            raise KdumpError("the volume is encrypted in a way that kdump does not know", why=found.cipher)
        size = int(config.key_size)
        if not 0 < size <= _MAX_KEY:
            raise KdumpError("the volume's key cannot be found", why=f"{size} bytes cannot be its size")
        own = bytearray(self._objects.bytes(self._place(config, "key"), size))
        if any(own):
            return [own]
        return self._assembled(self._schedules(config), size, xts="xts" in found.cipher)

    def inline_keys(self) -> Iterator[tuple[int, int]]:
        """Address and size in bytes of `crypt_config.key` of every encrypted segment of a device."""
        for device in self._devices():
            if not device.map:
                continue
            table = self._at("dm_table", device.map)
            kind = self._mapper.struct("dm_target")
            for number in range(min(int(table.num_targets), _MAX_TARGETS)):
                target = Struct(self._objects, kind, int(table.targets) + number * kind.size)
                if self._objects.string(target.type.name) == "crypt":
                    config = Struct(self._objects, self._crypt.struct("crypt_config"), int(target.private))
                    yield self._place(config, "key"), min(int(config.key_size), _MAX_KEY)

    def _assembled(self, parts: list[bytearray], size: int, *, xts: bool) -> list[bytearray]:
        """The keys that can be put together from those of the ciphers: XTS has two, in an order that drivers choose."""
        unit = size // 2 if xts else size
        fitting = [part for part in parts if len(part) == unit]
        if not fitting:
            found = ", ".join(f"one of {8 * len(part)} bits" for part in parts) or "none"
            raise KdumpError(
                f"the volume's key of {8 * size} bits is not in the dead kernel's ciphers",
                why=f"schedules found: {found}; the cipher's driver may keep keys elsewhere",
            )
        if not xts:
            return fitting
        if len(fitting) == 1:
            return [fitting[0] * 2]
        return [one + other for one, other in permutations(fitting, 2)]

    def _config(self, uuid: str) -> tuple[Struct, Layout]:
        for device in self._devices():
            cell = self._at("hash_cell", device.interface_ptr) if device.interface_ptr else None
            if cell is None or not cell.uuid or self._objects.string(cell.uuid) != uuid or not device.map:
                continue
            table = self._at("dm_table", device.map)
            if table.num_targets != 1:
                raise KdumpError("the encrypted volume has changed", why=f"it has {table.num_targets} segments, was 1")
            target = self._at("dm_target", table.targets)
            if (kind := self._objects.string(target.type.name)) != "crypt":
                raise KdumpError("the encrypted volume has changed", why=f"it is of kind {kind} now")
            config = Struct(self._objects, self._crypt.struct("crypt_config"), int(target.private))
            return config, self._layout(target, config)
        raise KdumpError("the dead kernel had no such encrypted volume open", why=f"none has the UUID {uuid}")

    def _layout(self, target: Struct, config: Struct) -> Layout:
        return Layout(
            self._objects.string(config.cipher_string),
            int(config.iv_offset),
            int(config.start),
            int(config.sector_size),
            int(target.begin),
            int(target.len),
        )

    def _devices(self) -> Iterator[Struct]:
        objects = self._objects
        address = objects.symbols.get("_minor_idr")
        if address is None and (module := self._modules.get("dm_mod")):
            address = module.address("_minor_idr")
        if address is None:
            raise KdumpError("the dead kernel's device mapper is not found", why="it has no symbol _minor_idr")
        for _, place in objects.xarray(objects.struct("idr", address).idr_rt):
            yield self._at("mapped_device", place)

    def _schedules(self, config: Struct) -> list[bytearray]:
        """The different keys in use by a device's ciphers."""
        first = int(config.cipher_tfm.tfms[0]) + self._objects.types.struct("crypto_skcipher").offset("base")
        found: list[bytearray] = []
        for key in Transforms(self._objects.kernel).keys(first):
            if key not in found and len(found) < _MAX_SCHEDULES:
                found.append(key)
        return found

    def _types(self, module: str, name: str) -> Btf:
        """Types of what is a module, or built in."""
        types = self._modules[module].types if module in self._modules else self._objects.types
        if types is None or not types.has_struct(name):
            here = module in self._modules
            raise KdumpError(
                "kdump cannot search for the encrypted volume's key",
                why=f"the dead kernel has no types for {module}" if here else f"the dead kernel had no {module}",
            )
        return types

    def _at(self, name: str, place: Pointer | int) -> Struct:
        return Struct(self._objects, self._mapper.struct(name), int(place))

    def _place(self, value: Struct, member: str) -> int:
        return self._objects.address(value) + self._crypt.struct("crypt_config").offset(member)


class Transforms:
    """Follows a kernel's transforms to the key schedules in their contexts."""

    def __init__(self, kernel: Kernel) -> None:
        self._objects = objects = kernel.objects
        self._tfm: Type = objects.types.struct("crypto_tfm")
        kinds = [objects.types.struct(name) for name in _TRANSFORMS if objects.types.has_struct(name)]
        self._bases = sorted({0, *(kind.offset("base") for kind in kinds if kind.has("base"))})

    @cached_property
    def sizes(self) -> dict[int, int]:
        """Bytes of a context at most, by the address of the registered struct crypto_alg."""
        objects = self._objects
        head = objects.symbols.address("crypto_alg_list")
        registered = objects.list(head, "crypto_alg", "cra_list")
        return {objects.address(each): int(each.cra_ctxsize) + int(each.cra_alignmask) for each in registered}

    def keys(self, transform: int) -> Iterator[bytearray]:
        """AES keys in use by the struct crypto_tfm at an address, and by those that it uses."""
        for _, context in self.contexts(transform):
            yield from (key for _, key in find_schedules(context))

    def contexts(self, transform: int) -> Iterator[tuple[int, bytearray]]:
        """Address and content of the contexts of the struct crypto_tfm at an address, and of those that it uses."""
        pending, seen = [(transform, 0)], set()
        while pending:
            place, depth = pending.pop()
            size = 0 if place in seen or depth > _MAX_DEPTH else self._context_size(place)
            seen.add(place)
            if not size:
                continue
            try:
                context = bytearray(self._objects.bytes(place + self._tfm.offset("__crt_ctx"), size))
            except KdumpError:
                continue
            yield place + self._tfm.offset("__crt_ctx"), context
            words = (word for (word,) in struct.iter_unpack("<Q", context[: len(context) & ~7]))
            inner = [word + base for word in words if word >> 63 and not word % 8 for base in self._bases]
            pending += [(each, depth + 1) for each in reversed(inner)]

    def _context_size(self, place: int) -> int:
        """Bytes of a transform's context; 0 if no transform is there."""
        objects = self._objects
        try:
            address = objects.unsigned(place + self._tfm.offset("__crt_alg"))
            if address not in self.sizes and not self._looks_like_one(address):
                return 0
            algorithm = objects.struct("crypto_alg", address)
            size = int(algorithm.cra_ctxsize) + int(algorithm.cra_alignmask)
        except KdumpError:  # not an address, or not in the dump
            return 0
        return size if size <= _MAX_CONTEXT else 0

    def _looks_like_one(self, address: int) -> bool:
        """An algorithm that was unregistered stays in use; it still has a name and plausible sizes."""
        if not address >> 63 or address % 8:
            return False
        algorithm = self._objects.struct("crypto_alg", address)
        name = self._objects.string(algorithm.cra_driver_name)
        return (
            len(name) > 2
            and all(char.isalnum() or char in "_(),.+-" for char in name)
            and algorithm.cra_ctxsize < _MAX_CONTEXT
            and algorithm.cra_blocksize in (1, 8, 16)
        )
