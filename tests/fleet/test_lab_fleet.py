"""Real machines crash and report to a real collector, by https, from their capture kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import CrashMaker
from tests.targets.servers import certificate, free_port

from kdump.fleet import demo
from kdump.fleet.importing import bring
from kdump.image.kernel_tree import KernelTree
from kdump.memory import open_dump


@pytest.mark.lab
@pytest.mark.matrix
def test_a_known_crash_ends_without_a_dump_and_a_collector_that_is_down_costs_none(
    kernel: Callable[[str], KernelTree], lab_crash: CrashMaker, tmp_path: Path
) -> None:
    proof = certificate(tmp_path, "127.0.0.1", demo.HOST)
    with demo.collector(tmp_path / "data", proof, proof.with_name("key.pem")) as running:
        # Another machine crashed by the same cause before.
        assert bring(running.service, [lab_crash("6.1").directory]).new == 1
        known = demo.machine(running, kernel("6.1"), "web2", "sysrq", tmp_path / "web2")
        new = demo.machine(running, kernel("6.1"), "db1", "init", tmp_path / "db1")
        found = demo.shown(running)
        # The same two crashes while no collector answers.
        alone = [
            demo.machine(running, kernel("6.1"), host, cause, tmp_path / f"{host}-alone", port=free_port())
            for host, cause in (("web2", "sysrq"), ("db1", "init"))
        ]
        with running.service.database.read() as session:
            files = session.all("SELECT c.host, f.name, f.place FROM files f JOIN crashes c ON c.id = f.crash")
            rows: dict[str, dict[str, Any]] = {row["host"]: row for row in session.all("SELECT * FROM crashes")}
    assert not known.dumped
    assert any("no vmcore: known: sysrq triggered crash" in line for line in known.lines)
    assert known.ended - known.asked < 10  # emulated, on a machine that other tests share; docs/fleet.md has the figure
    assert new.dumped
    assert sorted(row["crashes"] for row in found["groups"]) == [1, 2]
    assert {rows[host]["status"] for host in ("web2", "db1")} == {"complete"}
    dumps = [row for row in files if row["name"] == "vmcore"]
    assert [row["host"] for row in dumps] == ["db1"]
    with running.service.objects.local(dumps[0]["place"]) as path, open_dump(path) as dump:
        assert not dump.incomplete
        assert dump.vmcoreinfo
    for one in alone:
        assert any("target collector+https failed" in line for line in one.lines), one.lines
        assert one.dumped, one.lines
