"""Stacks and registers, whatever the architecture, and what an unwinder wants to know of a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from kdump.errors import KdumpError, NotPresentError

_LIMIT: Final = 256  # frames of one stack


class Registers:
    """Processor registers under the kernel's names; `values` follow `NAMES`."""

    __slots__ = ("values",)
    NAMES: ClassVar[tuple[str, ...]]
    PC: ClassVar[str]
    SP: ClassVar[str]

    def __init__(self, values: tuple[int, ...]) -> None:
        self.values = values

    def __getitem__(self, name: str) -> int:
        return self.values[self.NAMES.index(name)]

    @property
    def pc(self) -> int:
        """The address of the instruction to be run next."""
        return self[self.PC]

    @property
    def sp(self) -> int:
        """The stack pointer."""
        return self[self.SP]

    @property
    def user(self) -> bool:
        """Whether the processor was in user mode."""
        raise NotImplementedError


class Frame(NamedTuple):
    """One frame. `pc` is exact if `registers` are there (an interrupted context), else a return address."""

    pc: int
    sp: int
    registers: Registers | None = None

    @property
    def lookup(self) -> int:
        """The address to look up: a return address may already belong to the next function."""
        return self.pc if self.registers else self.pc - 1


class Unwound(NamedTuple):
    """A stack from the innermost frame; `reliable` unless the unwinder guessed or stopped early, as `note` says."""

    frames: list[Frame]
    reliable: bool = True
    note: str = ""
    user: Registers | None = None
    switched: tuple[tuple[str, int], ...] = ()  # of a task that does not run: registers that it kept for itself


class LostError(KdumpError):
    """The stack leads nowhere."""


def gathered(steps: Iterable[tuple[Frame, Registers | None]]) -> Unwound:
    """A stack from its frames, each with the registers that an exception left there; it ends where user mode begins.

    `steps` may raise `LostError` and `NotPresentError`, which the stack's note repeats.
    """
    frames: list[Frame] = []
    try:
        for frame, here in steps:
            if here is not None and here.user:
                return Unwound(frames, user=here)
            if len(frames) == _LIMIT:
                return Unwound(frames, False, f"cut off after {_LIMIT} frames")
            frames.append(frame)
    except (NotPresentError, LostError) as error:
        return Unwound(frames, False, str(error))
    return Unwound(frames)


class Unwinder(Protocol):
    """Walks stacks of one kernel."""

    def from_registers(self, regs: Any) -> Unwound:
        """The stack of an interrupted context, from its `Registers`."""

    def from_thread(self, thread: Any) -> Unwound:
        """The stack of a task that does not run, from its struct thread_struct."""


class Virtual(Protocol):
    """The kernel's address space."""

    def view(self, address: int, size: int) -> memoryview:
        """Bytes at a virtual address. Raises `NotPresentError`."""

    def read(self, address: int, size: int) -> bytes:
        """A copy of the bytes at a virtual address. Raises `NotPresentError`."""

    def u64(self, address: int) -> int:
        """The little-endian number at a virtual address. Raises `NotPresentError`."""


class Symbol(Protocol):
    """A symbol."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def address(self) -> int:
        """Where it begins."""

    @property
    def size(self) -> int:
        """Its length in bytes."""


class Symbolizer(Protocol):
    """Names for addresses."""

    def at(self, address: int) -> Symbol | None:
        """The symbol that covers an address, None if nothing does."""


class Symbols(Protocol):
    """Addresses for names."""

    def get(self, name: str) -> int | None:
        """The symbol's address, or None."""

    def address(self, name: str) -> int:
        """The symbol's address. Raises `KdumpError` if there is none."""


class KernelView(Protocol):
    """The part of `kdump.kernel.kernel.Kernel` that an unwinder needs; objects and types are those of BTF."""

    @property
    def virtual(self) -> Virtual:
        """The kernel's address space."""

    @property
    def symbols(self) -> Symbols:
        """Symbols of the image."""

    @property
    def symbolizer(self) -> Symbolizer:
        """Names for addresses in the image, modules and generated code."""

    @property
    def vmcoreinfo(self) -> Any:
        """VMCOREINFO."""

    @property
    def types(self) -> Any:
        """Types."""

    @property
    def objects(self) -> Any:
        """Access to objects."""

    @property
    def modules(self) -> Sequence[Any]:
        """Loaded modules."""
