"""A drgn program of a dump without debug information: types from BTF, symbols from kallsyms, stacks by ORC.

drgn asks finders for what it needs. kdump's finders answer from the kernel's own memory, so drgn's helpers, its %crash
commands and its stack traces work on the dump alone. If debug information is available, it is used first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import drgn
from drgn import (
    FindObjectFlags,
    Object,
    Program,
    Symbol,
    SymbolBinding,
    SymbolKind,
    TypeEnumerator,
    TypeKind,
    TypeMember,
    TypeParameter,
)

from kdump.errors import KdumpError, reason
from kdump.kernel import btf
from kdump.kernel import globals as kernel_globals
from kdump.kernel.kernel import Kernel
from kdump.kernel.objects import GLOBALS

_DEBUG = ("/usr/lib/debug/lib/modules/{}/vmlinux", "/usr/lib/debug/boot/vmlinux-{}", "/lib/modules/{}/build/vmlinux")
_KINDS = {
    TypeKind.STRUCT: (btf.STRUCT,),
    TypeKind.UNION: (btf.UNION,),
    TypeKind.CLASS: (),
    TypeKind.ENUM: (btf.ENUM, btf.ENUM64),
    TypeKind.TYPEDEF: (btf.TYPEDEF,),
    TypeKind.INT: (btf.INT,),
    TypeKind.BOOL: (btf.INT,),
    TypeKind.FLOAT: (btf.FLOAT,),
}
# C spells its integers in several orders; drgn asks for one, BTF has another.
_SPELLINGS = {
    "unsigned long": "long unsigned int", "long": "long int",
    "unsigned short": "short unsigned int", "short": "short int",
    "unsigned long long": "long long unsigned int", "long long": "long long int", "_Bool": "bool",
    "unsigned": "unsigned int",
}  # fmt: skip


DRGN_ERRORS = (
    drgn.BadDataError, drgn.FaultError, drgn.MissingDebugInfoError, drgn.ObjectAbsentError, drgn.OutOfBoundsError,
    LookupError, NotImplementedError, OSError, OverflowError, TypeError, ValueError,
)  # fmt: skip
AUTO = "auto"  # instead of a file with debug information: find it


def open_program(
    paths: Sequence[str],
    kernel: Kernel,
    debug: Sequence[str | os.PathLike[str]] = (),
    *,
    default: bool = True,
    declared: Mapping[str, str] | None = None,
) -> Program:
    """A program of the dump at `paths`. `debug` are vmlinux and modules with DWARF, if there are any.

    drgn reads a dump that it cannot open itself, such as a split set, through kdump's reader.

    Without any, `default` uses those that the distribution installed for this very build; `AUTO` among them asks the
    debuginfod servers too, and there must be some then. `declared` are types of global variables by name, as C spells
    them, before those that we know.

    Raises `KdumpError` if drgn cannot open the dump or the debug files.
    """
    with drgn_errors(f"{paths[0]}: drgn cannot open it"):
        return _opened(paths, kernel, debug, declared or {}, default=default)


@contextmanager
def drgn_errors(what: str) -> Iterator[None]:
    """Raise KdumpError(`what`) for whatever drgn says of a damaged dump: its errors have no common base."""
    try:
        yield
    except DRGN_ERRORS as error:
        raise KdumpError(what, why=str(error)) from error


def _opened(
    paths: Sequence[str],
    kernel: Kernel,
    debug: Sequence[str | os.PathLike[str]],
    declared: Mapping[str, str],
    *,
    default: bool,
) -> Program:
    program = _of_file(paths[0]) if len(paths) == 1 else None
    if program is None:
        program = _of_memory(kernel)
    plug = Plug(program, kernel, declared)
    program.register_type_finder("btf", plug.find_type, enable_index=-1)
    program.register_object_finder("btf", plug.find_object, enable_index=-1)
    program.register_symbol_finder("kallsyms", plug.find_symbol, enable_index=-1)
    symbols = kernel.symbols
    main = program.main_module("kernel", create=True)
    main.address_range = (symbols.address("_stext"), symbols.get("_end") or symbols.address("_etext"))
    if kernel.vmcoreinfo.build_id:
        main.build_id = bytes.fromhex(kernel.vmcoreinfo.build_id)
    with suppress(*DRGN_ERRORS), _quiet():  # a kernel without modules, or with a damaged list of them
        program.create_loaded_modules()
        # drgn leaves out what a module needs only while it is being loaded; a stack may well be in there.
        ranges = {module.name: module.ranges for module in kernel.modules}
        for module in program.modules():
            if isinstance(module, drgn.RelocatableModule) and module.name in ranges:
                module.address_ranges = ranges[module.name]
    if list(debug) and AUTO not in debug:
        _load(program, main, [Path(path) for path in debug], kernel)
    elif default:
        # drgn looks for this very build below /usr/lib/debug and /lib/modules, then asks DEBUGINFOD_URLS.
        program.set_enabled_debug_info_finders(["standard", "debuginfod"] if AUTO in debug else ["standard"])
        with suppress(drgn.MissingDebugInfoError), _quiet():
            program.load_debug_info(None, default=True)
        if AUTO in debug and main.debug_file_path is None:
            servers = os.environ.get("DEBUGINFOD_URLS") or "not set"
            raise KdumpError(
                f"there is no debug information for build ID {kernel.vmcoreinfo.build_id or 'unknown'}",
                why=f"it is not installed here, and DEBUGINFOD_URLS is {servers}",
                remedy="install the kernel's debug package, or name a server or a vmlinux",
            )
    if main.debug_file_path is None:
        main.debug_file_status = drgn.ModuleFileStatus.DONT_WANT
        main.loaded_file_status = drgn.ModuleFileStatus.DONT_WANT
    return program


def _of_file(path: str) -> Program | None:
    """drgn's own reader of dumps, None if it does not open this one."""
    program = Program()
    try:
        program.set_core_dump(path)
    except Exception:  # noqa: BLE001 - libkdumpfile's errors come as bare Exceptions
        return None
    return program


