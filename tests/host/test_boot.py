"""A few of the recorded boots afresh: what crashkernel= does on a kernel that boots now; shrinking by that kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kdump.host.crashkernel import MIB, Rules, evaluate
from kdump.host.reservation import ram_ranges
from kdump.image.build import build
from kdump.kexec.state import crash_ranges
from kdump.lab.machine import Machine, Spec

if TYPE_CHECKING:
    from kdump.image.kernel import KernelTree

LINES = {
    "6.1": "crashkernel=512M-2G:96M,2G-:128M crashkernel=64M,high",
    "6.12": "crashkernel=100000K crashkernel=160M",
}


@pytest.mark.lab
@pytest.mark.parametrize("series", LINES)
def test_the_evaluation_agrees_with_a_boot(series: str, kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    tree = kernel(series)
    image = tmp_path / "image"
    build(tree, entry="tests.host.iomem_guest", output=image)
    spec = Spec(tree.vmlinuz, image, f"console=ttyS0 {LINES[series]}", memory=768 * MIB)
    with Machine(spec, console=tmp_path / "console.log") as machine:
        machine.run_to_exit(120)
        said = [text.partition("@@@ ")[2] for _when, text in machine.lines if "@@@ " in text]
    iomem = "\n".join(said)
    outcome = evaluate(LINES[series], tuple(ram_ranges(iomem)), Rules.of(tree.release))
    (part,) = crash_ranges(iomem)[0]
    assert part.size == outcome.size > 64 * MIB
    assert outcome.base in (0, part.start)
    assert f"size {outcome.size}" in said
    assert f"shrunk {64 * MIB}" in said
