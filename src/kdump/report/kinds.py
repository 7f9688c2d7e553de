"""Kinds of crashes, as data: how each announces itself in the log and how it is called.

Sources of the messages: arch/*/mm/fault.c, arch/*/kernel/traps.c, arch/x86/kernel/{dumpstack,nmi}.c,
arch/x86/kernel/cpu/mce/core.c, lib/{bug,list_debug,refcount,debugobjects,smp_processor_id}.c,
mm/{kasan,kfence,kmsan}/report.c, kernel/kcsan/report.c, lib/ubsan.c, kernel/{panic,exit,hung_task,watchdog,workqueue}.c,
kernel/watchdog_perf.c, kernel/rcu/tree_stall.h, kernel/locking/{lockdep,spinlock_debug}.c, kernel/sched/core.c,
mm/{oom_kill,slub,slab,usercopy,kmemleak,page_alloc,memory}.c, net/core/dev.c, fs/{super,dcache}.c,
drivers/tty/sysrq.c, rust/kernel/lib.rs. Wording changed over the years; the expressions take all forms since 2.6.32.
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
    reports: it ends the task or the machine, whereas the kernel goes on after other reports if nothing panics.
    `shared` names families of `kdump.report.families` that are machinery for this kind besides the usual ones; `stuck`
    marks kinds whose detector interrupts the guilty code, so that nothing up to the interrupt's entry is guilty; `named`
    kinds whose message names the guilty function, which the stack of the moment does not show.
    """

    id: str
    meaning: str
    title: str
    headline: str = ""
    panic: str = ""
    stack: bool = True
    oops: bool = False
    shared: tuple[str, ...] = ()
    stuck: bool = False
    named: bool = False


