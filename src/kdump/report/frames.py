"""Function names as people group them, and which frames are the kernel's machinery rather than the cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kdump.report.model import Frame

# What compilers append when they split, clone or specialise a function.
_SUFFIX = re.compile(
    r"\.(?:cold|isra|constprop|part|llvm|lto_priv|clone|cfi|cfi_jt|__uniq|localalias|warm)(?:\.[\w]+)*$"
)
_PREFIX = re.compile(r"^(?:__pfx_|\.)")

# Frames between the cause and the panic: how the kernel notices and reports. Whole names.
_REPORTING = re.compile(
    r"(?:dump_stack(?:_lvl|_print_info)?|show_(?:stack|regs|trace_log_lvl).*|v?panic(?:_smp_self_stop)?|nmi_panic(?:_self_stop)?"
    r"|check_panic_on_warn|__?crash_kexec|machine_kexec|crash_(?:save_cpu|setup_regs|nmi_callback)|kdump_nmi_(?:callback|shootdown_cpus)"
    r"|native_machine_crash_shutdown|__?die(?:_body|_header)?|die_addr|oops_(?:end|begin)|page_fault_oops|no_context|pgtable_bad"
    r"|kernelmode_fixup_or_oops(?:_nmi)?|(?:__)?bad_area(?:_nosemaphore|_access_error)?|do_(?:user|kern)_addr_fault|exc_\w+|asm_exc_\w+"
    r"|handle_page_fault|do_trap(?:_no_signal)?|do_error_trap|do_invalid_op|invalid_op|error_entry|page_fault|async_page_fault"
    r"|fixup_bug|report_bug(?:_entry)?|__report_bug|handle_bug|__warn(?:_printk|_thunk)?|warn_slowpath_(?:fmt|null)|paranoid_entry"
    r"|default_do_nmi|do_nmi|nmi|end_repeat_nmi|asm_sysvec_\w+|sysvec_\w+|__sysvec_\w+|nmi_handle|nmi_cpu_backtrace.*|nmi_trigger_\w+"
    r"|trigger_\w*backtrace.*|arch_trigger_\w+|unknown_nmi_error|rcu_(?:check_gp_kthread\w*|dump_cpu_stacks|sched_clock_irq|pending)"
    r"|print_(?:cpu_stall|other_cpu_stall|report|address_description|trailer)\w*|check_cpu_stall|synchronize_rcu_expedited_wait\w*"
    r"|watchdog(?:_timer_fn|_overflow_callback|_hardlockup_check)?|is_softlockup|hardlockup_\w+|perf_event_nmi_handler|intel_pmu_handle_irq"
    r"|check_hung_\w+|hung_task_\w+|debug_show_all_locks|kasan_(?:report\w*|check_range|check_byte|complete_mode_report_info)"
    r"|__kasan_\w+|__asan_\w+|kasan_\w+|check_memory_region|kfence_\w+|__kfence_\w+|__ubsan_\w+|ubsan_\w+|kmsan_\w+|__msan_\w+"
    r"|refcount_warn_saturate|__list_(?:add|del_entry)_valid(?:_or_report)?|__?fortify_(?:panic|report)|usercopy_abort"
    r"|__check_object_size|check_heap_object|__check_heap_object|slab_(?:bug|err|fix|pad_check)|object_err|free_debug_processing"
    r"|free_to_partial_list|check_(?:slab|object|bytes_and_report)|do_exit|do_group_exit|make_task_dead|rewind_stack_(?:and_make_dead|do_exit)"
    r"|mce_(?:panic|reign|end|start)|do_machine_check|machine_check|oom_kill_process|out_of_memory|check_panic_on_oom|pagefault_out_of_memory"
    r"|__stack_chk_fail|handle_stack_overflow|__bug_\w+|stack_chk_fail\w*|__cfi_\w+|__sanitizer_\w+)"
)
# Functions everybody calls: a fault in them is the caller's.
_SHARED = re.compile(
    r"(?:__?(?:mem|str)[a-z0-9_]+|mem(?:cpy|set|move|cmp|chr)\w*|str(?:n?cpy|n?cmp|len|nlen|chr|l?cat|scpy)\w*|rep_(?:movs|stos)\w*|copy_user_\w+"
    r"|_?_?copy_(?:to|from)_(?:user|iter)\w*|_?copy_(?:to|from)_iter\w*|clear_(?:page|user)\w*|copy_page\w*|csum_\w+"
    r"|_?_?raw_(?:spin|read|write)_\w+|native_queued_\w+|queued_(?:spin|read|write)_\w+|pv_queued\w*|do_raw_\w+|__pv_\w+"
    r"|__?(?:mutex|ww_mutex|rt_mutex|rtmutex|rwbase)_\w+|mutex_\w+|rt_mutex_\w+|ww_mutex_\w+|down(?:_\w+)?|__down\w*|up(?:_\w+)?|rwsem_\w+|percpu_down_\w+"
    r"|__percpu_down\w*|percpu_rwsem_\w+|(?:__)?schedule(?:_\w+)?|msleep\w*|dump_header|preempt_schedule\w*|io_schedule\w*|wait_for_(?:common|completion)\w*|__wait_for_\w+|do_wait_for_common"
    r"|wait_on_(?:bit|page|buffer|folio)\w*|__wait_on_\w+|out_of_line_wait_\w+|bit_wait\w*|prepare_to_\w+|folio_wait_\w+|__folio_lock\w*|do_nanosleep"
    r"|__?k(?:z|v|m)?alloc\w*|__kmalloc\w*|k(?:v|z|mem_cache_)?free\w*|kmem_cache_\w+|___?slab_\w+|__slab_\w+|slab_\w+|set_freepointer|__kmem_\w+"
    r"|delay_\w+|__delay|__(?:const_)?udelay|__ndelay|_?find_\w*bit\w*|list_(?:add|del)\w*|rb_\w+|__rb_\w+|_printk|v?printk\w*|__x86_\w+"
    r"|native_(?:safe_halt|halt|write_msr|read_msr)\w*|pv_native_\w+|rcu_read_\w+|refcount_\w+|kobject_(?:get|put)|__get_user\w*|__put_user\w*)"
)
# Where a task's or interrupt's own work begins: nothing further out tells crashes apart.
_ENTRY = re.compile(
    r"(?:do_syscall_(?:64|x64)|(?:__)?do_(?:fast_)?(?:syscall_32|int80\w*|SYSENTER)\w*|entry_\w+|x64_sys_call|ret_from_fork\w*|kthread|secondary_startup\w*|cpu_startup_entry|start_(?:kernel|secondary)"
    r"|common_startup_64|syscall_exit_\w+|exit_to_user_\w+|asm_(?:common|sysvec)_\w+|__x64_sys_\w+|__se_sys_\w+|__do_sys_\w+|worker_thread)"
)


def normalise(function: str) -> str:
    """The function as its source names it: without compiler suffixes."""
    return _SUFFIX.sub("", _PREFIX.sub("", function))


def is_reporting(function: str) -> bool:
    """Whether a function belongs to noticing and reporting a crash."""
    return bool(_REPORTING.fullmatch(normalise(function)))


def is_entry(function: str) -> bool:
    """Whether a function is where a task's or interrupt's work begins."""
    return bool(_ENTRY.fullmatch(normalise(function)))


def guilty(frames: Sequence[Frame]) -> int | None:
    """Index of the first frame that is neither reporting nor shared machinery; the best there is otherwise."""
    beyond = [index for index, frame in enumerate(frames) if frame.function and not is_reporting(frame.function)]
    for index in beyond:
        if is_entry(frames[index].function):
            break
        if not _SHARED.fullmatch(normalise(frames[index].function)):
            return index
    return beyond[0] if beyond else None


def significant(frames: Iterable[Frame], limit: int) -> list[str]:
    """Names of the first `limit` frames that tell crashes apart, from the first guilty one on."""
    frames = list(frames)
    start = guilty(frames)
    if start is None:
        return []
    names: list[str] = []
    for frame in frames[start:]:
        if (names and is_entry(frame.function)) or len(names) == limit:
            break
        name = normalise(frame.function)
        if name and not is_reporting(name) and names[-1:] != [name]:  # recursion counts once
            names.append(name)
    return names
