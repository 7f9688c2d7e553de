"""Kernel files: every format is recognised, every kind of damage is named, and nothing but KdumpError comes out."""

from __future__ import annotations

import lzma
import random
import struct
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kexec import kernels

from kdump.errors import FormatError, KdumpError
from kdump.kexec.formats import KernelImage, bzimage, compressed, parse_kernel, read_kernel, unpacked
from kdump.kexec.formats.compressed import unpack

UKI = kernels.pe(
    {".osrel": b'ID="test"\n', ".cmdline": b"quiet x=1\0", ".initrd": b"image", ".linux": kernels.bzimage()}
)


def parse(data: bytes) -> KernelImage:
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


@pytest.mark.parametrize("name", kernels.PACKERS)
def test_compressed_vmlinux(name: str) -> None:
    kernel = parse(kernels.PACKERS[name](kernels.VMLINUX))
    assert kernel.kind == f"vmlinux in {name}" and kernel.release == "6.1.0-test"
    assert [bytes(part.data) for part in kernel.parts] == [
        bytes(part.data) for part in parse(kernels.VMLINUX).parts
    ]  # fmt: skip


NOISE = random.Random(4).randbytes(3000)


@pytest.mark.parametrize("name", kernels.PACKERS)
def test_what_was_packed_comes_out_and_what_follows_is_passed_over(name: str) -> None:
    assert compressed.UNPACKERS.keys() == kernels.PACKERS.keys()
    content = NOISE + bytes(5000) + NOISE
    packed = kernels.PACKERS[name](content)
    assert compressed.container(memoryview(packed)) == name
    for behind in (b"", struct.pack("<I", len(content)), b"\xff" * 40):
        assert unpack(memoryview(packed + behind), name) == content


@pytest.mark.parametrize("name", kernels.PACKERS)
def test_a_truncated_file_is_refused_wherever_it_ends(name: str) -> None:
    packed = kernels.PACKERS[name](NOISE)
    for size in (6, 12, 100, len(packed) // 2, len(packed) - 8, len(packed) - 1):
        with pytest.raises(FormatError, match=f"the {name} data is damaged"):
            unpack(memoryview(packed)[:size], name)


@pytest.mark.parametrize("name", kernels.PACKERS)
def test_damage_is_refused_or_changes_nothing_but_bytes(name: str) -> None:
    """lzma and lz4 have no checksum; the others find every bit that is turned in their data."""
    packed = kernels.PACKERS[name](NOISE)
    found = 0
    for at in range(40, len(packed) - 20, 97):
        damaged = bytearray(packed)
        damaged[at] ^= 0x10
        try:
            out = unpack(memoryview(damaged), name)
        except FormatError as error:
            assert "damaged" in error.what or "too much memory" in error.why, error
            found += 1
        else:
            assert name in ("lzma", "lz4") and out != NOISE
    assert found or name == "lz4"


def test_more_than_a_block_of_lz4() -> None:
    """With and without the size behind it; a last block that is full has nothing behind it but that."""
    one = (random.Random(6).randbytes(1 << 17) + bytes(1 << 20)) * 8
    for size in (compressed.LZ4_BLOCK - 1, compressed.LZ4_BLOCK, compressed.LZ4_BLOCK + 1, 2 * compressed.LZ4_BLOCK):
        content = (one + one)[:size]
        packed = kernels.lz4(content)
        assert unpack(memoryview(packed), "lz4") == content
        assert unpack(memoryview(packed + struct.pack("<I", size)), "lz4") == content
        with pytest.raises(FormatError, match="ends early"):
            unpack(memoryview(packed)[:-10], "lz4")


def test_blocks_of_zstd() -> None:
    """Raw, repeated and packed ones, with and without checksum and size; frames that follow are passed over."""
    content = NOISE * 200 + bytes(1 << 20) + random.Random(5).randbytes(1 << 18)
    for checksum in (False, True):
        for sized in (False, True):
            packer = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=sized)
            packed = packer.compress(content)
            for behind in (b"", b"junk", packed):
                assert unpack(memoryview(packed + behind), "zstd") == content
            with pytest.raises(FormatError, match="ends early"):
                unpack(memoryview(packed)[:-1], "zstd")


