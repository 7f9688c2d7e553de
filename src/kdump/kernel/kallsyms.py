"""The kernel's own symbol table, read from its memory: names to addresses and back, without vmlinux.

Source: scripts/kallsyms.c (how the tables are made) and kernel/kallsyms.c (how the kernel reads them). VMCOREINFO
names the tables since 6.0. Names are compressed: each is a length and that many one-byte tokens, and every token
stands for a short string; the first decoded character is the symbol's type as nm(1) prints it. Addresses come in four
encodings: absolute (`kallsyms_addresses`, until 6.10), relative to a base, the same with negative offsets so that
per-CPU symbols can stay absolute (until 6.14), and relative to the place of the entry itself (since 7.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from kdump.errors import KdumpError, NotPresentError
from kdump.kernel.remembered import remembered
from kdump.kernel.vmcoreinfo import VmCoreInfo
from kdump.native.engine import engine

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel

_MAX_SYMBOLS = 1 << 23
_MAX_NAMES = 1 << 27
_MARKER_STEP = 256  # one marker (offset into the names) for so many symbols
_MAX_TOKEN = 512
_OF_DATA = {"t": "d", "T": "D", "w": "v", "W": "V"}  # nm's letters of variables, for those of functions
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 by the golden ratio, which spreads numbers well


class Reader(Protocol):
    """The part of virtual memory that the modules of this package need."""

    def view(self, address: int, size: int) -> memoryview:
        """Bytes of [address, address+size); raises `NotPresentError` if any is absent."""


class Symbol(NamedTuple):
    """A symbol: `type` is nm's letter; `module` is empty for vmlinux.

    `size` is the distance in bytes to the next address that has a symbol; 0 if no symbol follows.
    """

    name: str
    address: int
    type: str
    size: int
    module: str = ""


class UnknownSymbolError(KdumpError, KeyError):
    """A symbol that the kernel may have, but its table has only functions (it was built without KALLSYMS_ALL)."""


class Names:
    """The names of all symbols, compressed as they are: one is decoded when it is asked for."""

    def __init__(self, raw: bytes, wide: bool, places: npt.NDArray[np.int64], pieces: list[bytes]) -> None:
        """`places` is where each name's length lies, and the end of the last; `pieces` what the tokens stand for."""
        self._raw = raw
        self._pieces = pieces
        self._codes = np.frombuffer(raw + b"\0", np.uint8)
        self._ends = places[1:]
        self._begins = places[:-1] + 1
        if wide:
            self._begins[self._codes[places[:-1]] >= 0x80] += 1
        self._hashes = _hashes(engine.heads(self._codes, self._begins, self._ends, pieces))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> bytes:
        """The type's letter and the name."""
        return b"".join(map(self._pieces.__getitem__, self._raw[self._begins[index] : self._ends[index]]))

    def find(self, name: bytes) -> Iterator[int]:
        """Indexes of the symbols of that name."""
        # Comparing what their first bytes hash to in one array operation, and then names, is far cheaper than decoding.
        wanted = _hashes(np.array([int.from_bytes(name[:8], "little")], np.uint64))
        for index in np.flatnonzero(self._hashes == wanted).tolist():
            if self[index][1:] == name:
                yield index


