"""Families of kernel functions that are not the cause of a crash although they stand on top of its stack, as data.

A frame is recognized by its function's name, without compiler suffixes. `NOTICING` families see and report a crash:
they are neither the cause nor part of the signature. `SHARED` families are called from everywhere: a fault in them is
their caller's. `SLEEPING` ones are shared where a task waits. `ENTRIES` are where a task's own work begins and
`INTERRUPTS` where an interrupt's does.

Names follow the kernel's sources since 2.6.32; each family cites the directories that it was read from.
"""

# ruff: noqa: E501 - tables of names read better unbroken

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Family(NamedTuple):
    """Functions of one purpose. `names` are regular expressions, each for a whole name."""

    id: str
    meaning: str
    names: tuple[str, ...]


NOTICING = (
    # lib/dump_stack.c, kernel/stacktrace.c, arch/*/kernel/{dumpstack,stacktrace,unwind*}.c, kernel/sched/core.c
    Family("stack walkers", "print or record a stack", (
        r"_*dump_stack\w*", r"_*show_(?:stack|regs|trace|backtrace|state)\w*", r"dump_(?:backtrace|trace|cpu_task|instr|mem|page)\w*", r"__dump_page\w*",
        r"c_backtrace", r"sched_show_task", r"print_(?:stack_trace|worker_info|modules|unreferenced|tainted)\w*", r"_*unwind_\w+", r"arch_stack_walk\w*", r"walk_stackframe\w*",
        r"stack_trace_\w+", r"_*save_stack\w*", r"save_trace", r"return_address", r"trace_dump_stack", r"stack_depot_\w+", r"set_track\w*",
    )),
    # kernel/panic.c, kernel/crash_core.c, kernel/exit.c, lib/bug.c
    Family("panic", "end the kernel or a task, or warn", (
        r"_*v?panic(?:_\w+)?", r"nmi_panic\w*", r"check_panic_on_\w+", r"_*crash_(?:kexec\w*|save_\w+|setup_regs|nmi_callback|smp_send_stop|ipi_callback|shutdown\w*|prepare_\w+)", r"machine_kexec\w*", r"machine_(?:restart|halt|power_off)", r"emergency_restart",
        r"kdump_nmi_\w+", r"native_machine_crash_shutdown", r"_*die(?:_(?:body|header|addr|if_kernel|kernel_fault))?", r"arm(?:64)?_notify_die", r"oops_\w+", r"make_task_dead", r"rewind_stack_\w+",
        r"_*warn(?:_printk|_thunk|_flush_item)?", r"warn_slowpath_\w+", r"\w+_panic", r"assert\w*fail\w*", r"\w+_assert\w*fail\w*", r"_*report_bug\w*", r"fixup_bug\w*", r"handle_bug\w*", r"__bug_\w+", r"is_valid_bugaddr", r"notify_die", r"notifier_call_chain", r"(?:__)?atomic_notifier_call_chain", r"mach_power_\w+",
    )),
    # arch/x86/kernel/{traps,nmi}.c, arch/x86/mm/fault.c, arch/x86/entry
    Family("x86 exceptions", "deliver an exception on x86", (
        r"page_fault_oops", r"no_context", r"pgtable_bad", r"kernelmode_fixup_or_oops\w*", r"_*bad_area\w*", r"mm_fault_error", r"_*do_(?:user|kern)_addr_fault", r"_*do_page_fault", r"trace_do_page_fault", r"do_async_page_fault", r"spurious_\w*fault\w*",
        r"handle_page_fault", r"(?:async_|trace_)*page_fault", r"(?:asm_)?exc_(?!nmi)\w+", r"_*do_trap\w*", r"do_error_trap", r"do_invalid_op", r"invalid_op", r"error_(?:entry|exit|code|return)", r"common_exception\w*",
        r"(?:do_)?(?:general_protection|divide_error|double_fault|stack_segment|int3|debug|overflow|bounds|coprocessor_\w+|simd_(?:coprocessor_error|exception)|alignment_check|invalid_TSS|segment_not_present|device_not_available)", r"math_error",
        r"paranoid_(?:entry|exit)\w*", r"handle_stack_overflow", r"fixup_(?:bug|bad_iret|exception|ump)\w*", r"ex_handler_\w+", r"handle_invalid_op", r"xen_\w*exc_\w+", r"idtentry\w*",
    )),
    # arch/arm/{mm,kernel}, arch/arm64/{mm/fault,kernel/traps,kernel/entry*,kernel/debug-monitors}.c
    Family("arm exceptions", "deliver an exception on arm or arm64", (
        r"__do_kernel_fault\w*", r"do_(?:translation|tag_check|tag_recovery|alignment|bad|sect|permission)_?(?:fault|area)?", r"do_(?:mem_abort|sp_pc_abort|DataAbort|PrefetchAbort|undefinstr|undef\w*|sea|debug_exception|el1_\w+|bti|el1h_\w+|serror\w*)",
        r"_*el1t?_?(?!irq|interrupt|fiq)\w*", r"el1h_64_(?!irq|fiq)\w+", r"el1_sync\w*", r"el1_(?:da|ia|abort|undef|pc|inv|dbg|brk64|bti)", r"__(?:dabt|pabt|und|fiq)_(?:svc|usr|invalid)", r"_*bad_(?:mode|stack|el0_sync)", r"__pabt\w*",
        r"(?:bug|brk|kasan|refcount|ubsan|early_brk|cfi|call_break|break|reserved_fault_brk)_(?:handler|hook)", r"panic_bad_stack", r"arm64_\w*serror\w*", r"baddataabort", r"die_kernel_fault", r"kernel_die",
    )),
    # arch/{powerpc,riscv,s390,mips,loongarch,sparc}/kernel/traps.c, mm/fault.c
    Family("other exceptions", "deliver an exception on powerpc, RISC-V, s390, MIPS, LoongArch or SPARC", (
        r"program_check_\w+", r"(?:data|instruction)_(?:access|storage)\w*", r"interrupt_return\w*", r"_*bad_page_fault", r"_exception\w*", r"exception_common\w*", r"unrecoverable_\w+", r"unknown_\w*exception", r"system_reset_\w+", r"alignment_(?:exception|common)\w*",
        r"do_trap_\w+", r"handle_exception", r"ret_from_exception", r"excp_\w+", r"_*do_pgm_check\w*", r"pgm_check_\w+", r"do_dat_exception\w*", r"do_protection_exception", r"illegal_op", r"do_fault_error\w*", r"kernel_bug_\w+", r"monitor_event_exception",
        r"do_(?:ade|bp|tr|ri|cpu|fpe|be|reserved|mcheck|bce)", r"handle_(?:adel|ades|bp|tr|ri|cpu|ov|fpe|sys|tlb\w*)(?:_int)?", r"tlb_do_page_fault_\d", r"do_sparc64_fault", r"bad_trap\w*", r"sun4v_\w+_error",
    )),
    # kernel/nmi.c, arch/x86/kernel/nmi.c, lib/nmi_backtrace.c, kernel/watchdog*.c, kernel/events/core.c
    Family("NMI and watchdog", "see that a CPU is stuck, and show it", (
        r"nmi_(?:handle|cpu_backtrace|trigger|raise)\w*", r"trigger_\w*backtrace\w*", r"arch_trigger_\w+", r"unknown_nmi_error", r"(?:io|pci|mem)_\w*nmi\w*error\w*", r"(?:pci_serr|io_check)_error", r"watchdog(?:_timer_fn|_overflow_callback|_hardlockup\w*|_check\w*|_buddy\w*|_nmi\w*)?", r"is_softlockup", r"hardlockup_\w+", r"perf_event_nmi_handler", r"_*perf_event_overflow",
        r"(?:intel|amd|x86|armv8|armpmu)_?p?mu_handle_irq\w*", r"handle_pmi_common", r"default_do_nmi", r"raise_nmi", r"showacpu", r"sysrq_\w+", r"_*handle_sysrq", r"write_sysrq_trigger", r"mce_(?:panic|reign|end|start)", r"do_machine_check", r"machine_check",
    )),
    # kernel/rcu/{tree,update}*.[ch], kernel/hung_task.c, kernel/workqueue.c
    Family("RCU and hung task detectors", "see that RCU or a task makes no progress", (
        r"rcu_(?:check_gp_\w+|dump_cpu_stacks|sched_clock_irq|check_callbacks|pending|stall_\w+|print_\w+|sched_qs|exp_\w*stall\w*|implicit_\w+)", r"print_(?:cpu_stall|other_cpu_stall)\w*", r"check_cpu_stall", r"synchronize_rcu_expedited_(?:wait|stall)\w*",
        r"synchronize_sched_expedited_wait", r"check_hung_\w+", r"hung_task_\w+", r"debug_show_(?:all_locks|held_locks|blocker)", r"show_(?:workqueue|pwq|cpu_pool|one_)\w*", r"wq_watchdog_\w+", r"rcu_lockdep\w*", r"lockdep_rcu_\w+",
    )),
    # mm/{kasan,kfence,kmsan}, kernel/kcsan, lib/ubsan.c, kernel/kcov.c
    Family("sanitizers", "check memory accesses and arithmetic", (
        r"_*kasan_\w+", r"_*asan_\w+", r"_*hwasan_\w+", r"check_(?:memory_region|region_inline)\w*", r"print_(?:address_description|report|error_for_report)\w*", r"(?:end|start)_report", r"_*kfence_\w+", r"_*ubsan_\w+", r"_*kmsan_\w+", r"_*msan_\w+", r"_*kcsan_\w+", r"_*tsan_\w+",
        r"_*sanitizer_\w+", r"write_comp_data", r"kcov_\w+", r"read_word_at_a_time", r"val_to_string", r"handle_overflow", r"qlist_free_all", r"(?:kasan_)?quarantine_\w+", r"instrument_\w+", r"(?:un)?poison_\w+",
    )),
    # kernel/locking/{lockdep,spinlock_debug,mutex-debug,rtmutex*}.c
    Family("lock checking", "follow the order and the state of locks", (
        r"_*lock_(?:acquire|release|acquired|contended|downgrade|set_class|is_held|pin_lock|unpin_lock|repin_lock)\w*", r"_*lockdep_\w+", r"(?:check|print)_(?:noncircular|prev_\w+|deadlock\w*|circular_\w+|usage\w*|irq\w*|chain_\w+|lock_\w+|unlock_\w+|freed_\w+|flags|wait_context|held_\w+|bad_\w+|no_locks\w*|backwards\w*|forwards\w*|shortest\w*|collision|kernel_ident|locks_\w+|invalid_\w+|unlock\w*|nested\w*|bfs\w*|redundant|segment|path|unlock)",
        r"validate_chain", r"mark_(?:lock|held_locks|usage|all\w*)\w*", r"(?:register|look_up)_lock_class", r"assign_lock_key", r"valid_state", r"find_usage\w*", r"__bfs\w*", r"reacquire_held_locks", r"trace_hard(?:irqs)?_\w+", r"trace_hardirqs_\w+", r"trace_softirqs_\w+", r"debug_check_no_locks_\w+", r"debug_check_no_obj_freed",
        r"spin_(?:dump|bug)", r"rwlock_bug", r"debug_mutex_\w+", r"debug_spin_\w+", r"debug_rt_mutex_\w+", r"is_dynamic_key", r"add_lock_to_list\w*", r"count_matching_names", r"lock_class\w*", r"dump_rcu_\w+", r"lock_torture\w*", r"debug_lockdep_\w+", r"hlock_\w+",
    )),
    # kernel/sched/core.c (__might_sleep), lib/smp_processor_id.c
    Family("context checking", "see that something is done in a context that forbids it", (
        r"_*might_(?:sleep|resched|fault|alloc)\w*", r"cant_(?:sleep|migrate)\w*", r"check_preemption_disabled", r"debug_smp_processor_id", r"__this_cpu_preempt_check", r"__schedule_bug", r"schedule_debug", r"preempt_count_(?:add|sub)", r"(?:start|stop)_critical_timings",
    )),
    # lib/{debugobjects,list_debug,refcount,plist,usercopy}.c, mm/usercopy.c, lib/string_helpers.c, net/core/skbuff.c
    Family("object checking", "see that an object, list, counter or buffer is used wrongly", (
        r"_*debug_(?:print_)?objects?_?\w*", r"debug_(?:timer|hrtimer|work|rcu)\w*", r"_*debug_check_no_obj_freed", r"(?:timer|work|hrtimer|rcuhead|percpu_counter)_(?:is_static_object|fixup_\w+|debug_\w+)", r"stub_timer", r"_*list_(?:add|del)\w*_(?:valid|report)\w*", r"__list_(?:add|del_entry)(?:_valid\w*)?", r"list_del", r"plist_check\w*",
        r"refcount_(?:warn_saturate|error_report)", r"_*fortify_\w+", r"usercopy_abort", r"_*check_(?:object_size|heap_object)\w*", r"copy_overflow", r"_*stack_chk_fail\w*", r"skb_(?:panic|over_panic|under_panic)", r"(?:slab|object)_(?:bug|err|fix|pad_check)\w*", r"print_(?:trailer|track\w*|page_info|section)", r"free_debug_processing", r"alloc_debug_processing", r"free_consistency_checks", r"free_to_partial_list", r"check_(?:slab|object|bytes\w*|pad\w*)", r"on_freelist", r"_*slab_(?:bug|error)", r"list_slab_objects\w*",
        r"bad_page\w*", r"free_page_is_bad\w*", r"check_new_page\w*", r"free_pages_check\w*", r"_*page_check\w*", r"print_bad_(?:pte|page_map)\w*", r"should_fail\w*", r"fail_dump", r"_*cfi_(?!.*\+)\w+", r"report_cfi_\w+", r"_*ksym_\w+_check",
    )),
    # rust/kernel, rust/helpers, library/core/src/panicking.rs (mangled v0 or plain)
    Family("Rust panics", "begin a Rust panic", (
        r"(?:\w+::)*rust_(?:begin_unwind|helper_BUG|helper_\w*bug\w*|panic\w*)", r"<?core::.*",
    )),
    # mm/oom_kill.c
    Family("out of memory", "choose and kill a process because memory is short", (r"oom_kill_process", r"out_of_memory", r"pagefault_out_of_memory", r"dump_header", r"mem_cgroup_out_of_memory", r"_*alloc_pages_(?:may_oom|slowpath)\w*", r"warn_alloc\w*")),
)  # fmt: skip

