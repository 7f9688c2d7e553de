"""Machines of ppc64le, dumped by QEMU: radix page tables (POWER9) and the hash MMU (POWER8), as `virsh dump` has them.

QEMU writes big-endian headers. Neither it nor the kernel writes a VMCOREINFO note.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.kexec.packaged import START, with_busybox

from kdump.arch.ppc64le import PPC64LE
from kdump.elf import BIG_ENDIAN
from kdump.image.cpio import archive
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.lab import apt, cache
from kdump.lab.qmp import Qmp
from kdump.memory import open_dump
from kdump.memory.counts import count_pages

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
PAGE, BOOT, MIB = 4096, 300, 1 << 20
FORMATS = ("elf", "kdump-zlib")
CRASH = START + "/bin/busybox ps -o pid,comm\n/bin/busybox grep MemFree /proc/meminfo\n"
CRASH += "echo 1 > /proc/sys/kernel/sysrq\necho c > /proc/sysrq-trigger\n"


def vmlinux() -> Path:
    """Debian 13's kernel."""
    source = apt.stable(PPC64LE.debian)
    names = source.search(r"^linux-image-6\.12\..*-powerpc64le$")
    name = max(names, key=lambda each: [int(part) for part in re.findall(r"\d+", each)])
    inside = f"./boot/vmlinux-{name.removeprefix('linux-image-')}"

    def fetch(directory: Path) -> None:
        apt.extract(source.download(name, directory), directory, inside)

    return cache.entry(f"packages/{name}-boot", fetch) / inside


def dumped(cpu: str, kernel: Path, directory: Path) -> str:
    """Crash a machine and have QEMU dump it, in each format; returns what the console had."""
    image, console, monitor = directory / "image", directory / "console", directory / "monitor"
    image.write_bytes(archive(with_busybox(PPC64LE, CRASH)))
    command = ["qemu-system-ppc64", "-nodefaults", "-machine", "pseries", "-cpu", cpu, "-accel", "tcg", "-smp", "2"]
    command += ["-m", "512", "-display", "none", "-no-shutdown", "-action", "panic=pause", "-serial", f"file:{console}"]
    command += ["-qmp", f"unix:{monitor},server=on,wait=off", "-kernel", str(kernel), "-initrd", str(image)]
    with subprocess.Popen([*command, "-append", "console=hvc0 panic=0"], stderr=subprocess.DEVNULL) as machine:
        try:
            with Qmp(monitor, timeout=120) as qmp:
                end = time.monotonic() + BOOT
                while qmp.execute("query-status")["status"] != "guest-panicked":
                    assert time.monotonic() < end, console.read_text(errors="replace")[-2000:]
                    time.sleep(0.2)
                for kind in FORMATS:
                    qmp.execute("dump-guest-memory", paging=False, protocol=f"file:{directory / kind}", format=kind)
        finally:
            machine.kill()
    return console.read_text(errors="replace")


def kdump(*words: str | Path) -> str:
    done = subprocess.run([sys.executable, "-m", "kdump", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def drgn_agrees(vmcore: Path, release: str) -> None:
    """drgn knows the machine of what was saved, and its VMCOREINFO."""
    import drgn

    program = drgn.Program()
    program.set_core_dump(vmcore)
    assert program.platform is not None and program.platform.arch == drgn.Architecture.PPC64
    assert drgn.PlatformFlags.IS_LITTLE_ENDIAN in program.platform.flags
    assert f"OSRELEASE={release}" in program["VMCOREINFO"].string_().decode().splitlines()


@pytest.mark.parametrize(("cpu", "radix"), [("POWER9", True), ("POWER8", False)])
def test_a_dump_of_qemu_is_read_filtered_and_reported(cpu: str, radix: bool, tmp_path: Path) -> None:
    kernel = vmlinux()
    release = kernel.name.removeprefix("vmlinux-")
    printed = [line.rstrip() for line in dumped(cpu, kernel, tmp_path).splitlines()]
    vmcore, packed, saved, log = tmp_path / "elf", tmp_path / "kdump-zlib", tmp_path / "saved", tmp_path / "dmesg"
    with vmcore.open("rb") as file:
        assert file.read(6)[5] == BIG_ENDIAN

    with open_dump(vmcore) as dump:
        dead = Kernel(dump)
        assert dead.arch is PPC64LE and dead.vmcoreinfo.strings["OSRELEASE"] == release
        assert (len(dead.virtual.paging.linear) == 1) == radix  # the hash MMU's memory map is in a list
        tasks = {task.pid: task.command for task in Tasks(dead)}
    listed = (re.fullmatch(r" *(\d+) (.+)", line) for line in printed)
    known = {int(found[1]): found[2] for found in listed if found}
    lasting = {pid: name for pid, name in known.items() if pid != max(known) and not name.startswith("kworker")}
    assert len(known) > 40 and len(lasting.keys() - tasks.keys()) <= 2  # the last one is ps; a thread may end
    assert all(tasks[pid] == name for pid, name in lasting.items() if pid in tasks)

    log.write_text(kdump("dmesg", vmcore))
    lines = {line.rstrip() for line in log.read_text().splitlines()}
    kernels = {line for line in printed if re.match(r"\[ *\d+\.\d{6}\] ", line)}
    assert len(kernels) > 100 and kernels <= lines
    assert kdump("dmesg", packed) == kdump("dmesg", vmcore)
    assert "ppc64le" in kdump("info", vmcore)

    told = kdump("save", vmcore, saved)  # status 3 if free pages were not as many as the kernel counts
    found = re.search(r"dropped: (\d+) free", told)
    free = next(int(line.split()[1]) for line in printed if line.startswith("MemFree:"))
    assert found and free * 1024 - MIB < int(found[1]) * PAGE < free * 1024 + 64 * MIB  # and those on CPUs' lists
    with open_dump(vmcore) as whole, open_dump(saved) as dump:
        counts = count_pages(dump.memory)
        assert counts.dumped < counts.memory / 3 and Kernel(dump).log().records == Kernel(whole).log().records
        assert {task.pid: task.command for task in Tasks(Kernel(dump))} == tasks
        for part in dump.memory.held():
            assert dump.memory.view(part.start, PAGE) == whole.memory.view(part.start, PAGE)
    drgn_agrees(saved, release)
    kdump("save", packed, tmp_path / "same")  # QEMU packed it in pages of 64 KiB
    with open_dump(saved) as one, open_dump(tmp_path / "same") as other:
        assert list(one.memory.held()) == list(other.memory.held()) and one.memory.page_size == other.memory.page_size
        for part in one.memory.held():
            assert one.memory.view(part.start, PAGE) == other.memory.view(part.start, PAGE)

    for source in (vmcore, saved, log):
        report = kdump("report", source)
        assert report.startswith("sysrq triggered crash\n") and "sysrq_handle_crash" in report and release in report
