"""The codecs of dumps: their names, their bits in the kdump-compressed format, their efforts. Nothing here compresses.

Source of the bits, in a page descriptor and in the header: makedumpfile's diskdump_mod.h, DUMP_DH_COMPRESSED_*.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class CodecFacts(NamedTuple):
    """A codec. `levels` are the efforts that it has, None if it has one only; 0 always is kdump's choice."""

    name: str
    flag: int
    levels: range | None = None

    def takes(self, level: int) -> bool:
        """Whether it has that effort."""
        return level == 0 or (self.levels is not None and level in self.levels)

    @property
    def allowed(self) -> str:
        """Its efforts, for people."""
        return f"{self.levels[0]} to {self.levels[-1]}" if self.levels else "none"


ZLIB, LZO, SNAPPY, ZSTD = 0x01, 0x02, 0x04, 0x20

CODECS: Final = {
    each.name: each
    for each in (
        CodecFacts("zstd", ZSTD, range(-50, 23)),
        CodecFacts("zlib", ZLIB),
        CodecFacts("lzo", LZO),
        CodecFacts("snappy", SNAPPY),
        CodecFacts("none", 0),
    )
}
DEFAULT: Final = "zstd"
