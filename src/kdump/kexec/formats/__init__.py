"""Kernel files: what is in them and what loading needs to know. Every format becomes the same `KernelImage`.

Recognised by content: a bzImage, an ELF vmlinux, an Image (aarch64, riscv64), EFI zboot, a unified kernel image (PE);
all but the last also in compressed files.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from kdump.errors import FormatError, KdumpError
from kdump.kexec.formats.kernel_image import KernelImage, Part

__all__ = ["KernelImage", "Part", "parse_kernel", "read_kernel", "unpacked"]

SUPPORTED = "bzImage, ELF vmlinux, Image, EFI zboot and unified kernel images can be loaded, also compressed"


def read_kernel(path: Path) -> KernelImage:
    """Read and recognise a kernel file. It is mapped (privately: ctypes takes the address of writable
    memory only), not read, so a debug vmlinux costs no memory.

    Raises FormatError if the file is not a kernel or is damaged, KdumpError if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise FormatError("the file is empty", path=path)
            data = memoryview(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    except OSError as error:
        raise KdumpError(f"cannot read the kernel {path}", why=error.strerror or str(error)) from None
    return parse_kernel(data, path)


def parse_kernel(data: memoryview, path: str | os.PathLike[str] = "") -> KernelImage:
    """Recognise a kernel in bytes. Raises FormatError."""
    from kdump.kexec.formats import bzimage, compressed, flat_image, uki, vmlinux, zboot

    if bzimage.matches(data):
        return bzimage.parse(data, path)
    if vmlinux.matches(data):
        return vmlinux.parse(data, path)
    if zboot.matches(data):
        name, packed = zboot.payload(data, path)
        return parse_kernel(memoryview(compressed.unpack(packed, name, path)), path)._replace(kind="EFI zboot image")
    if flat_image.matches(data):
        return flat_image.parse(data, path)
    if uki.matches(data):
        return uki.parse(data, path, parse_kernel)
    if name := compressed.container(data):
        kernel = parse_kernel(memoryview(compressed.unpack(data, name, path)), path)
        return kernel._replace(kind=f"{kernel.kind} in {name}")
    raise FormatError("not a kernel in a known format", path=path, offset=0, field="magic", remedy=SUPPORTED)


def unpacked(kernel: KernelImage, path: str | os.PathLike[str] = "") -> KernelImage:
    """The vmlinux inside a bzImage: it starts at once, where the bzImage has to unpack it first.

    It runs where it is put (the code that unpacks would move it about if it was not told nokaslr). Other kernels, and
    one whose compression is not known here, are returned as they are. Raises FormatError if it is damaged.
    """
    from kdump.kexec.formats import bzimage, compressed, vmlinux

    if kernel.file is None or not bzimage.matches(kernel.file):
        return kernel
    payload = bzimage.payload(kernel.file, path)
    name = compressed.container(payload) or "an unknown format"
    try:
        content = compressed.unpack(payload, name, path)
    except compressed.NotUnpackable:
        return kernel
    (size,) = bzimage.UNPACKED_SIZE.unpack_from(payload, len(payload) - bzimage.UNPACKED_SIZE.size)
    if len(content) != size:
        raise FormatError(f"the {name} data is damaged", path=path, why=f"{len(content)} bytes are in it, not {size}")
    inside = vmlinux.parse(memoryview(content), path)
    return kernel._replace(
        kind=f"{kernel.kind}, unpacked",
        parts=inside.parts,
        span=inside.span,
        align=inside.align,
        lowest=inside.lowest,
        entry=inside.entry,
    )