SHARED = (
    # lib/string.c, arch/*/lib/mem*, include/linux/uaccess.h, arch/*/lib/{copy,get,put}_user*
    Family("memory and strings", "copy, compare and fill memory, also that of user space", (
        r"_*(?:arch_|pi_|arm64_)?mem(?:cpy|set|move|cmp|chr|scan|zero|dup|32|64|crc)\w*", r"_*(?:str|kstr|sized_str)(?:n?cpy|n?cmp|len|nlen|n?str|n?chr|rchr|pbrk|spn|cspn|sep|l?cat|ncat|scpy|lcpy|casecmp|ncasecmp|dup|ndup|im|reverse|to\w+)\w*", r"_*rep_(?:movs|stos)\w*", r"kmemdup\w*", r"k(?:str|mem)n?dup\w*", r"vmemdup\w*", r"memdup_\w+", r"strndup_\w+",
        r"_*(?:arch_|raw_|inline_)?_*copy_(?:to|from|in)_(?:user|iter|kernel)(?:_(?:full|nocache|inatomic\w*|flushcache|mc|ll|nmi|nofault|overflow|generic|toio|page|fault\w*))?", r"\w*copy_(?:to|from)_iter\w*", r"_*copy_(?:user_(?:generic|enhanced|handle|large|nontemporal|highpage)\w*|mc_\w+|page|page_(?:mc|regs)\w*|highpage\w*)", r"_*arch_copy_\w+", r"copyout\w*", r"copyin\w*", r"copy_page_(?:to|from)_iter\w*", r"_*clear_(?:page|page_(?:rep|erms|orig|mova|std)\w*|user|user_(?:rep|erms|orig|page|highpage)\w*|huge_page|highpage)", r"_*(?:get|put)_user(?:_(?:\d+|nocheck_\w+|bad|nofault|asm\w*|check\w*))?", r"csum_(?:partial|and)\w*", r"do_csum", r"_*iov_iter_\w+", r"iterate_and_advance\w*", r"import_iovec", r"raw_copy_\w+", r"copy_struct_from_\w+", r"copy_(?:overflow|from_kernel_nofault|to_kernel_nofault)\w*", r"probe_kernel_\w+", r"fault_in_\w+",
    )),
    # kernel/locking
    Family("locks", "take and release locks", (
        r"_*(?:raw_)?(?:spin|read|write|rw)_?(?:try)?(?:un)?lock\w*", r"_*raw_\w*(?:spin|read|write)_\w+", r"do_raw_\w+", r"_*(?:native_)?queued_\w*(?:spin|read|write)_\w+", r"_*pv_(?:queued|hash|unhash|kick|wait|lock)\w*", r"kvm_(?:kick_cpu)", r"_*(?:mutex|ww_mutex|rt_mutex|rtmutex|rwbase|rt_spin|rt_read|rt_write|rwlock|rwsem|percpu_rwsem|osq|mcs|semaphore|seqcount|lockref)_\w+", r"rwsem_\w+", r"_*down(?:_\w+)?", r"_*up(?:_\w+)?", r"_*percpu_(?:down|up)_\w+", r"ticket_spin_\w+", r"arch_(?:spin|read|write|mutex)_\w+", r"_*ldsem_\w+", r"refcount_dec_and_\w*lock\w*", r"_*atomic_dec_and_(?:raw_|mutex_)?\w*lock\w*", r"(?:task|bit|hlist_bl|local)_(?:spin_)?(?:un)?lock\w*", r"_*local_bh_(?:en|dis)able\w*", r"rcu_read_(?:un)?lock\w*", r"rcu_(?:is_watching|is_cpu_rrupt\w*|note_context_switch|preempt_deferred\w*|\w*dynticks\w*)", r"_*rcu_(?:lock|unlock)\w*", r"srcu_read_\w+", r"slow_\w*lock\w*", r"call_rwsem_\w+", r"_*lock_sock\w*", r"release_sock", r"(?!rtnl_|(?:\w*_)?(?:find|clone|shm|shmem|do|request|init)_)\w+_(?:un|try)?lock(?:_\w*nested|_bh|_irq\w*|_interruptible|_killable|_slow\w*)?", r"read_seq\w+", r"kernel_fpu_\w+",
    )),
    # kernel/sched/core.c, kernel/printk, lib/vsprintf.c
    Family("printing", "write to the log or into a buffer", (r"_?v?printk\w*", r"_*dev_(?:printk|info|notice|warn|err|alert|crit|emerg|vprintk)\w*", r"_*netdev_(?:printk|info|warn|err|notice)\w*", r"v?s[cn]*printf", r"kv?asprintf\w*", r"kvasprintf\w*", r"string(?:_nocheck)?", r"pointer", r"number", r"format_decode", r"console_(?:unlock|flush\w*|emit\w*)", r"call_console_drivers", r"_*pr_\w+", r"widen_string", r"seq_(?:printf|vprintf|put\w+|write|escape\w*)", r"vbin_printf", r"_*dynamic_\w*dbg\w*")),
    # mm/{slab*,slub,vmalloc,util,percpu,mempool,page_alloc}.c
    Family("allocators", "allocate and free memory", (
        r"_*k[mzvc]*alloc(?!_seq)\w*", r"_*kv?z?free\w*", r"kfree_\w*", r"kmem_\w+", r"_*kmem_cache_\w+", r"_*slab_\w+", r"_*slub_\w+", r"cache_(?:alloc|free|grow|flusharray)\w*", r"_*cache_free\w*", r"(?:de)?activate_slab\w*", r"new_slab\w*", r"allocate_slab\w*", r"discard_slab", r"_*free_slab", r"get_(?:any_)?partial\w*", r"_*unfreeze_partials\w*", r"put_cpu_partial\w*", r"flush_cpu_slab\w*", r"set_freepointer", r"get_freepointer\w*", r"freelist_\w+", r"rcu_free_\w*",
        r"_*v[mz]alloc(?!_fault|_sync)\w*", r"vfree\w*", r"_*vunmap\w*", r"_*vmap\w*", r"alloc_vmap_area", r"(?:free_)?unmap_vmap_area\w*", r"remove_vm_area", r"_*get_vm_area\w*", r"pcpu_\w+", r"_*alloc_percpu\w*", r"free_percpu", r"percpu_ref_\w+", r"percpu_counter_\w+", r"mempool_\w+", r"_*(?:alloc|free|get_free|put|get_zeroed)_pages?\w*", r"_*alloc_(?:pages|frozen_pages|page)\w*", r"free_large_kmalloc", r"\w*kmalloc_(?:large|order)\w*", r"_*folio_alloc\w*", r"_*folio_put\w*", r"get_page_from_freelist", r"prep_new_page", r"post_alloc_hook", r"rmqueue\w*", r"free_(?:unref|hot_cold|pcp|the)_\w*page\w*", r"(?:memcg|mem_cgroup)_\w*(?:charge|slab|kmem)\w*", r"obj_cgroup_\w+", r"devm_k\w+", r"devres_\w+", r"release_nodes", r"(?:un)?poison_slab_object", r"krealloc\w*", r"_*do_k[mzv]*alloc\w*", r"_*do_krealloc\w*", r"kfree_sensitive", r"kmalloc_\w+", r"dma_(?:alloc|free|pool)_\w+",
    )),
    # lib/{rbtree,radix-tree,xarray,idr,list_sort,rhashtable,maple_tree,llist,bitmap,find_bit,hweight,sbitmap}.c
    Family("lists, trees and bits", "keep data in order", (
        r"_*h?list_(?:add|del|move|splice|replace|cut|rotate|swap|sort|merge|bulk_move|bl_\w+|nulls_\w+)(?:_(?:rcu|init|tail|head|before|behind|careful|entry|batch|valid|or_report|position|final|run))*", r"llist_\w+", r"plist_\w+", r"_*rb_\w+", r"_*(?:xa|xas|xarray)_\w+", r"_*radix_tree_(?!node_alloc)\w+", r"_*idr_\w+", r"ida_\w+", r"_*mas_\w+", r"_*mt_\w+", r"mtree_\w+", r"_*find_\w*bit\w*", r"_*bitmap_\w+", r"_*(?:set|clear|test|change|test_and_\w+)_bit\w*", r"arch_(?:set|clear|test|change)\w*_bit\w*", r"hweight\w*", r"_*sw_hweight\w*", r"_*arch_(?:atomic|xchg|cmpxchg)\w*", r"_*atomic\w*_(?:read|set|add|sub|inc|dec|fetch|cmpxchg|xchg|try|long|and|or)\w*", r"_*xchg\w*", r"_*cmpxchg\w*", r"sort(?:_r)?", r"klist_(?!devices)\w+", r"crc\w+", r"_*crc\w+", r"sha\d+_\w+", r"jhash\w*", r"siphash\w*", r"interval_tree_\w+", r"u64_stats_\w+", r"_*rhashtable_\w+", r"_*rht_\w+", r"rhash\w+",
    )),
    # include/linux/refcount.h, kref.h
    Family("reference counters", "count users of an object", (r"_*refcount_\w+", r"kref_\w+", r"rcuref_\w+", r"_*ref_tracker_\w+")),
    # lib/kobject*.c, drivers/base/{core,bus,dd,class}.c, fs/{sysfs,kernfs}: what drivers and subsystems call to come and go
    Family("driver core", "register and remove devices for their drivers", (
        r"_*kobject_\w+", r"kset_\w+", r"kobj_\w+", r"add_uevent_var", r"_*device_(?:add|del|register|unregister|destroy|create|initialize|release|remove_file|create_file|for_each_child)\w*", r"(?:get|put)_device(?:_parent)?", r"cleanup_glue_dir", r"sysfs_(?:remove|create|add|do_create|warn)\w*", r"_*kernfs_(?:remove|find_and_get)\w*by_name\w*", r"create_dir", r"internal_create_group\w*", r"(?:driver|bus|class)_(?:register|add_\w+|create_file)", r"cdev_device_(?:add|del)", r"i2c_del_adapter", r"__unregister_client", r"hwrng_unregister", r"tty_unregister_device", r"rollback_registered\w*", r"unregister_netdev\w*", r"_*pm_runtime_\w+", r"dpm_\w+", r"debugfs_remove\w*",
    )),
    # kernel/workqueue.c, kernel/time/{timer,hrtimer}.c, kernel/kthread.c
    Family("timers and work", "queue, cancel and flush work, timers and threads", (
        r"_*(?:flush|drain|destroy|cancel|queue|mod|schedule|alloc)_(?:delayed_|rcu_)?work(?:queue)?\w*", r"_*cancel_work_timer", r"_*cancel_(?:delayed_)?work\w*", r"start_flush_work", r"try_to_grab_pending", r"work_grab_pending", r"insert_w(?:or|q_barrie)\w*", r"delayed_work_timer_fn", r"queue_(?:work|delayed_work|rcu_work)\w*", r"_*(?:del|mod|add|try_to_del|timer_delete|timer_shutdown)_?timer\w*", r"_*timer_(?:delete|shutdown|reduce)\w*", r"lock_timer_base", r"detach_(?:if_pending|timer)", r"(?:enqueue|internal_add)_timer", r"_*hrtimer_(?:start|cancel|try_to_cancel|init|active|forward|setup|reprogram)\w*", r"tasklet_(?:kill|schedule)\w*", r"_*tasklet_\w*schedule\w*", r"kthread_(?:stop|park|unpark|create\w*|flush_\w+|cancel_\w+|queue_\w+)\w*", r"_*kthread_create\w*", r"_*flush_workqueue\w*", r"_*irq_work_\w+", r"call_rcu\w*", r"kfree_call_rcu\w*", r"kvfree_call_rcu",
    )),
    # kernel/sched/{wait,completion,swait}.c
    Family("waiting and waking", "wait, and wake who waits", (r"(?:finish|prepare_to)_wait\w*", r"(?:do_)?wait_for_(?:common|completion)\w*", r"_*wake_up(?!_new_task|_process)\w*", r"complete(?:_all|_with_flags)?", r"swake_up\w*", r"autoremove_wake_function", r"default_wake_function", r"pollwake")),
    # fs/{dcache,inode,buffer}.c, mm/{filemap,truncate,swap}.c: every file system calls them with its own objects
    Family("file system helpers", "count users and mark the state of files and pages", (r"_*iput\w*", r"(?:fast_|lockref_)?dput\w*", r"(?:drop|clear|inc|set)_nlink", r"ihold", r"_*mark_(?:buffer|inode)_dirty", r"_*brelse", r"(?:folio|page)_(?:un)?lock\w*", r"unlock_(?:page|buffer)", r"end_(?:page|folio|buffer)_\w+", r"folio_end_\w+", r"set_page_dirty\w*", r"truncate_inode_\w*pages\w*", r"find_(?:lock|get)_(?:page|entries|pages|entry|pages_range)\w*", r"fput")),
    # lib/iomap.c, arch/*/include/asm/io.h, lib/logic_pio.c
    Family("register access", "read and write registers of devices", (r"_*(?:raw_)?(?:read|write)(?:s)?[bwlq](?:_relaxed)?", r"(?:logic_)?(?:in|out)s?[bwl]", r"_*(?:io)?(?:read|write)(?:8|16|32|64)(?:be|_rep)?", r"_*memcpy_(?:from|to)io")),
    # net/core/skbuff.c, include/linux/skbuff.h
    Family("network buffers", "add to and take from a network buffer", (r"_*skb_(?:put|push|pull|trim)\w*", r"pskb_(?:put|expand_head|trim|may_pull)\w*")),
    # drivers/usb/core: every USB driver calls them with its own request
    Family("bus transfers", "hand a driver's request to its bus", (r"usb_(?:submit|kill|poison|unlink)_\w*urbs?\w*", r"usb_(?:control|bulk|interrupt|start_wait)_(?:msg|urb)\w*", r"usb_internal_control_msg", r"usb_hcd_\w+", r"dummy_urb_\w+", r"usb_free_\w*urb", r"_*dma_(?:un)?map_\w+", r"_*regmap_\w+")),
    # arch/*/lib/delay*, arch/x86/lib/retpoline.S, kernel/trace, arch/x86/include/asm/{paravirt,msr}.h
    Family("instructions", "stand for one instruction, a delay or a tracing hook", (
        r"_*(?:const_)?[unm]?delay", r"delay_(?:tsc|loop|mwaitx?|halt)\w*", r"_*x86_(?:indirect_thunk|return_thunk|retpoline)\w*", r"_*(?:indirect|return)_thunk\w*", r"native_(?:write|read)_msr\w*", r"native_(?:save|restore)_fl", r"pv_native_\w+", r"_*pv_ops\w*", r"_*(?:put|get)_unaligned\w*", r"_*fentry\w*", r"mcount\w*", r"ftrace_(?:caller|call|regs_call\w*|stub\w*|graph_caller|ops_\w+)", r"trace_(?:call_bpf|event_raw_\w+|event_buffer_\w+)", r"perf_trace_(?!init|destroy|event_|add|del)\w+", r"_*bpf_trace_run\w*", r"_*traceiter_\w+", r"trampoline_\w+", r"retint_\w+", r"restore_(?:regs|all)\w*", r"(?:ex_)?table_\w+", r"kretprobe_\w+", r"_*preempt_schedule\w*", r"preempt_schedule_irq", r"cpu_relax\w*", r"array_index_\w+", r"_*readq?_?\w*once\w*", r"_*write_once\w*",
    )),
)  # fmt: skip

