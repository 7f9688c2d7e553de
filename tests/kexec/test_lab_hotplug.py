"""A machine whose reservation lies above 4 GiB (crashkernel=…,high) and that gets a CPU and memory while it runs."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SERIES
from tests.kexec import machine as lab
from tests.kexec.machine import kdump, order

from kdump.elf import PT_LOAD, PT_NOTE
from kdump.image.kernel_tree import KernelTree
from kdump.kexec.memory_map import parse_iomem
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec
from kdump.memory.protocol import Range

pytestmark = pytest.mark.lab

MIB, GIB = 1 << 20, 1 << 30
SOURCES = ("--kernel=/vmlinuz", "--image=/image")
ENTRY = "from kdump.cli.main import entry; entry()"
DIMM = 256 * MIB
# Late 6.12 kernels count absent CPUs only under a hypervisor that they know by name. TCG's they do not; by that serial
# number they ask for VMware's port, which QEMU answers.
KNOWN_HYPERVISOR = ("-smbios", "type=1,serial=VMware-lab")
VMCORE_HEADERS = "print(open('/proc/vmcore', 'rb').read(65536).hex())"


@pytest.mark.parametrize("method", ["file", "segments"])
@pytest.mark.parametrize("series", SERIES)
def test_what_is_plugged_in_is_in_the_dump(
    series: str, method: str, kernel: Callable[[str], KernelTree], tmp_path: Path
) -> None:
    tree = kernel(series)
    keeps_up = series != "6.1"  # kernels since 6.6 update what is loaded themselves
    capture = lab.image(tree, tmp_path / "capture.img", imports=("kdump.cli.dmesg",))
    spec = Spec(
        kernel=tree.vmlinuz,
        initrd=lab.image(tree, tmp_path / "guest.img", {"/vmlinuz": tree.vmlinuz, "/image": capture}),
        cmdline="console=ttyS0,115200 loglevel=4 crashkernel=192M,high crashkernel=64M,low",
        memory=5 * GIB,
        cpu="max,hypervisor=off",
        extra=("-m", "5G,slots=1,maxmem=8G", "-smp", "1,maxcpus=2,sockets=2,cores=1,threads=1", *KNOWN_HYPERVISOR),
    )
    with Machine(spec, console=tmp_path / "console.log") as machine:
        machine.wait_for("guest is up", lab.TIMEOUT)
        low, high = places(machine, "Crash kernel")
        assert low.end <= 4 * GIB < high.start and (low.size, high.size) == (64 * MIB, 192 * MIB)

        load = kdump(machine, "load", *SOURCES, "--method", method)
        assert load.status == 0, load.err
        told = json.loads(kdump(machine, "load", *SOURCES, "--method", method, "--explain", "--json").out)
        assert told["reserved"] == high.size
        if method == "segments":  # the kernel's own segments it does not tell
            assert all(high.start <= segment["address"] < high.end for segment in told["segments"])
        assert covered(lab.core_headers(lab.physical(machine, high, tmp_path)), Range(4 * GIB, high.start))

        plug_in(machine)
        dimm = next(part for part in places(machine, "System RAM") if part.size == DIMM)
        answer = kdump(machine, "load", *SOURCES, "--method", method, "--if-changed")
        assert answer.status == 0 and ("nothing changed" in answer.out) == keeps_up, answer
        assert covered(lab.core_headers(lab.physical(machine, high, tmp_path)), dimm)

        machine.type(json.dumps(["write", "/proc/sysrq-trigger", "c"]) + "\n")
        machine.wait_for("guest is up", lab.TIMEOUT)
        vmcore = bytes.fromhex(order(machine, "python", "-c", VMCORE_HEADERS).out)
        assert covered(vmcore, dimm) and covered(vmcore, Range(4 * GIB, high.start))
        assert notes(vmcore) == ["CORE"] * 2 + ["VMCOREINFO"]  # a status for each CPU
        assert "sysrq triggered crash" in order(machine, "python", "-c", ENTRY, "dmesg", "/proc/vmcore").out
        # The low part is the capture kernel's too: for devices that reach no further.
        assert low.start in [part.start for part in places(machine, "System RAM")]


def places(machine: Machine, name: str) -> list[Range]:
    """Where the guest's /proc/iomem shows that name."""
    regions = parse_iomem(order(machine, "read", "/proc/iomem").out)
    return [region.range for region in regions if region.name == name]


def plug_in(machine: Machine) -> None:
    """A CPU and a DIMM, both online."""
    order(machine, "write", "/sys/devices/system/memory/auto_online_blocks", "online")
    with machine.qmp() as monitor:
        place = {"socket-id": 1, "core-id": 0, "thread-id": 0}
        monitor.execute("device_add", driver="max-x86_64-cpu", id="cpu1", **place)
        monitor.execute("object-add", **{"qom-type": "memory-backend-ram"}, id="ram1", size=DIMM)
        monitor.execute("device_add", driver="pc-dimm", id="dimm1", memdev="ram1")
    deadline = time.monotonic() + 30
    while order(machine, "read", "/sys/devices/system/cpu/present").out != "0-1\n" or not any(
        part.size == DIMM for part in places(machine, "System RAM")
    ):
        assert time.monotonic() < deadline, "the guest saw no new CPU or memory"
        time.sleep(0.5)
    assert order(machine, "write", "/sys/devices/system/cpu/cpu1/online", "1").status == 0


def covered(core: bytes, wanted: Range) -> bool:
    """Is that physical memory in one of the PT_LOADs?"""
    loads = [header for header in lab.program_headers(core) if header.type == PT_LOAD]
    return any(load.physical <= wanted.start and wanted.end <= load.physical + load.size for load in loads)


def notes(core: bytes) -> list[str]:
    """The names of a vmcore's notes, in order."""
    (header,) = (each for each in lab.program_headers(core) if each.type == PT_NOTE)
    found, at = [], header.offset
    while at < header.offset + header.size:
        name_size, size, _ = struct.unpack_from("<III", core, at)
        if not name_size:
            break
        found.append(core[at + 12 : at + 12 + name_size - 1].decode())
        at += 12 + -(-name_size // 4) * 4 + -(-size // 4) * 4
    return found
