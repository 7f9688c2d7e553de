"""The report held against drgn with DWARF and against crash, on the same dumps, field by field."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import foreign
from tests.conftest import CrashMaker
from tests.report import asked
from tests.report.machines import MACHINES
from tests.report.test_schema import faults

from kdump.arch.stacks import Unwound
from kdump.kernel.kernel import Kernel
from kdump.lab import guest
from kdump.lab.crash import Crash
from kdump.memory import open_dump
from kdump.report import arguments, sections
from kdump.report import json as as_json
from kdump.report.build import build
from kdump.report.context import Context
from kdump.report.model import Section, Table
from kdump.report.sections import clocks
from kdump.report.sections.memory import meminfo

pytestmark = pytest.mark.lab
KERNEL_HALF = 1 << 47
KDUMP = (sys.executable, "-m", "kdump")


@pytest.fixture(scope="module", params=MACHINES)
def series(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def crashed(series: str, lab_crash: CrashMaker) -> Crash:
    return lab_crash(series, **MACHINES[series])


@pytest.fixture(scope="module")
def vmcore(crashed: Crash) -> Path:
    return crashed.directory / "vmcore"


@pytest.fixture
def context(vmcore: Path) -> Iterator[Context]:
    with open_dump(vmcore) as dump:
        yield Context(Kernel(dump))


def test_drgn_with_dwarf(context: Context, vmcore: Path, series: str, debug_vmlinux: Callable[[str], Path]) -> None:
    import drgn
    from drgn.helpers.linux.cpumask import for_each_online_cpu
    from drgn.helpers.linux.list import list_for_each_entry
    from drgn.helpers.linux.mm import totalram_pages
    from drgn.helpers.linux.module import for_each_module
    from drgn.helpers.linux.pid import for_each_task
    from drgn.helpers.linux.sched import cpu_curr
    from drgn.helpers.linux.vmstat import nr_free_pages

    program = drgn.Program()
    program.set_core_dump(vmcore)
    try:
        program.load_debug_info([debug_vmlinux(series)])
    except drgn.MissingDebugInfoError as error:  # of modules: their frames are not compared
        assert "kernel" not in str(error).splitlines()[0].split(":")[0]

    def frames(trace: Any) -> list[int]:
        return [frame.pc for frame in trace if not frame.is_inline and frame.pc >= KERNEL_HALF]

    tasks = {context.objects.address(task.struct): task for task in context.all_tasks}
    theirs = {task.value_(): task for task in for_each_task(program)}
    assert set(tasks) == set(theirs)
    told = 0
    for address, task in tasks.items():
        other = theirs[address]
        assert (task.pid, task.command.encode()) == (other.pid.value_(), other.comm.string_())
        unwound = context.tasks.stack(task)
        if not any(frame.module for frame in context.frames(unwound)):
            assert [frame.pc for frame in unwound.frames] == frames(program.stack_trace(other)), task.command
        told += same_arguments(context, unwound, program.stack_trace(other))
    assert told > 40
    for cpu in for_each_online_cpu(program):
        unwound = context.tasks.cpu_stack(cpu)
        if not any(frame.module for frame in context.frames(unwound)):
            assert [frame.pc for frame in unwound.frames] == frames(program.stack_trace(cpu_curr(program, cpu)))
        same_arguments(context, unwound, program.stack_trace(cpu_curr(program, cpu)))
    crashed = program.crashed_thread()
    running = context.tasks.describe(context.tasks.running()[context.panic_cpu or 0])
    assert (running.pid, running.command) == (crashed.tid, crashed.name)
    names = [module.name.string_().decode() for module in for_each_module(program)]
    assert [module.name for module in context.kernel.modules] == names
    sources = list(list_for_each_entry("struct clocksource", program["clocksource_list"].address_of_(), "list"))
    made = Section("clocks", "")
    clocks.collect(context, made)
    (table,) = made.blocks
    assert isinstance(table, Table) and made.findings == []
    rates = [row[3] for row in table.rows]
    assert table.rows == [
        (each.name.string_().decode(), each == program["curr_clocksource"], each.rating.value_(), rate,
         bool(each.flags & 0x40))
        for each, rate in zip(sources, rates, strict=True)
    ]  # fmt: skip
    page = context.kernel.vmcoreinfo.page_size
    figures = meminfo(context)
    assert figures["MemTotal"] == int(totalram_pages(program)) * page
    assert figures["MemFree"] == int(nr_free_pages(program)) * page


def same_arguments(context: Context, unwound: Unwound, trace: Any) -> int:
    """Arguments that we tell are what the debug information says; how many it knew too."""
    known = {frame.pc: frame for frame in trace if not frame.is_inline}
    twice = [frame.pc for frame in unwound.frames]
    compared = 0
    for frame, found in zip(unwound.frames, arguments.of_stack(context, unwound), strict=True):
        other = known.get(frame.pc) if twice.count(frame.pc) == 1 else None  # a recursive call is not compared
        for argument in found or []:
            if argument.value is None or other is None or argument.name not in other.locals():
                continue
            value = other[argument.name]
            if value.absent_:
                continue
            ours = argument.value & (1 << 8 * argument.size) - 1
            assert int(value.value_()) & (1 << 8 * argument.size) - 1 == ours, (other.name, argument)
            compared += 1
    return compared


def test_the_machine_itself(context: Context, crashed: Crash) -> None:
    """What the machine said of itself just before it died, in /proc."""
    document = as_json.document(build(context, "machine"))
    assert faults(document) == []
    made = document["sections"]
    assert [name for name, section in made.items() if section.get("error")] == []
    ours = {str(row["irq"]): row["count"] for row in made["interrupts"]["interrupts"]}
    for line in crashed.before["interrupts"].splitlines()[1:]:
        name, *counts = line.split()
        total = sum(int(count) for count in counts[:2]) if counts[1:2] and counts[1].isdecimal() else 0
        if name.rstrip(":").isdecimal() and total:
            assert total <= ours[name.rstrip(":")] <= total + 2000, line
    local = {row["name"]: row["count"] for row in made["interrupts"]["local"]}
    ticks = next(line.split() for line in crashed.before["interrupts"].splitlines() if line.lstrip().startswith("LOC:"))
    assert local["apic_timer_irqs"] >= int(ticks[1]) + int(ticks[2]) > 100
    sockets = {row["protocol"]: row["sockets"] for row in made["network"]["sockets"]}
    lines = [line.split() for line in crashed.before["net/protocols"].splitlines()[1:]]
    assert sockets == {line[0]: int(line[2]) for line in lines if int(line[2])} and sockets["TCP"] == 3
    assert made["network"]["tcp"] == {"established": 2, "listen": 1}
    (queue,) = made["network"]["queues"]
    assert queue == {
        "local": f"127.0.0.1:{guest.LISTENS}", "remote": queue["remote"], "state": "established",
        "received": guest.UNREAD, "sent": 0, "again": 0,
    }  # fmt: skip
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d{3,4}", queue["remote"])
    (container,) = made["cgroups"]["containers"]
    assert (container["host"], container["processes"], container["first"]) == (guest.HOST_INSIDE, 1, "init")
    assert guest.BPF_PROGRAM in [program["name"] for program in made["bpf"]["programs"]]
    assert "watchdog_timer_fn" in {row["function"] for row in made["timers"]["timers"]}
    assert {row["kind"] for row in made["timers"]["timers"]} == {"wheel", "high resolution"}
    assert made["livepatch"]["state"] == {"patches": 0}
    assert [row["cpu"] for row in made["runq"]["queues"]] == [0, 1]
    (used,) = [row for row in made["clocks"]["sources"] if row["used"]]
    log = (crashed.directory / "vmcore-dmesg.txt").read_text()
    assert used["source"] == re.findall(r"clocksource: Switched to clocksource (\S+)", log)[-1]
    rates = {row["source"]: row["rate"] for row in made["clocks"]["sources"]}
    assert rates["acpi_pm"] == 3579545 and rates["jiffies"] == 250  # as the hardware and Debian's CONFIG_HZ have it
    if processor := re.findall(r"tsc: Detected ([\d.]+) MHz processor", log):
        assert abs(rates.get("tsc", float(processor[-1]) * 1e6) / 1e6 / float(processor[-1]) - 1) < 0.02
    system = made["system"]["system"]
    assert "QEMU" in system["hardware"] and "SeaBIOS" in system["firmware"] and "QEMU" in system["cpu"]
    classes = {row["class"]: row["share"] for row in made["owners"]["classes"]}
    assert 99 < sum(classes.values()) < 101 and classes["not accounted for"] < 5
    assert "kernel_clone" in [row["caller"] for row in made["owners"]["vmalloc"]]
    assert any("built without CONFIG_PAGE_OWNER" in note for note in made["owners"]["notes"])  # as its config file says
    portrait = {
        name: int(value) << 10 for name, value in re.findall(r"^(\w+): +(\d+) kB", crashed.before["meminfo"], re.M)
    }
    figures = made["memory"]["meminfo"]
    assert figures["MemTotal"] == portrait["MemTotal"]
    assert abs(figures["Percpu"] - portrait["Percpu"]) < 1 << 20
    assert figures["Committed_AS"] >= portrait["Committed_AS"] - (16 << 20)  # out of memory came after the portrait
    # The short report says the same of what it has.
    short = as_json.document(build(context, "machine", short=True))
    assert set(short["sections"]) == set(sections.SHORT)
    assert short["sections"]["memory"]["meminfo"] == made["memory"]["meminfo"]


def stacks_of_crash(text: str) -> dict[int, list[int]]:
    """Addresses of the frames of every CPU, as `bt -a` prints them."""
    found: dict[int, list[int]] = {}
    for block in re.split(r"^(?=PID: )", text, flags=re.MULTILINE)[1:]:
        cpu = re.search(r"CPU: (\d+)", block)
        assert cpu
        found[int(cpu[1])] = [
            int(pc, 16) for pc in re.findall(r"^ *#\d+ \[[0-9a-f]+\] \S+ at ([0-9a-f]+)", block, re.M)
        ]
    return found


def test_crash(context: Context, vmcore: Path, series: str, debug_vmlinux: Callable[[str], Path]) -> None:
    text = foreign.run(
        *foreign.crash(series), "-s", "-i", "/dev/null", debug_vmlinux(series), vmcore,
        text="bt\nbt -a\nps\nmod\nkmem -i\nkmem -V\nquit\n",
    )  # fmt: skip
    panicked = re.search(r"^PID: (\d+) .*CPU: (\d+) +COMMAND: \"(.*)\"", text, re.MULTILINE)
    assert panicked
    running = context.tasks.describe(context.tasks.running()[int(panicked[2])])
    assert (context.panic_cpu, running.pid, running.command) == (int(panicked[2]), int(panicked[1]), panicked[3])
    for cpu, stack in stacks_of_crash(text).items():
        # Crash adds frames: what the NMI did that stopped a CPU, and return addresses that earlier calls left behind.
        # What it misses is the entry of an interrupt: the frame before a context that was interrupted.
        places = iter(stack)
        frames = context.tasks.cpu_stack(cpu).frames
        ours = [
            frame.pc
            for frame, after in zip(frames, [*frames[1:], None], strict=True)
            if not after or not after.registers
        ]
        assert all(pc in places for pc in ours[1:]), (cpu, list(map(hex, ours)), list(map(hex, stack)))
    assert len(stacks_of_crash(text)) == len(context.tasks.running()) == 2
    listed = re.findall(r"^[> ]+(\d+) +-?\d+ +\d+ +([0-9a-f]{16}) +(\w+)", text, re.MULTILINE)
    tasks = {(str(task.pid), f"{context.objects.address(task.struct):016x}", task.state) for task in context.all_tasks}
    states = {"RU": "R", "IN": "S", "UN": "D", "ID": "I", "ZO": "Z", "ST": "T", "DE": "X"}
    # This crash loses most tasks of newer 6.1 kernels ("not found in PID hash"); those it lists agree.
    theirs = {(pid, address, states.get(state, state)) for pid, address, state in listed if pid != "0"}
    assert theirs and theirs <= tasks
    if series != "6.1":
        assert len(theirs) == len(tasks)
    modules = re.findall(r"^[0-9a-f]{16} +(\w+) +(?:[0-9a-f]{16} +)?\d+", text, re.MULTILINE)
    assert set(modules) == {module.name for module in context.kernel.modules}
    figures = meminfo(context)
    page = context.kernel.vmcoreinfo.page_size
    names = {
        "MemTotal": "TOTAL MEM", "MemFree": "FREE", "Buffers": "BUFFERS", "Cached": "CACHED", "SwapTotal": "TOTAL SWAP",
    }  # fmt: skip
    for name, label in names.items():
        found = re.search(rf"^ *{label} +(\d+) ", text, re.MULTILINE)
        assert found and int(found[1]) * page == figures[name], name
    # Not its lines SLAB and COMMITTED: they leave out a part of the counters, which it prints rightly here.
    # What CPUs have counted and not yet added may leave one below zero, which the kernel shows as zero.
    found_counters = re.findall(r"^ *(NR_\w+): (-?\d+)$", text, re.MULTILINE)
    counters = {name: max(int(value), 0) * page for name, value in found_counters}
    for name, parts in {
        "Shmem": ("NR_SHMEM",), "AnonPages": ("NR_ANON_MAPPED",), "PageTables": ("NR_PAGETABLE",),
        "Mapped": ("NR_FILE_MAPPED",), "Dirty": ("NR_FILE_DIRTY",), "Writeback": ("NR_WRITEBACK",),
        "Active": ("NR_ACTIVE_ANON", "NR_ACTIVE_FILE"), "Inactive": ("NR_INACTIVE_ANON", "NR_INACTIVE_FILE"),
        "Slab": ("NR_SLAB_RECLAIMABLE_B", "NR_SLAB_UNRECLAIMABLE_B"),
    }.items():  # fmt: skip
        assert figures[name] == sum(counters[part] for part in parts), name


def test_drgn_on_the_dump_alone(context: Context, vmcore: Path) -> None:
    """drgn's helpers and its crash commands, with our types and symbols and no debug information."""
    import io

    from drgn.commands import run_command
    from drgn.helpers.linux.mm import task_rss
    from drgn.helpers.linux.pid import for_each_task

    from kdump.report.program import open_program

    program = open_program([str(vmcore)], context.kernel, default=False)
    assert {task.pid.value_() for task in for_each_task(program)} == {task.pid for task in context.all_tasks}
    trace = [frame.pc for frame in program.crashed_thread().stack_trace() if frame.pc >= KERNEL_HALF]
    assert len(trace) > 3
    page = context.kernel.vmcoreinfo.page_size
    ours = {task.pid: (context.resident(task.struct) or 0) // page for task in context.all_tasks}
    assert ours == {task.pid.value_(): task_rss(task).total for task in for_each_task(program)}
    for command in ("sys", "bt", "ps", "mod", "kmem -i", "kmem -s", "mount", "net", "timer", "runq", "log", "files"):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            run_command(program, f"crash {command}", globals={"prog": program})
        assert len(output.getvalue()) > 40, command


def test_what_helpers_ask_for_has_a_type(context: Context, vmcore: Path) -> None:
    assert asked.without_type(vmcore, context.kernel) == []


def test_shell(vmcore: Path, context: Context) -> None:
    """The command itself, both prompts, without debug information."""
    output = foreign.run(*KDUMP, "shell", "-c", "print(prog['init_task'].comm.string_())", vmcore)
    assert output == "b'swapper/0'\n"
    output = foreign.run(*KDUMP, "shell", "--crash", vmcore, text="bt\nps\nlog\nquit\n")
    assert "panic" in output and "kthreadd" in output and "Linux version" in output


@contextlib.contextmanager
def debuginfod(build_id: str, vmlinux: Path) -> Iterator[str]:
    """A server of debug information by build ID, on loopback; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != f"/buildid/{build_id}/debuginfo":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(vmlinux.stat().st_size))
            self.end_headers()
            with vmlinux.open("rb") as file:
                shutil.copyfileobj(file, self.wfile, 1 << 20)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_debug_information(
    context: Context, vmcore: Path, series: str, debug_vmlinux: Callable[[str], Path], tmp_path: Path
) -> None:
    """File, line and variables: from a vmlinux that was named, or from a server that has this build."""
    build_id = context.kernel.vmcoreinfo.build_id
    command = [*KDUMP, "report", "--json", "--section", "cpus", "--debug"]
    if series == "6.1":
        output = foreign.run(*command, debug_vmlinux(series), vmcore)
    else:
        with debuginfod(build_id, debug_vmlinux(series)) as url:
            settings = (f"DEBUGINFOD_URLS={url}", f"DEBUGINFOD_CACHE_PATH={tmp_path}")
            output = foreign.run("env", *settings, *command, "auto", vmcore)
        missing = subprocess.run(
            ["env", "DEBUGINFOD_URLS=", *command, "auto", vmcore], capture_output=True, text=True, check=False
        )
        assert missing.returncode == 1
        assert f"there is no debug information for build ID {build_id}" in missing.stderr
    report = json.loads(output)
    sources = [frame.get("source", "") for stack in report["sections"]["cpus"]["stacks"] for frame in stack["frames"]]
    assert sum(bool(re.match(r"\w+/[\w/.-]+:\d+", source)) for source in sources) > len(sources) * 0.8
    assert any(source.startswith("kernel/panic.c:") for source in sources)
    variables = [line for block in report["sections"]["locals"].values() if isinstance(block, list) for line in block]
    message = "sysrq triggered crash" if series == "6.1" else "Out of memory"
    assert any(line.startswith("buf = ") and message in line for line in variables), variables
