#!/usr/bin/env python3
"""Coverage-guided fuzzing of the kernel formats with atheris (pip install atheris), outside the test suite.

    PYTHONPATH=src:. python tests/kexec/fuzz_formats.py -max_total_time=60

Anything but KdumpError that comes out is a defect, and so is an allocation beyond a multiple of the input.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kdump"]):
    from kdump.errors import KdumpError
    from kdump.kexec.formats import KernelImage, bzimage, compressed, parse_kernel, uki, unpacked, vmlinux
    from kdump.kexec.memory_map import parse_iomem

from tests.kexec import kernels

assert all((bzimage, uki, vmlinux))  # instrumented here, imported where they are used


def once(data: bytes) -> None:
    """One input: as a kernel, also unpacked, and as text of /proc/iomem."""
    parse_iomem(data.decode("latin-1"))
    try:
        kernel = parse_kernel(memoryview(bytearray(data)))
        judge(kernel, data)
        judge(unpacked(kernel), data)
    except KdumpError:
        return


def judge(kernel: KernelImage, data: bytes) -> None:
    """Raise AssertionError if more came out than may."""
    if sum(len(part.data) for part in kernel.parts) > compressed.RATIO_MAX * len(data):
        raise AssertionError("more memory than the input may ask for")


def main() -> None:
    """Fuzz from seeds of every format until the time given is over."""
    with tempfile.TemporaryDirectory() as corpus:
        uki_seed = kernels.pe({".linux": kernels.bzimage(), ".initrd": b"i", ".cmdline": b"c"})
        packed = [pack(kernels.VMLINUX) for pack in kernels.PACKERS.values()]
        inside = [kernels.packed_bzimage(kernels.packed(kernels.VMLINUX, name)) for name in kernels.PACKERS]
        for number, seed in enumerate([kernels.bzimage(), kernels.VMLINUX, uki_seed, *packed, *inside]):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, "-rss_limit_mb=1024", corpus], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
