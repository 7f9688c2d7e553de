"""How the kernel announces each kind of crash, on every architecture, since 2.6.32."""

from __future__ import annotations

import pytest

from kdump.report import kinds, logtext
from kdump.report.context import Context
from kdump.report.model import Verdict
from kdump.report.verdict import judge

X86 = """CPU: 1 PID: 300 Comm: worker Not tainted 6.1.0 #1
RIP: 0010:kd_step+0x1f/0x60 [kd]
Call Trace:
 <TASK>
 kd_loop+0x44/0xa0 [kd]
 do_syscall_64+0x59/0xc0
 </TASK>
"""
PANIC = "Kernel panic - not syncing: "
IN = " in kd_step"
NULL = "BUG: unable to handle kernel NULL pointer dereference"
PAGE = "BUG: unable to handle kernel paging request"

# Lines that announce a kind (the report that follows is X86), the kind, and the title.
ANNOUNCEMENTS = (
    ("BUG: KASAN: slab-use-after-free in kd_step+0x1/0x2 [kd]\nRead of size 8 at addr ffff888003a0 by task worker/300",
     "kasan", "KASAN: slab-use-after-free Read in kd_step"),
    ("BUG: KASan: use after free in kd_step+0x1/0x2 at addr ffff888003a0", "kasan", "KASAN: use after free in kd_step"),
    ("BUG: KASAN: double-free in kd_step+0x1/0x2 [kd]", "kasan", "KASAN: double-free in kd_step"),
    ("BUG: KFENCE: out-of-bounds read in kd_step+0x1/0x2", "kfence", "KFENCE: out-of-bounds read in kd_step"),
    ("BUG: KMSAN: uninit-value in kd_step+0x1/0x2", "kmsan", "KMSAN: uninit-value in kd_step"),
    ("BUG: KCSAN: data-race in kd_step / kd_other", "kcsan", "KCSAN: data-race in kd_step"),
    ("BUG: KCSAN: assert: race in kd_step+0x1/0x2", "kcsan", "KCSAN: assert: race in kd_step"),
    ("UBSAN: shift-out-of-bounds in drivers/kd.c:12:3", "ubsan", "UBSAN: shift-out-of-bounds in kd_step"),
    ("UBSAN: Undefined behaviour in drivers/kd.c:12:3", "ubsan", "UBSAN: Undefined behaviour in kd_step"),
    ("rust_kernel: panicked at drivers/kd.rs:12:3:\nattempt to add with overflow", "rust-panic",
     "rust panic: attempt to add with overflow in kd_step"),
    ("BUG: TASK stack guard page was hit at ffffc90000a17ff8", "stack-overflow", "kernel stack overflow in kd_step"),
    ("BUG: stack guard page was hit at ffffc90000a17ff8", "stack-overflow", "kernel stack overflow in kd_step"),
    ("Insufficient stack space to handle exception!", "stack-overflow", "kernel stack overflow in kd_step"),
    ("Thread overran stack, or stack corrupted", "stack-corruption", "kernel stack is corrupted in kd_step"),
    ("WARNING: kernel stack regs at ffffc90000a17f58 in worker:300 has bad 'bp' value 0000000000000001", "stack-unwind",
     "WARNING: kernel stack regs has bad 'bp' value"),
    ("WARNING: kernel stack frame pointer at        (ptrval) in worker:300 has bad value        (ptrval)",
     "stack-unwind", "WARNING: kernel stack frame pointer has bad value"),
    ("traps: PANIC: double fault, error_code: 0x0", "double-fault", "PANIC: double fault in kd_step"),
    # null pointers: x86 of three ages, arm, arm64, RISC-V, powerpc
    ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "null-dereference", NULL + IN),
    ("BUG: unable to handle kernel NULL pointer dereference at 0000000000000008", "null-dereference", NULL + IN),
    ("Unable to handle kernel NULL pointer dereference at virtual address 00000008", "null-dereference", NULL + IN),
    ("Unable to handle kernel NULL pointer dereference at virtual address 0000000c when read", "null-dereference",
     NULL + IN),
    ("BUG: Kernel NULL pointer dereference on read at 0x00000008", "null-dereference", NULL + IN),
    # bad addresses: x86, arm64, powerpc, s390, MIPS
    ("BUG: unable to handle page fault for address: ffffc90000a17010", "page-fault", PAGE + IN),
    ("BUG: unable to handle kernel paging request at ffffc90000a17010", "page-fault", PAGE + IN),
    ("Unable to handle kernel paging request at virtual address dfff800000000001", "page-fault", PAGE + IN),
    ("Unable to handle kernel access to user memory outside uaccess routines at virtual address 0000000000000008",
     "page-fault", PAGE + IN),
    ("Unable to handle kernel write to read-only memory at virtual address ffff800008a17010", "page-fault", PAGE + IN),
    ("Unable to handle kernel execute from non-executable memory at virtual address ffff0000c5718000", "page-fault",
     PAGE + IN),
    ("Unable to handle kernel paging request for data at address 0xafb504000afb5041", "page-fault", PAGE + IN),
    ("BUG: Unable to handle kernel data access on write at 0xc0000000deadbeef", "page-fault", PAGE + IN),
    ("BUG: Unable to handle kernel instruction fetch (NULL pointer?)", "page-fault", PAGE + IN),
    ("Unable to handle kernel pointer dereference in virtual kernel address space", "page-fault", PAGE + IN),
    ("CPU 1 Unable to handle kernel paging request at virtual address 0000000000000123, epc == 1, ra == 2",
     "page-fault", PAGE + IN),
    # x86 exceptions
    ("general protection fault: 0000 [#1] SMP", "general-protection", "general protection fault in kd_step"),
    ("Oops: general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] SMP",
     "general-protection", "general protection fault in kd_step"),
    ("divide error: 0000 [#1] SMP", "divide", "divide error in kd_step"),
    ("divide_error: 0000 [#1] SMP NOPTI", "divide", "divide error in kd_step"),
    ("stack segment: 0000 [#1] SMP", "stack-segment", "stack segment fault in kd_step"),
    ("int3: 0000 [#1] SMP", "int3", "int3 in kd_step"),
    ("invalid opcode: 0000 [#1] SMP", "invalid-opcode", "invalid opcode in kd_step"),
    ("Oops: invalid opcode: 0000 [#1] SMP", "invalid-opcode", "invalid opcode in kd_step"),
    ("alignment check: 0000 [#1] SMP", "exception", "alignment check in kd_step"),
    ("Oops: control protection fault: 0003 [#1] SMP", "exception", "control protection fault in kd_step"),
    ("segment not present: 0000 [#1] SMP", "exception", "segment not present in kd_step"),
    # exceptions of arm, s390, powerpc, MIPS, RISC-V
    ("Unhandled fault: imprecise external abort (0x1406) at 0x76f00010", "unhandled-fault",
     "Unhandled fault in kd_step"),
    ("Internal error: Oops - undefined instruction: 0 [#1] SMP ARM", "invalid-opcode", "invalid opcode in kd_step"),
    ("Internal error: synchronous external abort: 96000010 [#1] PREEMPT SMP", "oops", "Oops in kd_step"),
    ("illegal operation: 0001 ilc:1 [#1] SMP", "invalid-opcode", "invalid opcode in kd_step"),
    ("specification exception: 0006 ilc:3 [#1] SMP", "exception", "specification exception in kd_step"),
    ("Oops: Exception in kernel mode, sig: 4 [#1]", "oops", "Oops in kd_step"),
    ("Reserved instruction in kernel code[#1]:", "oops", "Oops in kd_step"),
    ("Kernel bug detected[#1]:", "bug", "kernel BUG in kd_step"),
    ("Oops - illegal instruction [#1]", "invalid-opcode", "invalid opcode in kd_step"),
    ("Oops: 0002 [#1] SMP", "oops", "Oops in kd_step"),
    # checks of data
    ("list_add corruption. prev->next should be next (ffff), but was dead. (prev=ffff).", "list-corruption",
     "list_add corruption in kd_step"),
    ("list_del corruption, ffff888003a0->next is LIST_POISON1 (dead000000000100)", "list-corruption",
     "list_del corruption in kd_step"),
    ("usercopy: Kernel memory exposure attempt detected from SLUB object 'kmalloc-64' (offset 0, size 99)!", "usercopy",
     "usercopy: Kernel memory exposure attempt detected in kd_step"),
    ("usercopy: kernel memory overwrite attempt detected to ffff888003a0 (kmalloc-64) (99 bytes)", "usercopy",
     "usercopy: kernel memory overwrite attempt detected in kd_step"),
    ("detected buffer overflow in strcpy", "fortify", "detected buffer overflow in kd_step"),
    ("skbuff: skb_over_panic: text:ffffffffc0456789 len:1550 put:14 head:ffff data:ffff tail:0x64e end:0x640 dev:eth0\n"
     "kernel BUG at net/core/skbuff.c:112!", "bug", "kernel BUG in kd_step"),
    ("BUG kmalloc-64 (Tainted: G    B  ): Redzone overwritten", "slab-corruption",
     "BUG kmalloc-64: Redzone overwritten in kd_step"),
    ("slab error in verify_redzone_free(): cache `kd_slots': double free, or memory outside object was overwritten",
     "slab-corruption", "BUG kd_slots: double free in kd_step"),
    ("kernel BUG at mm/slub.c:439!", "double-free", "double free or corruption in kd_step"),
    ("kernel BUG at drivers/kd.c:12!", "bug", "kernel BUG in kd_step"),
    ("CFI failure at kd_loop+0x1/0x2 (target: kd_step+0x0/0x2; expected type: 0x1)", "cfi", "CFI failure in kd_step"),
    ("refcount_t: underflow; use-after-free.", "refcount", "refcount bug in kd_step"),
    ("ODEBUG: free active (active state 0) object type: timer_list hint: kd_timer+0x0/0x10", "object-state",
     "WARNING: ODEBUG bug in kd_step"),
    # lockdep
    ("WARNING: possible circular locking dependency detected", "deadlock", "possible deadlock in kd_step"),
    ("[ INFO: possible recursive locking detected ]", "deadlock", "possible deadlock in kd_step"),
    ("WARNING: possible irq lock inversion dependency detected", "deadlock", "possible deadlock in kd_step"),
    ("WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected", "deadlock", "possible deadlock in kd_step"),
    ("WARNING: inconsistent lock state", "lock-state", "inconsistent lock state in kd_step"),
    ("WARNING: bad unlock balance detected!", "lock-usage", "WARNING: bad unlock balance in kd_step"),
    ("[ BUG: bad unlock balance detected! ]", "lock-usage", "WARNING: bad unlock balance in kd_step"),
    ("WARNING: held lock freed!", "lock-usage", "WARNING: held lock freed in kd_step"),
    ("WARNING: worker/300 still has locks held!", "lock-usage", "WARNING: still has locks held in kd_step"),
    ("WARNING: lock held when returning to user space!", "lock-usage",
     "WARNING: lock held when returning to user space in kd_step"),
    ("[ BUG: Invalid wait context ]", "lock-context", "WARNING: Invalid wait context in kd_step"),
    ("WARNING: Nested lock was not taken", "lock-context", "WARNING: Nested lock was not taken in kd_step"),
    ("BUG: MAX_LOCKDEP_CHAINS too low!", "lock-context", "WARNING: MAX_LOCKDEP_CHAINS too low in kd_step"),
    ("INFO: trying to register non-static key.", "lock-key", "INFO: trying to register non-static key in kd_step"),
    ("WARNING: suspicious RCU usage", "suspicious-rcu", "WARNING: suspicious RCU usage in kd_step"),
    ("[ INFO: suspicious RCU usage. ]", "suspicious-rcu", "WARNING: suspicious RCU usage in kd_step"),
    # warnings of all ages
    ("WARNING: CPU: 1 PID: 300 at drivers/kd.c:12 kd_step+0x1/0x2 [kd]", "warning", "WARNING in kd_step"),
    ("WARNING: drivers/kd.c:12 at kd_step+0x1/0x2, CPU#1: worker/300", "warning", "WARNING in kd_step"),
    ("WARNING: drivers/kd.c:12 at 0x0, CPU#1: worker/300", "warning", "WARNING in kd_step"),
    ("WARNING: at drivers/kd.c:12 kd_step+0x1/0x2() (Not tainted)", "warning", "WARNING in kd_step"),
    ("WARNING: at drivers/kd.c:12\nkd_step+0x1/0x2() (Not tainted)", "warning", "WARNING in kd_step"),
    ("WARNING: CPU: 1 PID: 300 at kernel/locking/lockdep.c:735 look_up_lock_class+0x1/0x2", "warning",
     "WARNING: locking bug in kd_step"),
    ("WARNING: CPU: 1 PID: 300 at lib/kobject.c:12 kobject_get+0x1/0x2", "warning", "WARNING: kobject bug in kd_step"),
    # hangs
    ("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [worker:300]", "soft-lockup", "BUG: soft lockup in kd_step"),
    ("BUG: soft lockup - CPU#1 stuck for 61s! [worker:300]", "soft-lockup", "BUG: soft lockup in kd_step"),
    ("watchdog: Watchdog detected hard LOCKUP on cpu 1", "hard-lockup", "hard lockup in kd_step"),
    ("watchdog: CPU 1 self-detected hard LOCKUP @ kd_step+0x1/0x2", "hard-lockup", "hard lockup in kd_step"),
    ("INFO: rcu_sched self-detected stall on CPU", "rcu-stall", "INFO: rcu detected stall in kd_step"),
    ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "rcu-stall", "INFO: rcu detected stall in kd_step"),
    ("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-... } 21 jiffies s: 9", "rcu-stall",
     "INFO: rcu detected stall in kd_step"),
    ("INFO: task worker:300 blocked for more than 120 seconds.", "hung-task", "INFO: task hung in kd_step"),
    ("INFO: task worker:300 blocked in I/O wait for more than 120 seconds.", "hung-task", "INFO: task hung in kd_step"),
    ("INFO: task worker:300 is blocked on a mutex likely owned by task other:301, for more than 120 seconds.",
     "hung-task", "INFO: task hung in kd_step"),
    ("INFO: task worker:300 can't die for more than 143 seconds.", "hung-task", "INFO: task hung in kd_step"),
    ("BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 35s!\n    in-flight: 44:kd_work",
     "workqueue-lockup", "BUG: workqueue lockup in kd_work"),
    ("BUG: workqueue leaked lock or atomic: kworker/1:1/0x00000001/44\n     last function: kd_work", "workqueue-leak",
     "BUG: workqueue leaked atomic, lock or RCU in kd_work"),
    ("BUG: spinlock bad magic on CPU#1, worker/300", "spinlock", "BUG: spinlock bad magic in kd_step"),
    ("BUG: rwlock recursion on CPU#1, worker/300, ffff888003a0", "spinlock", "BUG: spinlock recursion in kd_step"),
    ("BUG: scheduling while atomic: worker/300/0x00000002", "atomic-sleep", "BUG: scheduling while atomic in kd_step"),
    ("BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580", "atomic-sleep",
     "BUG: sleeping function called from invalid context in kd_step"),
    ("BUG: using smp_processor_id() in preemptible [00000000] code: worker/300\ncaller is kd_step+0x1/0x2",
     "preemptible", "BUG: using smp_processor_id() in preemptible code in kd_step"),
    ("BUG: using __this_cpu_read() in preemptible code", "preemptible",
     "BUG: using __this_cpu_read() in preemptible code in kd_step"),
    ("BUG: Bad page state in process worker  pfn:12345", "bad-page", "BUG: Bad page state in kd_step"),
    ("BUG: Dentry 0000000012345678{i=1,n=/}  still in use (1) [unmount of ext4 vdb]", "dentry",
     "BUG: Dentry still in use"),
    ("VFS: Busy inodes after unmount of vdb (ext4)", "busy-inodes", "VFS: Busy inodes after unmount"),
    ("unregister_netdevice: waiting for veth3 to become free. Usage count = 2", "device-references",
     "unregister_netdevice: waiting for veth3 to become free"),
    ("irq 18: nobody cared (try booting with the \"irqpoll\" option)", "irq-nobody-cared", "irq 18: nobody cared"),
    ("BUG: memory leak", "memory-leak", "memory leak in kd_step"),
    ("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", "memory-leak",
     "memory leak in kd_step"),
    ("BUG: Something that nobody has thought of yet", "complaint",
     "BUG: Something that nobody has thought of yet in kd_step"),
    ("sysrq: Trigger a crash", "sysrq", "sysrq triggered crash"),
    ("SysRq : Trigger a crashdump", "sysrq", "sysrq triggered crash"),
    ("worker invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0", "out-of-memory",
     "Out of memory: a process was killed"),
    ("mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: a600000000020408", "machine-check",
     "Machine check: logged"),
    ("Uhhuh. NMI received for unknown reason 30 on CPU 0.", "nmi", "NMI: nmi"),
    ("EXT4-fs error (device vdb): ext4_lookup:1700: inode #2: comm ls: bad", "filesystem",
     "EXT4-fs error"),
    # what panic() says
    (PANIC + "stack-protector: Kernel stack is corrupted in: kd_step+0x1/0x2", "stack-corruption",
     "kernel stack is corrupted in kd_step"),
    (PANIC + "corrupted stack end detected inside scheduler", "stack-corruption",
     "kernel stack is corrupted in kd_step"),
    (PANIC + "Watchdog detected hard LOCKUP on cpu 1", "hard-lockup", "hard lockup in kd_step"),
    (PANIC + "scheduling while atomic", "atomic-sleep", "BUG: scheduling while atomic in kd_step"),
    (PANIC + "Attempted to kill init! exitcode=0x00000009", "init-killed", "Attempted to kill init! by SIGKILL"),
    (PANIC + "Attempted to kill the idle task!", "idle-killed", "Attempted to kill the idle task!"),
    (PANIC + "VFS: Unable to mount root fs on unknown-block(0,0)", "root-filesystem",
     "VFS: Unable to mount root fs on unknown-block(0,0)"),
    (PANIC + "kd: table 3 is gone", "panic", "kernel panic: kd: table 3 is gone"),
)  # fmt: skip


