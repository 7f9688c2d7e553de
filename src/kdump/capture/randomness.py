"""Random numbers for keys (TLS, SSH, age), file names and DHCP, on a machine that has no source of its own.

A CPU without RDRAND gives the kernel nothing to seed from. The loader puts a seed into boot_params
(`kdump.kexec.boot_params`), and kernels from 5.4 on make one out of their clock's jitter when somebody asks, within
seconds. Where neither helped, the dead kernel's data is used: it holds the state of a random number generator that was
fed for as long as the machine ran. Whoever can compute the seed from it has the dump already.

Sources: random(4) (RNDADDENTROPY), drivers/char/random.c (`base_crng` and `input_pool` are in the kernel's data).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator

from kdump.elf import EHDR, PHDR, PT_LOAD
from kdump.files.digest import sha256
from kdump.memory.elf import ProgramHeader

_DEVICE = "/dev/urandom"
_RNDADDENTROPY = 0x40085203  # include/uapi/linux/random.h
_IMAGE_MAPPING = 0xFFFFFFFF80000000  # __START_KERNEL_map of x86; elsewhere memory is taken as it comes
_ENOUGH = 64 << 20  # bytes: a kernel image is smaller
_CHUNK = 1 << 20
_HEADERS_LIMIT = 1 << 16


def ready() -> bool:
    """Whether the kernel's random number generator is seeded, so that nobody has to wait for it."""
    try:
        os.getrandom(1, os.GRND_NONBLOCK)
    except BlockingIOError:
        return False
    return True


def seed(vmcore: str) -> None:
    """Seed the generator from the dead kernel's memory and the clock. Raises OSError if that is refused."""
    digest = sha256()
    for piece in _dead_kernel(vmcore):
        digest.update(piece)
        digest.update(time.perf_counter_ns().to_bytes(8, "little"))
    add_entropy(bytes.fromhex(digest.hexdigest()))


def add_entropy(secret: bytes) -> None:
    """Mix `secret` into the kernel's pool and count all of its bits as entropy. Raises OSError."""
    descriptor = os.open(_DEVICE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _RNDADDENTROPY, struct.pack("=ii", 8 * len(secret), len(secret)) + secret)
    finally:
        os.close(descriptor)


def _dead_kernel(vmcore: str) -> Iterator[bytes]:
    """The dead kernel's image, data included, then other memory; `_ENOUGH` bytes at most, but never nothing."""
    left = _ENOUGH
    with open(vmcore, "rb", buffering=0) as file:
        header = EHDR.unpack(file.read(EHDR.size).ljust(EHDR.size, b"\0"))
        file.seek(header[5])
        table = file.read(PHDR.size * min(header[10], _HEADERS_LIMIT))
        table = table[: len(table) // PHDR.size * PHDR.size]
        loads = [load for load in map(ProgramHeader._make, PHDR.iter_unpack(table)) if load.type == PT_LOAD]
        for load in sorted(loads, key=lambda load: load.virtual < _IMAGE_MAPPING):
            file.seek(load.offset)
            end = min(load.file_size, left)
            for start in range(0, end, _CHUNK):
                if piece := file.read(min(_CHUNK, end - start)):
                    left -= len(piece)
                    yield piece
    if left == _ENOUGH:
        raise OSError(0, "holds no memory to seed random numbers from", vmcore)
