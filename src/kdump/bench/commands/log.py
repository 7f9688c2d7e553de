"""log -d, -m, -c: what the kernel's ring keeps with each record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from drgn.commands import argument

from kdump.bench.commands.base import Session, extend
from kdump.display import shown

if TYPE_CHECKING:
    import argparse


@extend(
    "log",
    argument("-d", dest="device", action="store_true", help="with the subsystem and device of each record"),
    argument("-m", dest="level", action="store_true", help="with each record's level: <4> is a warning"),
    argument("-c", dest="caller", action="store_true", help="with the thread (T1) or CPU (C0) that printed"),
)
def _log(session: Session, args: argparse.Namespace, theirs: Callable[[], Any]) -> Any:
    if not (args.device or args.level or args.caller):
        return theirs()
    log = session.kernel.log()
    for record in log.records:
        head = ""
        seconds, rest = divmod(record.timestamp, 1_000_000_000)
        if args.timestamps:
            head += f"[{seconds:5}.{rest // 1000:06}] "
        if args.caller:
            head += f"[{record.caller_name:>6}] "
        if args.level:
            head += f"<{record.level}>"
        for number, line in enumerate(record.text.split(b"\n")):
            print(f"{' ' * len(head) if number else head}{shown(line)}")
        for name, value in (("SUBSYSTEM", record.subsystem), ("DEVICE", record.device)):
            if args.device and value:
                print(f"{' ' * len(head)}{name}={shown(value)}")
    for sentence in log.lost:
        print(f"({sentence})")
    return None
