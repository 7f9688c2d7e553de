"""Serve a dump to GDB: a thread for each task, with its registers and the kernel's memory.

`kdump serve DUMP` listens on 127.0.0.1 and prints the command for GDB ("target remote …"). In GDB itself, `target
remote | kdump serve --stdio DUMP` needs no port. A distribution's vmlinux also needs the address to which the kernel
was loaded; the command for that is printed, too. GDB can read everything and change nothing.

Anyone who can connect can read the whole dump, and the connection is not encrypted. Choose other addresses than
127.0.0.1 with care.
"""

from __future__ import annotations

import argparse
import socket
import sys

from kdump.cli import inputs, values
from kdump.errors import KdumpError

LOOPBACK = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("dump", nargs="+", type=inputs.dump, help=inputs.HELP)
    parser.add_argument("--stdio", action="store_true", help="serve standard input and output, for `target remote |`")
    parser.add_argument(
        "--listen",
        metavar="[ADDRESS:]PORT",
        type=values.place(LOOPBACK),
        default=(LOOPBACK, 0),
        help="address to listen on (default: a free port of 127.0.0.1)",
    )
    parser.add_argument("--once", action="store_true", help="end when the first GDB leaves")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; with --once or --stdio, until GDB leaves."""
    from kdump.bench.gdbserver import Connection, Target
    from kdump.kernel.kernel import Kernel
    from kdump.memory import open_dump

    with open_dump(args.dump) as dump:
        target = Target(Kernel(dump))
        if args.stdio:
            with open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as sink:
                Connection(target, source, sink).serve()
            return 0
        threads = len(target.threads)
        try:
            with socket.create_server(args.listen, family=_family(args.listen[0])) as server:
                address, port = server.getsockname()[:2]
                print(
                    f"{threads} threads; in GDB: target remote {f'[{address}]' if ':' in address else address}:{port}"
                )
                if offset := target.kernel.vmcoreinfo.kaslr_offset:
                    print(f"with a distribution's vmlinux: symbol-file -o {offset:#x} VMLINUX")
                sys.stdout.flush()
                while True:
                    peer, _ = server.accept()
                    try:
                        with peer, peer.makefile("rb") as source, peer.makefile("wb") as sink:
                            Connection(target, source, sink).serve()
                    except OSError as error:
                        print(f"GDB is gone: {error.strerror}", file=sys.stderr)
                    if args.once:
                        return 0
        except OSError as error:
            raise KdumpError(f"{args.listen[0]} port {args.listen[1]}: {error.strerror or error}") from None


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