def verdict(text: str) -> Verdict:
    return judge(Context(None, logtext.from_text(text)))


@pytest.mark.parametrize(("line", "kind", "title"), ANNOUNCEMENTS)
def test_announcement(line: str, kind: str, title: str) -> None:
    found = verdict(f"{line}\n{X86}")
    assert (found.kind, found.title) == (kind, title)


def test_every_kind_is_announced_here() -> None:
    assert {kind for _, kind, _ in ANNOUNCEMENTS} == {kind.id for kind in kinds.KINDS} | {kinds.GENERIC_PANIC.id}


def test_hints_let_every_headline_through() -> None:
    """Lines without a hint are not looked at: each headline here must have one."""
    for line, kind, _ in ANNOUNCEMENTS:
        if not line.startswith(PANIC):
            found = kinds.headline(line.split("\n", 1)[0])
            assert found is not None and found[0].id in (kind, "bug"), line


@pytest.mark.parametrize(
    "line",
    [
        "INFO: lockdep is turned off.",
        "WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks, data leaks possible!",
        "systemd[1]: Started Kernel panic watcher.",
        "usb 1-1: device descriptor read/64, error -71",
        "blk_update_request: I/O error, dev vdb, sector 8",
        "perf: interrupt took too long (2501 > 2500), lowering kernel.perf_event_max_sample_rate to 79000",
        "e1000: eth0 NIC Link is Up 1000 Mbps Full Duplex",
        "audit: type=1400 audit(1.0:2): apparmor=\"DENIED\" operation=\"open\"",
        "NOHZ tick-stop error: local softirq work is pending, handler #08!!!",
        "mce: CPU supports 7 MCE banks",
        "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
        "rcu: Hierarchical RCU implementation.",
        "sysrq: Emergency Sync",
        "FAULT_INJECTION: forcing a failure.",
        "EXT4-fs (vda1): mounted filesystem with ordered data mode",
    ],
)  # fmt: skip
def test_no_false_alarm(line: str) -> None:
    found = verdict(f"{line}\nCPU: 1 PID: 300 Comm: worker Not tainted 6.1.0 #1\n")
    assert (found.kind, found.fatal, found.signature) == ("none", False, "")


