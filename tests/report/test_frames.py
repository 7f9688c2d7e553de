"""Shapes of frames of every architecture, families of functions, and which stack of a report tells of the cause."""

# ruff: noqa: E501 - logs read better unbroken

from __future__ import annotations

import re

import pytest

from kdump.report import families, frames, logtext, rust, shapes
from kdump.report.context import Context
from kdump.report.families import Family
from kdump.report.kinds import BY_ID
from kdump.report.model import Frame, Verdict
from kdump.report.verdict import judge


def verdict(text: str) -> Verdict:
    return judge(Context(None, logtext.from_text(text)))


# A line, and the functions that it shows (None: it shows no frame; a guess or an inlined call shows none).
LINES: tuple[tuple[str, list[str] | None], ...] = (
    (" kd_step+0x1f/0x60", ["kd_step"]),
    (" kd_step+0x1f/0x60 [kd]", ["kd_step"]),
    (" kd_step+0x1f/0x60 [kd 5d2e0c1a7b]", ["kd_step"]),
    (" kd_step.isra.0+0x1f/0x60 [kd(OE+)]", ["kd_step.isra.0"]),
    (" ? kd_step+0x1f/0x60", []),
    (" [<ffffffff8105d3f2>] kd_step+0x1f/0x60", ["kd_step"]),
    (" [<ffffffff8105d3f2>] ? kd_step+0x1f/0x60", []),
    ("[<ffffffff8105d3f2>] kd_step+0x1f/0x60 [kd]", ["kd_step"]),
    (" <IRQ>  [<ffffffff8105d3f2>] kd_step+0x1f/0x60", ["kd_step"]),
    (" <<EOE>>  [<ffffffff8105d3f2>] kd_step+0x1f/0x60", ["kd_step"]),
    (" <EOI> [<ffffffff8105d3f2>] ? kd_step+0x1f/0x60", []),
    # decode_stacktrace.sh, of all ages
    (" kd_step+0x1f/0x60 drivers/kd.c:12", ["kd_step"]),
    (" kd_step+0x1f/0x60 drivers/kd.c:12 (discriminator 3) [kd]", ["kd_step"]),
    (" kd_step+0x1f/0x60 ??:?", ["kd_step"]),
    (" kd_step (drivers/kd.c:12)", ["kd_step"]),
    (" kd_step (include/linux/kd.h:9 (discriminator 1) drivers/kd.c:12) kd", ["kd_step"]),
    (" ? kd_step (drivers/kd.c:12)", []),
    (" kd_inner drivers/kd.c:12 [inline]", []),
    # arm
    ("[<c010f218>] (kd_step [kd]) from [<c010f2a0>] (kd_loop+0x3c/0x5c [kd])", ["kd_step", "kd_loop"]),
    (" kd_step from kd_loop+0x3c/0x5c", ["kd_step", "kd_loop"]),
    (" kd_step [kd] from kd_loop+0x3c/0x5c [kd]", ["kd_step", "kd_loop"]),
    # powerpc, s390
    ("[c000003fdc18bd40] [c000000000150aec] kd_step+0x13c/0x310", ["kd_step"]),
    ("[c000003fdc18bd40] [c000000000150aec] .kd_step+0x13c/0x310 [kd]", [".kd_step"]),
    ("[c000003fdc18bc80] [c000000000159400] kd_step+0x160/0x5f0 (unreliable)", []),
    ("--- interrupt: 300 at kd_step+0x1c/0x30", ["kd_step"]),
    ("--[ interrupt: 380 at kd_step+0x1c/0x30", ["kd_step"]),
    (" [<000003ff8023abcd>] kd_step+0x2d/0x100 [kd] ", ["kd_step"]),
    ("([<000003ff8023abcd>] kd_step+0x2d/0x100 [kd])", ["kd_step"]),
    # Rust, demangled
    (" <kd::ring::Ring>::put+0x15b/0x160", ["<kd::ring::Ring>::put"]),
    (" <kd::ring::Ring as kernel::Module>::init+0x1/0x2", ["<kd::ring::Ring as kernel::Module>::init"]),
    # no frames
    ("Modules linked in: kd(OE)", None),
    ("RAX: 0000000000000000 RBX: ffff888003a0 RCX: 0000000000000001", None),
    ("kd: probe of 0000:00:03.0 failed at kd_step+0x1/0x2 today", None),
    ("Code: 48 8b 07 <89> 10", None),
    ("", None),
)


