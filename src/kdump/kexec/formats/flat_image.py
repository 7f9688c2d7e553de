"""Image: an uncompressed kernel with a small header, in which each architecture has a magic number of its own.

Source: Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/boot-image-header.rst.
"""

from __future__ import annotations

import os
import struct

from kdump import arch
from kdump.arch import Architecture
from kdump.errors import FormatError
from kdump.kexec.formats.kernel_image import KernelImage, Part, banner_release

# code, code, text_offset, image_size, flags, and from 56 on the magic number
HEADER = struct.Struct("<IIQQQ24xI")
MAGIC_AT = 56
BIG_ENDIAN = 1 << 0  # flags
ALIGN = 2 << 20  # "a 2MB aligned base address"
SPAN_MAX = 1 << 30


def _architecture(data: memoryview) -> Architecture | None:
    magic = bytes(data[MAGIC_AT : MAGIC_AT + 4])
    return next((each for each in arch.known() if each.image_magic == magic != b""), None)


def matches(data: memoryview) -> bool:
    """Whether it carries such a header."""
    return _architecture(data) is not None


def parse(data: memoryview, path: str | os.PathLike[str] = "") -> KernelImage:
    """Read the header. Raises FormatError."""
    architecture = _architecture(data)
    assert architecture  # it matches
    _, _, text_offset, size, flags, _ = HEADER.unpack_from(data)
    if flags & BIG_ENDIAN:
        raise FormatError("a big-endian kernel", path=path, offset=24, field="flags")
    if not size:
        raise FormatError("the Image does not say how much memory it needs", path=path, offset=16, field="image_size",
                          why="it is older than Linux 3.17")  # fmt: skip
    # How far from an aligned address it lies. riscv64's is from the start of RAM, where firmware has the first 2 MiB.
    offset = text_offset % ALIGN
    if not len(data) <= offset + size <= SPAN_MAX or text_offset > ALIGN:
        raise FormatError("sizes that no kernel has", path=path, offset=8, field="image_size",
                          why=f"text_offset {text_offset:#x}, image_size {size:#x}")  # fmt: skip
    return KernelImage(
        kind="Image",
        release=banner_release(data),
        parts=(Part(offset, data, size),),
        span=offset + size,
        align=ALIGN,
        lowest=0,
        entry=offset,
        setup_header=b"",
        cmdline_limit=architecture.cmdline_limit,
        five_level=True,
        file=data,
        machine=architecture.name,
    )
