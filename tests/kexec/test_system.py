"""A whole Debian with our kexec instead of kexec-tools': Debian's own scripts, and clean reboots under systemd."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.system import debian

from kdump.lab import kernels
from kdump.lab.machine import Machine
from kdump.lab.qemu import Disk, Spec

BOOT_TIMEOUT = 400  # seconds; TCG on a busy machine
KERNEL = "/boot/vmlinuz-$(uname -r) --initrd=/boot/initrd.img-$(uname -r)"
# ExecStop runs only if systemd stops its units: a reboot that is no shutdown leaves no trace.
WITNESS = """\
systemd-run -q --unit=witness -p "ExecStop=/bin/sh -c 'echo stopped in boot $n >> /root/witness'" sleep infinity
"""

SCRIPTS = f"""\
printf '#!/bin/sh\\nexec %s kexec "$@"\\n' "$(command -v kdump)" > /sbin/kexec; chmod 755 /sbin/kexec
echo USE_KDUMP=1 > /etc/default/kdump-tools
mkdir -p /var/lib/linux-kdump /var/crash
step load kdump-config load
step loaded cat /sys/kernel/kexec_crash_loaded
step show kdump-config status
step unload kdump-config unload
step unloaded cat /sys/kernel/kexec_crash_loaded
{WITNESS}step reboot sh -c 'kexec -l {KERNEL} --reuse-cmdline --append=second && systemctl kexec'
"""
SECOND = f"""\
step cmdline cat /proc/cmdline
step witness cat /root/witness
rm /sbin/kexec  # systemd starts the kernel itself then
{WITNESS}step reboot sh -c 'kdump kexec {KERNEL} --reuse-cmdline --append=third'
"""
THIRD = """\
step cmdline cat /proc/cmdline
step witness cat /root/witness
poweroff
"""


@pytest.mark.system
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.geteuid() != 0, reason="making a Debian takes root")
@pytest.mark.skipif(not shutil.which("debootstrap"), reason="debootstrap is not installed")
def test_in_the_place_of_kexec_tools(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    tools = kernels.package("kdump-tools") / "usr"
    vmlinuz, initrd = debian.make(path, (SCRIPTS, SECOND, THIRD), {"usr": tools})
    line = "root=/dev/vda1 console=ttyS0,115200 crashkernel=192M"
    spec = Spec(vmlinuz, initrd, line, [Disk(path)], 1536 << 20, 2)
    with Machine(spec, console=tmp_path / "console.log") as machine:
        machine.run_to_exit(3 * BOOT_TIMEOUT)
        said = debian.steps([text for _when, text in machine.lines])
    for name in ("load", "unload"):
        assert said[f"1 {name}"][0] == 0, said[f"1 {name}"]
    assert said["1 loaded"][1] == ["1"] and said["1 unloaded"][1] == ["0"]
    assert said["1 show"][1][-1] == "current state   : ready to kdump"  # before, that file(1) is not there to ask
    for boot, name in ((2, "second"), (3, "third")):
        assert said[f"{boot} cmdline"][1][0].split()[-1] == name
        assert said[f"{boot} witness"][1][-1] == f"stopped in boot {boot - 1}"