def test_a_dictionary_larger_than_memory_is_refused() -> None:
    """A forged lzma header asks for 3 GiB."""
    packed = bytearray(lzma.compress(kernels.VMLINUX, format=lzma.FORMAT_ALONE))
    struct.pack_into("<I", packed, 1, 3 << 30)
    with pytest.raises(FormatError, match="Memory usage limit exceeded"):
        parse(bytes(packed))
    struct.pack_into("<I", packed, 1, 128 << 20)  # what kernels are packed with
    assert parse(bytes(packed)).kind == "vmlinux in lzma"


@pytest.mark.parametrize(
    ("magic", "name"), [(magic, name) for magic, name in compressed.MAGICS.items() if name not in kernels.PACKERS]
)
def test_other_compressions_are_named(magic: bytes, name: str) -> None:
    with pytest.raises(FormatError, match=f"packed with {name} is not supported") as caught:
        parse(magic + bytes(100))
    assert "gzip, zstd, xz, bzip2, lzma, lz4 are unpacked here" in caught.value.remedy


def test_without_its_package_a_compression_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4", None)
    with pytest.raises(FormatError, match="lz4 data cannot be unpacked: lz4 is not installed"):
        parse(kernels.lz4(kernels.VMLINUX))


@pytest.mark.parametrize("name", kernels.PACKERS)
def test_bombs_are_stopped(name: str) -> None:
    bomb = kernels.PACKERS[name](bytes(24 << 20))
    assert compressed.RATIO_MAX * len(bomb) < 24 << 20
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"grows to more than 64 times|too much memory"):
        parse(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * compressed.RATIO_MAX * len(bomb) + (12 << 20)


def unpacked_bzimage(payload: bytes, **fields: int) -> KernelImage:
    return unpacked(parse(kernels.packed_bzimage(payload, **fields)), "kernel")


@pytest.mark.parametrize("name", kernels.PACKERS)
def test_the_vmlinux_in_a_bzimage(name: str) -> None:
    outside = parse(kernels.packed_bzimage(kernels.packed(kernels.VMLINUX, name), cmdline_size=1000, xloadflags=1))
    inside, plain = unpacked(outside), parse(kernels.VMLINUX)
    assert inside.kind == "bzImage, unpacked"
    assert [(part.offset, bytes(part.data), part.size) for part in inside.parts] == [
        (part.offset, bytes(part.data), part.size) for part in plain.parts
    ]
    assert (inside.span, inside.align, inside.lowest, inside.entry) == (plain.span, plain.align, plain.lowest, 0)
    # What only the bzImage knows is kept, and what can be loaded by the other method.
    assert inside.setup_header == outside.setup_header != b""
    assert (inside.release, inside.cmdline_limit, inside.five_level) == ("6.1.0-test", 1000, False)
    assert inside.file is outside.file is not None


def test_what_a_unified_kernel_image_brings_along_is_kept() -> None:
    payload = kernels.packed_bzimage(kernels.packed(kernels.VMLINUX, "zstd"))
    image = parse(kernels.pe({".osrel": b"ID=x", ".cmdline": b"quiet", ".initrd": b"image", ".linux": payload}))
    inside = unpacked(image)
    assert inside.kind == "unified kernel image, unpacked" and len(inside.parts) == 2
    assert (inside.initrd, inside.cmdline, inside.os_release) == (image.initrd, "quiet", "ID=x")
    assert inside.file == image.file and inside.initrd is not None


def test_a_vmlinux_is_unpacked_already() -> None:
    kernel = parse(kernels.VMLINUX)
    assert unpacked(kernel) is kernel


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (kernels.packed(kernels.VMLINUX, "xz")[: len(kernels.VMLINUX) // 3], "the xz data is damaged"),
        (kernels.packed(kernels.VMLINUX, "lz4", size=5), "the lz4 data is damaged: .* bytes are in it, not 5"),
        (kernels.packed(b"no kernel" * 20, "gzip"), "not a 64-bit little-endian ELF file"),
        (kernels.packed(kernels.elf([(0x1000000, b"x", 1)], machine=183), "zstd"), "architecture"),
        (kernels.packed(kernels.PACKERS["gzip"](kernels.VMLINUX), "zstd"), "compressed twice"),
    ],
    ids=range(5),
)
def test_damaged_payloads(payload: bytes, named: str) -> None:
    with pytest.raises(FormatError, match=named):
        unpacked_bzimage(payload)


@pytest.mark.parametrize("payload", [b"", b"\x90" * 100, b"\x89LZO" + bytes(100)])
def test_a_payload_that_is_packed_otherwise_stays_packed(payload: bytes) -> None:
    kernel = parse(bytes(kernels.packed_bzimage(payload)))
    assert unpacked(kernel) is kernel


def test_without_the_library_it_stays_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4", None)
    kernel = parse(bytes(kernels.packed_bzimage(kernels.packed(kernels.VMLINUX, "lz4"))))
    assert unpacked(kernel) is kernel


def test_payloads_outside_the_file() -> None:
    payload = kernels.packed(kernels.VMLINUX, "gzip")
    image = bytearray(kernels.packed_bzimage(payload))
    for field, value in (("payload_offset", 0xFFFFFFF0), ("payload_length", 0xFFFFFFF0)):
        changed = bytearray(image)
        struct.pack_into("<I", changed, bzimage.FIELDS[field].offset, value)
        with pytest.raises(FormatError, match="outside the file"):
            unpacked(parse(bytes(changed)))


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
        (kernels.pe({".linux": b"x"}), "not a kernel"),
        (kernels.pe({}, machine=0x14C), "architecture"),
        (UKI[:-50], "outside the file"),
        (UKI[:0x50], "no PE header|outside"),
    ],
)
def test_damage_is_named(data: bytes, named: str) -> None:
    with pytest.raises(FormatError, match=named):
        parse(data)


