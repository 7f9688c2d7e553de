"""VMCOREINFO: the text in which a kernel tells a dump tool what it must know.

Source: kernel/vmcore_info.c (kernel/crash_core.c before 6.9) and the architectures' arch_crash_save_vmcoreinfo();
documented in Documentation/admin-guide/kdump/vmcoreinfo.rst.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kdump.errors import KdumpError

_LINE = re.compile(r"^(SYMBOL|OFFSET|SIZE|LENGTH|NUMBER)\(([^)]+)\)=(.*)$")


@dataclass(frozen=True)
class VmCoreInfo:
    """Parsed VMCOREINFO.

    `symbols` are virtual addresses (hex in the text), `offsets`, `sizes` and `lengths` are in bytes or elements,
    `numbers` are as the kernel printed them. `strings` holds every other KEY=value line (OSRELEASE, BUILD-ID, PAGESIZE,
    CRASHTIME, KERNELOFFSET, …).
    """

    raw: bytes
    symbols: Mapping[str, int] = field(default_factory=dict)
    offsets: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    strings: Mapping[str, str] = field(default_factory=dict)

    def symbol(self, name: str) -> int:
        """SYMBOL(name): a virtual address. Raises `KdumpError` if the kernel did not say."""
        return self._need("SYMBOL", self.symbols, name)

    def offset(self, name: str) -> int:
        """OFFSET(type.member) in bytes. Raises `KdumpError` if the kernel did not say."""
        return self._need("OFFSET", self.offsets, name)

    def size(self, name: str) -> int:
        """SIZE(type) in bytes. Raises `KdumpError` if the kernel did not say."""
        return self._need("SIZE", self.sizes, name)

    def length(self, name: str) -> int:
        """LENGTH(array) in elements. Raises `KdumpError` if the kernel did not say."""
        return self._need("LENGTH", self.lengths, name)

    def number(self, name: str) -> int:
        """NUMBER(name). Raises `KdumpError` if the kernel did not say."""
        return self._need("NUMBER", self.numbers, name)

    def _need(self, kind: str, table: Mapping[str, int], name: str) -> int:
        value = table.get(name)
        if value is None:
            raise KdumpError(
                f"VMCOREINFO has no {kind}({name})",
                why=f"kernel {self.release or 'unknown'} does not say, or it is damaged",
            )
        return value

    @property
    def release(self) -> str:
        """The kernel release as `uname -r` prints it, or an empty string."""
        return self.strings.get("OSRELEASE", "")

    @property
    def build_id(self) -> str:
        """GNU build ID of vmlinux in lower-case hex, or an empty string (kernels before 5.9)."""
        return self.strings.get("BUILD-ID", "").lower()

    @property
    def page_size(self) -> int:
        """Page size in bytes; 4096 where the text does not say."""
        return _integer(self.strings.get("PAGESIZE", ""), 10) or 4096

    @property
    def crash_time(self) -> int:
        """Seconds since 1970 at the panic, 0 if the kernel did not get to note it (or no date has so many)."""
        return possible_time(_integer(self.strings.get("CRASHTIME", ""), 10) or 0)

    @property
    def kaslr_offset(self) -> int:
        """By how many bytes KASLR moved the kernel's text."""
        return _integer(self.strings.get("KERNELOFFSET", ""), 16) or 0


def possible_time(seconds: int) -> int:
    """Seconds since 1970, and 0 if that is before it or after the year 9999, as a damaged dump may say."""
    return seconds if 0 <= seconds < 253_402_300_800 else 0


def parse(raw: bytes) -> VmCoreInfo:
    """Read the note's text. Lines that do not parse are kept in `strings` or skipped; this never fails.

    A value that is not a number (a damaged note) is left out, so that a later look-up finds it missing.
    """
    tables: dict[str, dict[str, int]] = {kind: {} for kind in ("SYMBOL", "OFFSET", "SIZE", "LENGTH", "NUMBER")}
    strings: dict[str, str] = {}
    for line in raw.split(b"\0", 1)[0].decode("ascii", "replace").splitlines():
        if found := _LINE.match(line):
            kind, name, text = found.groups()
            value = _integer(text, 16 if kind == "SYMBOL" or text.startswith("0x") else 10)
            if value is not None:
                tables[kind][name] = value
        elif "=" in line:
            key, text = line.split("=", 1)
            strings[key] = text
    return VmCoreInfo(
        raw, tables["SYMBOL"], tables["OFFSET"], tables["SIZE"], tables["LENGTH"], tables["NUMBER"], strings
    )


def _integer(text: str, base: int) -> int | None:
    try:
        return int(text, base)
    except ValueError:
        return None
