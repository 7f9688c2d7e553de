"""`kdump status` never says ready on a machine whose capture would fail: a few machines of docs/machines.md."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.conftest import Once
from tests.matrix import machines
from tests.matrix.rows import CONTROLLERS, FIRMWARE, KERNELS, SUBSET, VOLUMES, Row, covering, every, pairs

NEEDS = [
    pytest.mark.matrix,
    pytest.mark.lab,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="making a Debian takes root"),
    pytest.mark.skipif(not shutil.which("debootstrap"), reason="debootstrap is not installed"),
]


def test_the_rows_have_every_pair() -> None:
    rows = covering(lambda _kernel, _controller: True)
    found = {pair for row in rows for pair in pairs(row[:4])}
    wanted = {(k, c) for k in KERNELS for c in CONTROLLERS} | {(k, v) for k in KERNELS for v in VOLUMES}
    assert found == wanted | {(v, f) for v in VOLUMES for f in FIRMWARE}
    assert len(rows) >= 60
    everything = every(lambda _kernel, _controller: True)
    assert len({row.name for row in everything}) == len(everything) > len(rows)
    few = covering(lambda _kernel, controller: controller != "ide")
    assert not any(row.controller == "ide" for row in few)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=NEEDS) for row in SUBSET])
def test_ready_means_a_dump(row: Row, once: Once, tmp_path: Path) -> None:
    root = once("matrix root", lambda directory: machines.root_disk(directory / "root.img"))
    result = machines.run_row(row, root, tmp_path)
    assert not result.problem
    assert result.well
    if row.volume in ("thin", "loop"):
        assert not result.ready
        assert any("thin" in reason or "file on another" in reason for reason in result.reasons)
    else:
        assert result.ready, result.reasons
        assert result.capture == "complete"