def _of_memory(kernel: Kernel) -> Program:
    """A program that reads what our reader reads; without the registers of notes, so drgn unwinds no running task."""
    program = Program(drgn.Platform(_architecture(kernel.arch.name)))

    def read(address: int, size: int, offset: int, physical: bool) -> bytes:
        del offset, physical
        try:
            return bytes(kernel.memory.view(address, size))
        except KdumpError as error:
            raise drgn.FaultError(f"could not read memory: {error}", address) from error

    program.set_linux_kernel_custom(kernel.dump.vmcoreinfo, False)
    program.add_memory_segment(0, 1 << 63, read, physical=True)
    return program


def _architecture(name: str) -> drgn.Architecture:
    """drgn's name of an architecture: ours in capitals, the order of bytes not in it."""
    found = (each for each in drgn.Architecture if each.name == name.upper().removesuffix("LE"))
    return next(found, drgn.Architecture.UNKNOWN)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without drgn's warnings that debug information is needed: that is what we are for."""
    log = logging.getLogger("drgn")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _load(program: Program, main: drgn.Module, found: Sequence[Path], kernel: Kernel) -> None:
    for path in found:
        try:
            path.open("rb").close()
        except OSError as error:
            raise KdumpError(f"{path}: {reason(error)}") from None
    try:
        program.load_debug_info(found)
    except drgn.MissingDebugInfoError as error:
        raise KdumpError("the debug information cannot be used", why=str(error)) from error
    if main.debug_file_path is None:
        raise KdumpError(
            f"{found[0]}: not the debug information of this kernel",
            why=f"the dump's kernel has build ID {kernel.vmcoreinfo.build_id or 'unknown'}",
            remedy="find the vmlinux with that build ID (`readelf -n` shows it)",
        )


