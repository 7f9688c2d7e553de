"""A squashfs 4.0 writer: zstd, fragments, directories, regular files and symbolic links. Reproducible: no times.

Source: Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h. Blocks are compressed on all CPUs.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import zstandard

from kdump.errors import KdumpError
from kdump.image.made import Made
from kdump.image.tree import Node

BLOCK_SIZE = 64 << 10  # larger is smaller by 3 %, and reads more than was asked for when memory is tight
LEVEL = 3  # 4 is 2 % smaller and takes a third more time, 9 is 6 % smaller and takes ten times as long

_MAGIC = 0x73717368
_ZSTD = 6
_NO_XATTRS = 0x0200
_METADATA = 8192
_UNCOMPRESSED_METADATA = 0x8000
_UNCOMPRESSED_BLOCK = 1 << 24
_NONE32 = 0xFFFFFFFF
_NONE64 = 0xFFFFFFFFFFFFFFFF
_DIRECTORY, _FILE, _SYMLINK, _LONG_DIRECTORY, _LONG_FILE = 1, 2, 3, 8, 9
_LISTING_EXTRA = 3  # a directory's size counts "." and ".." so

_SUPERBLOCK = struct.Struct("<IIIIIHHHHHHQQQQQQQQ")
_INODE = struct.Struct("<HHHHII")  # type, mode, uid index, gid index, mtime, number
_DIRECTORY_BODY = struct.Struct("<IIHHI")  # listing block, links, size, listing offset, parent
_LONG_DIRECTORY_BODY = struct.Struct("<IIIIHHI")  # links, size, listing block, parent, indexes, listing offset, xattr
_FILE_BODY = struct.Struct("<IIII")  # first block, fragment, offset in it, size
_LONG_FILE_BODY = struct.Struct("<QQQIIII")  # first block, size, sparse bytes, links, fragment, offset, xattr
_SYMLINK_BODY = struct.Struct("<II")  # links, length
_LISTING_HEADER = struct.Struct("<III")  # entries - 1, inode block, first number
_LISTING_ENTRY = struct.Struct("<HhHH")  # inode offset, number - first, type, name length - 1
_FRAGMENT = struct.Struct("<QII")  # start, size, unused


class _Metadata:
    """A stream of metadata blocks. `position` is the reference of what is appended next: (block's start, offset)."""

    def __init__(self, compress: Callable[[bytes], bytes]) -> None:
        self._compress = compress
        self._pending = bytearray()
        self.data = bytearray()
        self.starts: list[int] = []

    @property
    def position(self) -> tuple[int, int]:
        return len(self.data), len(self._pending)

    def append(self, record: bytes) -> None:
        self._pending += record
        while len(self._pending) >= _METADATA:
            self._flush(_METADATA)

    def _flush(self, size: int) -> None:
        raw = bytes(self._pending[:size])
        del self._pending[:size]
        packed = self._compress(raw)
        self.starts.append(len(self.data))
        if len(packed) < len(raw):
            self.data += struct.pack("<H", len(packed)) + packed
        else:
            self.data += struct.pack("<H", len(raw) | _UNCOMPRESSED_METADATA) + raw

    def finish(self) -> bytes:
        if self._pending:
            self._flush(len(self._pending))
        return bytes(self.data)


class _Writer:
    def __init__(self, nodes: Mapping[str, Node], block_size: int, level: int, made: Made) -> None:
        self.nodes = nodes
        self._made = made
        self.block_size = block_size
        self._local = threading.local()
        self._level = level
        self.output = bytearray(_SUPERBLOCK.size)
        self.fragments: list[tuple[int, int]] = []
        self.files: dict[str, tuple[int, list[int], int, int]] = {}  # path: start, block sizes, fragment, offset
        self.inodes = _Metadata(self.compress)
        self.listings = _Metadata(self.compress)
        self.count = 0

    def compress(self, data: bytes) -> bytes:
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(level=self._level)
        packed: bytes = self._local.compressor.compress(data)
        return packed

    def _pack(self, data: bytes) -> bytes:
        """A block of files' data, packed now or before."""
        return self._made.get(f"zstd {zstandard.ZSTD_VERSION} {self._level}", data, lambda: self.compress(data))

    def _store(self, packed: bytes, raw: bytes) -> int:
        """Append a block; its size word."""
        smaller = len(packed) < len(raw)
        self.output += packed if smaller else raw
        return len(packed) if smaller else len(raw) | _UNCOMPRESSED_BLOCK

    def write_data(self) -> None:
        """Blocks of all regular files, then the fragment blocks that hold their tails, both in the tree's order."""
        blocks: list[bytes] = []
        layout: list[tuple[str, int, int, int]] = []  # path, full blocks, fragment, offset in it
        tails = bytearray()
        fragments: list[bytes] = []
        for path, node in self.nodes.items():
            if not stat.S_ISREG(node.mode):
                continue
            content, size = node.content, self.block_size
            whole = len(content) // size
            blocks += [content[number * size : (number + 1) * size] for number in range(whole)]
            tail = content[whole * size :]
            if not tail:
                layout.append((path, whole, _NONE32, 0))
                continue
            if len(tails) + len(tail) > size:
                fragments.append(bytes(tails))
                tails.clear()
            layout.append((path, whole, len(fragments), len(tails)))
            tails += tail
        if tails:
            fragments.append(bytes(tails))
        zero = bytes(self.block_size)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            packed = pool.map(lambda block: b"" if block == zero else self._pack(block), blocks)
            packed_fragments = pool.map(self._pack, fragments)
            following = iter(blocks)
            for path, whole, fragment, offset in layout:
                start = len(self.output)
                sizes = []
                for _ in range(whole):
                    block, raw = next(packed), next(following)
                    sizes.append(self._store(block, raw) if block else 0)  # a size of 0 is a hole
                self.files[path] = (start, sizes, fragment, offset)
            for raw in fragments:
                start = len(self.output)
                self.fragments.append((start, self._store(next(packed_fragments), raw)))

    def _inode(self, kind: int, mode: int, body: bytes) -> tuple[int, int, int]:
        """Append an inode; (block, offset, number)."""
        self.count += 1
        block, offset = self.inodes.position
        self.inodes.append(_INODE.pack(kind, mode & 0o7777, 0, 0, 0, self.count) + body)
        return block, offset, self.count

    def _file_inode(self, path: str, node: Node) -> tuple[int, int, int]:
        start, sizes, fragment, offset = self.files[path]
        holes = sizes.count(0) * self.block_size
        if holes:
            body = _LONG_FILE_BODY.pack(start, len(node.content), holes, 1, fragment, offset, _NONE32)
        else:
            body = _FILE_BODY.pack(start, fragment, offset, len(node.content))
        return self._inode(_LONG_FILE if holes else _FILE, node.mode, body + struct.pack(f"<{len(sizes)}I", *sizes))

    def write_directory(
        self, path: str, children: Mapping[str, list[str]], parent_of: Mapping[str, int]
    ) -> tuple[int, int, int]:
        """The inodes below a directory, its listing, and its own inode."""
        entries: list[tuple[bytes, int, tuple[int, int, int]]] = []
        for child in children.get(path, []):
            node = self.nodes[child]
            name = child.rpartition("/")[2].encode()
            if stat.S_ISDIR(node.mode):
                entries.append((name, _DIRECTORY, self.write_directory(child, children, parent_of)))
            elif stat.S_ISREG(node.mode):
                entries.append((name, _FILE, self._file_inode(child, node)))
            elif stat.S_ISLNK(node.mode):
                body = _SYMLINK_BODY.pack(1, len(node.content)) + node.content
                entries.append((name, _SYMLINK, self._inode(_SYMLINK, node.mode, body)))
            else:
                raise KdumpError(f"{child} cannot be stored in a squashfs image", why="it is a special file")
        block, offset = self.listings.position
        size = self._listing(sorted(entries)) + _LISTING_EXTRA
        links = 2 + sum(kind == _DIRECTORY for _, kind, _ in entries)
        mode = self.nodes[path].mode if path else 0o755
        parent = parent_of[path]
        if size < 1 << 16:
            return self._inode(_DIRECTORY, mode, _DIRECTORY_BODY.pack(block, links, size, offset, parent))
        body = _LONG_DIRECTORY_BODY.pack(links, size, block, parent, 0, offset, _NONE32)
        return self._inode(_LONG_DIRECTORY, mode, body)

    def _listing(self, entries: list[tuple[bytes, int, tuple[int, int, int]]]) -> int:
        """Write a directory's entries, in runs of at most 256 whose inodes share a block; bytes written."""
        written = 0
        while entries:
            _, _, (block, _, first) = entries[0]
            run = 1
            while run < min(256, len(entries)):
                _, _, (other, _, number) = entries[run]
                if other != block or abs(number - first) >= 1 << 15:
                    break
                run += 1
            records = [_LISTING_HEADER.pack(run - 1, block, first)]
            for name, kind, (_, offset, number) in entries[:run]:
                records.append(_LISTING_ENTRY.pack(offset, number - first, kind, len(name) - 1) + name)
            record = b"".join(records)
            self.listings.append(record)
            written += len(record)
            entries = entries[run:]
        return written

    def _table(self, records: Iterable[bytes]) -> int:
        """A table: metadata blocks, then the list of their addresses, whose own address is returned."""
        blocks = _Metadata(self.compress)
        for record in records:
            blocks.append(record)
        data = blocks.finish()
        base = len(self.output)
        self.output += data
        start = len(self.output)
        self.output += struct.pack(f"<{len(blocks.starts)}Q", *(base + offset for offset in blocks.starts))
        return start


def pack(
    nodes: Mapping[str, Node], *, block_size: int = BLOCK_SIZE, level: int = LEVEL, made: Made | None = None
) -> bytes:
    """The squashfs image of a tree, padded to 4096 bytes. File data lies in the tree's order.

    `block_size` is a power of two from 4 KiB to 1 MiB, `level` zstd's. Blocks that `made` knows are not packed again.
    """
    writer = _Writer(nodes, block_size, level, made or Made())
    writer.write_data()
    children: dict[str, list[str]] = {}
    for path in sorted(nodes):
        children.setdefault(path.rpartition("/")[0], []).append(path)
    numbers = _directory_numbers(children, nodes)
    block, offset, _ = writer.write_directory("", children, numbers)
    inode_start = len(writer.output)
    writer.output += writer.inodes.finish()
    listing_start = len(writer.output)
    writer.output += writer.listings.finish()
    fragment_start = writer._table(_FRAGMENT.pack(start, size, 0) for start, size in writer.fragments)
    id_start = writer._table([struct.pack("<I", 0)])
    used = len(writer.output)
    _SUPERBLOCK.pack_into(
        writer.output, 0, _MAGIC, writer.count, 0, block_size, len(writer.fragments),
        _ZSTD, block_size.bit_length() - 1, _NO_XATTRS, 1, 4, 0, block << 16 | offset, used,
        id_start, _NONE64, inode_start, listing_start, fragment_start, _NONE64,
    )  # fmt: skip
    return bytes(writer.output) + bytes(-used % 4096)


def _directory_numbers(children: Mapping[str, list[str]], nodes: Mapping[str, Node]) -> dict[str, int]:
    """For each directory its parent's inode number, as `write_directory` will give them: children before parents."""
    number = 0
    own: dict[str, int] = {}

    def visit(path: str) -> None:
        nonlocal number
        for child in children.get(path, []):
            if stat.S_ISDIR(nodes[child].mode):
                visit(child)
            else:
                number += 1
        number += 1
        own[path] = number

    visit("")
    # The root's parent is the number after the last inode, as mksquashfs has it.
    return {path: own[path.rpartition("/")[0]] if path else number + 1 for path in own}
