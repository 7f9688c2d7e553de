"""The contents of a block device: the file system's type, UUID and label, read from its superblock.

Sources: Linux fs/ext4/ext4.h (struct ext4_super_block), fs/xfs/libxfs/xfs_format.h (struct xfs_dsb),
Documentation/admin-guide/bcache.rst and include/uapi/linux/bcache.h of 5.15 (struct cache_sb_disk),
fs/btrfs/ctree.h and include/uapi/linux/btrfs_tree.h (struct btrfs_super_block), Documentation of FAT in
include/uapi/linux/msdos_fs.h (struct fat_boot_sector), include/uapi/linux/raid/md_p.h (struct mdp_superblock_1 and
mdp_superblock_s), LVM2's label ("LABELONE" in one of the first four sectors), cryptsetup's on-disk format for LUKS1
and LUKS2.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple


class Content(NamedTuple):
    """The contents of a block device. `uuid` is written as the field writes it (FAT: "1A2B-3C4D")."""

    fstype: str
    uuid: str
    label: str = ""


class _Magic(NamedTuple):
    """Where a signature stands, where UUID and label stand beside it (offsets from the start of the device)."""

    fstype: str
    offset: int
    magic: bytes
    uuid: int
    label: int = 0
    label_size: int = 0


RAID_MEMBER = "linux_raid_member"
BCACHE = "bcache"  # a cache, or what is cached; the UUID is the device's own
_BCACHE_MAGIC = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
_RAID_MAGIC = b"\xfc\x4e\x2b\xa9\x01\0\0\0"  # and major version 1
_BINARY_UUID = (
    # A mirror's half looks like what is stored on the mirror: the array's own mark comes first.
    _Magic(RAID_MEMBER, 4096, _RAID_MAGIC, 4096 + 16, 4096 + 32, 32),  # metadata 1.2
    _Magic(RAID_MEMBER, 0, _RAID_MAGIC, 16, 32, 32),  # metadata 1.1
    _Magic(BCACHE, 4096 + 24, _BCACHE_MAGIC, 4096 + 40, 4096 + 72, 32),
    _Magic("ext4", 1024 + 0x38, b"\x53\xef", 1024 + 0x68, 1024 + 0x78, 16),
    _Magic("xfs", 0, b"XFSB", 32, 108, 12),
    _Magic("btrfs", 0x10040, b"_BHRfS_M", 0x10020, 0x1012B, 256),
)
_FAT = (
    _Magic("vfat", 0x52, b"FAT32   ", 0x43, 0x47, 11),
    _Magic("vfat", 0x36, b"FAT16   ", 0x27, 0x2B, 11),
    _Magic("vfat", 0x36, b"FAT12   ", 0x27, 0x2B, 11),
)
_RAID_090_MAGIC = struct.pack("<II", 0xA92B4EFC, 0)  # and major version 0: md_p.h, mdp_superblock_s
_RAID_090_BLOCK = 64 << 10  # the superblock is in the last whole one, not counting the remainder (MD_NEW_SIZE_SECTORS)
_RAID_PLACE = 144  # mdp_superblock_1.super_offset
_XFS_ZONED = 1 << 9  # the realtime section may be on the same device
_LUKS_MAGIC = b"LUKS\xba\xbe"
_WINDOW = 0x10000 + 4096  # enough for all of the above: btrfs' superblock lies farthest in


def identify(device: str) -> Content | None:
    """Read a device's signature; None if none of those known is there. Raises OSError if it cannot be read."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return identify_open(descriptor)
    finally:
        os.close(descriptor)


