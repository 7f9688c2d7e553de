"""Check that a dump is complete and unchanged.

PATH is a dump or the directory of a crash. If a manifest lists the file, the command compares size and SHA-256
digests. Without a manifest, or with --deep, it also reads and decompresses every page.

Exit status 0: sound; 1: damaged or changed; 3: sound as far as it goes, but incomplete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdump.display import shown
from kdump.errors import KdumpError, describe

if TYPE_CHECKING:
    from kdump.dump.manifest import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("path", metavar="PATH", nargs="+", help="a dump, or the directory of a crash")
    parser.add_argument("--deep", action="store_true", help="also read and decompress every page")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify each path; the worst result is the exit status."""
    from kdump.cli.progress import Progress

    progress = Progress()
    results = []
    failed = False
    for path in args.path:
        problem = ""
        try:
            results.append(_verify(Path(path), deep=args.deep, progress=progress))
        except KdumpError as error:  # the others are verified nevertheless
            problem = str(error)
        except OSError as error:
            problem = describe(error)
        finally:
            progress.close()
        if problem:
            failed = True
            print(f"kdump verify: {problem}", file=sys.stderr)
        elif not args.json:
            print("\n".join(map(shown, _lines(results[-1]))), flush=True)
    if args.json:
        import json

        print(json.dumps(results, indent=2))
    if failed or any(result["findings"] for result in results):
        return 1
    return 3 if any(result["incomplete"] for result in results) else 0


def _verify(path: Path, *, deep: bool, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    from kdump.dump import manifest
    from kdump.dump.manifest import Finding

    if not path.exists():
        raise KdumpError(f"{path}: no such file or directory")
    where = manifest.find(path)
    if where is None and path.is_dir():
        raise KdumpError(f"{path} has no {manifest.NAME}", remedy="name the dump itself to check it without one")
    findings: list[Finding] = []
    digested = 0
    dumps = [] if path.is_dir() else [path]
    incomplete = False
    if where is not None:
        content = manifest.read(where)
        incomplete = content.get("status") == "incomplete"
        entries = [entry for entry in content["files"] if path.is_dir() or entry["name"] == path.name]
        if not entries and not (path.is_dir() and incomplete):
            what = "has a manifest that lists no files" if path.is_dir() else f"is not in the list of {where.name}"
            findings.append(Finding(path.name, what))
        total = sum(entry["size"] for entry in entries)

        def tick(size: int) -> None:
            nonlocal digested
            digested += size
            progress("digest", digested, total)

        for entry in entries:
            findings += manifest.check(where.parent, entry, tick)
        if path.is_dir():
            dumps = [
                path / entry["name"] for entry in entries if entry["name"].startswith("vmcore") and _is_dump(entry)
            ]
    pages = None
    if (where is None or deep) and not findings:
        pages = 0
        for dump in dumps:
            count, partial = _check_pages(dump, findings, progress)
            pages += count
            incomplete |= partial
    return {
        "path": str(path),
        "manifest": None if where is None else str(where),
        "bytes_digested": digested,
        "pages_read": pages,
        "incomplete": incomplete,
        "findings": [finding._asdict() for finding in findings],
    }


def _is_dump(entry: dict[str, Any]) -> bool:
    return not str(entry["name"]).endswith((".txt", ".json"))


def _check_pages(path: Path, findings: list[Finding], progress: Callable[[str, int, int], None]) -> tuple[int, bool]:
    from kdump.dump.check import check_pages
    from kdump.dump.manifest import Finding
    from kdump.errors import FormatError
    from kdump.memory import open_dump

    try:
        with open_dump(path) as dump:
            found = check_pages(dump, lambda done, total: progress("read", done, total))
            size = dump.memory.page_size
            incomplete = dump.incomplete
    except FormatError as error:
        findings.append(Finding(path.name, error.what))
        return 0, False
    if found.bad_count:
        shown = ", ".join(f"{pfn * size:#x}" for pfn in found.bad)
        findings.append(Finding(path.name, f"{found.bad_count} pages cannot be read, the first at {shown}"))
    return found.pages, incomplete


def _lines(result: dict[str, Any]) -> list[str]:
    from kdump.units import size_text

    done = []
    if result["manifest"]:
        done.append(f"{size_text(result['bytes_digested'])} agree with the manifest")
    if result["pages_read"] is not None:
        done.append(f"{result['pages_read']} pages read")
    if not result["findings"]:
        verdict = "sound, but incomplete" if result["incomplete"] else "sound"
        return [f"{result['path']}: {verdict} ({', '.join(done)})"]
    lines = [f"{result['path']}: NOT SOUND"]
    for finding in result["findings"]:
        place = f" (bytes {finding['offset']} to {finding['offset'] + finding['size']})" if finding["size"] else ""
        lines.append(f"  {finding['name']} {finding['what']}{place}")
    return lines