_IN = " in {function}"
_SLEEP = ("sleeping",)
_UNABLE = r"(?:BUG: |CPU \d+ )?[Uu]nable to handle "
KINDS = (
    Kind("kasan", "KASAN caught a bad memory access", "KASAN: {what}" + _IN,
         r"BUG: KAS[Aa][Nn]: (?P<what>[\w -]+?)(?: (?:in|on) |$)", r"kasan\.fault="),
    Kind("kfence", "KFENCE caught a bad memory access", "KFENCE: {what}" + _IN, r"BUG: KFENCE: (?P<what>[\w -]+?)(?: in |$)"),
    Kind("kmsan", "KMSAN caught the use of uninitialised memory", "KMSAN: {what}" + _IN, r"BUG: KMSAN: (?P<what>[\w -]+?)(?: in |$)"),
    Kind("kcsan", "KCSAN caught a data race", "KCSAN: {what}" + _IN, r"BUG: KCSAN: (?P<what>data-race|assert: race)(?: in |$)"),
    Kind("ubsan", "UBSAN caught undefined behaviour", "UBSAN: {what}" + _IN,
         r"UBSAN: (?P<what>[\w -]+?) in |Internal error: UBSAN: (?P<other>[\w -]+)"),
    Kind("memory-leak", "kmemleak found memory that nothing points to", "memory leak" + _IN,
         r"BUG: memory leak|kmemleak: \d+ new suspected memory leaks|unreferenced object 0x[0-9a-f]+ \(", shared=("allocating",)),
    Kind("rust-panic", "Rust code of the kernel panicked", "rust panic: {what}" + _IN, r"rust_kernel: panicked at (?P<where>[^ ]+?:\d+)", oops=True),
    Kind("stack-overflow", "a kernel stack overflowed", "kernel stack overflow" + _IN,
         r"BUG: (?:\w+ )?stack guard page was hit|(?:BUG: )?[Kk]ernel stack overflow|Insufficient stack space to handle exception|do_IRQ: stack overflow",
         r"[Kk]ernel stack overflow|kernel stack overflow", oops=True),
    Kind("stack-corruption", "a kernel stack was overwritten", "kernel stack is corrupted" + _IN,
         r"Thread overran stack, or stack corrupted", r"stack-protector: Kernel stack is corrupted in: ?(?P<symbol>[\w.]*)|corrupted stack end detected", shared=_SLEEP),
    Kind("stack-unwind", "the stack unwinder met a stack that it cannot read", "WARNING: kernel stack {what} has {value}",
         r"WARNING: kernel stack (?P<what>regs|frame pointer) at +\S+ in \S+ has (?P<value>bad(?: '\w+')? value)|WARNING: unrecognized kernel stack (?P<other>return address)"),
    Kind("double-fault", "an exception happened while another was being delivered", "PANIC: double fault" + _IN,
         r"(?:traps: )?PANIC: double fault|(?:Oops: )?double fault: \d+ \[#", r"Machine halted|double fault", oops=True),
    Kind("null-dereference", "the kernel used a null pointer", "BUG: unable to handle kernel NULL pointer dereference" + _IN,
         r"(?i:BUG: (?:unable to handle )?kernel NULL pointer dereference(?: on \w+)?|" + _UNABLE + r"kernel NULL pointer dereference)(?:,? (?:address:|at(?: virtual address)?) *(?:0x)?(?P<address>[0-9a-f]{1,32}))?", oops=True),
    Kind("page-fault", "the kernel used a bad address", "BUG: unable to handle kernel paging request" + _IN,
         _UNABLE + r"(?:page fault for address:|(?:kernel )?(?:paging request|data access|instruction fetch|pointer dereference|unknown fault|access to user memory|read from|write to|execut)[\w -]*?(?: at| for \w+ at)(?: virtual)?(?: kernel)?(?: address)?) *(?:0x)?(?P<address>[0-9a-f]{4,16})"
         r"|" + _UNABLE + r"kernel (?:pointer dereference|(?!NULL)\w+|$)|Kernel attempted to \w+ user page \((?P<user>[0-9a-f]+)\)", oops=True),
    Kind("general-protection", "the kernel used an address that cannot exist", "general protection fault" + _IN,
         r"(?:Oops: )?general protection fault(?:, (?:probably|maybe) for (?:non-canonical )?address 0x(?P<address>[0-9a-f]{1,32}))?.*(?:\[#|: [0-9a-f]{4})",
         oops=True),
    Kind("divide", "the kernel divided by zero", "divide error" + _IN, r"(?:Oops: )?divide[ _]error: [0-9a-f]+ \[#|fixpoint divide exception: ", oops=True),
    Kind("stack-segment", "the kernel used an address beyond its stack segment", "stack segment fault" + _IN, r"(?:Oops: )?stack[ _]segment(?: fault)?: [0-9a-f]+ \[#", oops=True),
    Kind("int3", "the processor met a breakpoint that nobody set", "int3" + _IN, r"(?:Oops: )?int3: [0-9a-f]+ \[#", oops=True),
    Kind("list-corruption", "a linked list was corrupted", "{what} corruption" + _IN,
         r"(?P<what>list_(?:add|del)|list_del|slist)(?: corruption|: double add| double add)", oops=True),
    Kind("usercopy", "a copy between kernel and user memory went beyond its object", "usercopy: {what}" + _IN,
         r"usercopy: (?P<what>[Kk]ernel memory (?:exposure|overwrite) attempt detected)", oops=True),
    Kind("fortify", "a string or memory function was about to overflow its buffer", "detected buffer overflow" + _IN,
         r"(?:memcpy|memset|mem\w+|str\w+): detected buffer overflow|detected buffer overflow in (?P<what>\w+)", oops=True),
    Kind("slab-corruption", "an object of the slab allocator was corrupted or freed twice", "BUG {cache}: {what}" + _IN,
         r"BUG:? (?P<cache>[\w.-]+) \((?:Not tainted|Tainted|G|P)[^)]*\): (?P<what>[\w ]+)|slab error in \w+\(\): cache [`'](?P<slab>[\w.-]+)': (?P<other>[\w ]+)|slab: double free detected in cache '(?P<doubly>[\w.-]+)'|INFO: (?P<info>Allocated|Freed) in (?P<symbol>[\w.]+)(?:\+\S+)? age="),
    Kind("cfi", "an indirect call went to a function of another type", "CFI failure" + _IN, r"CFI failure at ", r"CFI failure", oops=True),
    Kind("double-free", "an object was freed twice, or the slab allocator's free list was overwritten", "double free or corruption" + _IN,
         r"kernel BUG at (?P<where>mm/slu?b\.c:\d+)!", oops=True),
    Kind("bug", "the kernel found itself in a state that must not be (BUG)", "kernel BUG" + _IN, r"skbuff: (?P<what>skb_(?:over|under)_panic): |(?i:kernel BUG at) (?P<where>\S+?:\d+)!|Kernel bug detected\[#|Internal error: Oops - BUG",
         oops=True),
    Kind("refcount", "a reference counter was used wrongly", "refcount bug" + _IN, r"refcount_t: (?P<what>[^.;]+)[.;]"),
    Kind("object-state", "a timer, work item or other tracked object was used in a wrong state", "WARNING: ODEBUG bug" + _IN,
         r"ODEBUG: (?P<what>[a-z][\w ]*?)(?: \(|, | not )"),
    Kind("lock-usage", "lockdep caught a wrong use of a lock", "WARNING: {what}" + _IN,
         r"(?P<what>bad unlock balance|held lock freed|still has locks held|locks? held when returning to user space|lock held at task exit time)(?: detected)?!?(?: ?\]|$|[ :])", shared=_SLEEP, named=True),
    Kind("lock-context", "lockdep caught a lock in a context that forbids it", "WARNING: {what}" + _IN,
         r"(?P<what>bad contention|[Nn]ested lock was not taken|[Ii]nvalid wait context|different lock class|chain key collision)(?: detected)?!?(?: ?\]|$|[ :])"
         r"|(?P<limit>MAX_\w+ too low)", shared=_SLEEP),
    Kind("lock-state", "lockdep saw a lock taken with and without interrupts", "inconsistent lock state" + _IN, r"inconsistent \{?lock state|(?:WARNING|INFO): inconsistent lock state"),
    Kind("deadlock", "lockdep found an order of locks that can deadlock", "possible deadlock" + _IN,
         r"(?:INFO|WARNING|BUG): possible (?:circular|recursive|irq lock|unsafe)|(?:WARNING|INFO): \S+-(?:safe|READ-safe) -> \S+ lock order detected|possible (?:circular locking dependency|recursive locking|irq lock inversion dependency) detected|WARNING: Deadlock|rt_mutex deadlock|BUG: rtmutex deadlock"),
    Kind("lock-key", "a lock was used before it was initialised", "INFO: trying to register non-static key" + _IN, r"INFO: trying to register non-static key"),
    Kind("suspicious-rcu", "RCU-protected data were used without its protection", "WARNING: suspicious RCU usage" + _IN, r"(?:WARNING|INFO): suspicious (?:RCU|rcu_\w+\(\)) usage", shared=_SLEEP),
    Kind("warning", "the kernel warned", "WARNING{subject}" + _IN,
         r"WARNING: (?:CPU: \d+ PID: \d+ )?at (?P<where>\S+?:\d+)(?:[ /](?P<symbol>[A-Za-z_][\w.]*)\+)?|WARNING: (?P<place>[\w./-]+:\d+) at (?P<func>[A-Za-z_][\w.]*|0x0)(?:\+|,)|WARNING: CPU: \d+ PID: \d+ at |WARNING: at (?P<early>\S+:\d+)",
         r"(?:[\w ]+: )?panic_on_(?:warn|kmsan|kasan|kfence|kcsan|taint) set"),
    Kind("invalid-opcode", "the processor met an instruction it does not know", "invalid opcode" + _IN,
         r"(?:Oops: )?invalid opcode: [0-9a-f]+ \[#|Oops - (?:undefined|illegal) instruction|Internal error: undefined instruction|illegal operation: [0-9a-f]{4} ilc", oops=True),
    Kind("soft-lockup", "a CPU stayed in the kernel without letting others run", "BUG: soft lockup" + _IN,
         r"BUG: soft lockup(?: - CPU#(?P<cpu>\d{1,19}) stuck for (?P<duration>\d{1,19})s! \[(?P<comm>.{0,64}):(?P<pid>\d{1,19})\]| detected on CPU#(?P<on>\d{1,19})| - )", r"softlockup: hung tasks", stuck=True),
    Kind("hard-lockup", "a CPU ran with interrupts off for too long", "hard lockup" + _IN,
         r"Watchdog detected hard LOCKUP on cpu ?(?P<cpu>\d{1,19})|CPU ?(?P<self>\d{1,19}) (?:self-)?detected hard LOCKUP", r"Hard LOCKUP|Watchdog detected hard LOCKUP on cpu (?P<cpu>\d{1,19})", stuck=True),
    Kind("rcu-stall", "a CPU or task held up RCU for too long", "INFO: rcu detected stall" + _IN,
         r"INFO: (?:rcu\w* )?(?:rcu_\w+ )?(?:self-)?detected (?:expedited )?stalls?|INFO: rcu_\w+_state detected stall", r"RCU Stall", stuck=True),
    Kind("hung-task", "a task waited too long in uninterruptible sleep", "INFO: task hung" + _IN,
         r"INFO: task (?P<comm>.{0,64}):(?P<pid>\d{1,19}) (?:(?:is )?blocked (?:(?:on|in) .{1,60}? )?|(?P<dying>can't die) )for more than (?P<duration>\d{1,19}) seconds",
         r"hung_task: blocked tasks", shared=_SLEEP),
    Kind("workqueue-lockup", "work items did not run", "BUG: workqueue lockup" + _IN, r"BUG: workqueue lockup", r"workqueue: ", named=True),
    Kind("workqueue-leak", "a work item left a lock or atomic context behind", "BUG: workqueue leaked atomic, lock or RCU" + _IN,
         r"BUG: workqueue leaked (?:lock|atomic)[^:]*: \S+", named=True),
    Kind("spinlock", "a spin lock was used wrongly or never released", "BUG: spinlock {what}" + _IN,
         r"BUG: (?:raw_)?(?:spinlock|rwlock)[ -](?P<what>bad magic|lockup(?: suspected)?|recursion|wrong owner|wrong CPU|already unlocked|cpu[ -]recursion|trylock failure)"),
    Kind("atomic-sleep", "the kernel slept where it must not", "BUG: {what}" + _IN,
         r"BUG: (?P<what>scheduling while atomic|sleeping function called from invalid context|scheduling from the idle thread)", r"(?P<what>scheduling while atomic)", shared=_SLEEP),
    Kind("preemptible", "per-CPU data were used where the task may move to another CPU", "BUG: using {what}() in preemptible code" + _IN,
         r"BUG: using (?P<what>\w+)\(\) in preemptible"),
    Kind("bad-page", "the memory manager's data were corrupted", "BUG: {what}" + _IN,
         r"BUG: (?P<what>Bad page state|Bad page map|Bad page cache|Bad rss-counter state|non-zero (?:pgtables_bytes|nr_ptes|nr_pmds))"),
    Kind("dentry", "a file system was unmounted while somebody used it", "BUG: Dentry still in use", r"BUG: Dentry .{1,200} still in use"),
    Kind("busy-inodes", "a file system was unmounted while somebody used it", "VFS: Busy inodes after unmount", r"VFS: Busy inodes after unmount of (?P<what>\S+)", stack=False),
    Kind("device-references", "a network device cannot go because somebody still uses it", "unregister_netdevice: waiting for {what} to become free",
         r"unregister_netdevice: waiting for (?P<what>\S+) to become free", stack=False),
    Kind("irq-nobody-cared", "an interrupt came that no driver wants", "irq {what}: nobody cared", r"irq (?P<what>\d+): nobody cared", stack=False),
    Kind("out-of-memory", "memory ran out", "Out of memory: {what}",
         r"(?P<invoker>\S.{0,14}?) invoked oom-killer:", r"(?:Out of memory|System is deadlocked on memory)[:,]? ?(?P<what>.*)", stack=False),
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
    Kind("sysrq", "somebody asked for the crash (sysrq-c)", "sysrq triggered crash", r"[Ss]ys[Rr]q ?:.*Trigger a crash", r"sysrq triggered crash", stack=False, oops=True),
    Kind("root-filesystem", "the root file system could not be mounted", "VFS: {what}", "",
         r"VFS: (?P<what>Unable to mount root fs.*)|(?P<other>No working init found.*)", stack=False),
    Kind("filesystem", "a file system found an error and was told to panic", "{what}",
         r"(?P<what>EXT[234]-fs error) \(device |BTRFS: error |XFS \(\S+\): (?:Corruption|Metadata)",
         r"(?P<panic>(?:EXT[234]-fs|BTRFS|XFS|F2FS|JBD2|ocfs2|GFS2|dm-verity|FAT-fs|UBIFS).*)"),
    Kind("unhandled-fault", "the processor reported a fault that the kernel has no answer to", "Unhandled fault" + _IN,
         r"Unhandled (?:fault|prefetch abort)(?:: (?P<what>[\w -]+?))? \(0x[0-9a-f]+\)|Alignment trap: |Unhandled kernel unaligned access", oops=True),
    Kind("exception", "the processor reported an exception", "{what}" + _IN, r"(?:Oops: )?(?<![A-Za-z])(?P<what>(?!Oops)[A-Za-z][\w /-]{2,40}?): [0-9a-f]{4} (?:ilc:\d )?\[#\d+\]", oops=True),
    Kind("oops", "the kernel met an exception it cannot handle", "Oops" + _IN, r"(?:Oops|traps: [\w ]+)\b.*\[#\d+\]|Internal error: |in kernel code\[#\d+\]|PANIC: early exception|\bBad mode in ", oops=True),
    Kind("complaint", "the kernel found itself in a state that must not be", "BUG: {what}" + _IN, r"^BUG: (?P<what>[A-Za-z][\w'() -]{5,60})"),
)  # fmt: skip
GENERIC_PANIC = Kind("panic", "the kernel called panic()", "kernel panic: {message}")
NONE = Kind("none", "the log has no crash", "no crash found")

