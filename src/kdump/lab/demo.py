"""The demonstration: a real kernel crashes in a virtual machine, and its dump and report land."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdump.dump import manifest
from kdump.errors import KdumpError
from kdump.files.drafts import replace_file
from kdump.lab.crash import Crash, Scenario, crash
from kdump.units import duration_text, size_text

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Demo:
    """How a demonstration went: `summary` is what summary.json holds, `report` the report's text."""

    directory: Path
    summary: Mapping[str, Any]
    report: str


def results_directory(parent: Path, scenario: Scenario) -> Path:
    """A new directory for one run, named after the moment and what is crashed."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = parent / f"{stamp}-{scenario.tree.release}-{scenario.cause.name}"
    try:
        path.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise KdumpError(
            f"the results cannot be stored in {parent}",
            why=error.strerror or str(error),
            remedy="name another: --output",
        ) from None
    return path


def run(scenario: Scenario, directory: Path, say: Callable[[str], None], *, keep_disk: bool = False) -> Demo:
    """Crash the machine, fetch, verify and report. Raises KdumpError; what there is by then stays in `directory`."""
    started = time.monotonic()
    try:
        result = crash(scenario, directory, say)
        say(f"fetched {result.directory.name} from its disk")
        say(f"verified: {size_text(verify(result))} agree with the manifest")
        report = report_text(result.directory / "vmcore")
    except (KdumpError, OSError) as cause:
        error = cause if isinstance(cause, KdumpError) else KdumpError(f"the run failed: {cause}")
        error.remedy = "\n  ".join(filter(None, [error.remedy, f"everything the run left is in {directory}"]))
        raise error from None
    for image in ("guest.img", "capture.img") + (() if keep_disk else ("disk.img",)):
        (directory / image).unlink()
    summary = {
        "kernel": scenario.tree.release,
        "cause": scenario.cause.name,
        "memory": scenario.memory,
        "cpus": scenario.cpus,
        "crashkernel": scenario.crashkernel,
        "seconds": round(time.monotonic() - started, 1),
        "timeline": {name: round(when, 2) for name, when in result.timeline.items()},
        "image": asdict(result.image),
        "manifest": result.manifest,
    }
    _write_private(directory / SUMMARY, json.dumps(summary, indent=1, default=str) + "\n")
    _write_private(directory / "report.txt", report)
    return Demo(directory, {**summary, "crash": str(result.directory)}, report)


def verify(result: Crash) -> int:
    """Compare every file with the manifest; the number of bytes compared. KdumpError names what differs."""
    findings = [
        finding for entry in result.manifest["files"] for finding in manifest.check(result.directory, dict(entry))
    ]
    if findings:
        raise KdumpError("the dump differs from its manifest", why=f"{findings[0].name}: {findings[0].what}")
    return sum(entry["size"] for entry in result.manifest["files"])


def report_text(vmcore: Path) -> str:
    """The short report: verdict, stacks of all CPUs, blocked tasks."""
    from kdump.kernel.kernel import Kernel
    from kdump.memory import open_dump
    from kdump.report.build import build
    from kdump.report.context import Context
    from kdump.report.text import render

    with open_dump(vmcore) as dump:
        report = build(Context(Kernel(dump)), str(vmcore), short=True)
        return "".join(f"{line}\n" for line in render(report))


def timeline_lines(demo: Demo) -> list[str]:
    """The timeline as people read it."""
    return [f"  {when:7.2f} s  {name}" for name, when in demo.summary["timeline"].items()]


def figures(demo: Demo) -> list[str]:
    """Sizes, times and memory of one run."""
    manifest = demo.summary["manifest"]
    memory = manifest["memory"]
    sizes = ", ".join(f"{entry['name']} {size_text(entry['size'])}" for entry in manifest["files"])
    return [
        f"  machine        {size_text(demo.summary['memory'])}, {demo.summary['cpus']} CPU(s), "
        f"crashkernel={demo.summary['crashkernel']}",
        f"  capture image  {size_text(demo.summary['image']['size'])}, "
        f"built in {duration_text(demo.summary['image']['seconds'])}",
        *textwrap.wrap(f"saved          {sizes}", 80, initial_indent="  ", subsequent_indent=" " * 17),
        f"  capture kernel {memory_line(memory)}",
        f"  whole demo     {duration_text(demo.summary['seconds'])}",
    ]


def memory_line(memory: Mapping[str, Any]) -> str:
    """Peak memory of the capture kernel, from the manifest."""
    return f"used at most {size_text(memory['peak_used'])} of {size_text(memory['total'])}"


def _write_private(path: Path, text: str) -> None:
    replace_file(path, text.encode(), durable=False)