# kernel/sched/{core,wait,wait_bit,completion,swait}.c, kernel/time/{timer,hrtimer,sleep_timeout}.c, mm/filemap.c
SLEEPING = Family("sleeping", "wait", (
    r"_*schedule(?:_\w+)?", r"_*cond_resched\w*", r"context_switch", r"_*switch_to\w*", r"io_schedule\w*", r"m?sleep\w*", r"ssleep", r"_*usleep_\w+", r"do_nanosleep", r"hrtimer_nanosleep\w*", r"preempt_schedule\w*", r"thread_return", r"(?:do_)?wait_(?:for|on|event|rcu|queue|transaction_locked)\w*", r"(?!sys_|kernel_|do_wait|\w*nowait)\w*wait\w*", r"_*wait_for_common\w*", r"out_of_line_wait_\w+", r"bit_wait\w*", r"prepare_to_wait\w*", r"finish_wait", r"_*folio_(?:wait|lock)\w*", r"_*lock_(?:page|folio|buffer)\w*", r"_*wait_on_\w+", r"sleep_on_\w+", r"rcu_barrier\w*", r"synchronize_irq", r"rwsem_down_\w+", r"_*rt_mutex_\w+", r"rwbase_\w+", r"rcu_sync_\w+", r"kthread_(?:stop|flush\w*|park)", r"_*flush_\w*work\w*", r"lock_sock_nested", r"_*lock_sock", r"_*kthread_\w*should\w*", r"swait_\w+", r"_*synchronize_hardirq", r"_*bio_wait\w*", r"submit_bio_wait", r"_*futex_wait_queue\w*", r"try_to_freeze\w*", r"_*refrigerator",
))  # fmt: skip