def identify_open(descriptor: int) -> Content | None:
    """As `identify`, of an open device."""
    # Metadata 1.0 lies near the end (drivers/md/md.c, super_1_load), and says in which sector, counted from the start
    # of the member: that of a disk's last partition is not the disk's.
    size = os.lseek(descriptor, 0, os.SEEK_END)
    sector = (size // 512 - 16) & ~7
    if sector > 0:
        tail = os.pread(descriptor, 512, sector * 512)
        if tail.startswith(_RAID_MAGIC) and struct.unpack_from("<Q", tail, _RAID_PLACE) == (sector,):
            return recognise(tail)
    if size >= 2 * _RAID_090_BLOCK:
        tail = os.pread(descriptor, 128, (size // _RAID_090_BLOCK - 1) * _RAID_090_BLOCK)
        if tail.startswith(_RAID_090_MAGIC):
            return Content(RAID_MEMBER, _raid_090_uuid(tail))
    return recognise(os.pread(descriptor, _WINDOW, 0))


def recognise(head: bytes) -> Content | None:
    """The content told by the first bytes (up to 68 KiB) of a device."""
    for kind in _BINARY_UUID:
        if head[kind.offset : kind.offset + len(kind.magic)] == kind.magic and len(head) >= kind.uuid + 16:
            return Content(_ext_version(head) if kind.fstype == "ext4" else kind.fstype, *_identity(head, kind))
    for kind in _FAT:
        if head[510:512] == b"\x55\xaa" and head[kind.offset : kind.offset + 8] == kind.magic:
            (serial,) = struct.unpack_from("<I", head, kind.uuid)
            return Content("vfat", f"{serial >> 16:04X}-{serial & 0xFFFF:04X}", _label(head, kind))
    if head[:6] == _LUKS_MAGIC:
        return Content("crypto_LUKS", head[168:208].split(b"\0")[0].decode("ascii", "replace"))
    for sector in range(4):
        if head[sector * 512 : sector * 512 + 8] == b"LABELONE":
            (offset,) = struct.unpack_from("<I", head, sector * 512 + 20)
            start = sector * 512 + offset
            return Content("LVM2_member", lvm_uuid(head[start : start + 32].decode("ascii", "replace")))
    return None


def parts_elsewhere(device: str) -> str:
    """What a file system keeps on a device that its superblock does not name for certain: "its log"; often nothing.

    XFS asks for those devices at each mount; ext4 has a number, which the next kernel may give to another device.
    Raises OSError if it cannot be read.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(descriptor, 4096, 0)
    finally:
        os.close(descriptor)
    content = recognise(head)
    if content and content.fstype == "xfs":
        (realtime,) = struct.unpack_from(">Q", head, 16)  # sb_rblocks
        (log,) = struct.unpack_from(">Q", head, 48)  # sb_logstart
        (features,) = struct.unpack_from(">I", head, 216)  # sb_features_incompat
        return "its log" if not log else "its realtime section" if realtime and not features & _XFS_ZONED else ""
    if content and content.fstype in ("ext3", "ext4"):
        inode, number = struct.unpack_from("<II", head, 1024 + 0xE0)  # s_journal_inum, s_journal_dev
        return "its journal" if number and not inode else ""
    return ""


def lvm_uuid(plain: str) -> str:
    """The 32 characters of an LVM identifier, hyphenated as LVM's tools print it."""
    pieces, at = [], 0
    for size in (6, 4, 4, 4, 4, 4, 6):
        pieces.append(plain[at : at + size])
        at += size
    return "-".join(pieces)


def _identity(head: bytes, kind: _Magic) -> tuple[str, str]:
    text = head[kind.uuid : kind.uuid + 16].hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}", _label(head, kind)


def _raid_090_uuid(superblock: bytes) -> str:
    """The array's UUID: word 5 of the superblock, and words 13 to 15. Hexadecimal, as bytes lie on the disk."""
    text = (superblock[20:24] + superblock[52:64]).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _label(head: bytes, kind: _Magic) -> str:
    raw = head[kind.label : kind.label + kind.label_size]
    return raw.split(b"\0")[0].decode("utf-8", "replace").rstrip()


def _ext_version(head: bytes) -> str:
    """ext2 has no journal, ext3 has one but none of ext4's features (feature bits: fs/ext4/ext4.h)."""
    compatible, incompatible = struct.unpack_from("<II", head, 1024 + 0x5C)
    if incompatible & 0x03C0:  # extents, 64bit, mmp, flex_bg
        return "ext4"
    return "ext3" if compatible & 0x4 else "ext2"
