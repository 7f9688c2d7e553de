"""Facts that an aarch64 kernel has about its machine.

Sources: arch/arm64/include/asm/cpu.h (struct cpuinfo_arm64), cputype.h (fields of MIDR_EL1); Arm ARM, D19.2.124.
"""

from __future__ import annotations

from kdump.arch.architecture import MachineFact
from kdump.arch.stacks import KernelView

# Companies that have a number of their own in MIDR_EL1 (Arm ARM, table of implementers; cputype.h).
_IMPLEMENTERS = {
    0x41: "Arm", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x50: "APM",
    0x51: "Qualcomm", 0x53: "Samsung", 0x61: "Apple", 0x6D: "Microsoft", 0xC0: "Ampere",
}  # fmt: skip


def machine(kernel: KernelView) -> list[MachineFact]:
    """The processors by their identification registers: kinds of cores and how many there are of each."""
    objects = kernel.objects
    if objects.symbols.get("cpu_data") is None:
        return []
    kinds: dict[int, int] = {}
    for cpu in objects.cpus("online"):
        number = int(objects.per_cpu("cpu_data", cpu).reg_midr)
        kinds[number] = kinds.get(number, 0) + 1
    return [MachineFact("cpu", "Processor", "; ".join(_named(midr, count) for midr, count in kinds.items()))]


def _named(midr: int, count: int) -> str:
    implementer, variant, part, revision = midr >> 24 & 0xFF, midr >> 20 & 0xF, midr >> 4 & 0xFFF, midr & 0xF
    who = _IMPLEMENTERS.get(implementer, f"implementer {implementer:#04x}")
    return f"{count} of {who}, part {part:#05x}, r{variant}p{revision}"
