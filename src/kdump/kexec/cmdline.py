"""The capture kernel's command line, made from the running one: what goes, what comes, and why.

The lists are data, each entry with its reason; `kdump load --explain` prints them. Names match as the kernel matches
them ('-' equals '_', lib/cmdline and kernel/params.c: next_arg, parameq). A value may be quoted with double quotes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kdump import arch
from kdump.errors import KdumpError

LENGTH_MAX = 2047  # COMMAND_LINE_SIZE - 1 on x86; a bzImage states its own limit in its setup header
ELFCOREHDR_LENGTH = 30  # MAX_ELFCOREHDR_STR_LEN: room for the elfcorehdr=ADDRESS that loading adds


class Rule(NamedTuple):
    """Options that do not go along, and the reason: names, or "name=value"; a trailing '*' matches any rest."""

    names: tuple[str, ...]
    reason: str


class Addition(NamedTuple):
    """An option the capture kernel gets, and the reason."""

    option: str
    reason: str


class Decision(NamedTuple):
    """The decision on one option: `action` is "kept", "removed", "added" or "appended"."""

    option: str
    action: str
    reason: str


class CommandLine(NamedTuple):
    """The finished command line and how it came about, option by option."""

    text: str
    decisions: tuple[Decision, ...]


REMOVE: tuple[Rule, ...] = (
    Rule(("crashkernel",), "the capture kernel needs no reservation of its own"),
    Rule(("mem", "memmap", "mem_encrypt"), "its memory is what the loader gives it"),
    Rule(("elfcorehdr",), "loading writes the right address"),
    Rule(
        ("panic", "oops", "panic_on_*", "*_panic", "unknown_nmi_panic", "crash_kexec_post_notifiers", "sysctl.*"),
        "the production kernel's rules for panicking would kill the capture over a warning",
    ),
    Rule(("kgdb*", "boot_delay", "initcall_debug"), "nobody waits at the console; the capture must go on"),
    Rule(
        ("hugepages", "hugepagesz", "default_hugepagesz", "hugetlb*", "cma", "cma_pernuma", "numa_cma"),
        "it would take the little memory there is",
    ),
    Rule(("kernelcore", "movablecore", "movable_node"), "zones sized for the whole machine do not fit the reservation"),
    Rule(("slub_debug", "slab_debug", "page_owner", "page_poison", "debug_pagealloc", "kasan*", "kmemleak"), "memory"),
    Rule(("log_buf_len", "trace_*", "ftrace*", "swiotlb"), "buffers sized for the whole machine do not fit"),
    Rule(("init_on_alloc", "init_on_free"), "clearing memory twice costs time and protects nothing here"),
    Rule(
        ("nr_cpus", "maxcpus", "possible_cpus", "isolcpus", "nohz_full", "rcu_nocbs", "irqaffinity", "numa*"),
        "the capture kernel runs on its own, small set of CPUs",
    ),
    Rule(
        (
            "root",
            "rootfstype",
            "rootflags",
            "rootdelay",
            "rootwait",
            "ro",
            "rw",
            "rd.*",
            "resume",
            "resume_offset",
            "netroot",
            "nfsroot",
            "ip",
            "initrd",
            "init",
            "rdinit",
            "noinitrd",
        ),
        "the capture image is the whole user space; it mounts no root",
    ),
    Rule(("systemd.*", "single", "emergency", "rescue", "fsck.*"), "no system is started"),
    Rule(("nmi_watchdog=panic*",), "a busy capture kernel is no hard lockup"),
    Rule(("memtest", "reserve_mem"), "the reservation is small, and testing it takes time"),
    Rule(("ima_policy", "ima_appraise", "evm"), "files in the capture image have no signatures to appraise"),
    Rule(("debug", "ignore_loglevel"), "a serial console takes two seconds for what is only informative"),
    Rule(("quiet", "splash", "loglevel", "rhgb", "plymouth.*", "vt.*"), "what goes wrong must be seen on the console"),
    Rule(("BOOT_IMAGE",), "it names the file the boot loader read, which is not the one loaded here"),
)

# Besides what an architecture asks for: `Architecture.capture_options`.
ADD: tuple[Addition, ...] = (
    Addition("irqpoll", "a device may still raise interrupts that no driver here knows"),
    Addition("reset_devices", "drivers must reset devices that the dead kernel left running"),
    Addition("cgroup_disable=memory", "memory: its bookkeeping per page"),
    Addition("numa=off", "memory: one node is enough"),
    Addition("panic=10", "if the capture kernel panics too, the machine comes back"),
    Addition("acpi_no_memhotplug", "memory: page tables for memory that may be plugged in"),
    Addition("transparent_hugepage=never", "memory: a huge page for a few bytes"),
    Addition("nokaslr", "memory: a random place splits the reservation"),
    Addition("novmcoredd", "memory: drivers would add device dumps to the vmcore"),
    Addition("cma=0", "memory: a contiguous area set aside"),
    Addition("hugetlb_cma=0", "memory: a contiguous area set aside"),
    Addition("kfence.sample_interval=0", "memory: the guard pool, 2 to 32 MiB"),
    Addition("initramfs_options=size=90%", "the unpacked image may use more than half of memory (kernels since 2025)"),
    Addition("hest_disable", "memory: firmware error buffers, up to 60 MiB"),
    Addition("pcie_ports=compat", "port services take interrupts that one CPU does not have"),
    Addition("loglevel=6", "time: a serial console takes two seconds for what is only informative; warnings stay"),
    Addition("init_on_alloc=0", "time: every page would be cleared when it is taken"),
    Addition("mitigations=off", "time: nothing runs here but the capture"),
    Addition("cryptomgr.notests", "time: the running kernel has tested these algorithms"),
    Addition("rcupdate.rcu_expedited=1", "time: mounts and modules wait for grace periods, and nothing else runs"),
)

REASON_KEPT = "from the running kernel"
REASONS_KEPT = {
    "console": "from the running kernel: the capture speaks where the machine speaks",
    "earlycon": "from the running kernel: the capture speaks where the machine speaks",
    "earlyprintk": "from the running kernel: the capture speaks where the machine speaks",
}
REPEATABLE = frozenset({"console", "earlycon", "earlyprintk"})  # an appended one does not replace the others


def split(text: str) -> list[str]:
    """Options of a command line; blanks in double quotes do not separate. What follows "--" is init's and left out."""
    options: list[str] = []
    current = ""
    quoted = False
    for character in text:
        if character == '"':
            quoted = not quoted
        if character.isspace() and not quoted:
            if current:
                options.append(current)
            current = ""
        else:
            current += character
    if current:
        options.append(current)
    return options[: options.index("--")] if "--" in options else options


