"""Loaded kernel modules: where they lie, their symbols and types.

Source: include/linux/module.h: struct module (`core_layout` and `init_layout` before 6.4, `mem[]` since), struct
mod_kallsyms; kernel/bpf/btf.c: struct btf_module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kdump.errors import KdumpError
from kdump.kernel.btf import Btf
from kdump.kernel.kallsyms import Symbol, UnknownSymbolError
from kdump.kernel.remembered import remembered

if TYPE_CHECKING:
    from kdump.kernel.objects import Objects, Struct

_ELF_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_MAX_SYMBOLS = 1 << 20
_MAX_MODULES = 1 << 14
_MAX_BTF = 1 << 26
_NO_FUNCTION = (".L", "L0\x01", "__pfx_", "$")  # assembler-local names, padding, mapping symbols


class Module:
    """One module. `text` and `ranges` are [start, end) of its code and of all its memory."""

    def __init__(self, objects: Objects, module: Struct) -> None:
        self.objects = objects
        self.struct = module
        self.name = objects.string(module.name)

    def __repr__(self) -> str:
        return f"Module({self.name!r})"

    @remembered
    def ranges(self) -> list[tuple[int, int]]:
        """All memory of the module; of one that is just being loaded, also what only its start needs."""
        if self.objects.has(self.struct, "mem"):
            parts = [(int(part.base), part.size) for part in self.struct.mem]
        else:
            parts = [(int(part.base), part.size) for part in (self.struct.core_layout, self.struct.init_layout)]
        return [(base, base + size) for base, size in parts if base and size]

    @remembered
    def text(self) -> list[tuple[int, int]]:
        """Its code."""
        if self.objects.has(self.struct, "mem"):
            names = ("MOD_TEXT", "MOD_INIT_TEXT")
            kinds = [self.struct.mem[self.objects.types.enumerator(name)] for name in names]
            parts = [(int(part.base), part.size) for part in kinds]
        else:
            layouts = (self.struct.core_layout, self.struct.init_layout)
            parts = [(int(part.base), part.text_size) for part in layouts]
        return [(base, base + size) for base, size in parts if base and size]

    @property
    def size(self) -> int:
        """Bytes of memory, as lsmod counts them."""
        return sum(end - start for start, end in self.ranges)

    def covers(self, address: int) -> bool:
        """Whether the address lies in the module."""
        return any(start <= address < end for start, end in self.ranges)

    @remembered
    def _symbols(self) -> tuple[npt.NDArray[np.void], bytes]:
        table = self.struct.kallsyms
        count = int(table.num_symtab)
        if not 0 < count <= _MAX_SYMBOLS:
            return np.empty(0, _ELF_SYMBOL), b""
        read = self.objects.kernel.virtual.read
        symbols = np.frombuffer(read(int(table.symtab), count * _ELF_SYMBOL.itemsize), _ELF_SYMBOL)
        names = self._strings(int(table.strtab), int(symbols["name"].max()))
        symbols = symbols[(symbols["section"] != 0) & (symbols["name"] != 0)]
        return symbols[np.argsort(symbols["value"], kind="stable")], names

    def _strings(self, address: int, last: int) -> bytes:
        virtual = self.objects.kernel.virtual
        if last > _MAX_BTF:
            raise KdumpError(f"module {self.name}: its symbol names are damaged")
        return virtual.read(address, last) + virtual.cstring(address + last, 4096) + b"\0"

    def at(self, address: int) -> Symbol | None:
        """The symbol that covers an address of this module; of several at one place the first in its table."""
        symbols, names = self._symbols
        values = symbols["value"]
        place = int(np.searchsorted(values, np.uint64(address), side="right"))
        while place > 0:
            start, end = int(np.searchsorted(values, values[place - 1], side="left")), place
            # What has no size (an empty lock_class_key) may share its place with what has one.
            for index in sorted(range(start, end), key=lambda index: not symbols["size"][index]):
                found = self._symbol(symbols, names, index)
                if found.name and not found.name.startswith(_NO_FUNCTION):
                    size = int(values[end]) - found.address if end < len(values) else found.size
                    return found._replace(size=size)
            place = start
        return None

    def address(self, name: str) -> int | None:
        """Where the symbol of that name is; None if it has none."""
        symbols, names = self._symbols
        place = names.find(b"\0" + name.encode() + b"\0") + 1  # modpost's tables share no endings
        found = np.flatnonzero(symbols["name"] == place) if place else ()
        return int(symbols["value"][found][0]) if len(found) else None

    def symbols(self) -> list[Symbol]:
        """All of its symbols, by address."""
        symbols, names = self._symbols
        return [self._symbol(symbols, names, place) for place in range(len(symbols))]

    def _symbol(self, symbols: npt.NDArray[np.void], names: bytes, place: int) -> Symbol:
        row = symbols[place]
        start = int(row["name"])
        text = names[start : names.find(b"\0", start)].decode("utf-8", "replace")
        kind = "t" if int(row["info"]) & 15 == 2 else "d"
        return Symbol(text, int(row["value"]), kind, int(row["size"]), self.name)

    @remembered
    def types(self) -> Btf | None:
        """Its own types on top of the kernel's, None if it has none."""
        objects = self.objects
        if objects.symbols.get("btf_modules") is None or not objects.types.has_struct("btf_module"):
            return None
        found = objects.module_btf.get(objects.address(self.struct))
        if found is None:
            return None
        size = int(found.data_size)
        if not 0 < size <= _MAX_BTF:
            raise KdumpError(f"module {self.name}: {size} bytes cannot be its types")
        return Btf(objects.kernel.virtual.read(int(found.data), size), objects.types)


