"""`kdump status` never says ready on a machine whose capture would fail: a few machines of docs/machines.md."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.conftest import Once
from tests.matrix import machines
from tests.matrix.__main__ import read_results
from tests.matrix.rows import (
    BOARDS,
    CONTROLLERS,
    DISKS,
    FIRMWARE,
    KERNELS,
    OLD,
    OTHERS,
    REFUSED,
    SUBSET,
    VOLUMES,
    WANTED,
    Row,
    by_gain,
    covering,
    every,
)

NEEDS = [
    pytest.mark.lab,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="making a Debian takes root"),
    pytest.mark.skipif(not shutil.which("debootstrap"), reason="debootstrap is not installed"),
]
DEFAULT = (*SUBSET, next(row for row in OTHERS if row.volume == "drbd"))  # and one that must be refused


def test_the_rows_have_every_pair() -> None:
    rows = covering(lambda _kernel, _controller: True)
    found = {pair for row in rows for pair in row.pairs}
    wanted = {(k, c) for k in KERNELS for c in CONTROLLERS} | {(k, v) for k in KERNELS for v in VOLUMES}
    assert found == wanted | {(v, f) for v in VOLUMES for f in FIRMWARE}
    everything = every(lambda _kernel, _controller: True)
    assert len({row.name for row in everything}) == len(everything) >= 60
    assert any(row.beside for row in rows)
    for row in rows:
        for kind in zip(*row.disks, strict=True):
            assert len(set(kind)) == len(row.disks) <= DISKS
        assert not {controller for controller, _volume in row.disks} >= BOARDS
    few = covering(lambda _kernel, controller: controller != "ide")
    assert not any("ide" in dict(row.disks) for row in few)


def test_what_was_run_is_not_chosen_again_and_most_pairs_come_first() -> None:
    everything = every(lambda _kernel, _controller: True)
    ready = [row for row in everything if row.volume not in REFUSED and row.cpu not in OLD]
    assert set(every(lambda _kernel, _controller: True, ready)) == set(everything)
    gains = []
    have = {pair for row in ready[:20] for pair in row.pairs}
    for row in by_gain(everything, ready[:20], cost=lambda row: row.cpus):
        gains.append(len(row.pairs & WANTED - have))
        have |= row.pairs
    assert have >= WANTED
    assert gains == sorted(gains, reverse=True)
    assert len(gains) == len(everything)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=NEEDS) for row in DEFAULT])
def test_ready_means_a_dump(row: Row, once: Once, tmp_path: Path) -> None:
    root = once("matrix root", lambda directory: machines.root_disk(directory / "root.img"))
    result = machines.run_row(row, root, tmp_path)
    assert not result.problem
    if row.volume in REFUSED:
        assert not result.ready
        assert [reason for reason in result.reasons if row.volume in reason], result.reasons
    else:
        assert result.ready, result.reasons
        assert result.capture == "complete"


def test_no_machine_was_ready_that_failed() -> None:
    """The promise, of all that docs/machines.md shows."""
    results = read_results()
    assert not [row.name for row, result in results.items() if not result.well]
    assert {row.volume for row, result in results.items() if result.ready} >= set(VOLUMES)
    assert not [
        row.name for row, result in results.items() if result.ready and (row.volume in REFUSED or row.cpu in OLD)
    ]
