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
from kdump.lab import kernels
from kdump.lab.causes import MODULE
from kdump.lab.crash import Crash

pytestmark = pytest.mark.lab
SOURCE = Path(__file__).parent / "crasher"
SLOW_DISK = (
    "-drive", "if=none,id=slow,format=raw,file.driver=null-co,file.size=1073741824,file.read-zeroes=on",
    "-device", "nvme,drive=slow,serial=slow",
)  # fmt: skip
_LOCKUP = "softlockup_panic=1 sysctl.kernel.watchdog_thresh=3"
_HUNG = "sysctl.kernel.hung_task_panic=1 sysctl.kernel.hung_task_timeout_secs=3"


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
    module("deadlock", f"{_HUNG} trace_event=sched:sched_switch"),
    module("kfence", "panic_on_warn=1 kfence.sample_interval=5", only=("6.12",)),
    Row("rcustall", *EXPECTED["rcustall"], "module kind=softlockup",
        "sysctl.kernel.panic_on_rcu_stall=1 rcupdate.rcu_cpu_stall_timeout=4", cpus=2),  # one to wait for the other
    # The detector of hard lockups counts with a PMU, which QEMU lacks. An NMI is what is left to an administrator.
    Row("hardlockup", "nmi", "NMI: Not continuing", "module+nmi kind=hardlockup", "unknown_nmi_panic", cpus=2),
    Row("livepatch", "nmi", "NMI: Not continuing", "module+nmi", "unknown_nmi_panic", module="kdump_livepatch"),
    Row("mce", *EXPECTED["mce"], "mce", only=("6.12",)),
    # The capture kernel leaves that disk alone: it would wait for it too, when it powers off.
    Row("io", "hung-task", "INFO: task hung in blkdev_fsync", "io", devices=SLOW_DISK,
        append="initcall_blacklist=nvme_init"),
]  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}
ALL = [(series, row.name) for series in SERIES for row in ROWS if series in row.only]
ALL.append(("6.12-rt", "deadlock"))  # where every mutex is an rt_mutex
# Known not to get as far as their panic.
UNSEEN = {
    ("6.12", "rcustall"): "the stall detector does not speak in time",
    ("6.1", "hardlockup"): "the guest does not come back from loading the module",
    ("6.12", "hardlockup"): "the guest does not come back from loading the module",
}
DEFAULT = {("6.1", "null"), ("6.1", "deadlock"), ("6.12", "kfence"), ("6.12", "mce")}


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
        built: Path = once(f"crasher {series}", lambda directory: build(series, directory))
        return lab_crash(
            series, row.cause, cpus=row.cpus, cmdline=f"{row.cmdline} {boot}".strip(), memory=768 << 20, work=8 << 20,
            devices=row.devices, append=row.append, guest_files={MODULE: built / f"{row.module}.ko"},
        )  # fmt: skip

    return crash


def report(vmcore: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(foreign.run(sys.executable, "-m", "kdump", "report", "--json", *options, vmcore))
    return found


STUCK = ("stuck_function", "wait_mutex", "wait_percpu", "wait_work", "wait_completion")
_HOLDER = r"crasher_hold \(pid \d+\), which was asleep in hold\(\) \[kdump_crasher\]"


def check_chains(sentences: list[str], *, real_time: bool) -> None:
    """One task waits for each kind of thing; each sentence ends with what holds everything up."""
    lock = "rt_mutex" if real_time else "mutex"
    told = {sentence.split(" ")[0]: sentence for sentence in sentences}
    has_waited = r" \(pid \d+\)(?: \(and \d more\))? has waited for [\d.]+ s for "
    # The worker and the task wait for one mutex: the sentence is of whichever has waited longer.
    mutex = next(sentence for sentence in sentences if f"for the {lock} held_lock" in sentence)
    assert re.fullmatch(rf"(?:crasher_mutex|kworker\S*){has_waited}the {lock} held_lock, held by {_HOLDER}", mutex)
    semaphore = rf"crasher_percpu{has_waited}the per-CPU rw_semaphore held_semaphore"
    assert re.fullmatch(semaphore, told["crasher_percpu"])
    assert re.fullmatch(rf"crasher_compl{has_waited}the completion never", told["crasher_compl"])
    flush = (
        rf"crasher_flush{has_waited}the work item stuck_function\(\), which runs in kworker\S* \(pid \d+\), "
        rf"which waits for the {lock} held_lock, held by {_HOLDER}"
    )
    assert re.fullmatch(flush, told["crasher_flush"])
    circle = (
        rf"crasher_(one|two){has_waited}the {lock} (?:first|second)_lock, held by crasher_(?:one|two) \(pid \d+\), "
        rf"which waits for the {lock} (?:first|second)_lock, held by crasher_\1 \(pid \d+\), which closes the circle"
    )
    assert any(re.fullmatch(circle, sentence) for sentence in sentences)


@pytest.mark.parametrize(("series", "name"), [marked(*each) for each in ALL])
def test_verdict(series: str, name: str, crash_it: CrashIt) -> None:
    row = BY_NAME[name]
    vmcore = crash_it(series, row).directory / "vmcore"
    found = report(vmcore)
    verdict = found["verdict"]
    # Many tasks hang in a deadlock: which of them the detector comes to first is chance.
    titles = {row.title, *(f"INFO: task hung in {function}" for function in (STUCK if name == "deadlock" else ()))}
    assert verdict["kind"] == row.kind
    assert re.sub(r"0x[0-9a-f]+", "0xN", verdict["title"]) in titles
    assert [section for section in found["sections"].values() if section.get("error")] == []
    assert found["problems"] == []
    findings = [finding["text"] for finding in found["findings"]]
    if name == "deadlock":
        assert findings[0].startswith("deadlock: crasher_")
        check_chains(found["sections"]["blocked"]["chains"], real_time=series.endswith("-rt"))
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
    found = [report(vmcore)["verdict"] for vmcore in crashes]
    assert found[0]["registers"]["rip"] != found[1]["registers"]["rip"]
    assert found[0]["signature"] == found[1]["signature"]


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
