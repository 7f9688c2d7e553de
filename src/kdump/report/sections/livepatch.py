"""Live patches: which functions of the running kernel were replaced, and whether a change was under way.

Source: include/linux/livepatch.h, kernel/livepatch/transition.c. kpatch's patches are such patches too.
"""

from __future__ import annotations

from kdump.kernel.objects import Objects, Struct
from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Fact, Facts, Finding, Section, Table, Value

TITLE = "Live patches"
NEEDS_DUMP = True
_SHOWN = 500
_MAX_PATCHES, _MAX_FUNCTIONS = 1000, 10000


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    if objects.symbols.get("klp_enable_patch") is None:
        # Built without CONFIG_LIVEPATCH.
        section.blocks.append(Facts("state", [Fact("supported", "Supported by this kernel", False)]))
        return
    head = objects.symbols.address("klp_patches")
    moving = objects.unsigned(objects.symbols.address("klp_transition_patch"))
    patches: list[tuple[Value, ...]] = []
    functions: list[tuple[Value, ...]] = []
    for patch in objects.list(head, "klp_patch", "list", _MAX_PATCHES):
        name = clean(objects.string(patch.mod.name)) if patch.mod else "?"
        state = "enabled" if patch.enabled else "disabled"
        if objects.address(patch) == moving:
            state = "being enabled" if patch.enabled else "being disabled"
            section.findings.append(Finding("warning", f"the live patch {name} was {state} when the kernel died"))
        found = [
            row for part in objects.list(patch.obj_list, "klp_object", "node") for row in _functions(objects, part)
        ]
        patches.append((name, state, bool(patch.replace), bool(patch.forced), len(found)))
        functions += [(name, *row) for row in found]
    section.blocks.append(Facts("state", [Fact("patches", "Patches", len(patches))]))
    if not patches:
        return
    section.findings.append(Finding("note", f"live patches: {', '.join(str(row[0]) for row in patches)}"))
    columns = [
        Column("patch", "Patch"), Column("state", "State"), Column("replaces", "Replaces all"),
        Column("forced", "Forced"), Column("functions", "Functions"),
    ]  # fmt: skip
    section.blocks.append(Table("patches", "Patches", columns, patches))
    columns = [
        Column("patch", "Patch"), Column("object", "Object"), Column("function", "Function"),
        Column("patched", "Patched"),
    ]  # fmt: skip
    left_out = max(0, len(functions) - _SHOWN)
    section.blocks.append(Table("functions", "Replaced functions", columns, functions[:_SHOWN], left_out))


def _functions(objects: Objects, part: Struct) -> list[tuple[Value, ...]]:
    where = clean(objects.string(part.name)) if part.name else "vmlinux"
    return [
        (where, clean(objects.string(function.old_name)), bool(function.patched))
        for function in objects.list(part.func_list, "klp_func", "node", _MAX_FUNCTIONS)
    ]
