"""System: the kernel, the machine, how long it ran, how busy it was."""

from __future__ import annotations

import re
import time

from kdump.kernel.objects import Objects
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.model import Fact, Facts, Section

TITLE = "System"
NEEDS_DUMP = False

_VERSION = re.compile(r"^Linux version (?P<version>\S+ .*)")
# "Machine model" is the device tree's (drivers/of/fdt.c); DMI may be "not present or invalid".
_HARDWARE = re.compile(r"(?:Machine model|DMI|Hardware name): (?!not present)(?P<name>.*)")
_CMDLINE = re.compile(r"^(?:Kernel c|C)ommand line: (?P<line>.*)")
_HYPERVISOR = re.compile(r"^Hypervisor detected: (?P<name>.*)")
_DMI = (
    ("DMI_SYS_VENDOR", "DMI_PRODUCT_NAME", "DMI_PRODUCT_VERSION"),
    ("DMI_BOARD_VENDOR", "DMI_BOARD_NAME"),
    ("DMI_BIOS_VENDOR", "DMI_BIOS_VERSION", "DMI_BIOS_DATE"),
)
_FIXED_1 = 1 << 11  # FIXED_1 of include/linux/sched/loadavg.h


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    facts: list[Fact] = []
    section.blocks.append(Facts("system", facts))
    if context.has_memory:
        _from_dump(context, facts, section)
    known = {fact.key for fact in facts}
    patterns = (
        ("version", "Kernel build", _VERSION, "version"), ("command_line", "Command line", _CMDLINE, "line"),
        ("hardware", "Hardware", _HARDWARE, "name"), ("hypervisor", "Hypervisor", _HYPERVISOR, "name"),
    )  # fmt: skip
    texts = [line.text for line in context.crash.boot if line.text]
    for key, title, pattern, group in patterns:
        if key in known:
            continue
        found = next((match for text in texts if (match := pattern.search(text))), None)
        if found:
            facts.append(Fact(key, title, found[group].strip()))


def _from_dump(context: Context, facts: list[Fact], section: Section) -> None:
    info = context.kernel.vmcoreinfo
    facts.append(Fact("release", "Kernel", info.release))
    facts.append(Fact("build_id", "Build ID", info.build_id))
    if info.crash_time:
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(info.crash_time))
        facts.append(Fact("crash_time", "Crashed at", moment))
    try:
        objects = context.objects
        names = objects.variable("init_uts_ns").name
        facts.insert(1, Fact("version", "Version", clean(objects.string(names.version))))
        facts.insert(2, Fact("node", "Host", clean(objects.string(names.nodename))))
        cpus = objects.cpus("online")
        facts.append(Fact("cpus", "CPUs online", len(cpus)))
        size = sum(found.size for found in context.kernel.memory.ranges)
        facts.append(Fact("memory", "Memory", size, "bytes"))
        load = [objects.unsigned(objects.symbols.address("avenrun") + 8 * index) / _FIXED_1 for index in range(3)]
        facts.append(Fact("load", "Load average", " ".join(f"{value:.2f}" for value in load)))
        facts += _machine(context, objects)
        line = objects.symbols.get("saved_command_line")
        if line:
            facts.append(Fact("command_line", "Command line", clean(objects.string(objects.unsigned(line)))))
    except DAMAGE as error:
        section.notes.append(f"the kernel's own description cannot be read: {error}")


def _machine(context: Context, objects: Objects) -> list[Fact]:
    """Processor, firmware's names (`dmi_ident` of drivers/firmware/dmi_scan.c) and hypervisor."""
    own = [Fact(key, title, clean(text)) for key, title, text in context.kernel.arch.machine(context.kernel)]
    facts = [fact for fact in own if fact.key == "cpu"]
    place = objects.symbols.get("dmi_ident")
    if place is not None:
        fields = objects.types.enum("dmi_field")
        texts = []
        for names in _DMI:
            parts = [objects.string(objects.unsigned(place + 8 * fields[name])) for name in names if name in fields]
            texts.append(clean(" ".join(part.strip() for part in parts if part)))
        titles = (("hardware", "Hardware"), ("board", "Board"), ("firmware", "Firmware"))
        facts += [Fact(key, title, text) for (key, title), text in zip(titles, texts, strict=True) if text]
    return facts + [fact for fact in own if fact.key != "cpu"]
