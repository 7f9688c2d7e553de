"""Verdicts on real crashes: logs of Debian's 6.1 and 6.12 cloud kernels, crashed by tests/report/crasher, by sysctls,
signals and an NMI.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.report.expected import EXPECTED, NEWER_ONLY

from kdump.report import logtext
from kdump.report.context import Context
from kdump.report.model import Verdict
from kdump.report.verdict import judge, signature_of

LOGS = Path(__file__).parent / "logs"


def verdict(text: str) -> Verdict:
    return judge(Context(None, logtext.from_text(text)))


def read(name: str, series: str = "6.1") -> str:
    return (LOGS / series / f"{name}.txt").read_text()


ALL = sorted((path.parent.name, path.stem) for path in LOGS.glob("*/*.txt"))


def test_every_kind_has_a_log() -> None:
    assert {name for _, name in ALL} == set(EXPECTED)
    assert {name for series, name in ALL if series == "6.1"} == set(EXPECTED) - NEWER_ONLY


@pytest.mark.parametrize(("series", "name"), ALL)
def test_kind_and_title(series: str, name: str) -> None:
    found = verdict(read(name, series))
    kind, title = EXPECTED[name]
    assert (found.kind, re.sub(r"0x[0-9a-f]+", "0xN", found.title)) == (kind, title)
    assert found.explanation.endswith(".")
    assert found.uptime is not None
    assert (found.task is None) == (name == "mce")  # whose work it hit, only the dump can tell


def test_details_of_a_null_dereference() -> None:
    found = verdict(read("null"))
    assert found.task is not None and found.guilty is not None
    assert (found.task.command, found.task.pid, found.task.cpu) == ("insmod", 89, 0)
    assert (found.address, found.access, found.module) == (0, "write", "kdump_crasher")
    assert str(found.guilty) == "crash_null+0xc/0x20 [kdump_crasher]"
    assert [frame.function for frame in found.frames] == [
        "crash_null", "crasher_init", "do_one_initcall", "do_init_module", "__do_sys_finit_module", "do_syscall_64",
        "entry_SYSCALL_64_after_hwframe",
    ]  # fmt: skip
    assert found.registers["rdi"] == 1 and found.registers["cr2"] == 0
    assert "orig_rax" not in found.registers  # that is user space's
    assert [line[0] for line in found.taints] == ["O", "E"]


def test_poison_is_explained() -> None:
    assert "deleted list entry" in verdict(read("uaf")).explanation


def test_hung_task_names_who_waited_and_who_panicked() -> None:
    found = verdict(read("deadlock"))
    assert "crasher_one (pid 91) waited" in found.explanation


def test_signatures_tell_crashes_apart() -> None:
    for series in ("6.1", "6.12"):
        signatures = {name: verdict(read(name, series)).signature for each, name in ALL if each == series}
        assert len(set(signatures.values())) == len(signatures)


def test_signature_is_stable() -> None:
    """Across boots: other addresses, pids, offsets, compiler suffixes, modules' build IDs."""
    text = read("null")
    other = text.replace("crash_null+0xc/0x20", "crash_null.cold+0x1c/0x40").replace("PID: 89", "PID: 4711")
    other = other.replace("do_init_module+0x4a", "do_init_module.isra.0+0x5a").replace("address: 0000", "address: 0fff")
    assert verdict(other).signature == verdict(text).signature
    panic = read("panic")
    assert verdict(panic.replace("0xfffedf80", "0x1")).signature == verdict(panic).signature
    assert verdict(text.replace("crash_null", "crash_other")).signature != verdict(text).signature
    assert signature_of(Context(None, logtext.from_text(text))) == verdict(text).signature


@pytest.mark.parametrize(
    "transport",
    [
        lambda number, line: line.split("] ", 1)[1] if line.startswith("[") else line,  # no stamps at all
        lambda number, line: f"<4>{line}",
        lambda number, line: f"Nov 23 12:00:00 host kernel: {line}",
        lambda number, line: f"2026-11-23T12:00:00.123456+00:00 host kernel: {line}",
        lambda number, line: f"4,{number},{number * 1000},-;{line.split('] ', 1)[1] if line.startswith('[') else line}",
        lambda number, line: line.replace("] ", "][   T89] ", 1) if line.startswith("[") else line,
        lambda number, line: f"{line}\r",
        lambda number, line: f"\x1b[31m{line}\x1b[0m",
    ],
    ids=["bare", "pstore", "syslog", "rsyslog", "netconsole", "caller", "serial", "colour"],
)
@pytest.mark.parametrize("name", ["null", "softlockup", "deadlock", "panic"])
def test_every_transport(name: str, transport: object) -> None:
    assert callable(transport)
    lines = [transport(number, line) for number, line in enumerate(read(name).splitlines())]
    found = verdict("\n".join(lines))
    assert (found.title, found.signature) == (verdict(read(name)).title, verdict(read(name)).signature)


