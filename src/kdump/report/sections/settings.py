"""Settings that decide when a kernel panics and what it does then.

Sources: kernel/panic.c, kernel/hung_task.c, kernel/watchdog.c, mm/oom_kill.c, kernel/rcu/tree_stall.h,
kernel/printk/printk.c.
"""

from __future__ import annotations

from kdump.errors import FormatError, KdumpError
from kdump.kernel import ikconfig
from kdump.report.context import Context
from kdump.report.model import Fact, Facts, Section

TITLE = "Settings"
NEEDS_DUMP = True
# Name as sysctl knows it, the kernel's variable, its size in bytes.
_SETTINGS = (
    ("kernel.panic", "panic_timeout", 4),
    ("kernel.panic_on_oops", "panic_on_oops", 4),
    ("kernel.panic_on_warn", "panic_on_warn", 4),
    ("kernel.panic_on_taint", "panic_on_taint", 8),
    ("kernel.panic_on_rcu_stall", "sysctl_panic_on_rcu_stall", 4),
    ("kernel.hung_task_panic", "sysctl_hung_task_panic", 4),
    ("kernel.hung_task_timeout_secs", "sysctl_hung_task_timeout_secs", 8),
    ("kernel.softlockup_panic", "softlockup_panic", 4),
    ("kernel.hardlockup_panic", "hardlockup_panic", 4),
    ("kernel.watchdog_thresh", "watchdog_thresh", 4),
    ("kernel.unknown_nmi_panic", "unknown_nmi_panic", 4),
    ("kernel.sysrq", "sysrq_enabled", 4),
    ("vm.panic_on_oom", "sysctl_panic_on_oom", 4),
    ("vm.overcommit_memory", "sysctl_overcommit_memory", 4),
    ("vm.swappiness", "vm_swappiness", 4),
    ("vm.min_free_kbytes", "min_free_kbytes", 4),
)
# Build options that change what a report can tell or what a crash means.
_OPTIONS = (
    "CONFIG_PREEMPT", "CONFIG_PREEMPT_RT", "CONFIG_SMP", "CONFIG_NUMA", "CONFIG_RANDOMIZE_BASE",
    "CONFIG_DEBUG_INFO_BTF", "CONFIG_UNWINDER_ORC", "CONFIG_SLUB_DEBUG", "CONFIG_DEBUG_LIST", "CONFIG_DEBUG_MUTEXES",
    "CONFIG_LOCKDEP", "CONFIG_KASAN", "CONFIG_KFENCE", "CONFIG_UBSAN", "CONFIG_PAGE_OWNER",
    "CONFIG_BUG_ON_DATA_CORRUPTION",
)  # fmt: skip


def collect(context: Context, section: Section) -> None:
    """Fill the section; settings that this kernel lacks are left out."""
    facts = []
    for name, variable, size in _SETTINGS:
        value = context.objects.number(variable, size, signed=True)
        if value is not None:
            facts.append(Fact(name, name, value))
    section.blocks.append(Facts("sysctl", facts))
    try:
        config = ikconfig.options(ikconfig.text(context.kernel))
    except FormatError as error:
        section.notes.append(str(error))
    except KdumpError:
        return  # most distributions leave CONFIG_IKCONFIG out
    else:
        chosen = [Fact(name, name, config.get(name, "not set")) for name in _OPTIONS]
        section.blocks.append(Facts("config", chosen))
