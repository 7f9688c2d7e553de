"""Three networks, three routers, a server behind each: static routes, DHCP's classless ones, DHCPv6 with a router."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.dump.manifest import check
from kdump.image.kernel_tree import KernelTree


@pytest.mark.lab
@pytest.mark.matrix
@pytest.mark.parametrize("series", ["6.1-generic", "6.12"])
def test_a_server_behind_each_router_has_the_dump(
    series: str, kernel: Callable[[str], KernelTree], tmp_path: Path
) -> None:
    (tmp_path / "tree").write_bytes(pickle.dumps(kernel(series)))
    command = ["unshare", "-n", sys.executable, "-m", "tests.capture.routers", str(tmp_path / "tree"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    manifest = found["manifest"]
    assert manifest["status"] == "complete"
    for place in (Path(found["directory"]), *(tmp_path / str(number) / manifest["crash"] for number in range(3))):
        for entry in manifest["files"]:
            assert list(check(place, entry)) == []