# What allocates for others, and kmemleak itself: mm/kmemleak.c
ALLOCATING = Family(
    "allocating",
    "allocate for their caller",
    (
        r"(?!sys_|\w*fallocate|\w*prealloc)\w*alloc\w*",
        r"kmemleak_\w+",
        r"create_object\w*",
        r"_*create_object",
        r"(?!sys_|kernel_)\w*(?:dup|clone)(?:_\w+)?",
        r"idr_\w+",
    ),
)

# arch/*/entry, kernel/{kthread,fork}.c, init/main.c: nothing further out tells crashes apart.
ENTRIES = Family("entries", "begin a task's own work", (
    r"do_syscall_\w+", r"(?:__)?do_(?:fast_)?(?:syscall_32|int80\w*|SYSENTER)\w*", r"entry_\w+", r"(?:x64|ia32)_sys_call", r"(?:compat_)?(?:sysenter|system_call|sysret|syscall|tracesys|cstar)_?\w*", r"ret_(?:from_fork|fast_syscall|from_kernel_thread|from_syscall|from_user_fork|slow_syscall|from_except)\w*", r"kthread", r"kernel_thread_\w+", r"child_rip", r"secondary_(?:startup|start_kernel)\w*", r"cpu_startup_entry", r"(?:x86_64_)?start_(?:kernel|secondary|reservations|here_\w+)", r"common_startup_64", r"rest_init", r"arch_call_rest_init", r"worker_thread", r"smpboot_thread_fn", r"syscall_(?:exit|return)_\w+",
    r"el0t?_\w+", r"do_el0_\w+", r"invoke_syscall\w*", r"_*el0_\w+", r"__sys_trace\w*", r"local_restart", r"vector_swi", r"arm64_\w*syscall\w*", r"system_call_exception", r"system_call_vectored_common", r"interrupt_exit_\w+", r"handle_(?:syscall|sys)", r"do_trap_ecall_u", r"__do_syscall", r"sysc_\w+", r"irqentry_exit\w*", r"transfer_to_(?:handler|syscall)\w*",
))  # fmt: skip