def _hashes(heads: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    """Two bytes for eight."""
    return (heads * _ODD >> np.uint64(48)).astype(np.uint16)


class Kallsyms:
    """Symbols of vmlinux by name and by address."""

    def __init__(self, names: Names, addresses: npt.NDArray[np.uint64]) -> None:
        """`addresses` belong to the names in that order (sorted or not)."""
        if len(names) != len(addresses):
            raise KdumpError("the kernel's symbol table does not decode", why="names and addresses differ in number")
        self._names = names
        self._by_index = addresses
        self._more: dict[str, int] = {}
        self._order: npt.NDArray[np.intp] | None = None
        if len(addresses) and not bool(np.all(addresses[1:] >= addresses[:-1])):
            self._order = np.argsort(addresses, kind="stable")
            self._sorted = addresses[self._order]
        else:
            self._sorted = addresses

    @classmethod
    def from_kernel(cls, kernel: Kernel) -> Kallsyms:
        """See `load`."""
        return load(kernel.virtual, kernel.vmcoreinfo)

    def __len__(self) -> int:
        return len(self._by_index)

    def add(self, more: Mapping[str, int]) -> None:
        """Have `get`, `address` and `addresses` know further symbols; those of the table come before them."""
        self._more.update(more)

    @property
    def last(self) -> int:
        """The highest address that has a symbol."""
        return int(self._sorted[-1]) if len(self._sorted) else 0

    def get(self, name: str) -> int | None:
        """Address of the first symbol of that name, or None."""
        for index in self._find(name):
            return int(self._by_index[index])
        return self._more.get(name)

    def address(self, name: str) -> int:
        """Address of the first symbol of that name; raises `KeyError`."""
        found = self.get(name)
        if found is None and self._more:
            raise UnknownSymbolError(
                f"the kernel does not say where {name} is", why="its symbol table has only functions"
            )
        if found is None:
            raise KeyError(name)
        return found

    def addresses(self, name: str) -> list[int]:
        """Every address a name has (static symbols may share one)."""
        found = [int(self._by_index[index]) for index in self._find(name)]
        return found or [self._more[name] for _ in range(name in self._more)]

    def at(self, address: int) -> Symbol | None:
        """The symbol that covers `address`: the last one that does not start after it."""
        place = int(np.searchsorted(self._sorted, np.uint64(address), side="right")) - 1
        if place < 0:
            return None
        # Of several names for one address take the first, as the kernel does.
        start = int(self._sorted[place])
        following = place + 1
        place = int(np.searchsorted(self._sorted, self._sorted[place], side="left"))
        size = int(self._sorted[following]) - start if following < len(self._sorted) else 0
        return self._symbol(int(self._order[place]) if self._order is not None else place, size)

    def __iter__(self) -> Iterator[Symbol]:
        """All symbols by address; slow (decodes each), for dumps of the whole table."""
        order = self._order if self._order is not None else range(len(self._by_index))
        beyond = np.searchsorted(self._sorted, self._sorted, side="right")
        following = self._sorted[np.minimum(beyond, len(self._sorted) - 1)]
        for place, index in enumerate(order):
            yield self._symbol(int(index), int(following[place]) - int(self._sorted[place]))

    def _find(self, name: str) -> Iterator[int]:
        return self._names.find(name.encode("utf-8", "surrogateescape"))

    @remembered
    def _data(self) -> tuple[int, int]:
        """Where the image's variables begin and end."""
        return self.get("_sdata") or 0, self.get("_edata") or 0

    def _symbol(self, index: int, size: int) -> Symbol:
        text = self._names[index].decode("utf-8", "replace")
        kind, address = text[:1], int(self._by_index[index])
        # 7.x links .data as if it were code, and nm's letters say so.
        if self._data[0] <= address <= self._data[1]:
            kind = _OF_DATA.get(kind, kind)
        return Symbol(text[1:], address, kind, size)


def load(memory: Reader, info: VmCoreInfo) -> Kallsyms:
    """Decode the table that VMCOREINFO points to. Raises `KdumpError` if the kernel does not say where it is."""
    symbols = info.symbols
    missing = [
        name
        for name in ("kallsyms_names", "kallsyms_num_syms", "kallsyms_token_table", "kallsyms_token_index")
        if name not in symbols
    ]
    if missing or not ("kallsyms_offsets" in symbols or "kallsyms_addresses" in symbols):
        raise KdumpError(
            "the dump does not say where the kernel's symbol table is",
            why=f"VMCOREINFO of {info.release or 'this kernel'} lacks {', '.join(missing) or 'kallsyms_offsets'}"
            " (present since Linux 6.0)",
            remedy="symbols, types and stacks need the kernel's debug vmlinux for this dump",
        )
    try:
        count = int.from_bytes(memory.view(symbols["kallsyms_num_syms"], 4), "little")
        if not 0 < count <= _MAX_SYMBOLS:
            raise KdumpError("the kernel's symbol table does not decode", why=f"{count} symbols")
        names = _names(memory, symbols, count)
        return Kallsyms(names, _addresses(memory, info, count, names))
    except NotPresentError as error:
        raise KdumpError("the kernel's symbol table cannot be read", why=str(error)) from error


def _names(memory: Reader, symbols: Mapping[str, int], count: int) -> Names:
    start, end = symbols["kallsyms_names"], symbols["kallsyms_token_table"]
    if not start < end <= start + _MAX_NAMES:
        raise KdumpError("the kernel's symbol table does not decode", why="its names do not precede its tokens")
    raw = bytes(memory.view(start, end - start))
    wide, places = _walk(raw, count)
    return Names(raw, wide, places, _tokens(memory, end, symbols["kallsyms_token_index"]))


def _walk(raw: bytes, count: int) -> tuple[bool, npt.NDArray[np.int64]]:
    """Where each name's length byte is, and the end of the last; and whether a length from 128 on takes two bytes.

    It does (ULEB128) since 6.1, and no flag tells; the table of markers that follows the names does: its first entry
    is 0 and its second is the offset of symbol 256.
    """
    for wide in (True, False):
        places = engine.names(np.frombuffer(raw, np.uint8), count, wide=wide)
        if len(places) == count + 1 and places[-1] <= len(raw) and _markers_agree(raw, places):
            return wide, places
    raise KdumpError("the kernel's symbol table does not decode", why="names and markers disagree")


def _markers_agree(raw: bytes, places: npt.NDArray[np.int64]) -> bool:
    if len(places) <= _MARKER_STEP + 1:
        return True
    expected = (0).to_bytes(4, "little") + int(places[_MARKER_STEP]).to_bytes(4, "little")
    end = int(places[-1])
    return any(raw[at : at + 8] == expected for at in (-(-end // 4) * 4, -(-end // 8) * 8))


def _tokens(memory: Reader, table: int, index: int) -> list[bytes]:
    """The strings that the 256 tokens stand for."""
    starts = np.frombuffer(memory.view(index, 512), "<u2").tolist()
    last = max(starts)
    text = bytearray(memory.view(table, last))
    while not text[last:].endswith(b"\0") and len(text) < last + _MAX_TOKEN:
        text += memory.view(table + len(text), 1)
    pieces = [bytes(text[start : text.find(b"\0", start)]) for start in starts]
    if max(map(len, pieces)) > _MAX_TOKEN:
        raise KdumpError("the kernel's symbol table does not decode", why="its tokens are longer than any kernel's")
    return pieces


def _addresses(memory: Reader, info: VmCoreInfo, count: int, names: Names) -> npt.NDArray[np.uint64]:
    symbols = info.symbols
    if "kallsyms_offsets" not in symbols:
        return np.frombuffer(memory.view(symbols["kallsyms_addresses"], 8 * count), "<u8").astype(np.uint64)
    place = symbols["kallsyms_offsets"]
    raw = np.frombuffer(memory.view(place, 4 * count), "<i4").astype(np.int64)
    if "kallsyms_relative_base" not in symbols:
        return (raw + np.arange(count, dtype=np.int64) * 4).astype(np.uint64) + np.uint64(place)
    base = int.from_bytes(memory.view(symbols["kallsyms_relative_base"], 8), "little")
    plain = (raw & 0xFFFFFFFF).astype(np.uint64) + np.uint64(base)
    # Which of the two encodings is not written down; an image is under 2 GiB, so only one has negative offsets, and
    # VMCOREINFO's _stext settles it.
    if int(np.count_nonzero(raw < 0)) * 2 < count:
        chosen = plain
    else:
        chosen = np.where(raw >= 0, raw.astype(np.uint64), np.uint64(base) + (-1 - raw).astype(np.uint64))
    known = symbols.get("_stext")
    if known is not None:
        index = next(names.find(b"_stext"), None)
        if index is None or int(chosen[index]) != known:
            raise KdumpError("the kernel's symbol table does not decode", why="its _stext is not VMCOREINFO's")
    return chosen