def test_empty_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, why in (("empty", "empty|no kernel|not a kernel"), ("absent", "No such file"), (".", "directory")):
        with pytest.raises(KdumpError, match=why):
            read_kernel(tmp_path / name)


SEEDS = [
    *(kernels.bzimage(), kernels.VMLINUX, UKI),
    *(pack(kernels.VMLINUX) for pack in kernels.PACKERS.values()),
    *(kernels.packed_bzimage(kernels.packed(kernels.VMLINUX, name)) for name in kernels.PACKERS),
]


@settings(max_examples=800)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 0x800), st.binary(min_size=1, max_size=8)), max_size=6),
    cut=st.integers(0, 1 << 14),
)
def test_whatever_is_changed_only_kdump_errors_come_out(seed: bytes, edits: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(seed[: cut or len(seed)])
    for offset, new in edits:
        data[offset : offset + len(new)] = new
    try:
        kernel = parse(bytes(data))
        fits(kernel, data)
        fits(unpacked(kernel), data)
    except KdumpError:
        return


def fits(kernel: KernelImage, data: bytes | bytearray) -> None:
    assert sum(len(part.data) for part in kernel.parts) <= compressed.RATIO_MAX * len(data)
    assert all(part.offset + len(part.data) <= kernel.span for part in kernel.parts)


@settings(max_examples=200)
@given(st.binary(max_size=2000))
def test_noise(data: bytes) -> None:
    for head in (b"", b"\x7fELF\x02\x01", b"MZ", *compressed.MAGICS):
        with pytest.raises(KdumpError, match=r"\w"):
            parse(head + data)
