"""Print the kernel log of a dump.

Reads the dead kernel's printk ring buffer from a dump of any format. Control characters are shown as \\xNN, so a log
cannot control your terminal.
"""

from __future__ import annotations

import argparse
import sys

from kdump.cli import inputs
from kdump.cli.streams import write_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    from kdump.kernel.printk import LEVELS

    parser.add_argument("dump", nargs="+", type=inputs.dump, help=inputs.HELP)
    parser.add_argument(
        "-r", "--raw", action="store_true", help="print the <priority> before each record, like syslog(2)"
    )
    parser.add_argument(
        "-c", "--caller", action="store_true", help="show the thread (T1) or CPU (C0) that printed each record"
    )
    parser.add_argument(
        "-l", "--level", choices=LEVELS, help="print only records of this or a more urgent level", metavar="LEVEL"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for each record")


def run(args: argparse.Namespace) -> int:
    """Print the log; exit status 3 if some of it could not be read."""
    from kdump.kernel.kernel import Kernel
    from kdump.kernel.printk import LEVELS, format_record
    from kdump.memory import open_dump

    with open_dump(args.dump) as dump:
        log = Kernel(dump).log()
    worst = LEVELS.index(args.level) if args.level else len(LEVELS)
    records = [record for record in log.records if record.level <= worst]
    if args.json:
        import json

        for record in records:
            fields = record._asdict() | {
                "text": record.text.decode("utf-8", "backslashreplace"),
                "caller": record.caller_name,
            }
            print(json.dumps(fields))
    else:
        lines = (line for record in records for line in format_record(record, caller=args.caller, raw=args.raw))
        # The log's bytes are UTF-8 whatever the locale says.
        write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
    for sentence in log.lost:
        print(f"kdump dmesg: {sentence}", file=sys.stderr)
    return 3 if log.lost else 0