# arch/*/entry, arch/x86/kernel/apic, drivers/irqchip, arch/arm64/kernel/entry-common.c
INTERRUPTS = Family("interrupt entries", "interrupt whatever ran", (
    r"(?:asm_|__)?sysvec_\w+", r"(?:smp_|trace_|xen_)*(?:apic_timer|call_function\w*|reschedule|x86_platform_ipi|irq_work|thermal|hypervisor|hv_\w+|kvm_posted\w*)_interrupt\w*", r"asm_call_\w*on_stack", r"(?:asm_)?common_interrupt\w*", r"asm_(?:spurious|xen)\w*interrupt", r"ret_from_intr", r"irq_entries_start", r"do_IRQ", r"xen_(?:hvm|evtchn|do)_\w+", r"(?:asm_)?exc_nmi\w*", r"do_nmi", r"nmi", r"nmi_(?:restore|swapgs)", r"end_repeat_nmi", r"repeat_nmi", r"first_nmi",
    r"el1_(?:irq|interrupt|fiq)\w*", r"el1h_64_(?:irq|fiq)\w*", r"_*el1_(?:irq|interrupt)", r"__irq_(?:svc|usr)", r"handle_arch_irq\w*", r"(?:decrementer|hardware_interrupt|doorbell\w*|performance_monitor|system_reset|soft_nmi)_common\w*", r"timer_interrupt", r"do_irq(?:_\w+)?", r"(?:io|ext)_int_handler", r"do_(?:io|ext)_irq", r"handle_(?:int|riscv_irq|vint)", r"plat_irq_dispatch", r"do_vint",
))  # fmt: skip