@pytest.mark.parametrize(("line", "functions"), LINES)
def test_frame(line: str, functions: list[str] | None) -> None:
    found = shapes.frames(line, None)
    assert (None if found is None else [frame.function for frame in found]) == functions
    if functions and "[kd" in line:
        assert found is not None and found[-1].module == "kd"


def test_arm_names_each_function_once() -> None:
    first = shapes.frames(" kd_step from kd_loop+0x3c/0x5c", None)
    assert first is not None
    second = shapes.frames(" kd_loop from kd_main+0x10/0x20", first[-1])
    assert [frame.function for frame in [*first, *(second or [])]] == ["kd_step", "kd_loop", "kd_main"]
    assert (first[1].offset, first[1].size) == (0x3C, 0x5C)


COUNTERS = (
    ("RIP: 0010:kd_step+0x1f/0x60 [kd]", ("kd_step", True)),
    ("RIP: 0010:[<ffffffff8105d3f2>]  [<ffffffff8105d3f2>] kd_step+0x1f/0x60", ("kd_step", True)),
    ("RIP: e030:kd_step+0x1f/0x60", ("kd_step", True)),
    ("RIP: 0010:kd_step (drivers/kd.c:12)", ("kd_step", True)),
    ("RIP: 0010:0x0", (None, True)),
    ("RIP: 0033:0x7f3939590eea", (None, False)),
    ("RIP: 0023:0xf7f2a549", (None, False)),
    ("EIP: kd_step+0x1f/0x60", ("kd_step", True)),
    ("EIP is at kd_step+0x1f/0x60", ("kd_step", True)),
    ("IP: [<ffffffff8105d3f2>] kd_step+0x1f/0x60 [kd]", ("kd_step", True)),
    ("IP: kd_step+0x1f/0x60", ("kd_step", True)),
    ("PC is at kd_step+0x18/0x64 [kd]", ("kd_step", True)),
    ("pc : kd_step+0xd8/0x240", ("kd_step", True)),
    ("pc : [<c010f218>]    lr : [<c010f2a0>]    psr: 60000013", (None, True)),
    ("epc : kd_step+0x1c/0x30", ("kd_step", True)),
    ("epc   : ffffffff80123456 kd_step+0x10/0x20", ("kd_step", True)),
    ("era : 9000000000a1b2c3 kd_step+0x10/0x20", ("kd_step", True)),
    ("NIP [c000000000ac0ce8] kd_step+0x18/0xf0", ("kd_step", True)),
    ("Krnl PSW : 0704e00180000000 000003ff8023abcd (kd_step+0x2d/0x100 [kd])", ("kd_step", True)),
    ("TPC: <kd_step+0x4/0x30>", ("kd_step", True)),
)


@pytest.mark.parametrize(("line", "expected"), COUNTERS)
def test_program_counter(line: str, expected: tuple[str | None, bool]) -> None:
    found = shapes.counter(line)
    assert found is not None
    assert (found[0].function if found[0] else None, found[1]) == expected
    for other in (
        "RSP: 0018:ffffc900007dbd40",
        "LR is at kd_step+0x1/0x2",
        "lr : kd_step+0x1/0x2",
        "NIP:  c000 LR: c000",
    ):
        assert shapes.counter(other) is None


# One function of each family, and one that only looks like it.
MEMBERS = {
    "stack walkers": ("show_stack", "show_status"),
    "panic": ("__warn", "warn_user"),
    "x86 exceptions": ("exc_page_fault", "exchange_tids"),
    "arm exceptions": ("do_mem_abort", "do_memory"),
    "other exceptions": ("program_check_exception", "program_load"),
    "NMI and watchdog": ("nmi_cpu_backtrace", "watchdog_dev_open"),
    "RCU and hung task detectors": ("rcu_dump_cpu_stacks", "rcu_torture_reader"),
    "sanitizers": ("__asan_load8", "kas_load"),
    "lock checking": ("__lock_acquire", "lock_rename"),
    "context checking": ("__might_resched", "mighty"),
    "object checking": ("debug_object_free", "debugfs_create_file"),
    "Rust panics": ("core::panicking::panic_fmt", "kd::core_dump"),
    "out of memory": ("oom_kill_process", "oom_reaper"),
    "memory and strings": ("_copy_to_user", "copy_page_range"),
    "locks": ("_raw_spin_lock_irqsave", "rtnl_lock"),
    "printing": ("vprintk_emit", "printer_open"),
    "allocators": ("__kmalloc_noprof", "vmalloc_fault"),
    "lists, trees and bits": ("rb_erase", "list_del_event"),
    "reference counters": ("refcount_inc", "refill_stock"),
    "driver core": ("kobject_put", "device_links_busy"),
    "timers and work": ("cancel_work_sync", "process_timeout"),
    "waiting and waking": ("finish_wait", "remove_wait_queue"),
    "file system helpers": ("iput", "find_get_context"),
    "register access": ("__raw_readb", "read_mem"),
    "network buffers": ("skb_put", "skb_release_data"),
    "bus transfers": ("usb_submit_urb", "usb_probe_interface"),
    "instructions": ("__x86_indirect_thunk_rax", "delayed_fput"),
    "sleeping": ("schedule_timeout", "ext4_read_block_bitmap_nowait"),
    "allocating": ("sk_alloc", "vfs_fallocate"),
    "entries": ("do_syscall_64", "do_sys_open"),
    "interrupt entries": ("asm_sysvec_apic_timer_interrupt", "request_irq"),
    "idle": ("default_idle", "idle_cull_fn"),
}  # fmt: skip


