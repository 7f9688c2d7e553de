"""A mount of an NFS server that has gone: who hangs there, and for which server. The server is a machine of its own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import foreign
from tests.capture.test_lab_nfs import MAC, nfs_machine, wire
from tests.targets.servers import free_port

from kdump.image.kernel_tree import KernelTree
from kdump.lab.causes import find_cause
from kdump.lab.crash import Scenario, crash

pytestmark = [pytest.mark.lab, pytest.mark.kinds]
# The server powers off as soon as it sees so much of a dump; the client is left with calls that are not answered.
_CLIENT = """
import ctypes, fcntl, os, socket, struct, sys, time
sys.path.insert(0, "/usr/lib/python3")
from kdump.capture import system
def ask(code, value):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, code, struct.pack("16s", b"eth0") + value.ljust(24, bytes(1)))
address = struct.pack("<HH4s", socket.AF_INET, 0, socket.inet_aton("192.168.77.2"))
mask = struct.pack("<HH4s", socket.AF_INET, 0, socket.inet_aton("255.255.255.0"))
ask(0x8916, address); ask(0x891C, mask); ask(0x8914, struct.pack("<H", 1))  # SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS
os.mkdir("/run/far")
options = "vers=VERSION,addr=192.168.77.1,proto=tcp,hard,timeo=600,retrans=2"
if "VERSION" == "3":
    options += ",mountaddr=192.168.77.1,mountvers=3,mountproto=tcp,nolock"
for attempt in range(20):
    try:
        system.mount("192.168.77.1:/PATH", "/run/far", "TYPE", 0, options)
        break
    except OSError as error:
        last = error
        time.sleep(0.5)
else:
    raise last
os.makedirs("/run/far/some")
with open("/run/far/some/part", "wb", buffering=0) as file:
    file.write(bytes(3 << 20))
    os.fsync(file.fileno())
os.rename("/run/far/some/part", "/run/far/some/vmcore.incomplete")  # nothing is left to be written, which sync(2) wants
time.sleep(5)
def child(name, wait):
    if not os.fork():  # with no file of the caller's open, who is not to wait for its end
        for number in range(3):
            os.dup2(os.open("/dev/null", os.O_RDWR), number)
        open("/proc/self/comm", "w").write(name)
        wait()
child("far_reader", lambda: os.listdir("/run/far/some"))
child("far_maker", lambda: os.mkdir("/run/far/new"))
time.sleep(2)
"""


@pytest.mark.parametrize(("series", "version"), [("6.1", "4.2"), ("6.12", "3")])
def test_who_hangs_on_a_server(series: str, version: str, kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    tree, port = kernel(series), free_port()
    path, kind = ("srv/dumps", "nfs") if version == "3" else ("dumps", "nfs4")
    script = _CLIENT.replace("VERSION", version).replace("PATH", path).replace("TYPE", kind)
    scenario = Scenario(
        tree, find_cause("hung"), memory=768 << 20, work=8 << 20, devices=wire("connect", port, MAC),
        guest_modules=("virtio_net", "nfsv3" if version == "3" else "nfsv4"),
        guest_commands=(("/usr/bin/python3", "-c", script),),
    )  # fmt: skip
    with nfs_machine(tree, tmp_path, port, "dies"):
        vmcore = crash(scenario, tmp_path).directory / "vmcore"
    found = json.loads(foreign.run(sys.executable, "-m", "kdump", "report", "--json", vmcore))
    assert found["problems"] == []
    assert not found["sections"]["blocked"].get("notes") and not found["sections"]["mounts"].get("notes")
    rows = [row for row in found["sections"]["blocked"]["locks"] if row["kind"] == "server"]
    told = " ".join(row["waiters"] for row in rows)
    assert "far_maker" in told or "far_reader" in told, rows
    assert all(re.fullmatch(r"NFS server 192\.168\.77\.1 to answer [A-Z_]+", row["lock"]) for row in rows)
    (mount,) = [row for row in found["sections"]["mounts"]["mounts"] if row["path"] == "/run/far"]
    assert (mount["type"], mount["source"]) == (kind, f"192.168.77.1:/{path}")
    assert mount["waiting"] >= 1 and mount["longest"] > 1
