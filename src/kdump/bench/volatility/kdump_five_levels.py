"""Five levels of page tables (LA57) for Volatility 3, which up to 2.28 reads four: `vol -p THIS_DIRECTORY …`.

Whoever distributes additions to Volatility has to license them as it is, hence the second licence.
SPDX-License-Identifier: Apache-2.0 OR LicenseRef-VSL-1.0

Source: Intel SDM volume 3, section 4.5.4 (5-level paging). That a machine had it is in VMCOREINFO.
"""

from __future__ import annotations

from typing import Any

from volatility3.framework.automagic.linux import LinuxIntelVMCOREINFOStacker
from volatility3.framework.layers.intel import LinuxIntel32e
from volatility3.framework.symbols.linux import VMCoreInfo


class LinuxFiveLevels(LinuxIntel32e):  # type: ignore[misc]  # Volatility is not typed
    """An address space of 57 bits."""

    _maxphyaddr = 52
    _maxvirtaddr = 57
    _structure = [("page map layer 5", 9, False), *LinuxIntel32e._structure]  # noqa: RUF012 -- as there


class FiveLevelsStacker(LinuxIntelVMCOREINFOStacker):  # type: ignore[misc]
    """Comes before Volatility's own, and takes what that makes of the kernel that it finds."""

    stack_order = LinuxIntelVMCOREINFOStacker.stack_order - 1

    @classmethod
    def stack(cls, context: Any, layer_name: str, progress_callback: Any = None) -> Any:
        """The kernel's address space on a layer of physical memory; None if its tables have not five levels."""
        notes = VMCoreInfo.search_vmcoreinfo_elf_note(context, layer_name, progress_callback)
        if not any(note.get("NUMBER(pgtable_l5_enabled)") for _, note in notes):
            return None
        found = super().stack(context, layer_name, progress_callback)
        if found is None:
            return None
        return LinuxFiveLevels(context, config_path=found.config_path, name=found.name, metadata={"os": "Linux"})
