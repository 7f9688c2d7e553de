"""How an architecture's page tables are laid out, as data that one walker reads."""

from __future__ import annotations

from typing import NamedTuple


class Paging(NamedTuple):
    """Page tables of 64-bit little-endian entries, one page a table.

    `root` is the physical address of the top table; `shifts` are the address bits that each level resolves from, top
    first (the last is the page shift); `index_bits` is log2 of the entries of a table. An entry is present if it has
    any bit of `present`, or any bit of `present_leaf` at a level of `leaf_shifts`; it maps memory itself at the last
    level, or at a level of `leaf_shifts` if its bits `leaf_mask` are `leaf`. `address_mask` cuts the physical address
    out; the bits `high_mask`, moved up by `high_shift`, belong to it too. If the table `inverts`, a present entry
    without the bit `valid` has its address bits inverted (Linux's answer to L1TF).
    """

    root: int
    shifts: tuple[int, ...]
    index_bits: int
    valid: int
    present: int
    leaf: int
    leaf_mask: int
    leaf_shifts: frozenset[int]
    present_leaf: int
    address_mask: int
    inverts: bool = False
    high_mask: int = 0
    high_shift: int = 0
    bits: int = 0  # address bits that are resolved; 0: as many as the levels have
    upper_only: bool = False  # the table maps only addresses whose other bits are all set

    @property
    def canonical_bits(self) -> int:
        """Virtual addresses are sign-extended from this many bits, or from one more if `upper_only`."""
        return self.bits or self.shifts[0] + self.index_bits
