"""Interrupts: each line with its handlers and count, soft interrupts, and what was wrong with them.

Sources: include/linux/irqdesc.h (`irq_desc_tree`, since 6.5 `sparse_irqs`; counters per CPU), kernel/irq/settings.h and
internals.h (states), include/linux/interrupt.h (enum of soft interrupts).
"""

from __future__ import annotations

from collections.abc import Iterator

from kdump.kernel import maple
from kdump.kernel.objects import Objects, Struct
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value

TITLE = "Interrupts"
NEEDS_DUMP = True
_SHOWN = 200
_MAX_ACTIONS = 64
_SPURIOUS_DISABLED = 0x2  # IRQS_SPURIOUS_DISABLED: "nobody cared"
_SOFT = ("HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU")


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    for part in (_lines, _soft, _of_cpus):
        try:
            part(context, section)
        except DAMAGE as error:
            section.notes.append(f"{part.__name__.strip('_')}: {error}")


def _lines(context: Context, section: Section) -> None:
    objects = context.objects
    cpus = objects.cpus("possible")
    rows: list[tuple[Value, ...]] = []
    for number, descriptor in _descriptors(objects):
        actions = list(_actions(objects, descriptor))
        counts = _counts(objects, descriptor, cpus)
        if not actions and not any(counts.values()):
            continue
        chip = descriptor.irq_data.chip
        busiest = max(counts, key=lambda cpu: counts[cpu]) if any(counts.values()) else None
        names = ", ".join(clean(objects.string(action.name)) for action in actions)
        disabled = _is_off(objects, descriptor, cpus)
        rows.append(
            (number, sum(counts.values()), busiest, clean(objects.string(chip.name)) if chip else "", names, disabled)
        )
        if int(descriptor.core_internal_state__do_not_mess_with_it) & _SPURIOUS_DISABLED:
            text = f"interrupt {number} ({names}) was switched off, for nobody cared for it"
            section.findings.append(Finding("warning", text))
    rows.sort(key=lambda row: int(row[0] or 0))
    columns = [
        Column("irq", "IRQ"), Column("count", "Count"), Column("cpu", "Most on"), Column("chip", "Chip"),
        Column("handlers", "Handlers"), Column("disabled", "Off"),
    ]  # fmt: skip
    section.blocks.append(Table("interrupts", "", columns, rows[:_SHOWN], max(0, len(rows) - _SHOWN)))


def _descriptors(objects: Objects) -> Iterator[tuple[int, Struct]]:
    place = objects.symbols.get("irq_desc_tree")
    if place is not None:
        found = objects.xarray(objects.struct("xarray", place))
    else:
        found = maple.entries(objects, objects.struct("maple_tree", objects.symbols.address("sparse_irqs")))
    for number, address in found:
        yield number, objects.struct("irq_desc", address)


def _actions(objects: Objects, descriptor: Struct) -> Iterator[Struct]:
    action = descriptor.action
    for _ in range(_MAX_ACTIONS):
        if not action:
            return
        yield objects.struct("irqaction", action)
        action = action.next


def _counts(objects: Objects, descriptor: Struct, cpus: list[int]) -> dict[int, int]:
    # A count per CPU; since 6.10 with a copy of it beside, but the count comes first.
    counters = descriptor.kstat_irqs
    return {cpu: objects.unsigned(objects.at_cpu(counters, cpu), 4) for cpu in cpus} if counters else {}


def _is_off(objects: Objects, descriptor: Struct, cpus: list[int]) -> bool:
    """Whether an interrupt is switched off; one that each CPU has for itself, on all of them."""
    if objects.has(descriptor, "percpu_enabled") and descriptor.percpu_enabled:
        place = int(descriptor.percpu_enabled)
        return not any(objects.unsigned(place + cpu // 64 * 8) >> cpu % 64 & 1 for cpu in cpus)
    return int(descriptor.depth) > 0


def _soft(context: Context, section: Section) -> None:
    objects = context.objects
    totals = [0] * len(_SOFT)
    for cpu in objects.cpus("possible"):
        counts = objects.per_cpu("kstat", cpu).softirqs
        totals = [total + int(counts[number]) for number, total in enumerate(totals)]
    rows: list[tuple[Value, ...]] = list(zip(_SOFT, totals, strict=True))
    section.blocks.append(Table("soft", "Soft interrupts", [Column("name", "Name"), Column("count", "Count")], rows))
    for cpu in objects.cpus("online"):
        pending = _pending(objects, cpu)
        names = ", ".join(name for number, name in enumerate(_SOFT) if pending >> number & 1)
        if names:
            section.findings.append(Finding("note", f"soft interrupts were pending on CPU {cpu}: {names}"))


def _pending(objects: Objects, cpu: int) -> int:
    """Soft interrupts raised and not yet served: a variable of its own, in pcpu_hot (6.3 to 6.14) or irq_stat."""
    if objects.symbols.get("__softirq_pending") is not None:
        address = objects.symbols.address("__softirq_pending") + objects.per_cpu_base(cpu)
        return objects.unsigned(address & 0xFFFFFFFFFFFFFFFF, 2)
    if objects.symbols.get("pcpu_hot") is not None:
        return int(objects.per_cpu("pcpu_hot", cpu).softirq_pending)
    return int(getattr(objects.per_cpu("irq_stat", cpu), "__softirq_pending"))


def _of_cpus(context: Context, section: Section) -> None:
    """Interrupts that CPUs send each other or have of their own, where they are not in the table above."""
    totals = context.kernel.arch.cpu_interrupts(context.kernel)
    rows: list[tuple[Value, ...]] = [(name, count) for name, count in totals.items() if count]
    columns = [Column("name", "Name"), Column("count", "Count")]
    if totals:
        section.blocks.append(Table("local", "Interrupts of the CPUs", columns, rows))