# Idle CPUs: kernel/sched/idle.c, drivers/cpuidle, arch/*/kernel/process.c
IDLE = Family("idle", "keep an idle CPU", (
    r"(?:\w+_)?safe_halt", r"default_idle\w*", r"(?:arch|amd_e400|mwait|x86|c1e|poll|cpu|xen|pv)_?(?:cpu_)?idle\w*", r"do_idle", r"cpuidle_\w+", r"(?:acpi|intel)_idle\w*", r"acpi_(?:processor|safe_halt)\w*", r"mwait_idle\w*", r"cpu_idle_\w+", r"arch_cpu_idle\w*", r"intel_idle\w*", r"cpu_do_idle", r"call_cpuidle", r"native_halt", r"psci_\w+idle\w*", r"snooze_loop", r"nap_loop",
))  # fmt: skip

# Where victims of one fault gather: whoever waits there waits for the same, so that its callers are chance.
# kernel/rcu, kernel/smp.c, net/core/rtnetlink.c
GATHERING = (
    Family("RCU grace period", "wait until RCU's readers are done", (r"synchronize_(?:rcu|srcu|sched|net)\w*", r"_*synchronize_s?rcu\w*", r"rcu_barrier\w*", r"wait_rcu_gp\w*")),
    Family("other CPUs", "wait until other CPUs have run a function", (r"_*smp_call_function\w*", r"on_each_cpu\w*", r"smp_cfm_\w+", r"stop_machine\w*", r"native_flush_tlb_\w+", r"flush_tlb_\w+")),
    Family("RTNL", "wait for the lock of network configuration", (r"rtnl_lock\w*",)),
)  # fmt: skip

