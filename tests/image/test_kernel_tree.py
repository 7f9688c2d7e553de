"""Kernel trees: releases, module metadata, load order, device matching; on made-up modules. The lab loads real ones."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from kdump.elf import EHDR, EM_X86_64, IDENT, SHDR
from kdump.errors import KdumpError
from kdump.image import kernel_tree
from kdump.image.build import _Root
from kdump.image.kernel_tree import KernelTree, Module, ModuleIndex


def module(*info: str) -> bytes:
    """A relocatable ELF file with nothing but a .modinfo section."""
    content = b"".join(item.encode() + b"\0" for item in info)
    names = b"\0.modinfo\0.shstrtab\0"
    start = EHDR.size
    table = start + len(content) + len(names)
    header = EHDR.pack(IDENT, 1, EM_X86_64, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    sections = [
        SHDR.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        SHDR.pack(1, 1, 2, 0, start, len(content), 0, 0, 1, 0),
        SHDR.pack(10, 3, 0, 0, start + len(content), len(names), 0, 0, 1, 0),
    ]
    return header + content + names + b"".join(sections)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A modules directory with every compression, a duplicate, soft dependencies and a built-in."""
    root = tmp_path / "lib/modules/6.1.0-test"
    files = {
        "kernel/bus/ring.ko": module("license=GPL", "depends=", "name=ring"),
        "kernel/bus/bus-core.ko.xz": lzma.compress(module("depends=ring", "name=bus_core")),
        "kernel/disk.ko.zst": zstandard.compress(
            module("depends=bus-core,ring", "alias=pci:v00001AF4d*sv*", "alias=virtio:d00000002v*", "firmware=a/b.bin")
        ),
        "kernel/fs.ko.gz": gzip.compress(
            module("depends=core", "softdep=pre: crc absent post: later", "softdep=pre: x")
        ),
        "kernel/crc.ko": module("depends="),
        "kernel/later.ko": module("depends="),
        "kernel/net.ko": module("depends=ring"),
        "extra/net.ko": module("depends="),
        "updates/crc.ko": module("depends=ring"),
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "modules.builtin").write_text("kernel/core.ko\nkernel/old-name.ko\n")
    return root


def test_order_compression_built_in_and_soft_dependencies(directory: Path) -> None:
    index = ModuleIndex(directory)
    assert [module.name for module in index.load_order(["disk"])] == ["ring", "bus_core", "disk"]
    assert [module.name for module in index.load_order(["fs", "old_name", "disk", "bus-core"])] == [
        "ring", "crc", "fs", "later", "bus_core", "disk",
    ]  # fmt: skip
    disk = index.get("disk")
    assert disk
    assert disk.data == zstandard.decompress((directory / "kernel/disk.ko.zst").read_bytes())
    assert disk.firmware == ["a/b.bin"]


def test_soft_dependencies_may_be_aliases_as_ext4_and_libcrc32c_have_them(directory: Path) -> None:
    files = {
        "ext4.ko": module("depends=", "softdep=pre: crypto-crc32c"),
        "libcrc32c.ko": module("depends=", "softdep=pre: crc32c"),
        "crc32c_generic.ko": module("alias=crc32c", "alias=crypto-crc32c", "alias=crypto-crc32c-generic"),
        "crc32c-intel.ko": module("alias=crypto-crc32c", "alias=crc32c", "alias=cpu:type:x86,ven*feature:*0094*"),
        "circle.ko": module("softdep=pre: round-and-round"),
        "other.ko": module("alias=round_and_round", "softdep=pre: circle"),
    }
    for name, data in files.items():
        (directory / "kernel" / name).write_bytes(data)
    index = ModuleIndex(directory)
    assert {module.name for module in index.load_order(["ext4"])} == {"crc32c_generic", "crc32c_intel", "ext4"}
    assert index.load_order(["ext4"])[-1].name == "ext4"
    assert {module.name for module in index.load_order(["libcrc32c"])} == {
        "crc32c_generic",
        "crc32c_intel",
        "libcrc32c",
    }
    assert [module.name for module in index.load_order(["circle"])] == ["other", "circle"]
    assert [module.name for module in index.load_order(["crypto-crc32c-generic"])] == ["crc32c_generic"]
    assert index.lookup("crypto_crc32c_generic") == ["crc32c_generic"]
    assert index.lookup("crypto-aes") is None
    (directory / "modules.builtin.modinfo").write_bytes(b"aes.license=GPL\0aes.alias=crypto-aes\0")
    assert ModuleIndex(directory).lookup("crypto-aes") == []


def test_aliases_match_as_in_kmod(directory: Path) -> None:
    (directory / "modules.alias").write_text(
        "alias a-b[c-d]e* net\nalias *odd:thing net\nalias x?z:* crc\nalias pci:v00001*sv-* crc\n"
    )
    index = ModuleIndex(directory)
    assert list(index.matching("a_bce-1")) == list(index.matching("a-bde")) == ["net"]
    assert list(index.matching("a-bxe")) == []
    assert list(index.matching("very-odd:thing")) == ["net"]
    assert list(index.matching("xyz:1")) == ["crc"]
    assert list(index.matching("pci:v00001AF4sv_1")) == ["crc"]


