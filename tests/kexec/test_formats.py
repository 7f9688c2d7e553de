"""Kernel files: every format is recognised, every kind of damage is named, and nothing but KdumpError comes out."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kexec import kernels

from kdump.errors import FormatError, KdumpError
from kdump.kexec.formats import Kernel, compressed, parse_kernel, read_kernel

UKI = kernels.pe(
    {".osrel": b'ID="test"\n', ".cmdline": b"quiet x=1\0", ".initrd": b"image", ".linux": kernels.bzimage()}
)


def parse(data: bytes) -> Kernel:
    return parse_kernel(memoryview(bytearray(data)), "kernel")


def test_bzimage() -> None:
    kernel = parse(kernels.bzimage())
    assert (kernel.kind, kernel.release, kernel.entry) == ("bzImage", "6.1.0-test", 0x200)
    assert kernel.span == 0x100000 and kernel.five_level and kernel.file is not None
    assert bytes(kernel.parts[0].data) == b"\x90" * 0x800
    assert kernel.setup_header[0x11:0x15] == b"HdrS"


def test_vmlinux() -> None:
    kernel = parse(kernels.VMLINUX)
    assert (kernel.kind, kernel.release, kernel.entry, kernel.file) == ("vmlinux", "6.1.0-test", 0, None)
    assert [(part.offset, part.size) for part in kernel.parts] == [(0, 0x3000), (0x200000, 0x1000)]


def test_unified_kernel_image() -> None:
    kernel = parse(UKI)
    assert kernel.kind == "unified kernel image" and kernel.release == "6.1.0-test"
    assert kernel.initrd is not None and bytes(kernel.initrd) == b"image"
    assert (kernel.cmdline, kernel.os_release) == ("quiet x=1", 'ID="test"')


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_compressed_vmlinux(pack: object) -> None:
    assert callable(pack)
    kernel = parse(pack(kernels.VMLINUX))
    assert kernel.kind.startswith("vmlinux in ") and len(kernel.parts) == 2
    with pytest.raises(FormatError, match="damaged"):
        parse(pack(kernels.VMLINUX)[:-20])


@pytest.mark.parametrize("magic", [magic for magic, name in compressed.MAGICS.items() if name not in ("gzip", "zstd")])
def test_other_compressions_are_named(magic: bytes) -> None:
    with pytest.raises(FormatError, match="not supported"):
        parse(magic + bytes(100))


def test_bombs_are_stopped() -> None:
    for bomb in (gzip.compress(bytes(8 << 20)), zstandard.compress(bytes(8 << 20))):
        tracemalloc.start()
        with pytest.raises(FormatError, match=r"grows|too much memory"):
            parse(bomb)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * compressed.RATIO_MAX * len(bomb) + (4 << 20)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"#!/bin/sh\n", "not a kernel"),
        (kernels.bzimage()[:0x240], "truncated"),
        (kernels.bzimage(payload=b""), "truncated"),
        (kernels.bzimage(setup_sects=64), "truncated"),
        (kernels.bzimage(version=0x0207), "boot protocol 2.07"),
        (kernels.bzimage(loadflags=0), "zImage"),
        (kernels.bzimage(xloadflags=0), "64-bit"),
        (kernels.bzimage(relocatable_kernel=0), "relocatable"),
        (kernels.bzimage(init_size=1), "makes no sense"),
        (kernels.bzimage(kernel_alignment=3), "makes no sense"),
        (kernels.elf([(0x1000000, b"x", 1)], machine=183), "architecture"),
        (kernels.elf([]), "number of segments"),
        (kernels.elf([(0x1000000, b"x" * 9, 1)]), "truncated"),
        (kernels.elf([(0x1000000, b"x", 0x2000), (0x1001000, b"x", 1)]), "overlap"),
        (kernels.VMLINUX[:200], "truncated"),
        (kernels.VMLINUX[:80], "outside the file"),
        (kernels.pe({".text": b"x"}), "without a kernel"),
        (kernels.pe({".linux": b"x"}), "no bzImage"),
        (kernels.pe({}, machine=0xAA64), "architecture"),
        (UKI[:-50], "outside the file"),
        (UKI[:0x50], "no PE header|outside"),
    ],
)
def test_damage_is_named(data: bytes, named: str) -> None:
    with pytest.raises(FormatError, match=named):
        parse(data)


def test_empty_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "absent", "."):
        with pytest.raises(KdumpError):
            read_kernel(tmp_path / name)


SEEDS = [kernels.bzimage(), kernels.VMLINUX, UKI, gzip.compress(kernels.VMLINUX), zstandard.compress(kernels.VMLINUX)]


@settings(max_examples=400, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 0x400), st.binary(min_size=1, max_size=8)), max_size=6),
    cut=st.integers(0, 1 << 14),
)
def test_whatever_is_changed_only_kdump_errors_come_out(seed: bytes, edits: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(seed[: cut or len(seed)])
    for offset, new in edits:
        data[offset : offset + len(new)] = new
    try:
        kernel = parse(bytes(data))
    except KdumpError:
        return
    assert sum(len(part.data) for part in kernel.parts) <= compressed.RATIO_MAX * len(data)
    assert all(part.offset + len(part.data) <= kernel.span for part in kernel.parts)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_noise(data: bytes) -> None:
    for head in (b"", b"\x7fELF\x02\x01", b"MZ", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"):
        with pytest.raises(KdumpError):
            parse(head + data)
