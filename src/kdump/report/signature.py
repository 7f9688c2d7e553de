"""The signature: the same for every occurrence of one crash, whatever the boot, KASLR, or the compiler's suffixes.

Version 1, written `1-` and 16 hexadecimal digits: the first 64 bits of the SHA-256 of these lines, each ended by a
newline:

1. `kdump signature 1`
2. the id of the kind (`kdump.report.kinds`)
3. its detail, numbers and addresses replaced by `N`: what a sanitizer, list or reference counter check calls the
   error, or a panic's own message
4. up to five functions, one per line, from the first guilty frame outwards to the task's entry into the kernel,
   without compiler suffixes; none for kinds whose stack is chance (out of memory, machine check, NMI, a killed init)

Frames come from the call trace in the log, and only if that has none from unwinding the dump, so that a dump and its
dmesg give the same signature. A change of any of this, also of what counts as machinery, takes a new version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdump.digest import sha256
from kdump.report import frames as names
from kdump.report.kinds import Kind
from kdump.report.model import Frame

VERSION = 1
FRAMES = 5
_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,16}\b|\d+")


def signature(kind: Kind, detail: str, frames: Sequence[Frame]) -> str:
    """The signature of a crash; see the module for the algorithm."""
    lines = [f"kdump signature {VERSION}", kind.id, _NUMBER.sub("N", detail)]
    if kind.stack:
        lines += names.significant(frames, FRAMES)
    digest = sha256()
    digest.update("".join(f"{line}\n" for line in lines).encode())
    return f"{VERSION}-{digest.hexdigest()[:16]}"
