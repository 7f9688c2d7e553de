"""The details that the kernel printed with one report: task, registers, code, and the stack that shows the cause."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kdump import arch
from kdump.arch.architecture import Fault
from kdump.report import frames as names
from kdump.report import kinds, shapes
from kdump.report.kinds import Kind
from kdump.report.logtext import Line
from kdump.report.model import Frame
from kdump.report.traces import Trace, Traces

# What may follow "Tainted:": letters, RHEL's dashes for flags that upstream does not have, spelled-out words behind.
_CPU = re.compile(
    r"(?:CPU: ?(?P<cpu>\d{1,19}) (?:UID: (?P<uid>\d{1,19}) )?PID: (?P<pid>\d{1,19}) (?:UID: (?P<uid2>\d{1,19}) )?Comm: "
    r"|Pid: (?P<old>\d{1,19}), comm: )(?P<comm>.*?) +(?:Kdump: loaded +)?"
    r"(?P<taint>Not tainted[ -]*?|Tainted: (?P<flags>[A-Z -]+?)(?:, .*?)?|G\b.*?)"
    r" +\(?(?P<release>\d+\.\d+\S*|[a-z]\S* #\d+)"
)
# 6.12 and later spell the flags out: "Tainted: [O]=OOT_MODULE, [E]=UNSIGNED_MODULE".
_TAINTED = re.compile(r"Tainted: (?P<flags>(?:\[[A-Z]\]=[A-Z_]+(?:, )?)+)")
_TASK = re.compile(
    r"task:(?P<comm>.{1,15}?) +state:\S+ .*?pid:(?P<pid>\d{1,19})"
    r"|^(?P<locker>\S.{0,15}?)/(?P<its>\d{1,19}) is (?:trying to|leaving|freeing)"
)
_CODE = re.compile(r"^ *Code: (?P<bytes>(?:[<(]?[0-9a-f?]{2,8}[>)]? ?)+)$")
_ACCESS = re.compile(
    r"#PF: (?P<access>.*)|(?P<kasan>(?:Read|Write) of size \d+) (?:at addr (?P<address>[0-9a-f]{1,32}))?"
    r"|virtual address [0-9a-f]+ when (?P<arm>read|write|execute)|data access on (?P<power>read|write) at"
)
_FAULT_ADDRESS = re.compile(
    r"(?:Failing address: |\bbadaddr: |^DAR: )(?P<address>[0-9a-f]{4,16})"  # s390, RISC-V, powerpc
)
_END = re.compile(r"---\[ end (?:trace|Kernel panic)|^={60,}$")
_CUT = re.compile(r"-{8,}\[ cut here \]-{8,}|8<--- cut here")
# Lines that name the function at fault: lib/smp_processor_id.c, kernel/workqueue.c, print_lock() in lockdep.c
_NAMES = re.compile(
    r"^ *caller is (?P<where>\S.*)$|(?:^ *last function: |in-flight: \d+(?:\(\w+\))?:)(?P<last>[\w.$]+)"
)
_OF_LOCK = re.compile(r"\bat: +(?:\[<[0-9a-f]+>\] +)?(?P<where>\S.*)$")
_OF_LOCKS = frozenset(("lock-usage", "lock-state", "deadlock"))
_LONGEST = 600  # characters of a line that are looked at: a frame with a mangled name of 512 fits
WINDOW = 400  # lines that belong to one report at most


@dataclass
class Event:
    """One crash report in the log: the line that announces it, and what follows.

    `caller` is who printed it, where the log says so. `symbol` is the function that its message names. `frames` begin
    with the program counter, if that was printed; `owner` says whose stack they are.
    """

    kind: Kind
    index: int
    headline: str
    groups: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    caller: str = ""
    cpu: int | None = None
    pid: int | None = None
    uid: int | None = None
    comm: str = ""
    taint: str = ""
    release: str = ""
    rip: Frame | None = None
    symbol: Frame | None = None
    frames: list[Frame] = field(default_factory=list)
    owner: str = ""
    registers: dict[str, int] = field(default_factory=dict)
    code: str = ""
    access: str = ""
    fault: Fault | None = None
    address: int | None = None


def read(event: Event, lines: Sequence[Line], end: int, panic_at: int | None) -> None:
    """Fill an event from the lines of its report, which ends before `end`, and from what panic() printed."""
    _headline(event)
    stacks = Traces(event.headline)
    stop = min(event.index + WINDOW, end, panic_at if panic_at and panic_at > event.index else end)
    _report(event, stacks, _own(event, lines[event.index : stop]))
    if panic_at is not None:
        said = lines[panic_at : panic_at + WINDOW]
        if _tells(event, stacks):
            for line in said:
                _facts(event, line.text[:_LONGEST], tracing=True)
        else:
            _report(event, stacks, _own(event, said))
    _finish(event, stacks)


def _headline(event: Event) -> None:
    """The function, the address and the task that the headline itself names."""
    groups = event.groups
    event.symbol = shapes.where(event.headline)
    name = groups.get("symbol") or groups.get("func")
    if event.symbol is None and name and name != "0x0":
        event.symbol = Frame(name)
    found = groups.get("address") or groups.get("user")
    if found:
        event.address = int(found, 16)
    if event.kind.id in ("hung-task", "soft-lockup") and "pid" in groups:
        event.comm, event.pid = groups["comm"], int(groups["pid"])
        event.cpu = int(groups["cpu"]) if "cpu" in groups else None


def _own(event: Event, lines: Sequence[Line]) -> Iterator[str]:
    """Lines of the report's own printer, where the log says who printed; a stuck CPU is printed by several."""
    for number, line in enumerate(lines):
        foreign = bool(event.caller) and line.caller != event.caller
        if event.kind.stuck and line.caller.startswith("C"):
            foreign = False
        # Without a time where all have one, it is another program's on the same console.
        foreign = foreign or (line.seconds is None and event.seconds is not None)
        if not number or not foreign:
            yield line.text[:_LONGEST]


