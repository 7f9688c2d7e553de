"""The whole way on a real Debian: set up, reboot, ready, panic, dump, reboot, a new kernel, and back to before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.system import debian

from kdump.lab.machine import Disk, Machine, Spec

if TYPE_CHECKING:
    from kdump.image.kernel import KernelTree

BOOT_TIMEOUT = 400  # seconds; TCG on a busy machine

SET_UP = """\
step grub-install grub-install --target=i386-pc /dev/vda
step update-grub update-grub
cp /boot/grub/grub.cfg /root/grub.cfg.before
step before kdump status
step setup kdump setup --yes
sync; reboot
"""
CRASH = """\
step cmdline cat /proc/cmdline
step service systemctl is-active kdump.service kdump-reload.path
step status kdump status
step json kdump status --json
sync; echo c > /proc/sysrq-trigger
"""
UPGRADE = """\
step list kdump list --json
step report sh -c 'cat /var/crash/*/report-full.txt'
mv /root/new/vmlinuz /boot/vmlinuz-NEW; mv /root/new/config /boot/config-NEW; mv /root/new/modules /lib/modules/NEW
step hooks sh -c 'depmod NEW && run-parts --arg=NEW --arg=/boot/vmlinuz-NEW /etc/kernel/postinst.d'
step built ls /var/lib/kdump/NEW
sync; reboot
"""
UNDO = """\
step release uname -r
step status kdump status
step undo kdump setup --undo --yes
step left sh -c 'ls -d /etc/kdump /etc/*.d/*kdump* /etc/systemd/system/kdump* /var/lib/kdump 2>/dev/null; true'
step cmdlines grep -c crashkernel /boot/grub/grub.cfg
poweroff
"""


@pytest.mark.system
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.geteuid() != 0, reason="making a Debian takes root")
@pytest.mark.skipif(not shutil.which("debootstrap"), reason="debootstrap is not installed")
def test_from_nothing_to_a_dump_and_back(
    kernel: Callable[[str], KernelTree], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "system" not in request.config.option.markexpr:  # another -m took the place of the default
        pytest.skip("takes minutes: pytest -m system")
    new = kernel("6.12")
    assert new.modules is not None
    path = tmp_path / "disk.img"
    boots = [each.replace("NEW", new.release) for each in (SET_UP, CRASH, UPGRADE, UNDO)]
    # GRUB must not see it yet.
    extra = {
        "root/new/vmlinuz": new.vmlinuz,
        "root/new/config": new.vmlinuz.with_name(f"config-{new.release}"),
        "root/new/modules": new.modules,
    }
    vmlinuz, initrd = debian.make(path, boots, extra)

    first = Spec(vmlinuz, initrd, "root=/dev/vda1 console=ttyS0,115200", [Disk(path)], 1536 << 20, 2)
    with Machine(first, console=tmp_path / "first.log") as machine:
        machine.run_to_exit(BOOT_TIMEOUT)
        said = debian.steps([text for _when, text in machine.lines])
    assert "kdump is not ready: reservation, image, loaded" in said["1 before"][1]
    assert said["1 setup"][0] == 3  # reboot once
    assert any("crashkernel=" in line and line.startswith("+") for line in said["1 setup"][1])

    then = Spec(disks=[Disk(path)], memory=1536 << 20, cpus=2, reboots=True)
    with Machine(then, console=tmp_path / "then.log") as machine:
        machine.run_to_exit(4 * BOOT_TIMEOUT)
        said |= debian.steps([text for _when, text in machine.lines])
    assert "crashkernel=" in said["2 cmdline"][1][0]
    assert said["2 service"][0] == 0
    assert (said["2 status"][0], said["2 status"][1][0]) == (0, "kdump is ready")
    assert json.loads("\n".join(said["2 json"][1]))["ready"] is True
    assert max(map(len, said["2 status"][1])) <= 80

    (crash,) = json.loads("\n".join(said["3 list"][1]))
    assert crash["status"] == "complete"
    assert "sysrq" in crash["title"]
    assert any("sysrq" in line for line in said["3 report"][1])
    assert said["3 hooks"][0] == 0
    assert "capture.img" in said["3 built"][1]

    assert said["4 release"][1] == [new.release]
    assert (said["4 status"][0], said["4 status"][1][0]) == (0, "kdump is ready")
    assert said["4 undo"][0] == 0
    assert said["4 left"][1] == []
    assert said["4 cmdlines"][1] == ["0"]
