"""Kind and title of what tests/report/crasher, sysctls, signals and an NMI do to a kernel."""

NULL = "BUG: unable to handle kernel NULL pointer dereference in"
FAULT = "general protection fault in"

EXPECTED = {
    "atomic": ("atomic-sleep", "BUG: scheduling while atomic in crash_atomic"),
    "bug": ("bug", "kernel BUG in crash_bug"),
    "call": ("null-dereference", f"{NULL} crash_call"),
    "deadlock": ("hung-task", "INFO: task hung in take_both"),
    "divide": ("divide", "divide error in crash_divide"),
    # crash_double_free() ends in a tail call, so its caller is what the stack shows.
    "double-free": ("double-free", "double free or corruption in crasher_init"),
    "initexit": ("init-killed", "Attempted to kill init! with exit status 3"),
    "kfence": ("kfence", "KFENCE: use-after-free read in crash_kfence"),
    "list": ("list-corruption", "list_del corruption in crash_list"),
    "mce": ("machine-check", "Machine check: Fatal local machine check"),
    "noncanonical": ("general-protection", f"{FAULT} crash_noncanonical"),
    "nmi": ("nmi", "NMI: Not continuing"),
    "null": ("null-dereference", f"{NULL} crash_null"),
    "oom": ("out-of-memory", "Out of memory: system-wide panic_on_oom is enabled"),
    "overflow": ("stack-overflow", "kernel stack overflow in recurse"),
    "panic": ("panic", "kernel panic: kdump_crasher: table 7 has lost entry 0xN"),
    "rcustall": ("rcu-stall", "INFO: rcu detected stall in crash_softlockup"),
    "refcount": ("refcount", "refcount bug in crash_refcount"),
    "softlockup": ("soft-lockup", "BUG: soft lockup in crash_softlockup"),
    "uaf": ("general-protection", f"{FAULT} crash_uaf"),
    "usercopy": ("usercopy", "usercopy: Kernel memory exposure attempt detected in crash_usercopy"),
    "warn": ("warning", "WARNING in crash_warn"),
    "wild": ("page-fault", "BUG: unable to handle kernel paging request in crash_wild"),
}
# What Debian builds into the newer kernel only: KFENCE, and for the cloud machine checks.
NEWER_ONLY = {"kfence", "mce"}