def test_every_family_holds_its_own_and_no_more() -> None:
    assert set(MEMBERS) == set(families.BY_ID)
    for name, (member, other) in MEMBERS.items():
        classes = families.Classes((families.BY_ID[name],))
        assert classes.holds(member), name
        assert not classes.holds(other), name
        assert classes.of(member) is families.BY_ID[name]


def test_gathering_places() -> None:
    found = {
        name: frames.gathering(name) for name in ("synchronize_rcu", "smp_call_function_many", "rtnl_lock", "kd_step")
    }
    assert [family.id if family else "" for family in found.values()] == ["RCU grace period", "other CPUs", "RTNL", ""]


def test_looking_names_up_is_the_same_as_matching_them() -> None:
    """Most names are looked up in sets; the expressions are the definition."""
    words = [name for pair in MEMBERS.values() for name in pair]
    words += [prefix + word for word in words for prefix in ("_", "__", "x_")] + [word + "_more" for word in words]
    for family in families.BY_ID.values():
        expression = re.compile("|".join(f"(?:{name})" for name in family.names))
        classes = families.Classes((Family(family.id, "", family.names),))
        assert [classes.holds(word) for word in words] == [bool(expression.fullmatch(word)) for word in words], (
            family.id
        )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kd_step.isra.0.cold", "kd_step"), ("kd_step.constprop.12", "kd_step"), ("kd_step.llvm.123456", "kd_step"),
        ("__pfx_kd_step", "kd_step"), (".kd_step", "kd_step"), ("kd_step.33580", "kd_step"),
        ("__x64_sys_read", "sys_read"), ("__arm64_sys_read", "sys_read"), ("__se_sys_read", "sys_read"),
        ("__do_sys_read", "sys_read"), ("SyS_read", "sys_read"), ("SYSC_read", "sys_read"),
        ("__ia32_compat_sys_ioctl", "compat_sys_ioctl"), ("compat_SyS_ioctl", "compat_sys_ioctl"),
        ("__sys_sendmsg", "__sys_sendmsg"), ("ksys_read", "ksys_read"),
        ("_RNvMs3_NtCs1234567_2kd4ringNtB5_4Ring3put", "<kd::ring::Ring>::put"),
    ],
)  # fmt: skip
def test_normal_names(name: str, expected: str) -> None:
    assert frames.normalise(name) == expected


@pytest.mark.parametrize(
    ("mangled", "path"),
    [
        ("_RNvC2kd4step", "kd::step"),
        ("_RNvNtCs8fEd_2kd4ring3put", "kd::ring::put"),
        ("_RNvMNtCs8fEd_2kd4ringNtB2_4Ring3put", "<kd::ring::Ring>::put"),
        ("_RNvXs_Cs8fEd_2kdNtB4_4RingNtCs7_6kernel6Module4init", "<kd::Ring as kernel::Module>::init"),
        ("_RNCNvC2kd4step0B3_", "kd::step::{closure}"),
        ("_RINvC2kd4stepmE", "kd::step"),
        ("_RNvC2kd", "_RNvC2kd"),  # cut off
        ("_RNvB_2kd", "_RNvB_2kd"),  # refers to itself
        ("kd_step", "kd_step"),
    ],
)  # fmt: skip
def test_rust_names(mangled: str, path: str) -> None:
    assert rust.demangle(mangled) == path


