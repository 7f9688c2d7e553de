"""`kdump status` never says ready on a machine whose capture would fail: a few machines of docs/machines.md."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.conftest import Once
from tests.matrix import machines
from tests.matrix.__main__ import read_results
from tests.matrix.rows import CONTROLLERS, FIRMWARE, KERNELS, OLD, REFUSED, SUBSET, VOLUMES, Row, covering, every, pairs

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
    assert result.ready, result.reasons
    assert result.capture == "complete"


def test_no_machine_was_ready_that_failed() -> None:
    """The promise, of all that docs/machines.md shows."""
    results = read_results()
    assert not [row.name for row, result in results.items() if not result.well]
    assert {row.volume for row, result in results.items() if result.ready} & {row.volume for row in SUBSET}
    assert not [
        row.name for row, result in results.items() if result.ready and (row.volume in REFUSED or row.cpu in OLD)
    ]