# Which code warned tells more than "WARNING": the source file in the headline, and the word for it.
WARNING_SUBJECTS = (
    ("kernel/locking/lockdep", "locking bug"),
    ("kernel/lockdep", "locking bug"),
    ("lib/debugobjects", "ODEBUG bug"),
    ("lib/kobject", "kobject bug"),
    ("lib/refcount", "refcount bug"),
    ("mm/slab_common", "kmalloc bug"),
    ("mm/page_alloc", "page allocation bug"),
    ("mm/vmalloc", "vmalloc bug"),
    ("kernel/rcu/", "RCU bug"),
    ("kernel/workqueue", "workqueue bug"),
)

# What panic() says after an oops: the oops is the crash.
AFTER_OOPS = re.compile(r"Fatal exception|Oops|Unrecoverable|Aiee, killing interrupt handler|die\b|Fatal trap")

BY_ID = {kind.id: kind for kind in (*KINDS, GENERIC_PANIC, NONE)}
HEADLINES = [(kind, re.compile(kind.headline)) for kind in KINDS if kind.headline]
PANICS = [(kind, re.compile(kind.panic)) for kind in KINDS if kind.panic]

# Every headline holds one of these; most lines of a log hold none, and are passed over quickly.
HINT = re.compile(
    r"BUG|WARNING|Oops|fault|rror|orruption|corrupted|double|PANIC|panic|LOCKUP|lock|stall|oom-killer|NMI|mce|[Ss]ys[Rr]q|overflow|usercopy|UBSAN"
    r"|refcount_t|CFI|invalid|traps|Metadata|stack|Internal|INFO|nable to handle|ODEBUG|skb_|INFO|suspicious|MAX_|unreferenced|leaks|int3|divide"
    r"|unregister_netdevice|Busy inodes|nobody cared|rap: |bort|nhandled|user page|\[#|Bad mode|instruction|bug detected|ilc|INFO|contention|freed|Deadlock"
)

_LONGEST = 400  # characters of a line that are looked at: expressions are slow on long nonsense


def headline(text: str) -> tuple[Kind, dict[str, str]] | None:
    """The kind that a line announces and the named parts of its headline, None if it announces none."""
    text = text[:_LONGEST]
    if not HINT.search(text):
        return None
    for kind, pattern in HEADLINES:
        if match := pattern.search(text):
            return kind, {name: value for name, value in match.groupdict().items() if value}
    return None
