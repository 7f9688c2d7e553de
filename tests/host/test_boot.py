"""A few of the recorded boots afresh: what crashkernel= does on a kernel that boots now; shrinking by that kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kdump.host.crashkernel import MIB, Rules, evaluate
from kdump.host.reservation import ram_ranges
from kdump.image.build import build
from kdump.kexec.state import crash_ranges
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec

if TYPE_CHECKING:
    from kdump.image.kernel_tree import KernelTree

LINES = {
    "6.1": "crashkernel=512M-2G:96M,2G-:128M crashkernel=64M,high",
    "6.12": "crashkernel=100000K crashkernel=160M",
}


BOOTS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data/crashkernel_boots.json").read_text())


def boot(tree: KernelTree, image: Path, line: str, memory: int) -> list[str]:
    """What the guest prints of its reservation when it boots with this command line."""
    spec = Spec(tree.vmlinuz, image, f"console=ttyS0 {line}", memory=memory)
    with Machine(spec, console=image.with_name("console.log")) as machine:
        machine.run_to_exit(120)
        return [text.partition("@@@ ")[2] for _when, text in machine.lines if "@@@ " in text]


@pytest.mark.lab
@pytest.mark.parametrize("series", LINES)
def test_the_evaluation_agrees_with_a_boot(series: str, kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    tree = kernel(series)
    image = tmp_path / "image"
    build(tree, entry="tests.host.iomem_guest", output=image)
    said = boot(tree, image, LINES[series], 768 * MIB)
    iomem = "\n".join(said)
    outcome = evaluate(LINES[series], tuple(ram_ranges(iomem)), Rules.of(tree.release))
    (part,) = crash_ranges(iomem)[0]
    assert part.size == outcome.size > 64 * MIB
    assert outcome.base in (0, part.start)
    assert f"size {outcome.size}" in said
    assert f"shrunk {64 * MIB}" in said


@pytest.mark.system
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("series", LINES)
def test_every_recorded_value_afresh(series: str, kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    tree = kernel(series)
    image = tmp_path / "image"
    build(tree, entry="tests.host.iomem_guest", output=image)
    cases = [each for each in BOOTS if each["release"].startswith(f"{series}.")]
    assert len({case["cmdline"] for case in cases}) >= 25
    wrong = []
    for case in cases:
        # Where KASLR puts the kernel there may be no room: this is about what there always is.
        iomem = "\n".join(boot(tree, image, f"nokaslr {case['cmdline']}", case["memory_mib"] * MIB))
        outcome = evaluate(case["cmdline"], tuple(ram_ranges(iomem)), Rules.of(tree.release))
        found = sorted((part.size, outcome.base in (0, part.start)) for part in crash_ranges(iomem)[0])
        sizes = sorted(filter(None, (outcome.size, outcome.low)))
        if [size for size, _placed in found] != sizes or not (not sizes or any(placed for _size, placed in found)):
            wrong.append((case["cmdline"], case["memory_mib"], found, outcome))
    assert wrong == []
