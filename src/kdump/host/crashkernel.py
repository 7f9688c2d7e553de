"""The crashkernel= parameter: what a command line asks for, and what a kernel makes of it on a given machine.

Follows the kernel's own parsing with its quirks, because that decides what is reserved: kernel/crash_core.c and
arch/x86/kernel/setup.c up to 6.6, kernel/crash_reserve.c and arch/x86/include/asm/crash_reserve.h from 6.7 on.
Documentation/admin-guide/kdump/kdump.rst describes the grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from kdump.errors import KdumpError
from kdump.units import size_text

MIB: Final = 1 << 20
GIB: Final = 1 << 30
ALIGN: Final = 16 * MIB  # CRASH_ALIGN
LOW_MAX: Final = 4 * GIB  # CRASH_ADDR_LOW_MAX
OLD_LOW_MAX: Final = 896 * MIB  # CRASH_ADDR_LOW_MAX before 5.2
HIGH_MAX: Final = 64 << 40  # CRASH_ADDR_HIGH_MAX
LOW_DEFAULT: Final = 256 * MIB
RAM_STEP: Final = 128 * MIB  # RAM is rounded up to this before ranges are compared
SWIOTLB_DEFAULT: Final = 64 * MIB
NAME: Final = "crashkernel="
SUFFIXES: Final = ("high", "low", "cma")

# What crashkernel=auto reserves, by Red Hat's documentation of their releases.
AUTO: Final = {"el7": "2G-:161M", "el8": "1G-4G:160M,4G-64G:192M,64G-1T:256M,1T-:512M"}

Ranges = tuple[tuple[int, int], ...]  # (start, end) of physical memory, end exclusive, ascending

_NUMBER: Final = re.compile(r"(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)([KMGTPE]?)", re.IGNORECASE)


class CrashkernelError(KdumpError):
    """A crashkernel= value that the kernel rejects: it reserves nothing."""

    def __init__(self, value: str, why: str) -> None:
        super().__init__(
            f"{NAME}{value} is rejected by the kernel",
            why=why,
            remedy="for example crashkernel=256M, or crashkernel=2G-64G:256M,64G-:512M",
        )


@dataclass(frozen=True)
class Rules:
    """Differences between kernels.

    `generic`: 6.7 and later; `cma`: 6.17 and later (backports aside). `low_max`: below this a plain value is placed,
    and `climbs`: above it if there is no room (5.2 and later). `auto`: the value that crashkernel=auto stands for
    (kernels of el7 and el8 only).
    """

    generic: bool = True
    cma: bool = False
    low_max: int = LOW_MAX
    climbs: bool = True
    auto: str = ""

    @classmethod
    def of(cls, release: str) -> Rules:
        """The rules of a kernel by its release ("6.1.0-56-generic"); of a recent one if that says no version."""
        found = re.match(r"(\d+)\.(\d+)", release)
        version = (int(found[1]), int(found[2])) if found else (6, 12)
        enterprise = re.search(r"\.(el[78])(?![0-9])", release)
        auto = AUTO[enterprise[1]] if enterprise else ""
        old = version < (5, 2) and not (enterprise and enterprise[1] == "el8")  # el8 has the rules of 5.2
        return cls(version >= (6, 7), version >= (6, 17), OLD_LOW_MAX if old else LOW_MAX, not old, auto)


@dataclass(frozen=True)
class Range:
    """`start-end:size`: reserve `size` bytes if RAM is at least `start` and less than `end` (None: no end)."""

    start: int
    end: int | None
    size: int

    def holds(self, ram: int) -> bool:
        """Whether a machine with `ram` bytes (already rounded) is in the range."""
        return self.start <= ram and (self.end is None or ram < self.end)


@dataclass(frozen=True)
class Clause:
    """One crashkernel= parameter: a `size`, or `ranges` that choose one; at `offset` (0: anywhere); or a `suffix`."""

    text: str
    size: int = 0
    offset: int = 0
    suffix: str = ""
    ranges: tuple[Range, ...] = ()

    def explain(self) -> str:
        """Its meaning, in words."""
        where = f" at {self.offset:#x}" if self.offset else ""
        if self.ranges:
            parts = [
                f"{size_text(each.size)} if RAM is {size_text(each.start)} or more"
                + (f" and below {size_text(each.end)}" if each.end is not None else "")
                for each in self.ranges
            ]
            return "; ".join(parts) + where
        meaning = {
            "": "below 4 GiB if it fits there, else above it and 256 MiB or more below",
            "high": "above 4 GiB, with a low part below for DMA",
            "low": "the part below 4 GiB that goes with one above",
            "cma": "movable: the running system may use it for its user pages meanwhile",
        }[self.suffix]
        return f"{size_text(self.size)}{where or ', ' + meaning}"


@dataclass(frozen=True)
class Outcome:
    """The result of a kernel's parser: reserved bytes in all parts, or 0 and `why`. `steps` tell how it came to
    that."""

    size: int = 0
    base: int = 0  # asked for; 0: where there is room
    above_4g: bool = False
    low: int = 0
    cma: int = 0
    why: str = ""
    steps: tuple[str, ...] = ()


def parse(value: str) -> Clause:
    """One value (what stands after "crashkernel="). Raises CrashkernelError with what the kernel does not accept.

    Stricter than the kernel in one way: all entries of a list are read, not only those up to the first that matches.
    """
    head, comma, suffix = value.rpartition(",")
    if comma and suffix in SUFFIXES:
        size, rest = _memparse(value, head)
        if rest:
            raise CrashkernelError(value, f"{rest!r} after the size")
        return Clause(value, size, suffix=suffix)
    if ":" not in value:
        size, rest = _memparse(value, value)
        if rest and not rest.startswith("@"):
            raise CrashkernelError(value, f"{rest!r} after the size")
        offset, rest = _memparse(value, rest[1:]) if rest else (0, "")
        return Clause(value, size, offset)
    listed, at, place = value.partition("@")
    ranges = tuple(_range(value, entry) for entry in listed.split(","))
    offset = _memparse(value, place)[0] if at else 0
    return Clause(value, offset=offset, ranges=ranges)


def explained(value: str, rules: Rules) -> str:
    """The meaning of one value, in words. Raises CrashkernelError if a kernel with `rules` rejects it."""
    return parse(_meant(value, rules, [])).explain()


def parameters(values: str) -> list[str]:
    """The parameters that values separated by blanks ("512M,high 128M,low") are written as."""
    return [NAME + value for value in values.split()]


def clauses(cmdline: str, *, rules: Rules) -> tuple[dict[str, str], list[str]]:
    """The value that counts of each kind ("", "high", "low", "cma") in a kernel command line, and notes on the others.

    The last one of a kind wins. A suffix that the kernel does not know makes the value a plain one, and a broken one.
    """
    known = [suffix for suffix in SUFFIXES if suffix != "cma" or rules.cma]
    chosen: dict[str, str] = {}
    notes = []
    for found in re.finditer(r"crashkernel=([^ \n]*)", cmdline):
        kind = next((suffix for suffix in known if found[1].endswith("," + suffix)), "")
        if kind in chosen:
            notes.append(f"{NAME}{chosen[kind]} is overridden by a later {NAME}{found[1]}")
        chosen[kind] = found[1]
    return chosen, notes


def evaluate(cmdline: str, ram: Ranges, rules: Rules) -> Outcome:
    """The reservation of a kernel with `rules`, given its command line and the machine's RAM as it sees it at boot.

    Placement is predicted as far as RAM allows: what else early boot occupies (initrd, kernel) is not known here.
    """
    total = sum(end - start for start, end in ram)
    chosen, notes = clauses(cmdline, rules=rules)
    steps = list(notes)

    def nothing(why: str) -> Outcome:
        return Outcome(why=why, steps=tuple(steps))

    size = base = 0
    high = False
    low: int | None = None
    if not chosen:
        return nothing("no crashkernel= on the command line")
    if "" in chosen:
        try:
            size, base = _plain(_meant(chosen[""], rules, steps), total, steps)
        except CrashkernelError as error:
            if rules.generic or "high" not in chosen:
                return nothing(f"{error.what}: {error.why}")
            steps.append(f"{error.what}: {error.why}")
    if not size and "high" in chosen and ("" not in chosen or not rules.generic):
        high, base = True, 0
        try:
            size = parse(chosen["high"]).size
            if rules.generic and "low" in chosen:
                low = parse(chosen["low"]).size
        except CrashkernelError as error:
            return nothing(f"{error.what}: {error.why}")
    if not size:
        return nothing("no size above zero for this machine" if "" in chosen or high else "only ,low or ,cma is given")
    if rules.generic and size >= total:
        return nothing(f"{size_text(size)} is not less than the machine's {size_text(total)}")
    if not rules.generic and "low" in chosen:
        try:
            low = parse(chosen["low"]).size
        except CrashkernelError as error:
            steps.append(f"{error.what}: {error.why}; the default is taken")
    outcome = _place(Outcome(size, base), high, low, cmdline, ram, rules, steps)
    if "cma" in chosen and outcome.size:
        outcome = replace(outcome, cma=parse(chosen["cma"]).size)
    return replace(outcome, steps=tuple(steps))


def low_default(cmdline: str) -> int:
    """Bytes reserved below 4 GiB for a reservation above it: 256 MiB, or more if swiotlb= asks for more than 248."""
    slabs = re.findall(r"(?:^| )swiotlb=(\d+)", cmdline)
    # A slab is 2 KiB and they come in segments of 128 (include/linux/swiotlb.h).
    swiotlb = (int(slabs[-1]) + 127) // 128 * 128 << 11 if slabs else SWIOTLB_DEFAULT
    return max(swiotlb + 8 * MIB, LOW_DEFAULT)


def _meant(value: str, rules: Rules, steps: list[str]) -> str:
    """The meaning of a plain value: itself, or for "auto" the value in enterprise kernels."""
    if value != "auto":
        return value
    if not rules.auto:
        raise CrashkernelError(value, "only kernels of RHEL 7 and 8 and their derivatives know auto")
    steps.append(f"auto stands for {rules.auto}")
    return rules.auto


def _plain(value: str, total: int, steps: list[str]) -> tuple[int, int]:
    """Size and offset that a value without suffix means on a machine of `total` bytes, the way the kernel reads it."""
    if ":" not in value:
        clause = parse(value)
        if clause.suffix:
            raise CrashkernelError(value, f"this kernel knows no ,{clause.suffix}")
        return clause.size, clause.offset
    rounded = -(-total // RAM_STEP) * RAM_STEP
    steps.append(f"RAM is {size_text(total)}, taken as {size_text(rounded)} (rounded up to 128 MiB)")
    listed, at, place = value.partition("@")
    for entry in listed.split(","):
        each = _range(value, entry)
        if each.size >= rounded:
            raise CrashkernelError(value, f"{size_text(each.size)} is not less than RAM")
        if each.holds(rounded):
            steps.append(f"{entry} applies")
            return each.size, _memparse(value, place)[0] if at and each.size else 0
    return 0, 0


def _place(  # noqa: PLR0917 -- one step of evaluate()
    wanted: Outcome, high: bool, low: int | None, cmdline: str, ram: Ranges, rules: Rules, steps: list[str]
) -> Outcome:
    """Where the kernel puts a reservation, and the low part that goes with it."""
    size, base = wanted.size, wanted.base
    if base:
        # Up to 6.6 any 1 MiB boundary will do; the generic code asks for 16 MiB.
        if base % (ALIGN if rules.generic else MIB):
            return Outcome(why=f"{base:#x} is not on a {16 if rules.generic else 1} MiB boundary")
        if not any(start <= base and base + size <= end for start, end in ram):
            return Outcome(why=f"{base:#x} to {base + size:#x} is not all RAM")
        above = base >= LOW_MAX
        needs_low = above and not rules.generic
    else:
        below = _fits(ram, size, ALIGN, LOW_MAX if high else rules.low_max)
        above = (high or (rules.climbs and not below)) and _fits(ram, size, LOW_MAX, HIGH_MAX)
        if not below and not above:
            where = "" if high or rules.climbs else f" below {size_text(rules.low_max)}, where this kernel looks"
            return Outcome(why=f"no {size_text(size)} of RAM in one piece{where}")
        if high and not above:
            steps.append("there is no room above 4 GiB: it goes below")
        elif above and not high:
            steps.append("there is no room below 4 GiB: it goes above")
        needs_low = above
    if not needs_low:
        return replace(wanted, above_4g=above)
    if low is None or (rules.generic and not high):
        low = low_default(cmdline)
    if low and not _fits(ram, low, ALIGN, LOW_MAX):
        return Outcome(why=f"no {size_text(low)} below 4 GiB for the low part")
    return replace(wanted, above_4g=True, low=low)


def _fits(ram: Ranges, size: int, low: int, high: int) -> bool:
    """Whether a piece of `size` bytes, aligned as the kernel does, lies in RAM within [low, high)."""
    for start, end in ram:
        first = -(-max(start, low) // ALIGN) * ALIGN
        if first + size <= min(end, high):
            return True
    return False


def _range(value: str, entry: str) -> Range:
    start, rest = _memparse(value, entry)
    if not rest.startswith("-"):
        raise CrashkernelError(value, f"{entry!r} is not START-[END]:SIZE")
    end: int | None = None
    rest = rest[1:]
    if not rest.startswith(":"):
        end, rest = _memparse(value, rest)
        if end <= start:
            raise CrashkernelError(value, f"{entry!r} ends before it starts")
    if not rest.startswith(":"):
        raise CrashkernelError(value, f"{entry!r} has no :SIZE")
    size, rest = _memparse(value, rest[1:])
    if rest:
        raise CrashkernelError(value, f"{rest!r} after the size in {entry!r}")
    return Range(start, end, size)


def _memparse(value: str, text: str) -> tuple[int, str]:
    """A number at the start of `text` and what follows it, as memparse() (lib/cmdline.c) reads it: 0x…, 0…, K to E."""
    found = _NUMBER.match(text)
    if not found:
        raise CrashkernelError(value, f"a size was expected at {text!r}" if text else "a size is missing")
    digits, unit = found.groups()
    base = 16 if digits[:2].lower() == "0x" else 8 if digits[0] == "0" else 10
    shift = 10 * ("KMGTPE".index(unit.upper()) + 1) if unit else 0
    return int(digits, base) << shift & (1 << 64) - 1, text[found.end() :]
