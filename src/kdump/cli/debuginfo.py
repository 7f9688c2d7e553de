"""Make a vmlinux with debug information from a dump alone.

Types come from the kernel's BTF and that of its modules, symbols from kallsyms, unwind information from ORC, code
and data from memory. The file serves crash, gdb, drgn and dwarf2json if the kernel's debug package is not available.
It has no line numbers and no locations of arguments and local variables, because dumps do not contain them.

Addresses are those of the dump, as gdb and crash expect. drgn and dwarf2json expect the addresses before KASLR: use
--for drgn or --for dwarf2json.
"""

from __future__ import annotations

import argparse
import sys

from kdump.cli import inputs

_LINKED = ("drgn", "dwarf2json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("dump", nargs="+", type=inputs.dump, help=inputs.HELP)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the vmlinux to write")
    parser.add_argument(
        "--for",
        dest="tool",
        choices=("crash", "gdb", *_LINKED),
        default="crash",
        help="the tool that reads it (default: crash)",
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the file; exit status 3 if some of what belongs in it could not be read."""
    from kdump import __version__
    from kdump.bench.debuginfo import make, save
    from kdump.files import outputs
    from kdump.files.drafts import Draft
    from kdump.kernel.kernel import Kernel
    from kdump.memory import open_dump
    from kdump.units import size_text

    outputs.check(args.output, args.dump, replace=args.force)
    with open_dump(args.dump) as dump:
        kernel = Kernel(dump)
        content = make(kernel, f"kdump {__version__}", linked=args.tool in _LINKED)
        draft = Draft(args.output)
        try:
            size = save(content, kernel.arch.elf_machine, draft.fd)
            draft.commit(replace=args.force)
        finally:
            draft.discard()
    summary = content.summary
    if args.json:
        import json

        print(json.dumps(summary._asdict() | {"size": size, "path": args.output}))
    else:
        print(
            f"{args.output}: {size_text(size)}, {summary.types} types, {summary.functions} functions,"
            f" {summary.variables} variables, {summary.symbols} symbols, {summary.modules} modules"
        )
        if summary.absent:
            print(f"{summary.absent} pages of its code and data are not in the dump: zeros in the file")
    for problem in summary.problems:
        print(f"kdump debuginfo: {problem}", file=sys.stderr)
    return 3 if summary.problems else 0
