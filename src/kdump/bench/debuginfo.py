"""A vmlinux made of the dump alone: types, symbols, variables, unwind information, code and data.

What crash, gdb, drgn and dwarf2json want is an ELF file with DWARF for the exact kernel. The dump has all of it in
other forms: types in BTF, symbols in kallsyms, stacks in ORC. Line numbers, the places of arguments and the bodies of
inlined functions are in no dump, and so not in this file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kdump.arch.stacks import Unwound
from kdump.bench.dwarf import Function, Variable, Writer, abbreviations
from kdump.bench.sections import Section, SymbolRow, write
from kdump.bench.variables import TEXT, declared, typed
from kdump.errors import KdumpError, NotPresentError
from kdump.kernel import btf
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks

_PAGE = 4096
_MAX_SECTION = 1 << 28
_HALF = 1 << 63


class Summary(NamedTuple):
    """The contents of the file. `absent` are pages of its code and data that the dump lacks (zeros in the file)."""

    types: int
    functions: int
    variables: int
    symbols: int
    modules: int
    absent: int
    offset: int
    problems: tuple[str, ...]


class Content(NamedTuple):
    """The sections and symbols of the file to be, and what there is to say of them."""

    sections: list[Section]
    symbols: list[SymbolRow]
    summary: Summary


def make(kernel: Kernel, producer: str, *, linked: bool = False) -> Content:
    """Put the file together. Addresses are those of the dump; with `linked` those before KASLR moved the kernel.

    Raises `KdumpError` if the dump has no symbols or no types.
    """
    return _Maker(kernel, producer, linked).content()


def kernel_offset(kernel: Kernel) -> int:
    """By how many bytes KASLR moved the kernel, 0 if VMCOREINFO does not say."""
    try:
        return int(kernel.vmcoreinfo.strings.get("KERNELOFFSET", "0"), 16)
    except ValueError:
        return 0


class _Maker:
    def __init__(self, kernel: Kernel, producer: str, linked: bool) -> None:
        self.kernel = kernel
        self.offset = kernel_offset(kernel) if linked else 0
        self.linked = linked
        self.writer = Writer(producer)
        self.problems: list[str] = []
        self.absent = 0
        self.counts = {"functions": 0, "variables": 0, "types": 0}
        self.symbols = list(kernel.symbols)
        self.typed = list(typed(kernel, self.symbols))
        get = kernel.symbols.get
        self.text = (get("_stext") or get("_text") or 0, get("_etext") or get("_end") or 0)
        self._image_start = min(self.text[0], get("_text") or self.text[0])

    def moved(self, address: int) -> int:
        """An address of the dump as it is in the file. Per-CPU symbols are offsets, which KASLR leaves alone."""
        return (address - self.offset) % (1 << 64) if address >= _HALF else address

    def content(self) -> Content:
        kernel = self.kernel
        self._unit("vmlinux", kernel.types.raw, self._functions(kernel.types), self._variables(), self._moved_range())
        modules = [module for module in kernel.modules if self._module(module)]
        sections = self._sections()
        frame = self._frame()
        sections += [
            Section(".debug_info", bytes(self.writer.info)),
            Section(".debug_abbrev", abbreviations()),
            Section(".debug_str", bytes(self.writer.strings), strings=True),
        ]
        if frame:
            sections.append(Section(".debug_frame", frame))
        rows = list(self._rows())
        summary = Summary(
            self.counts["types"], self.counts["functions"], self.counts["variables"], len(rows), len(modules),
            self.absent, self.offset, tuple(self.problems),
        )  # fmt: skip
        return Content(sections, rows, summary)

    def _rows(self) -> Iterator[SymbolRow]:
        """The symbols. A variable is as large as its type; kallsyms knows only where the next one begins. A mark of the
        linker has no size where a variable begins: gdb then names the variable.
        """
        variables = {each.symbol.address: each for each in self.typed}
        for name, address, kind, room, _ in self.symbols:
            size, variable = room, None if kind in TEXT else variables.get(address)
            if variable is not None:
                size = variable.size or room if variable.symbol.name == name else 0
            yield SymbolRow(name, self.moved(address), size, kind in TEXT, kind.isupper())
        # kallsyms does not list its own tables, but VMCOREINFO does. It also has names that are macros, not symbols.
        for name, address in self.kernel.vmcoreinfo.symbols.items():
            if name.startswith("kallsyms_"):
                yield SymbolRow(name, self.moved(address), 0, False, True)

    def _moved_range(self) -> tuple[int, int]:
        return self.moved(self.text[0]), self.moved(self.text[1])

    def _unit(
        self,
        name: str,
        raw: btf.Raw | None,
        functions: list[Function],
        variables: list[Variable],
        text: tuple[int, int] | None = None,
    ) -> None:
        self.writer.unit(name, raw, functions, variables, text)
        self.counts["functions"] += len(functions)
        self.counts["variables"] += len(variables)
        self.counts["types"] += len(raw.starts) if raw else 0

    def _functions(self, types: btf.Btf) -> list[Function]:
        prototypes = dict(_functions_of(types))
        found = []
        seen: set[str] = set()
        for symbol in self.symbols:
            number = prototypes.get(symbol.name)
            if number is not None and symbol.type in TEXT and symbol.name not in seen and symbol.address >= _HALF:
                seen.add(symbol.name)
                size = min(symbol.size, 0xFFFFFFFF)
                found.append(Function(symbol.name, self.moved(symbol.address), size, symbol.type.isupper(), number))
        return found

    def _variables(self) -> list[Variable]:
        found = [
            Variable(
                each.symbol.name, self.moved(each.symbol.address), each.symbol.type.isupper(), *each[2:], size=each.size
            )
            for each in self.typed
        ]
        return found + self._constants()

    def _constants(self) -> list[Variable]:
        """Crash computes HZ from a constant of block/mq-deadline.c, 5 * HZ; the kernel keeps a tick's length."""
        whole = self.kernel.types.find("int", btf.INT)
        try:
            tick = self.kernel.objects.number("tick_nsec", 8)
        except KdumpError:
            tick = None
        if whole is None or not tick or not 100_000 <= tick <= 100_000_000:
            return []
        return [Variable("write_expire", 0, False, whole.id, value=5 * round(1e9 / tick))]

    def _module(self, module: object) -> bool:
        """A module's types and functions; False if it has neither, or they cannot be read (which is noted)."""
        from kdump.kernel.modules import Module

        assert isinstance(module, Module)
        types = None
        try:
            types = module.types
        except KdumpError as error:
            self.problems.append(f"types of module {module.name}: {error.what}")
        try:
            symbols = module.symbols()
        except KdumpError as error:
            self.problems.append(f"symbols of module {module.name}: {error.what}")
            symbols = []
        prototypes = dict(_functions_of(types)) if types is not None else {}
        functions = [
            Function(symbol.name, self.moved(symbol.address), symbol.size, True, prototypes.get(symbol.name, 0))
            for symbol in symbols
            if symbol.type in TEXT and symbol.size and symbol.name
        ]
        if types is None and not functions:
            return False
        self._unit(module.name, types.raw if types is not None else None, functions, [])
        return True

    def _frame(self) -> bytes:
        try:
            return self.kernel.arch.debug_frame(self.kernel, self.moved, self._stacks())
        except (KdumpError, KeyError) as error:
            self.problems.append(f"unwind information: {error}")
            return b""

    def _stacks(self) -> list[Unwound]:
        """What ran on each CPU."""
        tasks = Tasks(self.kernel)
        try:
            return [tasks.cpu_stack(cpu) for cpu in tasks.running()]
        except KdumpError as error:
            self.problems.append(f"stacks of CPUs: {error}")
            return []

    def _sections(self) -> list[Section]:
        get = self.kernel.symbols.get
        found = []

        def add(name: str, start: int | None, end: int | None, *, code: bool = False, write: bool = False) -> None:
            if start is None or end is None or not start < end <= start + _MAX_SECTION:
                return
            if name == ".data..percpu":
                data = bytes(end - start)  # crash knows per-CPU symbols by a section that has content
            else:
                data = b"" if name in (".init.text", ".bss") else self._bytes(start, end)
            # Per-CPU symbols are offsets: drgn would take a segment of theirs for the start of the kernel.
            segment = not self.linked or start >= _HALF
            found.append(Section(name, data, self.moved(start), end - start, code, write, segment=segment))

        add(".text", self._image_start, self.text[1], code=True)
        add(".rodata", get("__start_rodata"), get("_sdata") or get("__end_rodata"), write=True)
        add(".data", get("_sdata"), get("_edata"), write=True)
        add(".data..percpu", get("__per_cpu_start"), get("__per_cpu_end"), write=True)
        add(".init.text", get("_sinittext"), get("_einittext"), code=True)
        add(".bss", get("__bss_start"), get("__bss_stop"), write=True)
        note = self._build_id()
        if note:
            found.append(Section(".note.gnu.build-id", note, note=True))
        return found

    def _build_id(self) -> bytes:
        build_id = bytes.fromhex(self.kernel.vmcoreinfo.build_id or "")
        return struct.pack("<III4s", 4, len(build_id), 3, b"GNU\0") + build_id if build_id else b""

    def _bytes(self, start: int, end: int) -> bytes:
        """Memory, with zeros for pages that the dump lacks."""
        virtual = self.kernel.virtual
        out = np.zeros(end - start, np.uint8)
        for at in range(start & -_PAGE, end, _PAGE):
            low, high = max(at, start), min(at + _PAGE, end)
            try:
                out[low - start : high - start] = np.frombuffer(virtual.view(low, high - low), np.uint8)
            except NotPresentError:
                self.absent += 1
        return out.tobytes()


def _functions_of(types: btf.Btf) -> Iterator[tuple[str, int]]:
    """Names and prototypes of all functions of a section."""
    return ((name, target) for kind, name, target in declared(types) if kind == btf.FUNC)


def save(content: Content, machine: int, descriptor: int) -> int:
    """Write the file; its size in bytes."""
    return write(content.sections, content.symbols, machine, descriptor)
