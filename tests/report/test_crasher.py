"""Verdicts on real machines, each crashed in another way: by our own module, a machine check, a disk that goes silent.

The module is built against the kernel's headers package. The default run takes the crashes that differ most; `pytest -m
kinds` takes all.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests import foreign
from tests.conftest import SERIES, CrashMaker, Once
from tests.report.expected import EXPECTED
from tests.test_whole_path import ROWS as MACHINES

from kdump.image.kernel_tree import KernelTree
from kdump.kernel.kernel import Kernel
from kdump.lab import disk, kernels
from kdump.lab.causes import MODULE
from kdump.lab.crash import Crash
from kdump.memory import open_dump

pytestmark = pytest.mark.lab
SOURCE = Path(__file__).parent / "crasher"
SLOW_DISK = (
    "-drive", "if=none,id=slow,format=raw,file.driver=null-co,file.size=1073741824,file.read-zeroes=on",
    "-device", "nvme,drive=slow,serial=slow",
)  # fmt: skip
# The capture kernel leaves a silent disk alone: it would wait for it too, when it powers off.
_UUID = "5e1f0c4b-8a1d-4c5e-9d53-6b2f0a7c1e11"
_WITHOUT_NVME = "initcall_blacklist=nvme_init"
_TRACED = "trace_event=sched:sched_switch nvme_core.io_timeout=255"
_LOCKUP = "softlockup_panic=1 sysctl.kernel.watchdog_thresh=3"


class Row(NamedTuple):
    """How a machine is crashed, and the verdict's kind and title."""

    name: str
    kind: str
    title: str
    cause: str
    cmdline: str = ""
    cpus: int = 1
    only: tuple[str, ...] = SERIES  # kernels that can be crashed so
    devices: tuple[str, ...] = ()
    module: str = "kdump_crasher"
    append: str = ""
    disk: bool = False  # one with a file system, that goes silent


def module(name: str, cmdline: str = "", cpus: int = 1, kind: str = "", title: str = "", **more: Any) -> Row:
    expected = (kind, title) if kind else EXPECTED[name]
    return Row(name, *expected, f"module kind={name}", cmdline, cpus, **more)


ROWS = [
    *(module(name, "oops=panic panic_on_warn=1") for name in (
        "atomic", "bug", "call", "divide", "double-free", "list", "noncanonical", "null", "overflow", "panic",
        "refcount", "uaf", "usercopy", "warn", "wild",
    )),
    module("softlockup", _LOCKUP),
    # Spin locks that notice a recursion need CONFIG_DEBUG_SPINLOCK: on these kernels it is a CPU that never gets free.
    module("spinlock", _LOCKUP, kind="soft-lockup", title="BUG: soft lockup in crash_spinlock"),
    Row("stuck", "hung-task", "INFO: task hung", "stuck kind=stuck",
        _TRACED, cpus=2, append=_WITHOUT_NVME, disk=True),
    # Its headers want a newer compiler than the oldest Debian has on which these tests run.
    Row("silent", "hung-task", "INFO: task hung", "stuck", _TRACED, cpus=2, append=_WITHOUT_NVME, disk=True,
        only=("newest",), module=""),
    module("kfence", "panic_on_warn=1 kfence.sample_interval=5", only=("6.12",)),
    Row("rcustall", *EXPECTED["rcustall"], "module kind=softlockup",
        "sysctl.kernel.panic_on_rcu_stall=1 rcupdate.rcu_cpu_stall_timeout=4", cpus=2),  # one to wait for the other
    # The detector of hard lockups counts with a PMU, which QEMU lacks. An NMI is what is left to an administrator.
    Row("hardlockup", "nmi", "NMI: Not continuing", "module+nmi kind=hardlockup", "unknown_nmi_panic", cpus=2),
    Row("livepatch", "nmi", "NMI: Not continuing", "module+nmi", "unknown_nmi_panic", module="kdump_livepatch"),
    Row("mce", *EXPECTED["mce"], "mce", only=("6.12",)),
    Row("io", "hung-task", "INFO: task hung in blkdev_fsync", "io", devices=SLOW_DISK,
        append=_WITHOUT_NVME),
]  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}
ALL = [(series, row.name) for row in ROWS for series in row.only]
ALL.append(("6.12-rt", "stuck"))  # where every mutex is an rt_mutex
# Known not to get as far as their panic.
UNSEEN = {
    ("6.12", "rcustall"): "the stall detector does not speak in time",
    ("6.1", "hardlockup"): "the guest does not come back from loading the module",
    ("6.12", "hardlockup"): "the guest does not come back from loading the module",
}
DEFAULT = {("6.1", "null"), ("6.1", "stuck"), ("6.12", "kfence"), ("6.12", "mce")}


def marked(series: str, name: str) -> Any:
    marks = [] if (series, name) in DEFAULT else [pytest.mark.kinds]
    if (series, name) in UNSEEN:
        marks.append(pytest.mark.xfail(reason=UNSEEN[series, name]))
    return pytest.param(series, name, marks=marks, id=f"{series}-{name}")


