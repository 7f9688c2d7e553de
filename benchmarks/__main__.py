"""`python -m benchmarks`: prints the table of figures. Needs a real vmcore; makes one in the lab if none is given."""

from __future__ import annotations

import argparse
import compileall
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kdump
from benchmarks import crowd, filtering, reporting, scrubbing, synthetic
from benchmarks.measure import machine, run
from kdump.units import parse_size, size_text

CURVE = "64G,256G,1T"
_RUNS = 5


def main() -> int:
    """Run what is asked for; 0 unless a tool fails."""
    parser = argparse.ArgumentParser(prog="make bench BENCH=", description=__doc__)
    parser.add_argument("--vmcore", type=Path, action="append", help="an ELF vmcore (default: one made in the lab)")
    parser.add_argument("--memory", default="4G", help="memory of the machine that the lab crashes (default 4G)")
    parser.add_argument("--makedumpfile", default="makedumpfile", help="which one to compare with")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", default="", help='rows, such as "-z31,-z1"')
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where outputs go")
    parser.add_argument("--curve", default=CURVE, help=f'sizes of synthetic vmcores (default {CURVE}; "" for none)')
    parser.add_argument(
        "--vmlinux", type=Path, help="the debug vmlinux of the first vmcore, for crash (default: the lab's)"
    )
    parser.add_argument("--report-only", action="store_true", help="only what reports cost")
    parser.add_argument("--crowd", type=int, default=0, metavar="N", help="only reports on a machine of N threads")
    parser.add_argument("--filter", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.filter:
        cost = synthetic.filter_cost(args.filter)
        print(cost.memory, cost.struct_bytes, cost.seconds, cost.private)
        return 0
    # As pip does when it installs, whatever PYTHONDONTWRITEBYTECODE says here.
    compileall.compile_dir(Path(kdump.__file__).parent, quiet=1)
    if args.crowd:
        return _crowd(args.crowd, args.repeat, args.scratch)
    tool = shutil.which(args.makedumpfile)
    print(machine())
    vmcores = args.vmcore or [_lab_vmcore(args.memory)]
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        scratch = Path(name)
        _reports(vmcores[0], args.vmlinux or (None if args.vmcore else _lab_vmlinux()), args.repeat, scratch)
        if args.report_only:
            return 0
        if tool:
            _against(Path(tool), vmcores, args.only, args.repeat, scratch)
        else:
            print(f"{args.makedumpfile} is not installed: nothing to compare with")
        _scrub(vmcores, args.repeat, scratch)
        _curve(vmcores, args.curve, scratch)
    return 0


def _crowd(threads: int, repeat: int, place: Path) -> int:
    from kdump.lab import kernels

    print(machine())
    with tempfile.TemporaryDirectory(dir=place) as name:
        scratch = Path(name)
        vmcore = crowd.machine(kernels.find(), threads, scratch)
        print(f"\n{threads} threads, {size_text(vmcore.stat().st_size)}; medians of {repeat} (spread)")
        print(reporting.HEAD)
        tool = shutil.which("crash") or ""
        for line in reporting.measure(vmcore, _lab_vmlinux() if tool else None, tool, repeat, scratch):
            print(line, flush=True)
    return 0


def _against(tool: Path, vmcores: list[Path], only: str, repeat: int, scratch: Path) -> None:
    version = subprocess.run([tool, "-v"], capture_output=True, text=True, check=False).stdout.splitlines()[:1]
    rows = filtering.usable(tool, filtering.ROWS)
    if only:
        rows = [row for row in rows if f"{row.codec}{row.level}" in only.split(",")]
    if left := [f"{row.codec} -d {row.level}" for row in filtering.ROWS if row not in rows and not only]:
        print(f"not compared, for this makedumpfile cannot do it: {', '.join(left)}")
    for vmcore in vmcores:
        print(f"\n{vmcore.name}, {size_text(vmcore.stat().st_size)}; {' '.join(version)}; medians of {repeat} (spread)")
        print(filtering.HEAD)
        for result in filtering.compare(vmcore, tool, rows, repeat, scratch):
            print(filtering.line(result), flush=True)


def _scrub(vmcores: list[Path], repeat: int, scratch: Path) -> None:
    for vmcore in vmcores:
        print(f"\nscrub of {vmcore.name}, {size_text(vmcore.stat().st_size)}; medians of {repeat} (spread)")
        print(scrubbing.HEAD)
        for line in scrubbing.measure(vmcore, repeat, scratch):
            print(line, flush=True)


def _reports(vmcore: Path, vmlinux: Path | None, repeat: int, scratch: Path) -> None:
    crash = shutil.which("crash")
    if not (crash and vmlinux):
        print("reports are compared with nothing: crash or the debug vmlinux is missing")
        vmlinux = None
    reduced = reporting.reduce(vmcore, scratch)
    print(f"\nreport of {vmcore.name} at level 31, {size_text(reduced.stat().st_size)}; medians of {repeat} (spread)")
    print(reporting.HEAD)
    for line in reporting.measure(reduced, vmlinux, crash or "", repeat, scratch):
        print(line, flush=True)


def _curve(vmcores: list[Path], sizes: str, scratch: Path) -> None:
    """Filtering alone of the vmcores, and over synthetic machines with struct pages for an eighth of their memory."""
    if not sizes:
        return
    print(f"\n{'filter only':<20} {'struct pages':>13} {'seconds':>8} {'rate':>11} {'private':>9}")
    for vmcore in vmcores:
        _filter(vmcore, "")
    for text in sizes.split(","):
        path = scratch / "synthetic.vmcore"
        synthetic.write(path, vmcores[0], parse_size(text), parse_size(text) // 8)
        _filter(path, ", synthetic")
        path.unlink()


def _filter(vmcore: Path, kind: str) -> None:
    """One line: the median of five runs, after one that brings the struct pages into the page cache."""
    command = [sys.executable, "-m", "benchmarks", "--filter", str(vmcore)]
    runs = [run(command).output.split() for _ in range(_RUNS + 1)]
    memory, count, seconds, private = sorted(runs[1:], key=lambda output: float(output[2]))[_RUNS // 2]
    rate = f"{size_text(int(count) / float(seconds))}/s"
    name = size_text(int(memory)) + kind
    print(f"{name:<20} {size_text(int(count)):>13} {float(seconds):>8.3f} {rate:>11} {size_text(int(private)):>9}")


def _lab_vmlinux() -> Path:
    from kdump.lab import kernels

    return kernels.debug_vmlinux(kernels.find())


def _lab_vmcore(memory: str) -> Path:
    from benchmarks.sample import make

    return make(parse_size(memory))


if __name__ == "__main__":
    sys.exit(main())
