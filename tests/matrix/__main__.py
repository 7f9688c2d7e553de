"""`make machines`: all machines, one after the other; what came of each goes into results.json and docs/machines.md.

Interrupted, it goes on where it was, on whatever machine: results.json is part of the tree. Machines that did not come
to their verdict are run again. `--again` runs the machines of `--only` once more, `--limit N` stops after N machines.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.matrix import machines
from tests.matrix.rows import OLD, REFUSED, Row, by_gain, every

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path(__file__).parent / "results.json"
FILES = ROOT / "kdump-matrix"  # consoles, machine by machine
PAGE = ROOT / "docs/machines.md"
HEAD = """\
# Tested machines

`make machines` boots each of these machines under QEMU with Debian's user space. kdump examines the machine, builds
and loads there, and the kernel panics. `kdump status` must never say "ready" on a machine that then leaves no dump.
The rows cover every pair of kernel and controller (where the kernel has the driver), kernel and volume, and volume
and firmware. The dump goes to a disk with the named controller and volume; where several are named, it goes to the
first volume on the first controller, to the second on the second, and so on, and "complete" means on all. Where a
network card is named, it goes to a server by SSH, or to a disk that a second machine lends by iSCSI or NVMe over TCP.
"multipath" loses a path during the dump. Machines with caches and snapshots are booted again: Debian's tools open the
volumes, every dump must verify, and "lvm-origin"'s snapshot must have the digest that it had before.
Debian's root is on another disk. "ide" is an i440fx machine, all others are q35.
Seconds are from the panic to power off, emulated. "With report" means that the capture kernel made the report.

"""


def main() -> int:
    """Run what has not been run; returns 1 if a machine was called ready that left no dump."""
    parser = argparse.ArgumentParser(prog="make machines", description=__doc__)
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    parser.add_argument("--limit", type=int, default=10_000, metavar="N", help="stop after N machines")
    parser.add_argument("--root", type=Path, metavar="FILE", help="Debian's disk of an earlier run; made if missing")
    parser.add_argument("--only", default="", metavar="TEXT", help="machines whose name contains this")
    args = parser.parse_args()
    FILES.mkdir(exist_ok=True)
    known = read_results()
    # A machine that was refused says nothing of its kernel's drivers.
    tried = [row for row, result in known.items() if result.ready]
    rows = every(machines.possible, tried)
    wanted = [row for row in rows if args.only in row.name and (args.again or row not in known or known[row].problem)]
    pending = by_gain(wanted, tried, _cost)[: args.limit]
    print(f"{len(rows)} machines, {len(pending)} to be run", flush=True)
    with tempfile.TemporaryDirectory(prefix="kdump-matrix-") as scratch:
        root = args.root or Path(scratch) / "root.img"
        if pending and not root.exists():
            machines.root_disk(root)
        for row in pending:
            place = FILES / row.name
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            result = machines.run_row(row, root, place)
            known[row] = result
            for image in place.glob("*.img"):
                image.unlink()
            verdict = ("ready, " if result.ready else "not ready, ") + result.capture
            RESULTS.write_text(json.dumps([each.to_json() for each in known.values()], indent=1) + "\n")
            PAGE.write_text(page(known, rows))
            print(f"{row.name}: {verdict}{'' if result.well else ' WRONG'} {result.problem}", flush=True)
    PAGE.write_text(page(known, rows))
    return int(any(not result.well for result in known.values()))


def _cost(row: Row) -> tuple[bool, int, int]:
    """The quick ones first: those that are refused need not crash."""
    return row.volume not in REFUSED and row.cpu not in OLD, row.cpus, row.memory


def read_results() -> dict[Row, machines.Result]:
    """What was found so far, here or elsewhere."""
    results = map(machines.Result.from_json, json.loads(RESULTS.read_text()))
    return {result.row: result for result in results}


def page(known: dict[Row, machines.Result], rows: Sequence[Row]) -> str:
    """docs/machines.md."""
    # What was tried before the choice of rows changed was tried all the same.
    done = [known[row] for row in (*rows, *sorted(known.keys() - set(rows))) if row in known]
    ready = [result for result in done if result.ready]
    pending = sum(row not in known for row in rows)
    lines = [
        f"{len(done)} machines were tested, {pending} not yet. {len(ready)} were called ready; of these, "
        f"{sum(result.capture == 'complete' for result in ready)} left a complete dump. "
        f"{len(done) - len(ready)} were refused or failed before that verdict.",
        "",
        "| kernel | controller | volume | firmware | CPUs, memory, model | verdict of status | capture | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in done:
        row = result.row
        machine = f"{row.cpus}{f' in {row.numa} nodes' if row.numa > 1 else ''}, {row.memory} MiB, {row.cpu}"
        machine += "" if row.serial else ", no serial port"
        said = "ready" if result.ready else "".join(result.reasons[:1]) or "no verdict"
        capture = result.capture + (", with report" if row.report and result.ready else "")
        cells = [
            f"{result.release}", *map(", ".join, zip(*row.disks, strict=True)), row.firmware, machine,
            said.replace("|", "\\|")[:200], capture, f"{result.seconds:.0f}" if result.seconds else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
