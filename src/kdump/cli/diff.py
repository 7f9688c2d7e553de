"""Compare two crashes: is it the same crash, and what differs?

Takes dumps, kernel logs, and reports that `kdump report --json` wrote, in any combination. Exit status 0 if both
have the same signature, 1 if not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kdump.display import shown

_SHOWN = 60
_SENTENCES = {
    (True, False): "The same crash: one signature.",
    (False, True): "Nearly the same crash: one kind and guilty function, but the signatures differ.",
    (False, False): "Different crashes: the signatures differ, or one has none.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("first", help="a dump, the directory of a crash, a kernel log, or a report as JSON")
    parser.add_argument("second", help="the crash to compare with")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-a", "--all", action="store_true", help=f"print all differences, not only the first {_SHOWN}")


def run(args: argparse.Namespace) -> int:
    """Print what differs; exit status 1 if the signatures do."""
    from kdump.report.diff import compare

    found = compare(_document(args.first), _document(args.second))
    if args.json:
        differences = [item._asdict() for item in found.differences]
        print(json.dumps({"same": found.same, "near": found.near, "differences": differences}, indent=1))
        return 0 if found.same else 1
    print(_SENTENCES[found.same, found.near])
    parts = found.differences if args.all else found.differences[:_SHOWN]
    for item in parts:
        print(f"{shown(item.path)}:")
        print(f"  - {_short(item.first)}")
        print(f"  + {_short(item.second)}")
    if len(parts) < len(found.differences):
        print(f"… and {len(found.differences) - len(parts)} more differences; --all shows them")
    return 0 if found.same else 1


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return shown(text if len(text) <= 76 else text[:75] + "…")


def _is_report(path: str) -> bool:
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(1) == b"{"


def _document(path: str) -> dict[str, Any]:
    from kdump.cli.report import opened
    from kdump.errors import FormatError
    from kdump.foreign import load_object, read_file
    from kdump.report.json import LIMIT, SHAPE
    from kdump.report.model import SCHEMA

    if _is_report(path):
        document = load_object(read_file(path, LIMIT), path, SHAPE, limit=LIMIT)
        if document.get("schema") != SCHEMA or SHAPE.keys() - document.keys():
            raise FormatError(
                f"it is not a report of schema {SCHEMA}", path=path, remedy="make it with `kdump report --json`"
            )
        return document
    from kdump.report.build import build
    from kdump.report.json import document as as_document

    with opened([path]) as context:
        return as_document(build(context, path))
