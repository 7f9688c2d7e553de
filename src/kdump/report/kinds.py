"""Kinds of crashes, as data: how each announces itself in the log and how it is called.

Sources of the messages: arch/x86/mm/fault.c, arch/x86/kernel/{traps,dumpstack,nmi}.c, arch/x86/kernel/cpu/mce/core.c,
lib/{bug,list_debug,refcount}.c, mm/{kasan,kfence}/report.c, lib/ubsan.c, kernel/{panic,exit,hung_task,watchdog}.c,
kernel/watchdog_perf.c, kernel/rcu/tree_stall.h, mm/{oom_kill,slub,usercopy}.c, drivers/tty/sysrq.c. Wording changed
over the years; the expressions take all forms since 4.19.
"""

# ruff: noqa: E501 - a table of regular expressions reads better unbroken

from __future__ import annotations

import re
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of crash.

    `title` is a format with {function} and the headline's named groups. `headline` matches the line that announces it,
    `panic` the text after "Kernel panic - not syncing: " that belongs to it. With `stack` false the stack is chance
    (the task that happened to run), so neither a guilty frame nor the signature comes from it. `oops` marks what die()
    reports.
    """

    id: str
    meaning: str
    title: str
    headline: str = ""
    panic: str = ""
    stack: bool = True
    oops: bool = False


_IN = " in {function}"
KINDS = (
    Kind("kasan", "KASAN caught a bad memory access", "KASAN: {what}" + _IN,
         r"BUG: KASAN: (?P<what>[\w -]+?) in ", r"kasan\.fault="),
    Kind("kfence", "KFENCE caught a bad memory access", "KFENCE: {what}" + _IN, r"BUG: KFENCE: (?P<what>[\w -]+?)(?: in |$)"),
    Kind("kmsan", "KMSAN caught the use of uninitialised memory", "KMSAN: {what}" + _IN, r"BUG: KMSAN: (?P<what>[\w -]+?) in "),
    Kind("ubsan", "UBSAN caught undefined behaviour", "UBSAN: {what}" + _IN,
         r"UBSAN: (?P<what>[\w -]+?) in |Internal error: UBSAN: (?P<other>[\w -]+)"),
    Kind("stack-overflow", "a kernel stack overflowed", "kernel stack overflow" + _IN,
         r"BUG: (?:\w+ )?stack guard page was hit|(?:BUG: )?kernel stack overflow|Insufficient stack space to handle exception",
         r"[Kk]ernel stack overflow", oops=True),
    Kind("stack-corruption", "a kernel stack was overwritten", "kernel stack is corrupted in {where}{function}",
         "", r"stack-protector: Kernel stack is corrupted in: ?(?P<where>[\w.]*)|corrupted stack end detected"),
    Kind("double-fault", "an exception happened while another was being delivered", "PANIC: double fault" + _IN,
         r"(?:traps: )?PANIC: double fault|(?:Oops: )?double fault: \d+ \[#", r"Machine halted|double fault", oops=True),
    Kind("null-dereference", "the kernel used a null pointer", "BUG: unable to handle kernel NULL pointer dereference" + _IN,
         r"BUG: (?:unable to handle )?kernel NULL pointer dereference(?:,? (?:address:|at) *(?P<address>[0-9a-f]+))?", oops=True),
    Kind("page-fault", "the kernel used a bad address", "BUG: unable to handle kernel paging request" + _IN,
         r"BUG: unable to handle (?:page fault for address:|kernel paging request at) *(?P<address>[0-9a-f]+)", oops=True),
    Kind("general-protection", "the kernel used an address that cannot exist", "general protection fault" + _IN,
         r"(?:Oops: )?general protection fault(?:, (?:probably|maybe) for (?:non-canonical )?address 0x(?P<address>[0-9a-f]+))?.*\[#",
         oops=True),
    Kind("divide", "the kernel divided by zero", "divide error" + _IN, r"(?:Oops: )?divide error: \d+ \[#", oops=True),
    Kind("list-corruption", "a linked list was corrupted", "{what} corruption" + _IN,
         r"(?P<what>list_(?:add|del)|list_del|slist)(?: corruption|: double add)", oops=True),
    Kind("usercopy", "a copy between kernel and user memory went beyond its object", "usercopy: {what}" + _IN,
         r"usercopy: (?P<what>Kernel memory (?:exposure|overwrite) attempt detected)", oops=True),
    Kind("fortify", "a string or memory function was about to overflow its buffer", "detected buffer overflow in {what}",
         r"(?:memcpy|memset|mem\w+|str\w+): detected buffer overflow|detected buffer overflow in (?P<what>\w+)", oops=True),
    Kind("slab-corruption", "an object of the slab allocator was corrupted or freed twice", "BUG {cache}: {what}" + _IN,
         r"BUG (?P<cache>[\w.-]+) \((?:Not tainted|Tainted)[^)]*\): (?P<what>[\w ]+)"),
    Kind("cfi", "an indirect call went to a function of another type", "CFI failure" + _IN, r"CFI failure at ", oops=True),
    Kind("double-free", "an object was freed twice, or the slab allocator's free list was overwritten", "double free or corruption" + _IN,
         r"kernel BUG at (?P<where>mm/slu?b\.c:\d+)!", oops=True),
    Kind("bug", "the kernel found itself in a state that must not be (BUG)", "kernel BUG" + _IN, r"kernel BUG at (?P<where>\S+?:\d+)!",
         oops=True),
    Kind("refcount", "a reference counter was used wrongly", "refcount bug" + _IN, r"refcount_t: (?P<what>[^.]+)\."),
    Kind("warning", "the kernel warned, and was told to panic on a warning", "WARNING" + _IN,
         r"WARNING: (?:CPU: \d+ PID: \d+ at )?(?P<where>\S+:\d+)(?: at)? (?P<symbol>[\w.]+)\+|WARNING: CPU: \d+ PID: \d+ at ",
         r"(?:[\w ]+: )?panic_on_warn set"),
    Kind("invalid-opcode", "the processor met an instruction it does not know", "invalid opcode" + _IN,
         r"(?:Oops: )?invalid opcode: \d+ \[#", oops=True),
    Kind("soft-lockup", "a CPU stayed in the kernel without letting others run", "BUG: soft lockup" + _IN,
         r"BUG: soft lockup - CPU#(?P<cpu>\d+) stuck for (?P<duration>\d+)s! \[(?P<comm>.*):(?P<pid>\d+)\]", r"softlockup: hung tasks"),
    Kind("hard-lockup", "a CPU ran with interrupts off for too long", "hard lockup" + _IN,
         r"Watchdog detected hard LOCKUP on cpu (?P<cpu>\d+)", r"Hard LOCKUP"),
    Kind("rcu-stall", "a CPU or task held up RCU for too long", "INFO: rcu detected stall" + _IN,
         r"INFO: (?:rcu\w+ )?(?:rcu_\w+ )?(?:self-)?detected (?:expedited )?stalls?", r"RCU Stall"),
    Kind("hung-task", "a task waited too long in uninterruptible sleep", "INFO: task hung" + _IN,
         r"INFO: task (?P<comm>.*):(?P<pid>\d+) (?:is )?blocked (?:on .{1,60} )?for more than (?P<duration>\d+) seconds",
         r"hung_task: blocked tasks"),
    Kind("workqueue-lockup", "work items did not run", "BUG: workqueue lockup", r"BUG: workqueue lockup", r"workqueue: "),
    Kind("spinlock", "a spin lock was used wrongly or never released", "BUG: spinlock {what}" + _IN,
         r"BUG: (?:raw_)?spinlock (?P<what>bad magic|lockup suspected|recursion|wrong owner|wrong CPU|already unlocked|cpu recursion)"),
    Kind("atomic-sleep", "the kernel slept where it must not", "BUG: {what}" + _IN,
         r"BUG: (?P<what>scheduling while atomic|sleeping function called from invalid context)"),
    Kind("bad-page", "the memory manager's data were corrupted", "BUG: {what}" + _IN,
         r"BUG: (?P<what>Bad page state|Bad page map|Bad rss-counter state|non-zero pgtables_bytes)"),
    Kind("out-of-memory", "memory ran out", "Out of memory: {what}",
         r"(?P<invoker>\S.*?) invoked oom-killer:", r"(?:Out of memory|System is deadlocked on memory)[:,]? ?(?P<what>.*)", stack=False),
    Kind("machine-check", "the hardware reported an error", "Machine check: {what}",
         r"mce: \[Hardware Error\]: (?:CPU \d+: Machine Check|Machine check)|\{\d+\}\[Hardware Error\]: event severity: fatal",
         r"(?P<what>(?:Fatal|Uncorrected|Timeout|Unknown).*(?:machine check|broadcast exception handler|hardware error!?|Machine Check).*"
         r"|Memory error not recovered|Fatal hardware error!?)", stack=False),
    Kind("nmi", "a non-maskable interrupt arrived that nobody handles", "NMI: {what}",
         r"(?:Uhhuh\. )?NMI(?: received)? for unknown reason (?P<reason>[0-9a-f]+)|NMI: (?:IOCK|PCI) (?:error|system error)",
         r"(?=NMI|nmi|An NMI)(?:NMI: )?(?P<what>.*)", stack=False),
    Kind("init-killed", "the first process (init) ended", "Attempted to kill init! {what}",
         "", r"Attempted to kill init! ?(?P<what>.*)", stack=False),
    Kind("idle-killed", "a fault hit a CPU's idle task", "Attempted to kill the idle task!", "", r"Attempted to kill the idle task"),
    Kind("sysrq", "somebody asked for the crash (sysrq-c)", "sysrq triggered crash", r"sysrq: Trigger a crash", r"sysrq triggered crash"),
    Kind("root-filesystem", "the root file system could not be mounted", "VFS: {what}", "",
         r"VFS: (?P<what>Unable to mount root fs.*)|(?P<other>No working init found.*)", stack=False),
    Kind("filesystem", "a file system found an error and was told to panic", "{what}",
         r"(?P<what>EXT[234]-fs error) \(device |BTRFS: error |XFS \(\S+\): (?:Corruption|Metadata)",
         r"(?P<panic>(?:EXT[234]-fs|BTRFS|XFS|F2FS|JBD2|ocfs2|GFS2|dm-verity|FAT-fs|UBIFS).*)"),
    Kind("oops", "the kernel met an exception it cannot handle", "Oops" + _IN, r"(?:Oops|traps: [\w ]+): .*\[#\d+\]|Internal error: ", oops=True),
)  # fmt: skip
GENERIC_PANIC = Kind("panic", "the kernel called panic()", "kernel panic: {message}")
NONE = Kind("none", "the log tells of no crash", "no crash found")

# What panic() says after an oops: the oops is the crash.
AFTER_OOPS = re.compile(r"Fatal exception|Oops|Unrecoverable|Aiee, killing interrupt handler|die\b|Fatal trap")

BY_ID = {kind.id: kind for kind in (*KINDS, GENERIC_PANIC, NONE)}
HEADLINES = [(kind, re.compile(kind.headline)) for kind in KINDS if kind.headline]
PANICS = [(kind, re.compile(kind.panic)) for kind in KINDS if kind.panic]

# Every headline holds one of these; most lines of a log hold none, and are passed over quickly.
HINT = re.compile(
    r"BUG|WARNING|Oops|fault|error|corruption|double add|PANIC|panic|LOCKUP|lockup|stall|blocked|oom-killer|NMI|mce|Hardware Error"
    r"|sysrq|overflow|usercopy|UBSAN|refcount_t|CFI|invalid opcode|traps|Corruption|Metadata|stack|Internal"
)