def option_name(option: str) -> str:
    """The name in "name=value" or a quoted "name=value", with '-' written '_' as the kernel compares."""
    return option.lstrip('"').partition("=")[0].rstrip('"').replace("-", "_")


def capture_command_line(
    running: str, *, append: str = "", cpus: int = 1, boot_cpu_apicid: int | None = None, limit: int = LENGTH_MAX
) -> CommandLine:
    """Make the capture kernel's command line from the `running` kernel's.

    `append` comes last and replaces options of the same name that the lists would add or keep. With more than one CPU,
    `boot_cpu_apicid` keeps the machine's boot CPU off: waking it with INIT may reset the machine. Raises KdumpError if
    the text, with room for elfcorehdr=, exceeds `limit` bytes.
    """
    appended = split(append)
    replaced = {option_name(option) for option in appended} - REPEATABLE
    decisions: list[Decision] = []
    for option in split(running):
        decisions.append(_judge(option, replaced))
    kept = {decision.option for decision in decisions if decision.action == "kept"}
    for addition in _additions(cpus, boot_cpu_apicid):
        if option_name(addition.option) not in replaced and addition.option not in kept:
            decisions.append(Decision(addition.option, "added", addition.reason))
    decisions += [Decision(option, "appended", "asked for") for option in appended]
    text = " ".join(decision.option for decision in decisions if decision.action != "removed")
    if len(text.encode()) + ELFCOREHDR_LENGTH > limit:
        raise KdumpError(
            f"the capture kernel's command line is too long: {len(text.encode())} bytes",
            why=f"the kernel takes {limit}, of which loading needs {ELFCOREHDR_LENGTH}",
            remedy="give the whole line with --command-line, or append less",
        )
    return CommandLine(text, tuple(decisions))


def running_command_line(root: Path = Path("/")) -> str:
    """The running kernel's command line, from /proc/cmdline under `root`."""
    return (root / "proc/cmdline").read_text(errors="surrogateescape").strip()


def _judge(option: str, replaced: set[str]) -> Decision:
    name = option_name(option)
    if reason := unwanted(option):
        return Decision(option, "removed", reason)
    if name in replaced:
        return Decision(option, "removed", "replaced by an appended option")
    if any(name == option_name(addition.option) for addition in general()):
        return Decision(option, "removed", "replaced by the capture kernel's own value")
    return Decision(option, "kept", REASONS_KEPT.get(name, REASON_KEPT))


def general() -> list[Addition]:
    """The options of every capture kernel of this machine's architecture."""
    return [*(Addition(*option) for option in arch.native().capture_options), *ADD]


def _additions(cpus: int, boot_cpu_apicid: int | None) -> Iterator[Addition]:
    yield Addition(f"nr_cpus={cpus}", "memory: each further CPU costs some MiB")
    if cpus > 1 and boot_cpu_apicid is not None:
        yield Addition(
            f"disable_cpu_apicid={boot_cpu_apicid}", "an INIT to the machine's boot CPU may reset the machine"
        )
    yield from general()


def unwanted(option: str) -> str:
    """Why an option of the running kernel does not go along; empty if it may."""
    name = option_name(option)
    return next((rule.reason for rule in REMOVE if any(_matches(each, name, option) for each in rule.names)), "")


def _matches(pattern: str, name: str, option: str) -> bool:
    pattern = pattern.replace("-", "_")
    if "=" in pattern:
        name += "=" + option.partition("=")[2].rstrip('"')
    if pattern.startswith("*"):
        return name.endswith(pattern[1:])
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