class Plug:
    """Answers drgn's questions. Types are cached: drgn compares them by identity."""

    def __init__(self, program: Program, kernel: Kernel, declared: Mapping[str, str]) -> None:
        self.program = program
        self._declared = declared
        self.kernel = kernel
        self._types: dict[tuple[btf.Btf, int], drgn.Type] = {}
        self._objects: dict[tuple[str, FindObjectFlags], Object | None] = {}

    def find_type(self, program: Program, kinds: Any, name: str, filename: str | None) -> drgn.Type | None:
        """drgn's type finder."""
        if filename:
            return None
        wanted = [kind for group in kinds for kind in _KINDS.get(group, ())]
        for spelling in (name, _SPELLINGS.get(name, "")):
            for section in self._sections():
                found = section.find(spelling, *wanted) if spelling and wanted else None
                if found is not None:
                    return self.convert(found)
        return None

    def _sections(self) -> Iterator[btf.Btf]:
        """The kernel's types, then those of each module that has some and can be read."""
        yield self.kernel.types
        for module in self.kernel.modules:
            with suppress(KdumpError):
                if module.types is not None:
                    yield module.types

    def convert(self, kind: btf.Type) -> drgn.Type:
        """The drgn type of a BTF type."""
        key = (kind.types if kind.id >= kind.types._first_id else self.kernel.types, kind.id)
        found = self._types.get(key)
        if found is None:
            found = self._types[key] = self._make(kind)
        return found

    def _make(self, kind: btf.Type) -> drgn.Type:
        program = self.program
        target: Callable[[], drgn.Type] = lambda: self.convert(kind.types.by_id(kind.target))  # noqa: E731
        match kind.kind:
            case 0:
                return program.void_type()
            case btf.INT:
                signed, _, boolean = kind.types.int_encoding(kind)
                return (
                    program.bool_type(kind.name, kind.size)
                    if boolean
                    else program.int_type(kind.name, kind.size, signed)
                )
            case btf.FLOAT:
                return program.float_type(kind.name, kind.size)
            case btf.PTR:
                return program.pointer_type(target())
            case btf.ARRAY:
                return program.array_type(target(), kind.length) if kind.length else program.array_type(target())
            case btf.STRUCT | btf.UNION:
                make = program.struct_type if kind.kind == btf.STRUCT else program.union_type
                return make(kind.name or None, kind.size, self._members(kind))
            case btf.ENUM | btf.ENUM64:
                values = [TypeEnumerator(name, value) for name, value in kind.enumerators().items()]
                if not values:
                    return program.enum_type(kind.name or None)
                signed = any(enumerator.value < 0 for enumerator in values)
                whole = program.int_type("int" if signed else "unsigned int", kind.size, signed)
                return program.enum_type(kind.name or None, whole, values)
            case btf.FWD:
                defined = self.kernel.types.find(kind.name, btf.UNION if kind.flag else btf.STRUCT)
                if defined is not None:
                    return self.convert(defined)
                return program.union_type(kind.name) if kind.flag else program.struct_type(kind.name)
            case btf.TYPEDEF:
                return program.typedef_type(kind.name, target())
            case btf.CONST:
                return target().qualified(drgn.Qualifiers.CONST)
            case btf.VOLATILE:
                return target().qualified(drgn.Qualifiers.VOLATILE)
            case btf.RESTRICT:
                return target().qualified(drgn.Qualifiers.RESTRICT)
            case btf.TYPE_TAG:
                return target()
            case btf.FUNC:
                return target()
            case btf.FUNC_PROTO:
                return self._function(kind)
        raise KdumpError(f"BTF type {kind.id} of kind {kind.kind} has no equivalent in C")

    def _members(self, kind: btf.Type) -> list[TypeMember]:
        members = []
        for name, number, offset, bits in kind.types.direct_members(kind):
            inside = kind.types.by_id(number)
            members.append(TypeMember(self._lazy(inside, bits), name or None, offset))
        return members

    def _lazy(self, kind: btf.Type, bits: int) -> Callable[[], Object]:
        # Only when somebody looks at a member is its type made: structures refer to each other in circles.
        return lambda: Object(self.program, self.convert(kind), bit_field_size=bits or None)

    def _function(self, kind: btf.Type) -> drgn.Type:
        parameters = kind.parameters()
        variadic = bool(parameters) and not parameters[-1][0] and not parameters[-1][1].id
        named = [TypeParameter(self.convert(of), name or None) for name, of in parameters[: len(parameters) - variadic]]
        return self.program.function_type(self.convert(kind.types.by_id(kind.target)), named, variadic)

    def find_object(self, program: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        """drgn's object finder."""
        if filename:
            return None
        key = (name, flags)
        if key not in self._objects:
            self._objects[key] = self._object(name, flags)
        return self._objects[key]

    def _object(self, name: str, flags: FindObjectFlags) -> Object | None:
        types, symbols = self.kernel.types, self.kernel.symbols
        if flags & FindObjectFlags.CONSTANT:
            found = types.enumeration(name)
            if found is not None:
                return Object(self.program, self.convert(found), value=found.enumerators()[name])
        address = symbols.get(name)
        if flags & FindObjectFlags.FUNCTION and address is not None:
            function = types.find(name, btf.FUNC)
            if function is not None:
                return Object(self.program, self.convert(function), address=address)
        if not flags & FindObjectFlags.VARIABLE:
            return None
        if address is not None:
            variable = types.find(name, btf.VAR)
            if variable is not None:
                return Object(self.program, self.convert(types.by_id(variable.target)), address=address)
            found = self._variable(name, address)
            return found if found is not None else self._untyped(name, symbols.at(address))
        symbol = self._of_modules.get(name)
        if symbol is None:
            return None
        kind = self._declared.get(name)
        return Object(self.program, kind, address=symbol.address) if kind else self._untyped(name, symbol)

    @cached_property
    def _of_modules(self) -> dict[str, Any]:
        """Symbols of modules by name."""
        return {symbol.name: symbol for module in self.kernel.modules for symbol in module.symbols()}

    @staticmethod
    def _untyped(name: str, symbol: Any) -> None:
        """Say how a variable gets a type; nothing if it is not a variable."""
        if symbol is None or symbol.type in "tTwWaA":
            return
        owner = f" of {symbol.module}" if symbol.module else ""
        text = f"the type of variable {name}{owner} is not known: declare it with kdump shell --declare 'TYPE {name}'"
        raise drgn.ObjectNotFoundError(text, name=name)

    def _variable(self, name: str, address: int) -> Object | None:
        """A variable that BTF does not describe, by our table."""
        if name == "tk_core" and not self.kernel.types.has_struct("tk_data"):
            # A struct without a name until 6.12 (kernel/time/timekeeping.c): a sequence counter, then the timekeeper.
            parts = [("seq", "seqcount_raw_spinlock_t", 0), ("timekeeper", "struct timekeeper", 64)]
            members = [TypeMember(self.program.type(kind), member, bit) for member, kind, bit in parts]
            size = 8 + self.kernel.types.struct("timekeeper").size
            return Object(self.program, self.program.struct_type(None, size, members), address=address)
        kind = self._declared.get(name) or GLOBALS.get(name)
        if kind is None and (found := kernel_globals.find(self.kernel, name)) is not None:
            kind = found.text
        try:
            return Object(self.program, kind, address=address) if kind else None
        except LookupError:
            return None

    def find_symbol(self, program: Program, name: str | None, address: int | None, one: bool) -> list[Symbol]:
        """drgn's symbol finder."""
        symbols = self.kernel.symbols
        if address is not None:
            found = self.kernel.symbolizer.at(address)
            hits = [found] if found and found.name and (name is None or found.name == name) else []
        elif name is not None:
            hits = [hit for place in symbols.addresses(name) if (hit := symbols.at(place)) is not None]
            hits = [hit._replace(name=name) for hit in hits]
            hits += [hit for module in self.kernel.modules for hit in module.symbols() if hit.name == name]
        else:
            hits = list(symbols)
        return [self._symbol(hit) for hit in (hits[:1] if one else hits)]

    @staticmethod
    def _symbol(hit: Any) -> Symbol:
        binding = SymbolBinding.GLOBAL if hit.type.isupper() else SymbolBinding.LOCAL
        kind = SymbolKind.FUNC if hit.type in "tTwW" else SymbolKind.OBJECT
        return Symbol(hit.name, hit.address, max(hit.size, 1), binding, kind)