CrashIt = Callable[..., Crash]


@pytest.fixture(scope="session")
def crash_it(once: Once, kernel: Callable[[str], KernelTree], lab_crash: CrashMaker) -> CrashIt:
    def build(series: str, directory: Path) -> Path:
        shutil.copytree(SOURCE, directory / "module")
        headers = kernels.headers(kernel(series))
        make = ["make", "-C", str(headers), f"M={directory / 'module'}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
        done = subprocess.run(make, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return directory / "module"

    def crash(series: str, row: Row, boot: str = "") -> Crash:
        files = {}
        if row.module:
            built: Path = once(f"crasher {series}", lambda directory: build(series, directory))
            files[MODULE] = built / f"{row.module}.ko"
        devices, modules = row.devices, ("nvme",) if row.disk and series.endswith("-rt") else ()
        if row.disk:
            medium = once("silent disk", lambda place: disk.create_ext4(place / "disk", 256 << 20, uuid=_UUID))
            drive = f"if=none,id=slow,format=raw,file={medium},snapshot=on"
            devices = ("-drive", drive, "-device", "nvme,drive=slow,serial=slow")
        return lab_crash(
            series, row.cause, cpus=row.cpus, cmdline=f"{row.cmdline} {boot}".strip(), memory=768 << 20, work=8 << 20,
            devices=devices, append=row.append, guest_files=files, guest_modules=modules,
        )  # fmt: skip

    return crash


def report(vmcore: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(foreign.run(sys.executable, "-m", "kdump", "report", "--json", *options, vmcore))
    return found


_HOLDER = r"held by crasher_hold \(pid \d+\), which was asleep in hold\(\) \[kdump_crasher\]"
_FLIGHT = r"at sector \d+ of nvme0n1 has been in flight for [\d.]+ s"
_BLOCK = rf"block \d+ of nvme0n1 to be read or written, for which a (?:read|write) {_FLIGHT}"
_PAGE = rf"page \d+ of the file data on nvme0n1 \(ext4\) to be written back, for which a write {_FLIGHT}"
_LOCK_OF = r"the MUTEX (?:first|second)_lock, held by crasher_(?:one|two) \(pid \d+\), which"
_CIRCLE = rf"{_LOCK_OF} waits for {_LOCK_OF} closes the circle"
# What each task waits for, by its name; what a mutex and a semaphore is, is the kernel's choice.
CHAINS = {
    "stuck_read": r"its read to nvme0n1, in flight for [\d.]+ s",
    "stuck_write": _PAGE,
    "stuck_page": rf"page 1\d\d of the file cold on nvme0n1 \(ext4\) to be unlocked, for which a read {_FLIGHT}",
    "stuck_buffer": _BLOCK,
    "stuck_journal": rf"the journal of /run/slow, committed by jbd2/nvme0n1-8 \(pid \d+\), which waits for {_BLOCK}",
    "stuck_flush": r"dirty pages of nvme0n1 to be written, which is done by kworker\S* \(pid \d+\), "
    rf"which waits for {_BLOCK}",
    "stuck_frozen": r"the ext4 file system at /run/disk, frozen for [\d.]+ s or longer",
    "crasher_mutex": rf"the MUTEX held_lock, {_HOLDER}",
    "crasher_rwsem": rf"the SEMAPHORE held_rwsem, {_HOLDER}",
    "crasher_percpu": r"the per-CPU rw_semaphore held_semaphore",
    "crasher_compl": r"the completion never",
    "crasher_flush": rf"the work item stuck_function\(\), which runs in kworker\S* \(pid \d+\), "
    rf"which waits for the MUTEX held_lock, {_HOLDER}",
    "crasher_queue": rf"the workqueue crasher_queue \(it runs queued_function\(\)\), "
    rf"whose worker is kworker\S* \(pid \d+\), which waits for the MUTEX held_lock, {_HOLDER}",
    "crasher_rcu": r"the end of an RCU grace period, which CPU 1 has not passed, "
    r"held up by crasher_reader \(pid \d+\), which was running on CPU 1",
    "crasher_one": _CIRCLE,
    "crasher_two": _CIRCLE,
}


def check_chains(blocked: dict[str, Any], *, module: bool, real_time: bool) -> None:
    """One task waits for each kind of thing; each sentence ends with what holds everything up."""
    # Of tasks that wait for one thing the sentence is of whichever has waited longest.
    alike = {name: row["waiters"] for row in blocked["locks"] for name in re.findall(r"(\S+) \(pid", row["waiters"])}
    sentences = dict(zip((row["waiters"] for row in blocked["locks"]), blocked["chains"], strict=False))
    waited = r"\S+ \(pid \d+\) (?:has|and \d more have) waited for [\d.]+ s for "
    for name, reason in CHAINS.items():
        if name.startswith("crasher") and not module:
            continue
        if name == "crasher_rcu" and real_time:  # where RCU would boost the reader, and starve all others
            continue
        mutex, semaphore = ("rt_mutex", "rt_mutex") if real_time else ("mutex", "rw_semaphore")
        expected = reason.replace("MUTEX", mutex).replace("SEMAPHORE", semaphore)
        assert re.fullmatch(waited + expected, sentences[alike[name]]), sentences[alike[name]]
    # One that freezes the file system of the dead disk, and one that wants the lock which that one holds.
    assert re.search(r"s_umount of the ext4 file system at /run/slow, held by", sentences[alike["stuck_syncfs"]])


@pytest.mark.parametrize(("series", "name"), [marked(*each) for each in ALL])
def test_verdict(series: str, name: str, crash_it: CrashIt) -> None:
    row = BY_NAME[name]
    vmcore = crash_it(series, row).directory / "vmcore"
    found = report(vmcore)
    verdict = found["verdict"]
    assert verdict["kind"] == row.kind
    title = re.sub(r"0x[0-9a-f]+", "0xN", verdict["title"])
    # Many tasks are stuck: which of them the detector comes to first is chance.
    assert title == row.title or (row.disk and title.startswith(f"{row.title} in "))
    assert [section for section in found["sections"].values() if section.get("error")] == []
    assert found["problems"] == []
    findings = [finding["text"] for finding in found["findings"]]
    if row.module and row.disk:
        assert findings[0].startswith("deadlock: crasher_")
    if row.disk:
        assert re.search(r" It has waited for [\d.]+ s for .*\.$", verdict["explanation"]), verdict["explanation"]
        check_chains(found["sections"]["blocked"], module=bool(row.module), real_time=series.endswith("-rt"))
        mounts = {row["path"]: row for row in found["sections"]["mounts"]["mounts"] if row["waiting"]}
        assert (mounts["/run/disk"]["waiting"], mounts["/run/disk"]["state"]) == (1, "frozen (completely)")
        assert mounts["/run/slow"]["waiting"] >= 6 and len(mounts) == 2
        events = found["sections"]["ftrace"]["events"]
        assert len(events) > 50 and {event["event"] for event in events} == {"sched_switch"}
    if name == "null":
        assert verdict["pointers"]["rbx"] == "a free object of kmalloc-256"
        assert " rbx points to a free object of kmalloc-256" in verdict["explanation"]
    if name == "hardlockup":
        assert any(re.match(r"CPU 1 took no timer tick for .* in crasher_spin", text) for text in findings), findings
    if name == "io":
        requests = found["sections"]["block"]["requests"]
        assert [(request["disk"], request["operation"]) for request in requests] == [("nvme0n1", "write")]
        assert requests[0]["age"] > 2
        reason = (
            r"for page \d+ of nvme0n1 to be written back, for which a write at sector \d+ of nvme0n1 has been in flight"
        )
        assert re.search(reason, verdict["explanation"]), verdict["explanation"]
    if name == "livepatch":
        patches = found["sections"]["livepatch"]
        assert [(patch["patch"], patch["state"]) for patch in patches["patches"]] == [("kdump_livepatch", "enabled")]
        assert patches["functions"] == [
            {"patch": "kdump_livepatch", "object": "vmlinux", "function": "cmdline_proc_show", "patched": True}
        ]
        assert any(text.startswith("live patch: kdump_livepatch") for text in findings)
    # The log alone says the same.
    log = report(vmcore.parent / "vmcore-dmesg.txt")["verdict"]
    assert (log["kind"], log["title"], log["signature"]) == (row.kind, verdict["title"], verdict["signature"])


@pytest.mark.kinds
def test_two_boots_have_one_signature(crash_it: CrashIt) -> None:
    """Two boots, so two places of the kernel in memory (KASLR); the option in the second makes it another machine."""
    crashes = [crash_it("6.1", BY_NAME["null"], boot).directory / "vmcore" for boot in ("", "second_boot")]
    places = set()
    for vmcore in crashes:
        with open_dump(vmcore) as dump:
            places.add(Kernel(dump).symbols.address("_stext"))
    assert len(places) == 2
    found = [report(vmcore)["verdict"]["signature"] for vmcore in crashes]
    assert found[0] and found[0] == found[1]


def test_signatures_of_the_whole_path(lab_crash: CrashMaker) -> None:
    """Of machines that were crashed anyway: sysrq on one CPU and, in another boot, on another; and another kind."""
    found = {}
    for row in MACHINES:
        if row.series == "6.1" and row.cause in ("sysrq", "cpu", "nmi"):
            vmcore = row.crash(lab_crash).directory / "vmcore"
            found[row.cause] = report(vmcore, "--section", "cpus")
    places = {cause: made["sections"]["cpus"]["stacks"][0]["frames"][0]["address"] for cause, made in found.items()}
    signatures = {cause: made["verdict"]["signature"] for cause, made in found.items()}
    assert len(set(places.values())) > 1
    assert signatures["sysrq"] == signatures["cpu"] != signatures["nmi"]
