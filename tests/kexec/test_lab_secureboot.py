"""A machine with Secure Boot on: OVMF with Microsoft's keys; Debian's shim, GRUB and signed kernel; lockdown.

About a minute for each kernel, and outside the default run for that (`pytest -m system`).
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import SERIES
from tests.kexec import machine as lab
from tests.kexec.machine import kdump, order

from kdump.image.build import module_paths
from kdump.image.kernel_tree import KernelTree
from kdump.lab import kernels
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec

pytestmark = pytest.mark.system

MODULES = ("efivarfs",)
SOURCES = ("--kernel=/vmlinuz", "--image=/image")
ENTRY = "from kdump.cli.main import entry; entry()"
STATE = "from kdump.kexec.state import read_state; state = read_state(); print(state.lockdown, state.secure_boot)"
GRUB = """\
set timeout=0
terminal_output serial
linux /vmlinuz {cmdline}
initrd /guest.img
boot
"""


def boot_medium(tree: KernelTree, initrd: Path, cmdline: str, directory: Path) -> Path:
    """A directory to be the EFI system partition: shim, GRUB (both signed) and what they start."""
    shim, grub = kernels.package("shim-signed"), kernels.package("grub-efi-amd64-signed")
    efi, debian = directory / "EFI/BOOT", directory / "EFI/debian"
    efi.mkdir(parents=True)
    debian.mkdir()
    shutil.copyfile(shim / "usr/lib/shim/shimx64.efi.signed", efi / "BOOTX64.EFI")
    shutil.copyfile(grub / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", efi / "grubx64.efi")
    (debian / "grub.cfg").write_text(GRUB.format(cmdline=cmdline))
    shutil.copyfile(tree.vmlinuz, directory / "vmlinuz")
    shutil.copyfile(initrd, directory / "guest.img")
    return directory


def firmware(directory: Path) -> tuple[str, ...]:
    """QEMU arguments for OVMF with Secure Boot enforced; its variables go to a copy in `directory`."""
    ovmf = kernels.package("ovmf") / "usr/share/OVMF"
    variables = shutil.copyfile(ovmf / "OVMF_VARS_4M.ms.fd", directory / "variables.fd")
    code = ovmf / "OVMF_CODE_4M.secboot.fd"
    return (
        "-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}",
        "-drive", f"if=pflash,format=raw,unit=1,file={variables}",
    )  # fmt: skip


@pytest.fixture(scope="module", params=SERIES)
def secure(
    request: pytest.FixtureRequest, kernel: Callable[[str], KernelTree], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    scratch = tmp_path_factory.mktemp("secureboot")
    tree = kernel(request.param)
    capture = lab.image(tree, scratch / "capture.img", imports=("kdump.cli.dmesg",))
    files: dict[str, bytes | Path] = {"/vmlinuz": tree.vmlinuz, "/image": capture}
    guest = lab.image(tree, scratch / "guest.img", files, modules=MODULES)
    cmdline = "console=ttyS0,115200 loglevel=4 crashkernel=256M"
    medium = boot_medium(tree, guest, cmdline, scratch / "esp")
    disk = ("-drive", f"if=none,id=esp,format=raw,file=fat:rw:{medium}", "-device", "virtio-blk-pci,drive=esp")
    spec = Spec(memory=1 << 30, cpus=2, extra=(*firmware(scratch), *disk))
    with Machine(spec, console=scratch / "console.log") as machine:
        machine.wait_for("guest is up", 300)
        for path in module_paths(tree, MODULES):
            order(machine, "module", path)
        order(machine, "mount", "efivarfs", "/sys/firmware/efi/efivars", "efivarfs")
        order(machine, "mount", "securityfs", "/sys/kernel/security", "securityfs")
        yield machine


def loaded(machine: Machine) -> bool:
    return order(machine, "read", "/sys/kernel/kexec_crash_loaded").out == "1\n"


def certificate_entry(kernel: bytes) -> int:
    """Where the PE header of a bzImage names its signature (PE format, "Optional Header Data Directories")."""
    header: int = struct.unpack_from("<I", kernel, 0x3C)[0]
    return header + 24 + 112 + 4 * 8  # PE and COFF headers, the fields of PE32+ before the directories, four of them


def test_loading_and_crashing_under_secure_boot(secure: Machine, kernel: Callable[[str], KernelTree]) -> None:
    """One machine, in the order of its life; the panic ends it."""
    state = order(secure, "python", "-c", STATE)
    assert state.out.split() == ["integrity", "True"], state
    # The segment method is not tried, whoever asks.
    for words in (("load", *SOURCES, "--method=segments"), ("kexec", "-p", "-c", "--initrd=/image", "/vmlinuz")):
        answer = kdump(secure, *words)
        assert answer.status == 1 and "locked down (integrity)" in answer.err and "--method file" in answer.err, answer
    answer = kdump(secure, "load", *SOURCES)
    assert answer.status == 0 and "by the file method" in answer.out, answer
    # What Debian did not sign as it is, is refused, says why, and what was loaded stays.
    release = re.search(r"Linux version (\S+)", order(secure, "read", "/proc/version").out)
    assert release
    entry = certificate_entry(kernel(".".join(release[1].split(".")[:2])).vmlinuz.read_bytes())
    for change, at, named in (("ff", 3 << 20, "EKEYREJECTED"), ("00" * 8, entry, "ENODATA")):
        order(secure, "damage", "/vmlinuz", "/tmp/changed", str(at), change)
        answer = kdump(secure, "load", "--kernel=/tmp/changed", "--image=/image")
        assert answer.status == 1 and named in answer.err and "signed" in answer.err, answer
        assert loaded(secure)
    # Unloading needs no signature.
    assert kdump(secure, "unload").status == 0
    assert not loaded(secure)
    assert kdump(secure, "kexec", "-p", "-a", "--reuse-cmdline", "--initrd=/image", "/vmlinuz").status == 0
    assert kdump(secure, "load", *SOURCES).status == 0
    secure.type(json.dumps(["write", "/proc/sysrq-trigger", "c"]) + "\n")
    secure.wait_for("guest is up", 300)
    log = order(secure, "python", "-c", ENTRY, "dmesg", "/proc/vmcore")
    assert "sysrq triggered crash" in log.out and "Secure boot enabled" in log.out, log