def test_rust_names_are_the_same_in_every_build() -> None:
    assert frames.normalise("_RNvCsaaaaaaa_2kd4step") == frames.normalise("_RNvCsbbbbbbb_2kd4step") == "kd::step"


NULL = "BUG: kernel NULL pointer dereference, address: 0000000000000008\n"


def stack(*functions: str, title: str = "Call Trace:") -> str:
    return f"{title}\n" + "".join(f" {name}+0x1/0x2\n" for name in functions)


@pytest.mark.parametrize("outer", ["kd_step", "kd_step.part.0"])
@pytest.mark.parametrize(
    "machinery",
    [
        ("memcpy", "_raw_spin_lock", "mutex_lock"), ("dump_stack_lvl", "print_report", "kasan_report", "__asan_load8"),
        ("do_mem_abort", "el1_abort", "el1h_64_sync", "__memset"), ("__list_del_entry_valid", "list_del"),
        ("kmem_cache_free", "kfree"), ("skb_panic", "skb_put"), ("rb_erase", "xas_find"), ("iput", "dput"),
        ("kobject_put", "device_unregister"), ("__cancel_work_timer", "cancel_work_sync"),
        ("asm_exc_invalid_op", "refcount_warn_saturate"), ("debug_print_object", "debug_object_free"),
        ("usercopy_abort", "__check_object_size", "_copy_to_user"), ("program_check_exception", "__radix_tree_lookup"),
    ],
)  # fmt: skip
def test_machinery_is_not_guilty(machinery: tuple[str, ...], outer: str) -> None:
    found = verdict(NULL + stack(*machinery, outer, "vfs_read", "do_syscall_64"))
    assert found.title.endswith(" in kd_step")
    assert found.guilty is not None and found.guilty.function == outer


def test_where_all_is_machinery_the_nearest_is_named_and_nothing_is_signed() -> None:
    found = verdict(NULL + stack("dump_stack", "memcpy", "kfree", "do_syscall_64"))
    assert found.title.endswith(" in memcpy")
    assert (found.signature, found.coarse) == ("", "")


def test_the_headlines_function_where_nothing_else_was_read() -> None:
    found = verdict("BUG: KASAN: slab-out-of-bounds in kd_step+0x1/0x2 [kd]\n" + stack("dump_stack", "kasan_report"))
    assert found.title == "KASAN: slab-out-of-bounds in kd_step"
    assert found.signature


TIMER = ("update_process_times", "tick_sched_handle", "__hrtimer_run_queues", "hrtimer_interrupt")
ENTRIES = {
    "x86 until 5.7": ("smp_apic_timer_interrupt", "apic_timer_interrupt"),
    "x86 since 5.8": ("__sysvec_apic_timer_interrupt", "sysvec_apic_timer_interrupt", "asm_sysvec_apic_timer_interrupt"),
    "arm64": ("gic_handle_irq", "call_on_irq_stack", "do_interrupt_handler", "el1_interrupt", "el1h_64_irq"),
    "arm": ("gic_handle_irq", "__irq_svc"),
    "NMI": ("nmi_handle", "default_do_nmi", "do_nmi", "end_repeat_nmi"),
}  # fmt: skip
NOTICED = ("dump_stack", "nmi_cpu_backtrace", "rcu_dump_cpu_stacks", "rcu_sched_clock_irq")


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    "headline",
    [
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "watchdog: Watchdog detected hard LOCKUP on cpu 0",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [worker:300]",
    ],
)
def test_nothing_up_to_the_interrupt_is_guilty(entry: str, headline: str) -> None:
    text = f"{headline}\n" + stack(*NOTICED, *TIMER, *ENTRIES[entry], "_raw_spin_lock", "kd_spin", "kd_loop", "kthread")
    assert verdict(text).title.endswith(" in kd_spin")


def test_an_outer_interrupt_is_not_the_detectors() -> None:
    """A backtrace by NMI of a CPU that was in a timer's interrupt: what that did is guilty."""
    text = "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\nrcu: \t1-...!: (0 ticks this GP) idle=d9c/0/0x0\n"
    text += "Sending NMI from CPU 0 to CPUs 1:\nNMI backtrace for cpu 1\nRIP: 0010:kd_timer+0x1/0x2\n"
    text += stack("call_timer_fn", "run_timer_softirq", "sysvec_apic_timer_interrupt", "asm_sysvec_apic_timer_interrupt",
                  "kd_innocent", "kthread")  # fmt: skip
    found = verdict(text)
    assert found.title.endswith(" in kd_timer")
    assert found.stack_of == "CPU 1"


