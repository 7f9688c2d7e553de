"""Show the contents of a dump.

Prints format, kernel, dump level, memory ranges, pages by state (dumped, zero, excluded), compression ratio, and
whether the dump is complete. Exit status 3 if the dump is incomplete.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any

from kdump.cli import inputs

RANGES_SHOWN = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("dump", nargs="+", type=inputs.dump, help=inputs.HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the summary; exit status 3 if the dump is incomplete."""
    from kdump.kernel.summary import summarize
    from kdump.memory import open_dump

    with open_dump(args.dump) as dump:
        facts = summarize(dump)
    if args.json:
        import json

        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(_lines(facts)))
    return 3 if facts["incomplete"] else 0


def _lines(facts: dict[str, Any]) -> list[str]:
    from kdump.display import shown
    from kdump.units import size_text

    def row(name: str, text: object) -> str:
        return f"{name:<12} {shown(text)}"

    kernel, pages = facts["kernel"], facts["pages"]
    version = f" version {facts['header_version']}" if facts["header_version"] is not None else ""
    files = f" in {len(facts['paths'])} files" if len(facts["paths"]) > 1 else ""
    lines = [
        row("file", facts["paths"][0]),
        row("format", f"{facts['format']}{version}, {size_text(facts['size'])}{files}"),
        row("complete", "no: pages are missing, see below" if facts["incomplete"] else "yes"),
        row("kernel", f"{kernel['release'] or 'unknown'} {kernel['machine'] or ''}".rstrip()),
    ]
    lines += [row(name.replace("_", " "), kernel[name]) for name in ("version", "node", "build_id") if kernel[name]]
    if not kernel["vmcoreinfo"]:
        lines.append(row("vmcoreinfo", "no note"))
    if kernel["crash_time"]:
        lines.append(row("crashed", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(kernel["crash_time"]))))
    elif kernel["vmcoreinfo"]:
        lines.append(row("crashed", "not that the kernel noted: it was running, or has no kdump"))
    if facts["dump_level"] is not None:
        lines.append(row("dump level", facts["dump_level"]))
    packed = ", ".join(f"{count} {name}" for name, count in facts["codecs"].items())
    ratio = f", {facts['ratio']}:1 over dumped pages ({packed})" if set(facts["codecs"]) - {"raw"} else ""
    lines.append(row("compression", facts["compression"] + ratio))
    lines.append(row("pages", f"{pages['memory']:>12} of {size_text(facts['page_size'])}"))
    for state in ("dumped", "zero", "excluded", "missing"):
        if pages[state] is None:
            continue
        share = pages[state] / pages["memory"] if pages["memory"] else 0
        lines.append(
            row(f"  {state}", f"{pages[state]:>12} {share:>6.1%}  {size_text(pages[state] * facts['page_size'])}")
        )
    ranges = facts["ranges"]
    for number, each in enumerate(ranges[:RANGES_SHOWN]):
        span = f"{each['start']:#014x}-{each['end'] - 1:#014x}  {size_text(each['end'] - each['start'])}"
        lines.append(row("" if number else "memory", span))
    if len(ranges) > RANGES_SHOWN:
        lines.append(row("", f"and {len(ranges) - RANGES_SHOWN} more ranges (--json lists all)"))
    notes = Counter((note["name"], note["type"]) for note in facts["notes"])
    lines.append(row("notes", ", ".join(f"{count} {name}/{kind}" for (name, kind), count in notes.items()) or "none"))
    return lines
