"""Real oopses of aarch64 kernels: an instruction of the kernel is changed from outside into one that writes to 0x48."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kexec import machine as lab
from tests.kexec.packaged import START, with_busybox

from kdump.arch.aarch64 import AARCH64
from kdump.image.cpio import archive
from kdump.image.kernel_tree import KernelTree
from kdump.kernel.kernel import Kernel
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec
from kdump.memory import open_dump
from kdump.memory.counts import count_pages

# QEMU's ELF dump is wrong where processors have SVE vectors of different lengths: memory lies behind where it says.
CPU = f"{AARCH64.emulated.cpu},sve=off"
pytestmark = [pytest.mark.lab, pytest.mark.matrix]
FUNCTION = "__arm64_sys_sethostname"
SKIPPED = 4  # its first instruction may be one that indirect calls have to find
CODE = struct.pack("<II", 0xD2800901, 0xF9000020)  # mov x1, #0x48; str x0, [x1]
CRASH = START + "echo user space is up\nread line\n/bin/busybox hostname crash\n"
PAGE = 4096


def kdump(*words: str | Path) -> str:
    done = subprocess.run([sys.executable, "-m", "kdump", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("series", ["6.1", "6.12", "newest"])
def test_an_oops_is_explained(kernel: Callable[..., KernelTree], series: str, tmp_path: Path) -> None:
    tree = kernel(series, "aarch64")
    image, raw, stub, console = (tmp_path / name for name in ("image", "raw", "stub", "console"))
    image.write_bytes(archive(with_busybox(AARCH64, CRASH)))
    spec = Spec(
        kernel=tree.vmlinuz, initrd=image, cmdline="console=ttyAMA0 oops=panic panic=0", memory=512 << 20, cpus=2,
        machine="aarch64", cpu=CPU, extra=lab.gdb_stub(stub),
    )  # fmt: skip
    with Machine(spec, console=console) as running:
        running.wait_for(r"user space is up", lab.TIMEOUT)
        with running.qmp() as monitor:
            monitor.execute("dump-guest-memory", paging=False, protocol=f"file:{raw}", format="kdump-zlib")
        with open_dump(raw) as dump:  # which does not name the machine
            living = Kernel(dump)
            assert living.arch is AARCH64
            place = living.virtual.translate(living.symbols.address(FUNCTION))
        kdump("save", raw, tmp_path / "saved")  # status 3 if free pages were not as many as the kernel counts
        with open_dump(tmp_path / "saved") as dump:  # and which QEMU packed in pages of 64 KiB
            counts = count_pages(dump.memory)
            assert dump.memory.page_size == PAGE and counts.dumped < counts.memory / 3
        raw.unlink()
        lab.poke(stub, place + SKIPPED, CODE)
        running.type("\n")
        running.wait_for(r"end Kernel panic", lab.TIMEOUT)
        with running.qmp() as monitor:
            monitor.dump_guest_memory(raw)
    printed = tmp_path / "printed"
    printed.write_text(
        "".join(line for line in console.read_text(errors="replace").splitlines(keepends=True) if "[" in line)
    )
    for source in (raw, printed):
        report = kdump("report", source)
        assert report.startswith("BUG: unable to handle kernel NULL pointer dereference in sys_sethostname\n")
        told = " ".join(report.split())
        assert "write of address 0x48, a member of a structure whose pointer is null; nothing is mapped there" in told
        assert f"Function {FUNCTION}+0x8/" in told and f"> {FUNCTION}+0x8: str x0, [x1]" in told
        assert re.search(r"\bx1 0{14}48\b", told) and tree.release in told
