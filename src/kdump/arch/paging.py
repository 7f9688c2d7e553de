"""How an architecture's page tables are laid out, as data that one walker reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

# Names under which kernels note their own page table: since 4.13, before that, and where neither is noted.
ROOTS: Final = ("init_top_pgt", "init_level4_pgt", "swapper_pg_dir")


class Linear(NamedTuple):
    """Virtual memory that is mapped in one piece without page tables; `size` is a power of two, and aligns it."""

    virtual: int
    physical: int
    size: int


class Paging(NamedTuple):
    """Page tables of 64-bit entries.

    `root` is the physical address of the top table; `shifts` are the address bits that each level resolves from, top
    first (the last is the page shift); `index_bits` is log2 of the entries of a table, or `widths` are for each level.
    An entry is present if it has any bit of `present`, or any bit of `present_leaf` at a level of `leaf_shifts`; it
    maps memory itself at the last level, or at a level of `leaf_shifts` unless its bits `table_mask` are `table`.
    `address_mask` cuts the physical address out (`table_address_mask` that of a table, if not 0); the bits `high_mask`,
    moved up by `high_shift`, belong to it too. If the table `inverts`, a present entry without the bit `valid` has its
    address bits inverted (Linux's answer to L1TF). What is in `linear` is not looked up at all.
    """

    root: int
    shifts: tuple[int, ...]
    index_bits: int
    valid: int
    present: int
    table: int
    table_mask: int
    leaf_shifts: frozenset[int]
    present_leaf: int
    address_mask: int
    inverts: bool = False
    high_mask: int = 0
    high_shift: int = 0
    bits: int = 0  # address bits that are resolved; 0: as many as the levels have
    upper_only: bool = False  # the table maps only addresses whose other bits are all set
    prefix: int = 0  # instead of that: the table maps only addresses with these other bits
    widths: tuple[int, ...] = ()
    table_address_mask: int = 0
    big_endian: bool = False
    linear: tuple[Linear, ...] = ()

    @property
    def canonical_bits(self) -> int:
        """Virtual addresses are sign-extended from this many bits, or from one more if `upper_only`."""
        return self.bits or self.shifts[0] + self.index_bits

    def width(self, shift: int) -> int:
        """log2 of the entries of the table that resolves from bit `shift`."""
        return self.widths[self.shifts.index(shift)] if self.widths else self.index_bits


class InfoView(Protocol):
    """The required interface of VMCOREINFO: `kdump.kernel.vmcoreinfo.VmCoreInfo`."""

    @property
    def symbols(self) -> Mapping[str, int]:
        """SYMBOL lines."""

    @property
    def numbers(self) -> Mapping[str, int]:
        """NUMBER lines."""

    @property
    def strings(self) -> Mapping[str, str]:
        """Other lines: NAME=text."""

    @property
    def offsets(self) -> Mapping[str, int]:
        """OFFSET lines."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """SIZE lines."""

    @property
    def page_size(self) -> int:
        """PAGESIZE."""


class MemoryView(Protocol):
    """The required interface of physical memory."""

    def view(self, address: int, size: int) -> memoryview:
        """Bytes at a physical address. Raises `NotPresentError`."""
