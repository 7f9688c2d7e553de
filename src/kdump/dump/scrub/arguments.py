"""Passwords on command lines and in environments of processes: values whose option or variable is named like one.

Source: include/linux/mm_types.h (mm_struct.arg_start, env_start).
"""

from __future__ import annotations

import re

from kdump.dump.scrub.found import Walk
from kdump.errors import KdumpError
from kdump.kernel.processes import address_space, processes

_NAME = (
    rb"(?:[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|credentials?|(?:api|access|private)[_-]?key)[\w.-]*"
    rb"|(?:[\w.-]*[_.-])?pass(?:[_.-][\w.-]*)?|[\w.-]*[_.-]pwd)"  # neither compass nor PWD
)
_ASSIGNED = re.compile(rb"(?:-{1,2}|/|)" + _NAME + rb"[=:](.+)", re.IGNORECASE | re.DOTALL)
_OPTION = re.compile(rb"-{1,2}" + _NAME, re.IGNORECASE)
_URL = re.compile(rb"[a-z][a-z0-9+.-]*://[^/@\s:]*:([^@\s/]+)@", re.IGNORECASE)
_LONGEST = 2 << 20  # bytes of arguments, or of an environment


def secrets(text: bytes, *, options: bool) -> list[tuple[int, int]]:
    """(offset, size) of each password in arguments (NUL after each); with `options` also of `--password VALUE`."""
    found, at, named = [], 0, False
    for word in text.split(b"\0"):
        if named and word and not word.startswith(b"-"):
            found.append((at, len(word)))
        elif match := _ASSIGNED.fullmatch(word):
            found.append((at + match.start(1), len(match[1])))
        else:
            found += [(at + match.start(1), len(match[1])) for match in _URL.finditer(word)]
        named = options and bool(_OPTION.fullmatch(word))
        at += len(word) + 1
    return found


def walk(walk: Walk) -> None:
    """Blank them where the pages that they are in are in what is read."""
    objects, kernel = walk.objects, walk.kernel
    walk.count("passwords", 0)
    for process in processes(objects):
        mm = process.mm
        try:
            own = address_space(kernel, int(mm.pgd))
        except KdumpError as error:
            walk.fail(f"the memory of PID {process.pid}: {error}")
            continue
        for start, end, options in (
            (int(mm.arg_start), int(mm.arg_end), True), (int(mm.env_start), int(mm.env_end), False),
        ):  # fmt: skip
            if not 0 < start < end <= start + _LONGEST:
                continue
            try:
                text = own.read(start, end - start)
            except KdumpError:
                continue  # not in what is read, so not in what is written either
            for offset, size in secrets(text, options=options):
                walk.found.ranges += [(each.physical, each.size) for each in own.extents(start + offset, size)]
                walk.found.values.append(text[offset : offset + size])
                walk.count("passwords")