SURVIVED = (
    "mce: [Hardware Error]: Machine check events logged\nmce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: a6",
    "worker invoked oom-killer: gfp_mask=0xcc0\nOut of memory: Killed process 300 (worker) total-vm:1kB",
    f"WARNING: CPU: 1 PID: 300 at drivers/kd.c:12 kd_step+0x1/0x2\n{X86}",
    f"BUG: KASAN: slab-use-after-free in kd_step+0x1/0x2\n{X86}",
    f"WARNING: possible circular locking dependency detected\n{X86}",
    f"INFO: task worker:300 blocked for more than 120 seconds.\n{X86}",
)


@pytest.mark.parametrize("text", SURVIVED)
def test_what_the_kernel_survived_is_not_fatal(text: str) -> None:
    found = verdict(text)
    assert found.kind != "none" and not found.fatal
    assert "fatal" not in found.title
    assert found.explanation.endswith("Nothing says that the kernel died of it.")
    assert "told to panic" not in found.explanation
    for panic in ("panic_on_warn set ...", "hung_task: blocked tasks", "Fatal exception"):
        assert verdict(f"{text}\n{PANIC}{panic}\n").fatal


def test_oopses_are_fatal_without_a_panic() -> None:
    """An oops goes straight to the capture kernel."""
    for line in ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "kernel BUG at drivers/kd.c:12!"):
        found = verdict(f"{line}\n{X86}")
        assert found.fatal and "Nothing says" not in found.explanation