def test_firmware_that_a_module_asks_for_goes_into_the_image(directory: Path, tmp_path: Path) -> None:
    tree = KernelTree("6.1.0-test", tmp_path / "vmlinuz", directory)
    modules = tree.module_index.load_order(["disk"])
    assert tree.firmware(modules) == {}  # not installed: most of what modules name is for other models
    installed = tmp_path / "lib/firmware/a/b.bin.xz"
    installed.parent.mkdir(parents=True)
    installed.write_bytes(lzma.compress(b"microcode"))
    assert tree.firmware(modules) == {"a/b.bin": installed}
    newer = tmp_path / "lib/firmware/updates/a/b.bin"
    newer.parent.mkdir(parents=True)
    newer.write_bytes(b"newer")
    assert tree.firmware(modules) == {"a/b.bin": newer}
    newer.unlink()
    root = _Root()
    root.kernel_modules(tree, ["disk"])
    assert root.tree["usr/lib/firmware/a/b.bin"].content == b"microcode"
    assert root.contents["firmware"] == (1, 9)


def test_updates_win_unless_modules_dep_says_otherwise(directory: Path) -> None:
    index = ModuleIndex(directory)
    assert index.paths["net"] == directory / "extra/net.ko"
    assert index.paths["crc"] == directory / "updates/crc.ko"
    (directory / "modules.dep").write_text("kernel/net.ko: kernel/bus/ring.ko\nkernel/bus/ring.ko:\n")
    assert ModuleIndex(directory).paths["net"] == directory / "kernel/net.ko"


def test_devices_find_their_modules_with_and_without_an_index(directory: Path) -> None:
    assert list(ModuleIndex(directory).matching("virtio:d00000002v00001AF4")) == ["disk"]
    assert list(ModuleIndex(directory).matching("usb:v1")) == []
    (directory / "modules.alias").write_text("# Aliases\nalias usb:v* net\nalias usb:v1* crc\n")
    assert list(ModuleIndex(directory).matching("usb:v1")) == ["net", "crc"]


def test_unknown_modules_and_broken_files_are_named(directory: Path) -> None:
    index = ModuleIndex(directory)
    with pytest.raises(KdumpError, match=r"no module 'nothing' in .*6\.1\.0-test"):
        index.load_order(["nothing"])
    (directory / "kernel/needy.ko").write_bytes(module("depends=ghost"))
    (directory / "kernel/junk.ko").write_bytes(b"not a module")
    index = ModuleIndex(directory)
    with pytest.raises(KdumpError, match=r"no module 'ghost' in .*: needy needs it"):
        index.load_order(["needy"])
    with pytest.raises(KdumpError, match=r"junk\.ko is not a kernel module"):
        index.load_order(["junk"])
    with pytest.raises(KdumpError, match="a kernel without modules"):
        ModuleIndex(None).load_order(["loop"])


@pytest.mark.parametrize("suffix", [".xz", ".zst", ".gz"])
def test_a_damaged_compressed_module_is_named(tmp_path: Path, suffix: str) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {
        ".xz": lzma.compress,
        ".zst": zstandard.compress,
        ".gz": gzip.compress,
    }
    packed = packers[suffix](module("license=GPL", *(f"alias=pci:v{n * 7919:08x}*" for n in range(99))))
    path = tmp_path / f"net.ko{suffix}"
    path.write_bytes(packed)
    assert Module(path).info[0] == ("license", "GPL")
    for damage in (packed[:12] + b"\xff" * 20 + packed[32:], packed[:40], b"nothing of the kind"):
        path.write_bytes(damage)
        with pytest.raises(KdumpError, match=rf"net\.ko\{suffix}"):
            _ = Module(path).info


def bzimage(version: str) -> bytes:
    image = bytearray(0x4000)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x3000 - 0x200)
    image[0x3000 : 0x3000 + len(version)] = version.encode()
    return bytes(image)


def test_the_release_is_read_from_the_image(tmp_path: Path, directory: Path) -> None:
    image = tmp_path / "boot/vmlinuz"
    image.parent.mkdir()
    image.write_bytes(bzimage("6.1.0-test (builder@host) #1 SMP"))
    assert kernel_tree.tree_of(image) == KernelTree("6.1.0-test", image, directory)
    elsewhere = tmp_path / "m"
    elsewhere.mkdir()
    assert kernel_tree.tree_of(image, elsewhere).modules == elsewhere
    with pytest.raises(KdumpError, match="does not exist"):
        kernel_tree.tree_of(image, tmp_path / "none")
    image.write_bytes(b"MZ" + bytes(0x1000))
    with pytest.raises(KdumpError, match="not a kernel image"):
        kernel_tree.tree_of(image)
    with pytest.raises(KdumpError, match="cannot be read"):
        kernel_tree.tree_of(tmp_path / "gone")