# Families that interrupt what runs in order to look at it.
DETECTORS = ("stack walkers", "panic", "NMI and watchdog", "RCU and hung task detectors")

BY_ID = {family.id: family for family in (*NOTICING, *SHARED, SLEEPING, ALLOCATING, ENTRIES, INTERRUPTS, IDLE)}


class Classes:
    """Several families, to which names are matched. Expressions are compiled at the first use.

    Most names are plain or a beginning ("kasan_\\w+"): those are looked up; only the others need an expression.
    """

    def __init__(self, members: tuple[Family, ...]) -> None:
        self.members = members
        self._known: dict[str, bool] = {}
        self._matcher: _Matcher | None = None

    def holds(self, function: str) -> bool:
        """Whether a function (without compiler suffixes) belongs to one of the families."""
        known = self._known.get(function)
        if known is None:
            if self._matcher is None:
                self._matcher = _Matcher([name for family in self.members for name in family.names])
            known = self._known[function] = self._matcher.matches(function)
        return known

    def of(self, function: str) -> Family | None:
        """The family that a function belongs to."""
        return next((family for family in self.members if _Matcher(family.names).matches(function)), None)


_SIMPLE = re.compile(r"(?P<bars>_\*)?(?P<text>\w+?)(?P<rest>\\w[*+])?")


class _Matcher:
    """Names as sets and beginnings, as far as their expressions are that simple."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names: dict[bool, set[str]] = {False: set(), True: set()}
        beginnings: dict[bool, list[str]] = {False: [], True: []}
        others = []
        for name in names:
            found = _SIMPLE.fullmatch(name)
            if found is None:
                others.append(f"(?:{name})")
            elif not found["rest"]:
                self._names[bool(found["bars"])].add(found["text"])
            elif found["rest"].endswith("*") or found["text"].endswith("_"):
                beginnings[bool(found["bars"])].append(found["text"])
            else:
                others.append(f"(?:{name})")
        self._beginnings = {bars: tuple(texts) for bars, texts in beginnings.items()}
        self._others = re.compile("|".join(others) or r"(?!)")  # without any, nothing matches

    def matches(self, function: str) -> bool:
        """Whether one of the names is this function's; "_*" before a name allows any number of underscores."""
        bare = function.lstrip("_")
        return (
            function in self._names[False]
            or bare in self._names[True]
            or function.startswith(self._beginnings[False])
            or bare.startswith(self._beginnings[True])
            or self._others.fullmatch(function) is not None
        )