def modules(objects: Objects) -> list[Module]:
    """All loaded modules, newest first as in /proc/modules. One whose struct cannot be read is noted and left out."""
    found: list[Module] = []
    try:
        head = objects.variable("modules")
    except UnknownSymbolError as error:  # an empty list is not found by what is on it
        objects.problem(f"no module was found: {error}")
        return found
    for module in objects.list(head, "module", "list", _MAX_MODULES):
        try:
            # Those still being set up (MODULE_STATE_UNFORMED) hold nothing to read yet.
            if int(module.state) != objects.types.enumerator("MODULE_STATE_UNFORMED"):
                found.append(Module(objects, module))
        except KdumpError as error:
            objects.problem(f"a module cannot be read: {error}")
    return found


class Symbolizer:
    """Names for addresses anywhere in the kernel: image, modules, BPF programs and trampolines."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        symbols = objects.symbols
        self._start = symbols.get("_stext") or symbols.address("_text")
        self._end = symbols.get("_end") or symbols.address("_etext")
        self._cache: dict[int, Symbol | None] = {}

    @remembered
    def _generated(self) -> list[tuple[int, int, str]]:
        """Code made at run time: [start, end) and name of each BPF program, dispatcher and trampoline."""
        objects = self._objects
        if objects.symbols.get("bpf_kallsyms") is None or not objects.types.has_struct("bpf_ksym"):
            return []
        head = objects.symbols.address("bpf_kallsyms")
        return [
            (int(found.start), int(found.end), objects.string(found.name))
            for found in objects.attempt(objects.list(head, "bpf_ksym", "lnode"))
        ]

    def at(self, address: int) -> Symbol | None:
        """The symbol that covers an address, None if nothing does."""
        if address not in self._cache:
            self._cache[address] = self._find(address)
        return self._cache[address]

    def _find(self, address: int) -> Symbol | None:
        if self._start <= address < self._end:
            return self._objects.symbols.at(address)
        for module in self._objects.kernel.modules:
            if module.covers(address):
                try:
                    return module.at(address)
                except KdumpError as error:
                    self._objects.problem(f"symbols of module {module.name}: {error}")
                    return Symbol("", module.ranges[0][0], "t", 0, module.name)
        for start, end, name in self._generated:
            if start <= address < end:
                return Symbol(name, start, "t", end - start, "bpf")
        return None