STALL = (
    "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:\n"
    "rcu: \t3-...!: (0 ticks this GP) idle=d9c/0/0x0 softirq=20/20 fqs=0\n"
    "\t(detected by 0, t=33407 jiffies, g=-1107, q=10)\n"
)
KTHREAD = (
    "rcu: rcu_sched kthread starved for 33407 jiffies! g-1107 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x402 ->cpu=1\n"
    "rcu: RCU grace-period kthread stack dump:\nrcu_sched       I15016    11      2 0x80004000\n"
    + stack("__schedule", "schedule", "schedule_timeout", "rcu_gp_kthread", "kthread", "ret_from_fork")
)


def test_the_stalled_cpus_stack_is_taken_not_the_grace_period_threads() -> None:
    other = "NMI backtrace for cpu 2\n" + stack("kd_innocent", "kthread")
    own = "NMI backtrace for cpu 3\nRIP: 0010:kd_spin+0x1/0x2\n" + stack("kd_loop", "kthread")
    for text in (STALL + KTHREAD + own, STALL + own + KTHREAD, STALL + other + own, STALL + KTHREAD + other + own):
        found = verdict(text)
        assert found.title.endswith(" in kd_spin")
        assert found.stack_of == "CPU 3"


def test_a_stall_without_the_stalled_cpus_stack_has_no_culprit() -> None:
    idle = "NMI backtrace for cpu 3 skipped: idling at default_idle+0x1e/0x130\n"
    for text in (STALL, STALL + idle + KTHREAD, STALL + KTHREAD):
        found = verdict(
            text + "Kernel panic - not syncing: RCU Stall\nCPU: 0 PID: 0 Comm: swapper/0 Not tainted 5.4.1 #1\n"
        )
        assert (found.title, found.signature, found.guilty) == ("INFO: rcu detected stall", "", None)


def test_hard_lockup_that_another_cpu_reports() -> None:
    """The buddy detector: the first stack is of who noticed."""
    text = "watchdog: CPU2: Watchdog detected hard LOCKUP on cpu 3\nCPU: 2 PID: 9 Comm: other Not tainted 6.6.0 #1\n"
    text += stack("kd_innocent", "kthread") + "Sending NMI from CPU 2 to CPUs 3:\nNMI backtrace for cpu 3\n"
    text += "CPU: 3 PID: 300 Comm: worker Not tainted 6.6.0 #1\nRIP: 0010:kd_spin+0x1/0x2\n" + stack(
        "kd_loop", "kthread"
    )
    found = verdict(text)
    assert found.title == "hard lockup in kd_spin" and found.stack_of == "CPU 3"


def test_interrupted_registers_within_a_stack() -> None:
    """Since 4.19 x86 prints the registers of the interrupted context between the frames."""
    text = "rcu: INFO: rcu_sched self-detected stall on CPU\n" + stack(*NOTICED, *TIMER, "apic_timer_interrupt")
    text += " </IRQ>\nRIP: 0010:kd_spin+0x1/0x2\nRSP: 0018:ffff EFLAGS: 00000246 ORIG_RAX: ffffffffffffff13\n"
    text += "RAX: 0000000000000000 RBX: ffff9a0bd8e00000 RCX: 0000000000000000\n kd_loop+0x1/0x2\n kthread+0x1/0x2\n"
    found = verdict(text)
    assert found.title.endswith(" in kd_spin")
    assert [frame.function for frame in found.frames][-3:] == ["kd_spin", "kd_loop", "kthread"]


