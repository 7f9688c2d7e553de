"""Function names as people group them, and which frames are the kernel's machinery rather than the cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from kdump.report import families
from kdump.report.families import Family
from kdump.report.kinds import BY_ID, Kind
from kdump.report.model import Frame
from kdump.report.rust import demangle

# What compilers append when they split, clone or specialise a function.
_SUFFIX = re.compile(
    r"\.(?:cold|isra|constprop|part|llvm|lto_priv|clone|cfi|cfi_jt|__uniq|localalias|warm|\d+)(?:\.[\w]+)*$"
)
_PREFIX = re.compile(r"^(?:__pfx_|__cfi_(?=\w)|\.)")
# How SYSCALL_DEFINE() names what people call sys_name: include/linux/syscalls.h, arch/*/include/asm/syscall_wrapper.h
_SYSCALL = re.compile(
    r"^(?:__(?:x64|ia32|x32|arm64|arm|riscv|s390x?|se|do)_(?P<compat>compat_)?sys|(?P<old>compat_)?(?:SyS|SYSC)|__se_(?P<se>compat_)sys)_(?=\w)"
)


def normalise(function: str) -> str:
    """The function as its source names it: without compiler suffixes, system calls as sys_name."""
    name = _SUFFIX.sub("", _PREFIX.sub("", function))
    if name.startswith("_R"):
        return demangle(name)
    found = _SYSCALL.match(name)
    if not found:
        return name
    return ("compat_" if any(found.groups()) else "") + "sys_" + name[found.end() :]


_NOTICING = families.Classes(families.NOTICING)
_DETECTING = families.Classes(tuple(families.BY_ID[name] for name in families.DETECTORS))
_SHARED = families.Classes(families.SHARED)
_GATHERING = families.Classes(families.GATHERING)
_ENTRIES = families.Classes((families.ENTRIES,))
_INTERRUPTS = families.Classes((families.INTERRUPTS,))
_IDLE = families.Classes((families.IDLE,))
_DEFAULT = BY_ID["oops"]


def is_reporting(function: str) -> bool:
    """Whether a function belongs to noticing and reporting a crash."""
    return _NOTICING.holds(normalise(function))


def is_entry(function: str) -> bool:
    """Whether a function is where a task's or interrupt's work begins."""
    name = normalise(function)
    return _ENTRIES.holds(name) or _INTERRUPTS.holds(name)


@cache
def _extra(kind: Kind) -> families.Classes:
    return families.Classes(tuple(families.BY_ID[name] for name in kind.shared))


def family(function: str, kind: Kind = _DEFAULT) -> Family | None:
    """The family that makes a function machinery for a kind of crash, None if a crash may be its own."""
    name = normalise(function)
    for classes in (_NOTICING, _SHARED, _extra(kind), _ENTRIES, _INTERRUPTS, _IDLE):
        if classes.holds(name):
            return classes.of(name)
    return None


def interrupted(frames: Sequence[Frame]) -> int:
    """Where the code begins that a detector interrupted: behind the innermost interrupt's entry; 0 without one.

    Only a detector's own interrupt counts: without a function that notices before it, the stack is of what ran.
    """
    noticed = False
    for index, frame in enumerate(frames):
        name = normalise(frame.function)
        if noticed and frame.context == "exception":
            return index
        if _INTERRUPTS.holds(name):
            following = normalise(frames[index + 1].function) if index + 1 < len(frames) else ""
            if noticed and not _INTERRUPTS.holds(following):
                return index + 1
        elif _DETECTING.holds(name):
            noticed = True
    return 0


def guilty(frames: Sequence[Frame], kind: Kind = _DEFAULT) -> int | None:
    """Index of the first frame that is neither noticing nor machinery, or None."""
    start = interrupted(frames) if kind.stuck else 0
    extra = _extra(kind)
    for index in range(start, len(frames)):
        name = normalise(frames[index].function)
        if not name or _NOTICING.holds(name) or _SHARED.holds(name) or extra.holds(name) or _INTERRUPTS.holds(name):
            continue
        if _ENTRIES.holds(name) or (kind.stuck and _IDLE.holds(name)):
            return None
        return index
    return None


def gathering(function: str) -> Family | None:
    """The family of a function at which victims of one fault gather, None if it is of none."""
    name = normalise(function)
    return _GATHERING.of(name) if _GATHERING.holds(name) else None


def nearest(frames: Sequence[Frame], kind: Kind = _DEFAULT) -> int | None:
    """Index of the first frame that does more than notice a fault: the best choice if all frames are machinery."""
    start = interrupted(frames) if kind.stuck else 0
    for index in range(start, len(frames)):
        name = normalise(frames[index].function)
        if name and not _NOTICING.holds(name) and not is_entry(name) and not (kind.stuck and _IDLE.holds(name)):
            return index
    return None


def significant(frames: Iterable[Frame], limit: int, kind: Kind = _DEFAULT) -> list[str]:
    """Names of the first `limit` frames that tell crashes apart, from the guilty one on; empty without one.

    What everybody calls does not count behind the guilty frame either, and recursion counts once.
    """
    frames = list(frames)
    start = guilty(frames, kind)
    if start is None:
        return []
    names: list[str] = []
    for frame in frames[start:]:
        if len(names) == limit or (names and is_entry(frame.function)):
            break
        name = normalise(frame.function)
        if name and not _NOTICING.holds(name) and name not in names:
            names.append(name)
    return names
