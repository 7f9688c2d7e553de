"""Change the format of a dump and keep all pages.

Reads every format that kdump knows (several IN files are a split dump, which is joined) and writes kdump-compressed
(the default), plain ELF for gdb and Volatility, or the flattened format. -d LEVEL also filters, to a higher level.
"""

from __future__ import annotations

import argparse

from kdump.cli import save


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options: those of `kdump save` that apply to a dump."""
    save.add_output_arguments(parser)
    parser.add_argument("-d", "--level", help="also filter, to this dump level or a rising list (default: keep all)")
    parser.set_defaults(live=False, estimate=False)


def run(args: argparse.Namespace) -> int:
    """Convert; exit status 3 if the result is not all that was asked for."""
    if args.level is None:
        # Pages of zeros share one page in a kdump-compressed dump; in an ELF file leaving them out would lose which
        # pages were dropped and which were zero.
        args.level = "0" if args.elf else "1"
    return save.run(args)
