"""The capture kernel's command line."""

from __future__ import annotations

import pytest

from kdump.errors import KdumpError
from kdump.kexec import cmdline
from kdump.kexec.cmdline import capture_command_line, option_name, split

RUNNING = (
    "BOOT_IMAGE=/boot/vmlinuz-6.1 root=UUID=1-2 ro quiet console=tty0 console=ttyS0,115200 crashkernel=256M "
    'intel_iommu=on panic-on-oops=1 softlockup_panic=1 dyndbg="file a.c +p" rd.luks.uuid=7 hugepages=64'
)


def test_quotes_keep_blanks_together_and_inits_part_is_left_out() -> None:
    assert split('a="b c"  "d=e f" g -- single') == ['a="b c"', '"d=e f"', "g"]
    assert option_name('"panic-on-oops=1 2"') == "panic_on_oops"


def test_what_the_capture_cannot_use_goes_and_the_machines_own_stays() -> None:
    line = capture_command_line(RUNNING)
    options = split(line.text)
    assert options[:4] == ["console=tty0", "console=ttyS0,115200", "intel_iommu=on", 'dyndbg="file a.c +p"']
    assert "nr_cpus=1" in options and "reset_devices" in options
    removed = {decision.option for decision in line.decisions if decision.action == "removed"}
    assert {"crashkernel=256M", "panic-on-oops=1", "softlockup_panic=1", "hugepages=64", "root=UUID=1-2"} <= removed


def test_every_option_of_the_running_kernel_is_accounted_for() -> None:
    line = capture_command_line(RUNNING)
    told = [decision.option for decision in line.decisions if decision.action in ("kept", "removed")]
    assert told == split(RUNNING)
    assert all(decision.reason for decision in line.decisions)


def test_appended_options_replace_the_lists() -> None:
    line = capture_command_line("console=ttyS0 panic=0", append="nr_cpus=2 console=hvc0 panic=3")
    options = split(line.text)
    assert [option for option in options if option.startswith(("nr_cpus", "panic"))] == ["nr_cpus=2", "panic=3"]
    assert [option for option in options if option.startswith("console")] == ["console=ttyS0", "console=hvc0"]


def test_loading_twice_gives_the_same_line() -> None:
    once = capture_command_line(RUNNING).text
    assert sorted(split(capture_command_line(once).text)) == sorted(split(once))


def test_more_cpus_keep_the_boot_cpu_off() -> None:
    options = split(capture_command_line("", cpus=2, boot_cpu_apicid=0).text)
    assert "nr_cpus=2" in options and "disable_cpu_apicid=0" in options


def test_each_addition_is_made_once() -> None:
    names = [option_name(addition.option) for addition in cmdline.general()]
    assert len(names) == len(set(names))


def test_too_long_is_refused() -> None:
    with pytest.raises(KdumpError, match="too long"):
        capture_command_line("x=" + "y" * 2000)


def test_options_that_would_harm_the_capture_go_and_their_kin_stay() -> None:
    harmful = (
        "nmi_watchdog=panic,1 memtest=4 reserve_mem=1M:1M:x ima_policy=tcb ima_appraise=enforce debug ignore_loglevel"
    )
    line = capture_command_line(f"{harmful} nmi_watchdog=0 debug_boot_weak_hash memtest2=1").text.split()
    assert not set(harmful.split()) & set(line)
    assert {"nmi_watchdog=0", "debug_boot_weak_hash", "memtest2=1"} <= set(line)