def _report(event: Event, stacks: Traces, texts: Iterator[str]) -> None:
    """Read one report, which ends at its end mark or where another begins."""
    in_registers = False
    for number, text in enumerate(texts):
        if number and (_END.search(text) or (stacks.all and _CUT.search(text) and not event.kind.stuck)):
            return
        known = len(stacks.all)
        _facts(event, text, tracing=bool(known))
        if not number:
            stacks.headline(text)
            continue
        if number == 1 and event.kind.id == "rust-panic":
            event.groups.setdefault("what", text.strip())  # the message stands on a line of its own
        stacks.feed(text)
        if event.rip is None and stacks.first_counter is not None and not known:
            event.rip, in_registers = stacks.first_counter, True
        in_registers = in_registers and not stacks.all
        if in_registers:
            for machine in arch.known():
                for name, value in machine.oops_registers(text):
                    event.registers.setdefault(name, value)
        last = stacks.all[-1] if stacks.all else None
        if event.symbol is None and event.kind.id in _OF_LOCKS and last and last.title.rstrip().endswith(" at:"):
            event.symbol = next(iter(last.frames), None)


def _facts(event: Event, text: str, *, tracing: bool) -> None:
    """Facts on single lines, wherever they are: the task, the access, the code, the function that the message names."""
    if not event.release and (match := _CPU.search(text)):
        _task(event, match, text)
    elif event.pid is None and (match := _TASK.search(text)):
        event.comm, event.pid = (match["comm"] or match["locker"]).strip(), int(match["pid"] or match["its"])
    if not event.access and (match := _ACCESS.search(text)):
        event.access = next((value for name, value in match.groupdict().items() if value and name != "address"), "")
        if match["address"]:
            event.address = int(match["address"], 16)
    if event.fault is None:
        event.fault = next((fault for machine in arch.known() if (fault := machine.explain_fault(text))), None)
    if event.address is None and (match := _FAULT_ADDRESS.search(text)):
        event.address = int(match["address"], 16)
    if not event.code and event.rip is not None and (match := _CODE.match(text)):
        # Behind a stack the line is of user space, unless it has the form of those who print it last.
        event.code = match["bytes"].strip() if not tracing or "(" in match["bytes"] else ""
    if event.symbol is None and (match := _NAMES.search(text)):
        event.symbol = Frame(match["last"]) if match["last"] else shapes.where(match["where"])
    elif event.symbol is None and event.kind.id in _OF_LOCKS and (match := _OF_LOCK.search(text)):
        event.symbol = shapes.where(match["where"])