def test_the_next_boot_does_not_hide_the_crash() -> None:
    log = read("null") + "[    0.000000] Linux version 6.1.0 capture\n[    0.1] BUG: unrelated\n"
    assert verdict(log).kind == "null-dereference"


def test_no_crash() -> None:
    for text in ("", "[    0.000000] Linux version 6.1\n[    1.0] all is well\n"):
        found = verdict(text)
        assert (found.kind, found.title) == ("none", "no crash found")


def test_headlines_that_differ_between_versions() -> None:
    for line, kind in (
        (
            "Oops: general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] SMP",
            "general-protection",
        ),
        ("general protection fault: 0000 [#1] SMP", "general-protection"),
        ("BUG: unable to handle kernel NULL pointer dereference at 0000000000000008", "null-dereference"),
        ("BUG: unable to handle kernel paging request at ffffffff81000000", "page-fault"),
        ("Oops: divide error: 0000 [#1] PREEMPT SMP", "divide"),
        ("BUG: KASAN: slab-use-after-free in foo_bar+0x1/0x2 [mod]", "kasan"),
        ("watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1", "hard-lockup"),
        ("rcu: INFO: rcu_sched self-detected stall on CPU", "rcu-stall"),
        ("Uhhuh. NMI received for unknown reason 30 on CPU 0.", "nmi"),
        ("UBSAN: array-index-out-of-bounds in fs/foo.c:12:3", "ubsan"),
        ("BUG kmalloc-64 (Not tainted): Poison overwritten", "slab-corruption"),
        ("WARNING: kernel/foo.c:12 at foo_bar+0x1/0x2, CPU#0: sh/1", "warning"),
        ("usercopy: Kernel memory exposure attempt detected from SLUB object 'kmalloc-64'!", "usercopy"),
        ("traps: PANIC: double fault, error_code: 0x0", "double-fault"),
    ):
        assert verdict(f"[    1.000000] {line}\n").kind == kind, line


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("sysrq triggered crash", "sysrq"),
        ("NMI: Not continuing", "nmi"),
        ("Fatal machine check on current CPU", "machine-check"),
        ("Fatal local machine check", "machine-check"),
        ("Hard LOCKUP", "hard-lockup"),
        ("Out of memory: compulsory panic_on_oom is enabled", "out-of-memory"),
        ("System is deadlocked on memory", "out-of-memory"),
        ("Attempted to kill init! exitcode=0x0000000b", "init-killed"),
        ("Attempted to kill the idle task!", "idle-killed"),
        ("stack-protector: Kernel stack is corrupted in: foo_bar+0x1/0x2", "stack-corruption"),
        ("VFS: Unable to mount root fs on unknown-block(0,0)", "root-filesystem"),
        ("EXT4-fs (device vda1): panic forced after error", "filesystem"),
        ("something of my own", "panic"),
    ],
)
def test_panic_messages(message: str, kind: str) -> None:
    found = verdict(f"[    1.000000] Kernel panic - not syncing: {message}\n")
    assert (found.kind, found.panic) == (kind, message)


def test_hostile_log_is_bounded_and_clean() -> None:
    nasty = "\x1b]0;owned\x07" + "A" * 10000 + "\x9b31m"
    found = verdict(f"Kernel panic - not syncing: {nasty}\n" + "BUG: " * 50000 + "\n" + "? " * 20000)
    assert found.kind == "panic"
    assert not set(found.panic) & {"\x1b", "\x07", "\x9b"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello w", "No line of this text looks like one of a kernel's log."),
        ("#!/bin/sh\necho 1\n", "No line of this text looks like one of a kernel's log."),
        ("[    1.500000] usb 1-1: new device\n", "The log has no crash."),
        (
            "How to crash a machine:\n  sysrq: Trigger a crash\n",
            "Somebody asked for the crash (sysrq-c)."
            " The text has no time stamps and no stack: it may not be a kernel's log.",
        ),
        ("Linux version 6.1.0 (x@y) #1 SMP\nusb 1-1: new device\n", "The log has no crash."),
    ],
)
def test_a_text_that_is_no_kernel_log_is_not_said_to_be_one(text: str, expected: str) -> None:
    assert judge(Context(None, logtext.from_text(text))).explanation == expected
