"""Kernel files: what is in them and what loading needs to know. Every format becomes the same `Kernel`.

Recognised by content: a bzImage, an ELF vmlinux, a unified kernel image (PE), the first two also inside gzip or zstd.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from kdump.errors import FormatError, KdumpError
from kdump.kexec.formats.kernel import Kernel, Part

__all__ = ["Kernel", "Part", "parse_kernel", "read_kernel"]

SUPPORTED = "bzImage, ELF vmlinux and unified kernel images can be loaded, vmlinux also packed with gzip or zstd"


def read_kernel(path: Path) -> Kernel:
    """Read and recognise a kernel file. It is mapped (privately: ctypes takes the address of writable
    memory only), not read, so a debug vmlinux costs no memory.

    Raises FormatError for what is no kernel or a damaged one, KdumpError if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise FormatError("the file is empty", path=path)
            data = memoryview(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    except OSError as error:
        raise KdumpError(f"cannot read the kernel {path}", why=error.strerror or str(error)) from None
    return parse_kernel(data, path)


def parse_kernel(data: memoryview, path: str | os.PathLike[str] = "") -> Kernel:
    """Recognise a kernel in bytes. Raises FormatError."""
    from kdump.kexec.formats import bzimage, compressed, uki, vmlinux

    if bzimage.matches(data):
        return bzimage.parse(data, path)
    if vmlinux.matches(data):
        return vmlinux.parse(data, path)
    if uki.matches(data):
        return uki.parse(data, path)
    if name := compressed.container(data):
        kernel = parse_kernel(memoryview(compressed.unpack(data, name, path)), path)
        return kernel._replace(kind=f"{kernel.kind} in {name}")
    raise FormatError("not a kernel in a known format", path=path, offset=0, field="magic", remedy=SUPPORTED)