def test_the_first_of_a_chain_is_the_cause() -> None:
    """Without a panic: what follows within seconds is a consequence; what came long before is not the cause."""

    def at(seconds: float, line: str, function: str) -> str:
        text = f"{line}\n{X86}---[ end trace 0000000000000000 ]---\n".replace("kd_step", function)
        return "".join(f"[{seconds:12.6f}] {each}\n" for each in text.splitlines())

    first = at(5, "BUG: kernel NULL pointer dereference, address: 0000000000000008", "kd_long_ago")
    second = at(900, "general protection fault: 0000 [#2] SMP", "kd_cause")
    third = at(903, "BUG: kernel NULL pointer dereference, address: 0000000000000010", "kd_consequence")
    found = verdict(first + second + third)
    assert found.title == "general protection fault in kd_cause"
    assert len(found.earlier) == 1


def test_a_double_fault_within_a_page_fault() -> None:
    text = "BUG: unable to handle page fault for address: ffffc90000a17010\nPANIC: double fault, error_code: 0x0\n"
    assert verdict(f"{text}{X86}{PANIC}Machine halted.\n").kind == "page-fault"


def test_task_that_hung_and_task_that_noticed() -> None:
    text = "INFO: task worker:300 blocked for more than 120 seconds.\n      Not tainted 6.1.0 #1\n"
    text += "task:worker          state:D stack:0     pid:300   ppid:2      flags:0x00004000\n"
    text += "Call Trace:\n <TASK>\n __schedule+0x1/0x2\n schedule+0x1/0x2\n kd_step+0x1/0x2\n </TASK>\n"
    text += f"{PANIC}hung_task: blocked tasks\nCPU: 1 PID: 31 Comm: khungtaskd Not tainted 6.1.0 #1\n"
    text += (
        "Call Trace:\n <TASK>\n dump_stack_lvl+0x1/0x2\n panic+0x1/0x2\n watchdog+0x1/0x2\n kthread+0x1/0x2\n </TASK>\n"
    )
    found = verdict(text)
    assert found.title == "INFO: task hung in kd_step" and found.fatal
    assert found.task is not None and (found.task.command, found.task.pid) == ("worker", 300)
    assert found.stack_of == "task worker (pid 300)"


def test_parts_of_a_title_do_not_run_together() -> None:
    found = verdict(f"{PANIC}stack-protector: Kernel stack is corrupted in: kd_step\n{X86}")
    assert found.title == "kernel stack is corrupted in kd_step"
