"""Write src/kdump/kernel/globals.txt: the types of the kernel's global variables, out of vmlinux files with DWARF.

    python tools/globals.py VMLINUX...

BTF describes no global variables, so their types are taken from the debug information of the kernels that Debian ships
(`kdump.lab.kernels.debug_vmlinux` fetches it); name all of them, newest first. Each line is a name and the types it has
in those kernels, with "7.2:" before a type that the variable has had since then and not before; what the table already
holds stays. What other kernels have is checked when a dump is read: a type counts only if the kernel has it and the
variable has room for it.
"""

from __future__ import annotations

import mmap
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import drgn
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

TABLE = Path(__file__).parent.parent / "src" / "kdump" / "kernel" / "globals.txt"
# What macros make: records of tracing, of static keys, of printk formats; nobody looks at those by name.
_MADE = re.compile(
    r"__(key|func|already_done|warned|UNIQUE_ID|tracepoint|param|setup|initcall|exitcall|ksymtab|kstrtab|crc|bpf|compound"
    r"|SCK|SCT|event|TRACE|print|warn|msg|addressable|pfx|p_|kunit|export|mod_|PRETTY|section|reset_on|dyndbg|ctx_convert)"
    r"|(event|print_fmt|trace_event|perf_|str__|_entry|descriptor|types__|args__|syscall_meta|__func__|event_enter|event_exit)_?"
)
# Defined by the linker script or in assembly, so by no unit; and by kernels without a debug package at hand
# (kernel/irq/irqdesc.c, kernel/time/timekeeping.c).
_LINKED = {
    "jiffies": ["unsigned long"],
    "empty_zero_page": ["unsigned long [512]"],
    "total_nr_irqs": ["unsigned int"],
    "timekeeper_data": ["struct tk_data [9]"],
    "tk_core": ["struct tk_data"],
}
_PLAIN = re.compile(r"(?:(?:struct|union|enum) )?\w[\w ]*(?: \**)?(?:\[\d+\])*")


def _machine(path: Path) -> str:
    """The architecture of a vmlinux, as drgn calls it."""
    with path.open("rb") as file:
        name: str = ELFFile(file)["e_machine"]
    return name.removeprefix("EM_")


def _objects(path: Path) -> Counter[str]:
    """Names of its variables, and how often each is there."""
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            raise SystemExit(f"{path}: no symbols in it")
        return Counter(symbol.name for symbol in table.iter_symbols() if symbol["st_info"]["type"] == "STT_OBJECT")


def _base(text: str) -> str:
    """A type without pointers and arrays."""
    return re.split(r" ?[*\[]", text)[0]


def _release(path: Path) -> str:
    """The kernel's version, such as "6.12"."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = re.search(rb"Linux version (\d+\.\d+)", content)
        if found is None:
            raise SystemExit(f"{path}: no kernel's version in it")
        return found[1].decode()


def since(found: list[tuple[str, str]]) -> list[str]:
    """Types as the table has them, of versions and types from the newest to the oldest.

    Lengths of arrays are a matter of configuration, so they tell no versions apart.
    """
    groups = [list(group) for _, group in groupby(found, lambda each: re.sub(r"\[\d+\]", "[]", each[1]))]
    marks = [f"{group[-1][0]}:" for group in groups[:-1]] + [""]
    texts = [dict.fromkeys(text for _, text in group) for group in groups]
    return [mark + text for mark, group in zip(marks, texts, strict=True) for text in group]


def variables(path: Path) -> Iterator[tuple[str, str]]:
    """Names and types (as C spells them) of the variables of a vmlinux that are the only ones of their name."""
    program = drgn.Program(drgn.Platform(drgn.Architecture[_machine(path)]))
    module = program.extra_module("vmlinux", create=True)
    module.address_range = (1 << 63, (1 << 64) - 1)
    module.try_file(path, force=True)
    if not module.debug_file_path:
        raise SystemExit(f"{path}: drgn finds no DWARF in it")
    for name, count in _objects(path).items():
        if count > 1 or "." in name or _MADE.match(name):
            continue
        try:
            kind = program.variable(name).type_
        except LookupError:
            continue
        text = re.sub(r"\b(const|volatile)\b ?", "", kind.type_name()).replace("* [", "*[").strip()
        if _PLAIN.fullmatch(text) and (not text.startswith("void") or text.startswith("void *")):
            yield name, text


def main(paths: list[str]) -> None:
    """Merge the files' variables into the table.

    x86_64's files come first. A variable that x86_64 has gets a type from another architecture only if x86_64 has no
    such type: what merely fits into a variable's room could be wrong there.
    """
    types = {
        name: [text.rpartition(":")[2] for text in found]
        for name, *found in (line.split("\t") for line in TABLE.read_text().splitlines())
    }
    for name, known in _LINKED.items():
        types.setdefault(name, list(known))
    there: set[str] = set()
    ours: dict[str, list[tuple[str, str]]] = {}
    for path in paths:
        own = _machine(Path(path)) == "X86_64"
        there |= _objects(Path(path)).keys() if own else set()
        bases = {_base(text) for found in types.values() for text in found}
        release = _release(Path(path))
        for name, text in variables(Path(path)):
            if own:
                ours.setdefault(name, []).append((release, text))
            found = types.get(name, [])
            if text not in found and (own or name not in there or _base(text) not in bases):
                types[name] = [*found, text]
    for name, history in ours.items():
        here = {text for _, text in history}
        types[name] = since(history) + [text for text in types[name] if text not in here]
    lines = [f"{name}\t{chr(9).join(found)}\n" for name, found in sorted(types.items())]
    TABLE.write_text("".join(lines))
    print(f"{len(lines)} variables, {TABLE.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
