"""Facts that an x86 kernel has about its machine.

Sources: arch/x86/include/asm/processor.h (struct cpuinfo_x86), hypervisor.h (enum x86_hypervisor_type), hardirq.h
(irq_cpustat_t: a counter for each kind; an array since 7.x).
"""

from __future__ import annotations

from kdump.arch.architecture import MachineFact
from kdump.arch.stacks import KernelView


def machine(kernel: KernelView) -> list[MachineFact]:
    """The processor's model and microcode, and the hypervisor."""
    objects = kernel.objects
    facts = []
    if objects.symbols.get("boot_cpu_data") is not None and objects.types.has_struct("cpuinfo_x86"):
        cpu = objects.variable("boot_cpu_data")
        model = objects.string(cpu.x86_model_id).strip()
        facts.append(MachineFact("cpu", "Processor", f"{model} (microcode {int(cpu.microcode):#x})"))
    kind = objects.number("x86_hyper_type")
    if kind is not None:
        kinds = {value: name for name, value in objects.types.enum("x86_hypervisor_type").items()}
        name = kinds.get(kind, str(kind)).removeprefix("X86_HYPER_").lower()
        facts.append(MachineFact("hypervisor", "Hypervisor", "none detected" if name == "native" else name))
    return facts


def cpu_interrupts(kernel: KernelView) -> dict[str, int]:
    """Counts by the name of their member in irq_stat, of all CPUs."""
    objects = kernel.objects
    totals: dict[str, int] = {}
    for cpu in objects.cpus("possible"):
        stat = objects.per_cpu("irq_stat", cpu)
        if objects.has(stat, "counts"):
            for name, number in objects.types.enum("irq_stat_counts").items():
                if number < len(stat.counts):
                    key = name.removeprefix("IRQ_COUNT_").lower()
                    totals[key] = totals.get(key, 0) + int(stat.counts[number])
            continue
        for name in objects.members(stat):
            if name.endswith(("_irqs", "_count", "_ipis")) and not name.startswith("__"):
                totals[name] = totals.get(name, 0) + int(getattr(stat, name))
    return totals
