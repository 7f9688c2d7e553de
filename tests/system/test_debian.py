"""The whole way on a real Debian: set up, reboot, ready, rehearsed, panic, dump, a new kernel, and back to before."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.system import debian

from kdump.lab.machine import Machine
from kdump.lab.qemu import Disk, Spec

if TYPE_CHECKING:
    from kdump.image.kernel_tree import KernelTree

BOOT_TIMEOUT = 900  # seconds; TCG on a busy machine
NESTED_TIMEOUT = 2400  # a machine emulated in an emulated machine
WIDTH = 80

# What `--undo` has to bring back: names, owners, modes and contents below /etc and where other files may be left.
SNAPSHOT = """\
snapshot() {
    find /etc /usr/local -printf '%p %y %m %U %G %l\\n' | sort
    find /etc /usr/local -type f -print0 | sort -z | xargs -0 sha256sum
}
"""
SET_UP = (
    SNAPSHOT
    + """\
step grub-install grub-install --target=i386-pc /dev/vda
step update-grub update-grub
cp /boot/grub/grub.cfg /root/grub.cfg.before
mkdir -p /usr/local/share/man
snapshot > /root/snapshot.before
step before kdump status
step nobody setpriv --reuid=65534 --clear-groups kdump setup --yes
step dry kdump setup --dry-run
step plan kdump setup --json
step setup kdump setup --yes
sync; reboot
"""
)
READY = """\
step cmdline cat /proc/cmdline
step service systemctl is-active linux-kdump.service linux-kdump-reload.path
step reloads systemctl show linux-kdump-reload.service -P ExecMainStartTimestampMonotonic
step status kdump status
step json kdump status --json --prometheus /root/kdump.prom
step prometheus cat /root/kdump.prom
step image sh -c 'sha256sum /var/lib/linux-kdump/*/capture.img'
step build kdump build
step rebuilt sh -c 'sha256sum /var/lib/linux-kdump/*/capture.img'
step still kdump status
"""
LIFE = """\
step again kdump setup --yes
step man sh -c 'man kdump-setup | cat; man 5 kdump.toml | cat'
step nobody setpriv --reuid=65534 --clear-groups kdump status
mount --bind /boot /boot; mount -o remount,bind,ro /boot
step readonly kdump build --load
umount /boot
sed 's/^\\[dump\\]/[dump]\\nlevl = 31/' /etc/kdump/kdump.toml > /root/typo.toml
step typo kdump config check /root/typo.toml
cat > /root/tell <<'END'
#!/bin/sh
{ cat; echo; } > /root/told
END
chmod 755 /root/tell
cp -p /etc/kdump/kdump.toml /root/kdump.toml
sed -i 's|^#command = \\[\\]|command = ["/root/tell"]|' /etc/kdump/kdump.toml
step check kdump config check
step allowed kdump setup --yes
"""
REHEARSE = """\
step rehearse kdump rehearse --memory 512M --crashkernel 192M --timeout 25min
step estimate kdump estimate
step rehearsed kdump status
"""
CRASH = """\
sync
step crash kdump test --real --confirm kdumptest
"""
AFTER = """\
step list kdump list
step crashes kdump list --json
step test kdump test
"""
UPGRADE = """\
step status kdump status
step told cat /root/told
step collected cat /var/crash/*/report-full.txt
step report sh -c 'kdump report --short /var/crash/*'
step verify sh -c 'kdump verify /var/crash/*'
step live kdump report --live --short
step save sh -c 'kdump save --live /root/live --json 2>/dev/null'
step saved kdump info /root/live --json
rm /root/live*
mv /root/new/vmlinuz /boot/vmlinuz-NEW; mv /root/new/config /boot/config-NEW; mv /root/new/modules /lib/modules/NEW
step hooks sh -c 'depmod NEW && run-parts --arg=NEW --arg=/boot/vmlinuz-NEW /etc/kernel/postinst.d'
step built ls /var/lib/linux-kdump/NEW
sync; reboot
"""
UNDO = (
    SNAPSHOT
    + """\
step release uname -r
step status kdump status
cp -p /root/kdump.toml /etc/kdump/kdump.toml  # what an administrator has changed since would be left
(for i in $(seq 300); do systemctl --no-block reload linux-kdump.service; sleep 0.2; done) >/dev/null 2>&1 &
step undo kdump setup --undo --yes
rm /boot/*-NEW
update-grub 2>/dev/null
snapshot > /root/snapshot.after
step same diff /root/snapshot.before /root/snapshot.after
step menu diff /root/grub.cfg.before /boot/grub/grub.cfg
step left sh -c 'ls -d /etc/kdump /etc/*.d/*kdump* /etc/systemd/system/*kdump* 2>/dev/null; true'
step kept ls /var/lib/linux-kdump
step units systemctl list-unit-files '*kdump*' --no-legend
step twice kdump setup --undo --yes
step after kdump status
"""
)
PURGE = """\
step purge dpkg --purge linux-kdump
step nothing sh -c 'ls -d /usr/*/kdump /usr/share/man/man8/kdump* /etc/kdump /var/lib/linux-kdump 2>/dev/null; true'
step remains ls /var/crash
sync; poweroff
"""
THEIRS = """\
step grub-install grub-install --target=i386-pc /dev/vda
step update-grub update-grub
step theirs kdump-config show
step neighbours kdump status
step before systemctl is-enabled kdump-tools.service
step dry kdump setup --unattended --dry-run
step setup kdump setup --yes
sync; reboot
"""
OURS = """\
step show kdump config show
step status kdump status
step units systemctl is-enabled kdump-tools.service linux-kdump.service
step tried systemctl start kdump-tools.service
step still kdump status
"""
BACK = """\
step undo kdump setup --undo --yes
step after systemctl is-enabled kdump-tools.service
sync; reboot
"""
AGAIN = """\
step loaded kdump-config status
step setup kdump setup --yes
sync; reboot
"""
PURGE_THEIRS = """\
step purge dpkg --purge kdump-tools
step ready kdump status
step image sh -c 'ls /var/lib/linux-kdump/*/capture.img'
sync; poweroff
"""

Said = dict[str, tuple[int, list[str]]]
pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(2 * 3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="making a Debian takes root"),
    pytest.mark.skipif(not shutil.which("debootstrap"), reason="debootstrap is not installed"),
]


@pytest.fixture(autouse=True)
def _asked_for(request: pytest.FixtureRequest) -> None:
    if "system" not in request.config.option.markexpr:  # another -m took the place of the default
        pytest.skip("takes minutes: pytest -m system")


class System:
    """A Debian on a disk; `said` has what its boots printed so far, by "BOOT STEP"."""

    def __init__(self, place: Path, boots: Sequence[str], extra: dict[str, Path], **options: Any) -> None:
        """`options` as of `debian.make`."""
        self.place = place
        self.disk = Disk(place / "disk.img")
        layout = {name: options[name] for name in ("volume_group", "encrypted") if name in options}
        self.root = debian.root_device(**({"volume_group": False} | layout))
        self.kernel, self.initrd = debian.make(self.disk.path, boots, extra, **options)
        self.said: Said = {}

    def first_boot(self) -> None:
        """Boot before GRUB is there, until the machine reboots."""
        cmdline = f"root={self.root} console=ttyS0,115200 systemd.show_status=no"
        self._run("first", Spec(self.kernel, self.initrd, cmdline, [self.disk], 2560 << 20, 2), BOOT_TIMEOUT)

    def boot(self, timeout: float) -> None:
        """Boot from the disk, through GRUB, until the machine powers off by itself."""
        self._run("then", Spec(disks=[self.disk], memory=2560 << 20, cpus=2, reboots=True), timeout)

    def _run(self, name: str, spec: Spec, timeout: float) -> None:
        with Machine(spec, console=self.place / f"{name}.log") as machine:
            machine.run_to_exit(timeout)
            self.said |= debian.steps([text for _when, text in machine.lines])

    def status(self, step: str) -> int:
        """A step's exit status."""
        return self.said[step][0]

    def lines(self, step: str) -> list[str]:
        """What a step printed."""
        return self.said[step][1]

    def text(self, step: str) -> str:
        """What a step printed, as one string."""
        return "\n".join(self.lines(step))

    def is_ready(self, step: str) -> bool:
        """Whether this `kdump status` said so."""
        return self.said[step][0] == 0 and self.said[step][1][0] == "kdump is ready"


