"""The sections of a report, one module each.

A section module has `TITLE`, `NEEDS_DUMP` (false if the log suffices) and `collect(context, section)`, which fills the
section and may raise: what it has put in so far stays, and the error becomes the section's text.
"""

ALL = (
    "system", "cpus", "blocked", "runq", "tasks", "memory", "owners", "block", "mounts", "network", "workqueues",
    "interrupts", "timers", "clocks", "cgroups", "modules", "livepatch", "bpf", "ftrace", "settings", "log",
)  # fmt: skip
SHORT = ("system", "cpus", "blocked", "memory")  # what the capture kernel makes before the dump is saved