def test_stacks_of_other_times_are_left_alone() -> None:
    """Who allocated, freed and locked is printed as a stack too, some of it first."""
    allocated = stack("kasan_save_stack", "kd_make", title="Allocated by task 12:")
    freed = stack("kasan_save_stack", "kd_drop", title="Freed by task 12:")
    running = stack("dump_stack_lvl", "kasan_report", "kd_step")
    assert verdict("BUG: KASAN: slab-use-after-free in kd_step+0x1/0x2\n" + allocated + freed + running).title.endswith(
        "kd_step"
    )
    cycle = "WARNING: possible circular locking dependency detected\nworker/300 is trying to acquire lock:\n"
    cycle += "ffff888003a0 (&kd->lock){+.+.}-{3:3}, at: kd_step+0x1/0x2\n" + stack(
        "kd_other", title="-> #1 (&a){+.+.}-{3:3}:"
    )
    found = verdict(
        cycle
        + "stack backtrace:\nCPU: 1 PID: 300 Comm: worker Not tainted 6.1.0 #1\n"
        + stack("check_noncircular", "__lock_acquire", "__mutex_lock", "kd_step")
    )
    assert found.title == "possible deadlock in kd_step"
    assert found.task is not None and found.task.pid == 300
    sanitizer = "BUG: KMSAN: uninit-value in kd_step+0x1/0x2\n kd_step+0x1/0x2\n kd_loop+0x1/0x2\n\n"
    found = verdict(sanitizer + stack("__alloc_pages", "kd_make", title="Uninit was created at:"))
    assert [frame.function for frame in found.frames] == ["kd_step", "kd_loop"]
    race = "BUG: KCSAN: data-race in kd_step / kd_other\n\n"
    race += stack("kd_step", "kd_loop", title="write to 0xffff888003a0 of 4 bytes by task 300 on cpu 1:")
    race += "\n" + stack("kd_other", title="read to 0xffff888003a0 of 4 bytes by task 301 on cpu 2:")
    assert [frame.function for frame in verdict(race).frames] == ["kd_step", "kd_loop"]
    fence = "BUG: KFENCE: use-after-free read in kd_step+0x1/0x2\n\n"
    fence += stack("kd_step", "kd_loop", title="Use-after-free read at 0x00000000d2b1c3e5 (in kfence-#12):")
    fence += "\n" + stack(
        "kd_make", title="kfence-#12: 0x0-0x1, size=32, cache=kmalloc-32\n\nallocated by task 12 on cpu 0 at 1.0s:"
    )
    assert [frame.function for frame in verdict(fence).frames] == ["kd_step", "kd_loop"]
    psw = (
        NULL.replace("BUG: k", "BUG: k")
        + stack("kd_step", "kd_loop")
        + "Last Breaking-Event-Address:\n [<000003ff>] kd_other+0x1/0x2\n"
    )
    assert [frame.function for frame in verdict(psw).frames] == ["kd_step", "kd_loop"]


def test_memory_leak_names_who_asked_for_the_memory() -> None:
    text = 'unreferenced object 0xffff888003a0 (size 96):\n  comm "worker", pid 300, jiffies 42 (age 9.0s)\n  backtrace (crc 1a2b3c4d):\n'
    text += "    [<00000000d2b1c3e5>] kmem_cache_alloc+0x1/0x2\n    [<00000000d2b1c3e6>] kd_alloc_slot+0x1/0x2\n    [<00000000d2b1c3e7>] kd_step+0x1/0x2\n"
    found = verdict(text)
    assert found.title == "memory leak in kd_step" and found.stack_of == "whoever allocated the memory"


def test_the_message_names_who_kept_the_lock() -> None:
    text = "WARNING: worker/300 still has locks held!\n6.1.0 #1 Not tainted\n1 lock held by worker/300:\n"
    text += " #0: ffff888003a0 (&kd->lock){+.+.}-{3:3}, at: kd_begin+0x1/0x2\n\nstack backtrace:\n" + stack(
        "dump_stack", "do_exit", "get_signal"
    )
    assert verdict(text).title == "WARNING: still has locks held in kd_begin"
    text = "WARNING: bad unlock balance detected!\nworker/300 is trying to release lock (kd_lock) at:\n[<ffffffff8105d3f2>] kd_end+0x1/0x2\n"
    assert verdict(text + "but there are no more locks to release!\n").title == "WARNING: bad unlock balance in kd_end"


def test_sleeping_is_machinery_only_where_somebody_waits() -> None:
    functions = (
        "__schedule",
        "schedule",
        "io_schedule",
        "folio_wait_bit_common",
        "kd_wait_event",
        "kd_step",
        "kthread",
    )
    hung = "INFO: task worker:300 blocked for more than 120 seconds.\n"
    assert verdict(hung + stack(*functions)).title == "INFO: task hung in kd_step"
    assert verdict(hung + stack("__schedule", "schedule", "kthread")).title == "INFO: task hung"
    assert verdict(NULL + stack(*functions)).title.endswith(" in __schedule")


def test_guilty_of_frames_alone() -> None:
    """The same rules serve stacks that are unwound from memory."""
    unwound = [Frame("asm_exc_page_fault"), Frame("__memcpy"), Frame("kd_step"), Frame("do_syscall_64")]
    assert frames.guilty(unwound) == 2
    assert frames.significant(unwound, 5) == ["kd_step"]
    assert frames.guilty([Frame("schedule"), Frame("kd_step")], BY_ID["hung-task"]) == 1