def _task(event: Event, match: re.Match[str], text: str) -> None:
    # A hung task's report ends with the watchdog's own line: the headline knows better.
    if event.pid is None or event.kind.id not in ("hung-task", "soft-lockup"):
        event.pid, event.comm = int(match["pid"] or match["old"]), match["comm"]
        event.cpu = int(match["cpu"]) if match["cpu"] else None
        user = match["uid"] or match["uid2"]
        event.uid = int(user) if user else None
    spelled = _TAINTED.search(text)
    event.taint = "" if match["taint"].startswith("Not") else re.sub("[^A-Z]", "", match["flags"] or "")
    if spelled:
        event.taint = "".join(re.findall(r"\[([A-Z])\]=", spelled["flags"]))
    event.release = match["release"]


def _tells(event: Event, stacks: Traces) -> bool:
    """Whether a stack was read that names a function."""
    chosen = _choose(event, stacks)
    return chosen is not None and names.nearest(chosen.whole, event.kind) is not None


def _choose(event: Event, stacks: Traces) -> Trace | None:
    """The stack that shows the cause."""
    running = [trace for trace in stacks.all if trace.runs(event.headline)]
    others = [trace for trace in stacks.all if trace not in running and not trace.secondary]
    candidates = [*running, *others]
    if event.kind.id == "hard-lockup" and "cpu" in event.groups:
        # The buddy detector runs on another CPU than the one that is stuck.
        stuck = [trace for trace in candidates if trace.cpu == int(event.groups["cpu"])]
        candidates = stuck or candidates
    elif event.kind.id == "rcu-stall":
        # The CPU that holds RCU up, else the task that does; RCU's own thread only waits.
        telling = [t for t in candidates if not t.of_grace_period and names.nearest(t.whole, event.kind) is not None]
        stalled = [trace for trace in telling if trace.cpu is not None and trace.cpu in stacks.stalled]
        candidates = stalled or telling
    return next((trace for trace in candidates if trace.whole), None)


def _finish(event: Event, stacks: Traces) -> None:
    chosen = _choose(event, stacks)
    if chosen is not None:
        event.frames, event.owner = chosen.whole, _owner(event, chosen)
    elif not event.kind.stuck:
        event.frames = [event.rip] if event.rip else []
    if event.address is not None and event.registers and event.kind.id in ("null-dereference", "page-fault"):
        event.registers[_fault_register(event)] = event.address  # what is printed may already be of a later fault
    if event.kind.stuck and (chosen is None or chosen.counter is not event.rip):
        event.rip, event.code = None, ""  # of another CPU
        event.registers.clear()


def _fault_register(event: Event) -> str:
    """Where the processor that has these registers keeps the address of the access that failed."""
    known = arch.known()
    return next((each for each in known if each.argument_register in event.registers), known[0]).fault_register


def _owner(event: Event, trace: Trace) -> str:
    """Whose stack it is."""
    if event.kind.stuck and trace.cpu is not None:
        return f"CPU {trace.cpu}"
    if event.kind is kinds.BY_ID["memory-leak"]:
        return "whoever allocated the memory"
    if trace.whose or event.pid is None:
        return trace.whose
    return f"task {event.comm} (pid {event.pid})" + (f" on CPU {event.cpu}" if event.cpu is not None else "")