def test_from_nothing_to_a_dump_and_back(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    new = kernel("6.12")
    assert new.modules is not None
    boots = [each.replace("NEW", new.release) for each in (SET_UP, READY + LIFE + CRASH, AFTER + UPGRADE, UNDO + PURGE)]
    # GRUB must not see it yet.
    extra = {
        "root/new/vmlinuz": new.vmlinuz,
        "root/new/config": new.vmlinuz.with_name(f"config-{new.release}"),
        "root/new/modules": new.modules,
    }
    system = System(tmp_path, boots, extra, volume_group=False)
    system.first_boot()
    assert_set_up(system)
    assert "run it as root" in system.text("1 nobody")
    assert system.status("1 nobody") == 1
    assert system.status("1 dry") == 0
    assert {"/etc/kdump/kdump.toml"} <= {each["path"] for each in json.loads(system.text("1 plan"))["files"]}
    assert not any(len(line) > WIDTH for step in ("1 setup", "1 dry") for line in system.lines(step))

    system.boot(4 * BOOT_TIMEOUT)
    assert_ready(system)
    assert_life(system)
    crash = assert_crash(system)
    assert_announced(system, crash)
    assert_live(system)
    assert system.status("3 hooks") == 0
    assert "capture.img" in system.lines("3 built")

    assert system.lines("4 release") == [new.release]
    assert system.is_ready("4 status")
    assert system.status("4 undo") == 0
    assert system.said["4 same"] == (0, [])
    assert system.said["4 menu"] == (0, [])
    assert system.lines("4 left") == []
    # What is known of crashes, rehearsals and tests is not of the set-up's making.
    assert {"seen.json"} <= set(system.lines("4 kept")) <= {"seen.json", "drill.json", "rehearsal.json", "collect.lock"}
    assert system.lines("4 units") == []
    assert system.said["4 twice"] == (0, ["nothing to undo: setup changed nothing here"])
    assert system.status("4 after") == 3
    assert system.status("4 purge") == 0
    assert system.lines("4 nothing") == []
    assert system.lines("4 remains") == [Path(str(crash["path"])).name]


def test_debian_13_from_the_package_to_a_dump_and_purged(tmp_path: Path) -> None:
    undo = "step undo kdump setup --undo --yes\n"
    system = System(tmp_path, [SET_UP, READY + CRASH, AFTER + undo + PURGE], {}, release=13)
    system.first_boot()
    assert_set_up(system)
    system.boot(3 * BOOT_TIMEOUT)
    assert_ready(system)
    crash = assert_crash(system)
    assert system.status("3 undo") == 0
    assert system.status("3 purge") == 0
    assert system.lines("3 nothing") == []
    assert system.lines("3 remains") == [Path(str(crash["path"])).name]


def test_beside_debians_own_kdump(tmp_path: Path) -> None:
    """kdump-tools came first: ours saves the crash, --undo gives theirs back, and purging theirs harms nothing."""
    boots = [THEIRS, OURS + CRASH, AFTER + BACK, AGAIN, PURGE_THEIRS]
    system = System(tmp_path, boots, {}, packages=("kdump-tools",))
    system.first_boot()
    assert "kdump-tools" in system.text("1 neighbours") and system.status("1 neighbours") == 3
    assert system.lines("1 before") == ["enabled"]
    assert '"changed": true' in system.text("1 dry")
    assert system.status("1 setup") == 3  # reboot once

    system.boot(5 * BOOT_TIMEOUT)
    assert "In force: /etc/default/kdump-tools" in system.lines("2 show")[0]
    assert system.is_ready("2 status"), system.text("2 status")
    assert system.lines("2 units") == ["masked", "enabled"]
    assert system.status("2 tried") != 0
    assert system.is_ready("2 still")
    assert_crash(system)
    assert system.status("3 undo") == 0
    assert system.lines("3 after") == ["enabled"]
    assert system.status("4 loaded") == 0 and "ready to kdump" in system.text("4 loaded")
    assert system.status("4 setup") == 3  # --undo gave their smaller reservation back: reboot once
    assert system.status("5 purge") == 0
    assert system.is_ready("5 ready"), system.text("5 ready")
    assert system.lines("5 image") != []


def test_root_on_a_logical_volume(tmp_path: Path) -> None:
    boots = [SET_UP, READY + REHEARSE + CRASH, AFTER + "sync; poweroff\n"]
    system = System(tmp_path, boots, {}, volume_group=True)
    system.first_boot()
    assert_set_up(system)
    system.boot(3 * BOOT_TIMEOUT + NESTED_TIMEOUT)
    assert f"root={system.root}" in system.text("2 cmdline")
    assert_ready(system)
    assert_rehearsed(system)
    assert_crash(system)


def test_root_on_luks(tmp_path: Path) -> None:
    boots = [SET_UP, READY + CRASH, AFTER + "step verify sh -c 'kdump verify /var/crash/*'\nsync; poweroff\n"]
    system = System(tmp_path, boots, {}, encrypted=True, packages=("cryptsetup-initramfs",))
    system.first_boot()
    assert_set_up(system)
    system.boot(4 * BOOT_TIMEOUT)
    assert f"root=UUID={debian.UUID}" in system.text("2 cmdline")  # as GRUB names what is no logical volume
    assert_ready(system)
    assert "cryptroot: its key is found in this kernel's memory" in " ".join(system.text("2 status").split())
    assert_crash(system)
    assert system.status("3 verify") == 0


def assert_set_up(system: System) -> None:
    """The first boot: not ready before, "reboot once" after."""
    assert "kdump is not ready: reservation, image, loaded" in system.lines("1 before")
    assert system.status("1 before") == 3
    assert system.status("1 setup") == 3
    assert any("crashkernel=" in line and line.startswith("+") for line in system.lines("1 setup"))


def assert_ready(system: System) -> None:
    """The second boot, through GRUB: everything is in place without anybody's doing."""
    assert "crashkernel=" in system.text("2 cmdline")
    assert system.status("2 service") == 0
    assert system.lines("2 reloads") == ["0"]  # nothing changed: loaded once is enough
    assert system.is_ready("2 status")
    assert max(map(len, system.lines("2 status"))) <= WIDTH
    assert json.loads(system.text("2 json"))["ready"] is True
    assert "kdump_ready 1" in system.lines("2 prometheus")
    assert system.status("2 build") == 0
    assert system.lines("2 rebuilt") == system.lines("2 image") != []  # same input, same bytes: it stays loaded, too
    assert system.is_ready("2 still")


def assert_life(system: System) -> None:
    """What an administrator does with a machine that is ready."""
    assert "nothing to change" in system.lines("2 again")
    assert system.status("2 again") == 0
    assert system.status("2 man") == 0
    assert "--undo" in system.text("2 man")
    assert "panic_on_oops" in system.text("2 man")
    assert system.status("2 nobody") == 3
    assert "run as root" in system.text("2 nobody")
    assert system.status("2 readonly") == 0
    assert system.status("2 typo") == 1
    assert re.search(r"typo\.toml:\d+: unknown key 'dump\.levl'; did you mean 'level'\?", system.text("2 typo"))
    assert system.status("2 check") == 0


def assert_rehearsed(system: System) -> None:
    """A twin of this machine, emulated in this emulated machine, was crashed and what it took is remembered."""
    assert system.status("2 rehearse") == 0
    assert any(line.startswith("passed in ") for line in system.lines("2 rehearse"))
    after = system.lines("2 rehearse")[system.lines("2 rehearse").index("proved:") : -1]
    assert max(map(len, after)) <= WIDTH
    assert "(by measurement)" in system.lines("2 estimate")[0]
    (rehearsal,) = (line for line in system.lines("2 rehearsed") if "rehearsal" in line)
    assert rehearsal.startswith("yes")
    assert "passed" in rehearsal


def assert_crash(system: System) -> dict[str, object]:
    """After the reboot that the capture kernel made: the crash is there, and complete."""
    assert "2 crash" not in system.said  # the machine died in it
    assert system.status("3 test") == 0
    assert system.lines("3 test")[0].startswith("passed: /var/crash/")
    assert max(map(len, system.lines("3 list"))) <= WIDTH
    (crash,) = json.loads(system.text("3 crashes"))
    assert crash["status"] == "complete"
    assert "sysrq" in crash["title"]
    assert crash["signature"]
    return dict(crash)


def assert_announced(system: System, crash: dict[str, object]) -> None:
    """linux-kdump-collect.service did its work, and the report says what happened."""
    told = json.loads(system.text("3 told"))
    assert (told["signature"], told["status"]) == (crash["signature"], "complete")
    assert told["problems"] == []
    for step in ("3 collected", "3 report"):
        assert system.status(step) == 0
        assert "sysrq triggered crash" in system.text(step)
    assert system.status("3 verify") == 0
    assert system.is_ready("3 status")


def assert_live(system: System) -> None:
    """The running kernel, reported on and saved, and both say that it was running."""
    assert system.status("3 live") == 0
    assert "running" in system.text("3 live")
    assert system.status("3 save") == 0
    assert json.loads(system.text("3 save"))["live"] is True
    assert system.status("3 saved") == 0
    assert json.loads(system.text("3 saved"))["kernel"]["crash_time"] == 0
