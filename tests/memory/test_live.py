"""/proc/kcore of a real kernel, read from inside a guest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.image.build import build
from kdump.image.kernel import KernelTree
from kdump.lab.machine import Machine, Spec


@pytest.mark.lab
@pytest.mark.parametrize(("series", "cpu"), [("6.12", "max"), ("6.1", "max,la57=off")], ids=["5-level", "4-level"])
def test_a_live_kernel_is_read(kernel: Callable[[str], KernelTree], tmp_path: Path, series: str, cpu: str) -> None:
    tree = kernel(series)
    image = tmp_path / "image"
    build(tree, entry="tests.memory.live", output=image)
    spec = Spec(
        kernel=tree.vmlinuz, initrd=image, cmdline="console=ttyS0 crashkernel=64M", memory=512 << 20, cpus=2, cpu=cpu
    )
    with Machine(spec) as machine:
        line = machine.wait_for(r"live kernel: (\{.*\})", 120, unless="live kernel: FAILED|Kernel panic")[1]
    facts = json.loads(line)
    assert facts["format"] == "kcore"
    assert len(set(facts["release"])) == 1
    count, same, newer, lost = facts["log"]
    assert count > 100
    assert same
    assert newer < 5
    assert lost == []
    assert facts["vmcoreinfo found"]
    total = int(re.search(r"MemTotal: +(\d+) kB", facts["meminfo"])[1]) << 10  # type: ignore[index]
    assert total < facts["memory"] < (512 - 64) << 20
    start, end = re.search(r"([0-9a-f]+)-([0-9a-f]+) : Crash kernel", facts["iomem"]).groups()  # type: ignore[union-attr]
    assert all(high <= int(start, 16) or low > int(end, 16) for low, high in facts["ranges"])
