"""The stacks of one report, each with the line above it, which says whose it is.

A report holds several: of the running task, of who allocated and freed the memory, of each lock of a cycle, of other
CPUs. Every run of frames is a stack, whether or not "Call Trace:" stands above it.
"""

# ruff: noqa: E501 - tables of regular expressions read better unbroken

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kdump.report import frames as names
from kdump.report import shapes
from kdump.report.model import Frame

# Stacks that are not of the code that failed (mm/kasan/report.c, mm/kmsan/report.c, mm/kfence/report.c, mm/page_owner.c,
# mm/slub.c, kernel/locking/lockdep.c, arch/s390/kernel/dumpstack.c).
_SECONDARY = re.compile(
    r"(?i)^ *(?:(?:re)?allocated\b|freed\b|last (?:potentially|user|call_rcu|breaking)|uninit was|local variable|object |page (?:last|owner|dumped|has)|page_owner|-> |\.\.\. "
    r"|the existing|the dependencies|\{|.* state was registered at"
    r"|.*(?:allocated|freed|stored|created|registered|disabled|enabled|acquired|released|taken|queued) (?:by task \d+.*|at|by):|hardirqs |softirqs |preemption disabled"
    r"|showing all locks|\d+ locks? held|info: (?:allocated|freed)|dump of|stack dump|fault_injection)"
)
# Who accessed what: the running stack of KCSAN and KFENCE stands under such a line.
_RUNNING = re.compile(
    r"^(?:race at unknown origin|(?:read|write|assert)\b.* by (?:task|interrupt)|.*\bat 0x[0-9a-f]+(?: \(.*kfence-#\d+.*\))?:$|.*kfence-#\d+.*\):$)"
)
_CLOSING = re.compile(
    r"^ *(?:Code: |Modules linked in|Kernel panic|---\[|={20,}|CPU: \d|Hardware name|Sending NMI|NMI backtrace|Kernel Offset|[A-Z][\w ]+ by task|Showing all)|:$"
)
_CPU = re.compile(r"NMI backtrace for cpu (?P<cpu>\d{1,19})|^(?:Task dump for )?CPU:? ?(?P<plain>\d{1,19})\b")
_TASK = re.compile(r"task:(?P<comm>.{1,15}?) +state:\S+ .*?pid:(?P<pid>\d{1,19})")
# kernel/rcu/tree_stall.h: print_cpu_stall_info(), synchronize_rcu_expedited_wait(), rcu_check_gp_kthread_starvation()
_STALLED = re.compile(r"^(?:rcu: +)?\s*(?P<cpu>\d{1,19})-[^\s:]{1,5}: \(")
_EXPEDITED = re.compile(r"detected expedited stalls on CPUs/tasks: \{(?P<cpus>[^}]*)\}")
_KTHREAD = re.compile(r"grace-period kthread stack dump|^(?:rcu_\w+|rcuog?\S*) +[RSDI]")
_GRACE_PERIOD = frozenset(("rcu_gp_kthread", "rcu_gp_fqs_loop", "rcu_gp_init", "rcu_gp_cleanup", "rcu_gp_fqs"))
_NOISE = 8  # lines of others between two frames of one stack at most


@dataclass
class Trace:
    """One stack of a report: the line above it, its frames, and the program counter printed before it.

    `cpu` and `whose` say on which CPU or of which task, where that was printed; `kthread` that it is of the thread that
    drives RCU's grace periods.
    """

    title: str
    frames: list[Frame] = field(default_factory=list)
    counter: Frame | None = None
    cpu: int | None = None
    whose: str = ""
    kthread: bool = False

    @property
    def whole(self) -> list[Frame]:
        """The frames, the program counter first; some architectures begin the trace with it again."""
        first, counter = next(iter(self.frames), None), self.counter
        if counter and first and (first.function, first.offset) == (counter.function, counter.offset):
            return [counter, *self.frames[1:]]
        return [*([counter] if counter else []), *self.frames]

    @property
    def of_grace_period(self) -> bool:
        """Whether the stack is of RCU's own thread, which waits for the stalled CPU."""
        return self.kthread or any(names.normalise(frame.function) in _GRACE_PERIOD for frame in self.frames)

    @property
    def secondary(self) -> bool:
        """Whether the stack is of another time or task than the failure."""
        return _SECONDARY.match(self.title) is not None

    def runs(self, headline: str) -> bool:
        """Whether the line above says that the stack is of the code that ran."""
        title = self.title
        called = shapes.CALL_TRACE.match(title) or _RUNNING.match(title) or title.strip() == headline
        return bool(called) and not self.secondary


class Traces:
    """Collects the stacks of a report, line by line.

    `stalled` are the CPUs that an RCU stall is about, `first_counter` is the first program counter of the kernel.
    """

    def __init__(self, headline: str) -> None:
        self.all: list[Trace] = []
        self.stalled: set[int] = set()
        self.first_counter: Frame | None = None
        self._open: Trace | None = None
        self._next = Trace(headline)  # what is known of the stack to come
        self._noise = 0

    def headline(self, text: str) -> None:
        """A line that begins a report: no frame, whatever it looks like."""
        self._close(text)

    def feed(self, text: str) -> None:
        """Read one line."""
        text = text.strip()
        self._notice(text)
        shown = shapes.counter(text)
        if shown is not None:
            if not shapes.is_inlined(text):
                self._counter(*shown)
            return
        found = shapes.frames(text, self._open.frames[-1] if self._open and self._open.frames else None)
        if found is not None:
            (self._open or self._begin()).frames += found
            self._noise = 0
        elif shapes.CALL_TRACE.match(text):
            self._next.title = text
            self._begin()  # even if all frames should be guesses
        elif not shapes.is_between(text):
            self._other(text)

    def _notice(self, text: str) -> None:
        """Whose the next stack is."""
        if match := _CPU.search(text):
            self._next.cpu = int(match["cpu"] or match["plain"])
            self._next.counter = None
        if match := _STALLED.match(text):
            self.stalled.add(int(match["cpu"]))
        if match := _EXPEDITED.search(text):
            self.stalled |= {int(cpu) for cpu in re.findall(r"\b(\d{1,19})-", match["cpus"])}
        if match := _TASK.search(text):
            self._next.whose = f"task {match['comm'].strip()} (pid {match['pid']})"
        if _KTHREAD.search(text):
            self._next.kthread = True

    def _counter(self, frame: Frame | None, kernel: bool) -> None:
        """A program counter: of the next stack, or of what this stack's frames interrupted."""
        if not kernel:
            self._open = None  # what follows is user space
        elif self._open is not None and self._open.frames:
            if frame is not None and self._open.frames[-1] != frame:
                self._open.frames.append(shapes.interrupted(frame))
        else:
            self._next.counter = self._next.counter or frame
            self.first_counter = self.first_counter or frame

    def _begin(self) -> Trace:
        trace = self._open = self._next
        self.all.append(trace)
        self._next = Trace(trace.title, cpu=trace.cpu, whose=trace.whose)
        self._noise = 0
        return trace

    def _other(self, text: str) -> None:
        """A line that belongs to no stack: the title of the next one, or noise within this one."""
        self._noise += 1
        if self._open is None or self._noise > _NOISE or _SECONDARY.match(text) or _CLOSING.search(text.rstrip()):
            self._close(text)

    def _close(self, text: str) -> None:
        self._open, self._next.title, self._noise = None, text, 0
