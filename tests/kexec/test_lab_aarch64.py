"""One machine of aarch64: it loads, explains, unloads, reboots into another kernel, and finds a damaged segment.

The kernel that it reboots into is an EFI zboot image, and its capture kernel a unified kernel image with one in it;
Debian's own are plain Images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kexec import kernels
from tests.kexec import machine as lab

from kdump.image.kernel_tree import KernelTree
from kdump.lab.qemu import Spec

pytestmark = [pytest.mark.lab, pytest.mark.matrix]


def test_a_reboot_and_a_damaged_segment(kernel: Callable[..., KernelTree], tmp_path: Path) -> None:
    old, new = kernel("6.1", "aarch64"), kernel("6.12", "aarch64")
    plain = lab.image(new, tmp_path / "plain.img")
    zboot = kernels.zboot(new.vmlinuz.read_bytes())
    unified = kernels.pe({".linux": zboot}, machine=0xAA64)
    second = lab.image(new, tmp_path / "second.img", {"/vmlinuz": unified, "/image": plain})
    first = lab.image(old, tmp_path / "first.img", {"/vmlinuz": zboot, "/image": second})
    line = "console=ttyAMA0 loglevel=3 crashkernel=192M"
    stub = tmp_path / "gdb"
    spec = Spec(
        kernel=old.vmlinuz, initrd=first, cmdline=line, memory=1 << 30, machine="aarch64", extra=lab.gdb_stub(stub)
    )
    lab.reboots_and_finds_damage(spec, old.release, new.release, stub, tmp_path / "console.log")
