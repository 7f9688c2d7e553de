"""A dump as a remote target of GDB: a thread for each task, its registers, memory. Nothing can be run or changed.

Source: "GDB Remote Serial Protocol" in GDB's manual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import BinaryIO, Final
from xml.sax.saxutils import escape

from kdump.arch.architecture import GdbLayout
from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.kernel.processes import address_space
from kdump.kernel.task import Task
from kdump.kernel.tasks import Tasks
from kdump.report.logtext import clean

PACKET: Final = 1 << 14  # bytes of a packet, both ways
_IDLE: Final = 1 << 30  # threads of idle tasks, whose PID is 0, which means "any" here: this and the CPU
_THREADS: Final = 512  # named in one packet
_READ_ONLY: Final = b"E.this is a crash dump: it cannot be run or changed"


class Target:
    """A dump as GDB sees it. Thread numbers are PIDs."""

    def __init__(self, kernel: Kernel) -> None:
        """Raises KdumpError if GDB's registers of the kernel's architecture are not known."""
        if kernel.arch.gdb is None:
            raise KdumpError(f"GDB's registers of {kernel.arch.name} are not known here")
        self.kernel = kernel
        self.layout: GdbLayout = kernel.arch.gdb
        self._tasks = Tasks(kernel)

    @cached_property
    def threads(self) -> dict[int, Task]:
        """All threads by number; what ran on the CPU that panicked comes first, then what ran elsewhere."""
        tasks = self._tasks
        running = {cpu: tasks.describe(task) for cpu, task in tasks.running().items()}
        first = tasks.panic_cpu()
        order = sorted(running, key=lambda cpu: (cpu != first, cpu))
        found = {running[cpu].pid or _IDLE | cpu: running[cpu]._replace(cpu=cpu, running=True) for cpu in order}
        for task in tasks:
            found.setdefault(task.pid, task)
        return found

    def registers(self, number: int) -> dict[str, int]:
        """Registers of a thread by the kernel's names: all of one that ran, those that a sleeping one kept."""
        tasks, task = self._tasks, self.threads[number]
        if task.running:
            found = tasks.registers(task.cpu)
            return dict(zip(found.NAMES, found.values, strict=True)) if found else {}
        stack = tasks.stack(task)
        if not stack.frames:
            return {}
        innermost = stack.frames[0]
        return dict(stack.switched) | {self.layout.pc: innermost.pc, self.layout.sp: innermost.sp}

    def memory(self, number: int, address: int, size: int) -> bytes:
        """Bytes at an address, of the thread's process where it is one of user space; fewer where the dump ends.

        Raises KdumpError if there is not even the first byte.
        """
        space = self.kernel.virtual
        if address >> 63 == 0 and (task := self.threads.get(number)) is not None and task.struct.mm:
            space = address_space(self.kernel, int(task.struct.mm.pgd))
        found = b""
        while size:
            piece = min(size, 4096 - address % 4096)
            try:
                found += space.read(address, piece)
            except KdumpError:
                if not found:
                    raise
                break
            address, size = address + piece, size - piece
        return found

    def about(self, number: int) -> str:
        """A thread in words."""
        task = self.threads[number]
        place = f"on CPU {task.cpu}" if task.running else f"state {task.state}"
        return f"{clean(task.command)}, {place}"


class Connection:
    """One GDB that is attached; `serve` returns when it leaves."""

    def __init__(self, target: Target, source: BinaryIO, sink: BinaryIO) -> None:
        self._target, self._source, self._sink = target, source, sink
        self._thread = next(iter(target.threads))
        self._acknowledged = True
        self._named: Iterator[int] = iter(())
        self._answers: dict[bytes, Callable[[bytes], bytes]] = {
            b"?": lambda _: self._stopped(),
            b"g": lambda _: self._all_registers(),
            b"p": self._one_register,
            b"m": self._memory,
            b"H": self._choose,
            b"T": self._alive,
            b"q": self._query,
            b"Q": self._set,
            b"D": lambda _: b"OK",
            **dict.fromkeys((b"G", b"P", b"M", b"X", b"c", b"s", b"C", b"S", b"Z", b"z"), lambda _: _READ_ONLY),
        }

    def serve(self) -> None:
        """Answer until GDB detaches, kills, or is gone."""
        while (packet := self._packet()) is not None:
            if packet.startswith(b"k"):
                return
            answer = self._answers.get(packet[:1])
            try:
                self._send(answer(packet[1:]) if answer else b"")
            except (KdumpError, ValueError, KeyError):
                self._send(b"E01")
            if packet.startswith(b"D"):
                return

    def _packet(self) -> bytes | None:
        """The next packet that arrives whole; None at the end. What is not a packet is skipped."""
        while True:
            start = self._source.read(1)
            if not start:
                return None
            if start != b"$":
                continue  # "+", "-", or an interrupt
            body = bytearray()
            while (byte := self._source.read(1)) not in (b"#", b"") and len(body) <= PACKET:
                body += byte
            if byte != b"#":
                return None  # gone, or nobody who speaks this protocol
            good = self._source.read(2).lower() == b"%02x" % (sum(body) & 0xFF)
            if self._acknowledged:
                self._sink.write(b"+" if good else b"-")
                self._sink.flush()
            if good:
                return bytes(body)

    def _send(self, body: bytes) -> None:
        escaped = b"".join(b"}%c" % (byte ^ 0x20) if byte in b"$#}*" else b"%c" % byte for byte in body)
        self._sink.write(b"$" + escaped + b"#%02x" % (sum(escaped) & 0xFF))
        self._sink.flush()

    def _stopped(self) -> bytes:
        return b"T05thread:%x;" % self._thread

    def _all_registers(self) -> bytes:
        return b"".join(self._registers())

    def _registers(self) -> Iterator[bytes]:
        """In GDB's order, little-endian hexadecimal; "x" where a value is not known."""
        layout = self._target.layout
        values = self._target.registers(self._thread)
        for name, size in layout.registers:
            known = values.get(name)
            yield (
                b"x" * 2 * size
                if known is None
                else (known & (1 << 8 * size) - 1).to_bytes(size, "little").hex().encode()
            )

    def _one_register(self, text: bytes) -> bytes:
        number = int(text, 16)
        return list(self._registers())[number] if 0 <= number < len(self._target.layout.registers) else b"E01"

    def _memory(self, text: bytes) -> bytes:
        address, _, size = text.partition(b",")
        wanted = min(int(size, 16), PACKET // 2 - 4)
        return self._target.memory(self._thread, int(address, 16) & (1 << 64) - 1, wanted).hex().encode()

    def _choose(self, text: bytes) -> bytes:
        number = int(text[1:], 16)
        if number > 0:
            if number not in self._target.threads:
                return b"E01"
            self._thread = number
        return b"OK"

    def _alive(self, text: bytes) -> bytes:
        return b"OK" if int(text, 16) in self._target.threads else b"E01"

    def _set(self, text: bytes) -> bytes:
        if text == b"StartNoAckMode":
            self._acknowledged = False
            return b"OK"
        return b""

    def _query(self, text: bytes) -> bytes:
        layout = self._target.layout
        if text.startswith(b"Supported"):
            return b"PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;error-message+" % PACKET
        if text == b"fThreadInfo":
            self._named = iter(self._target.threads)
        if text in (b"fThreadInfo", b"sThreadInfo"):
            batch = [b"%x" % number for number in islice(self._named, _THREADS)]
            return b"m" + b",".join(batch) if batch else b"l"
        if text == b"C":
            return b"QC%x" % self._thread
        if text.startswith(b"ThreadExtraInfo,"):
            return self._target.about(int(text.partition(b",")[2], 16)).encode().hex().encode()
        if text.startswith(b"Xfer:features:read:target.xml:"):
            start, _, size = text.rpartition(b":")[2].partition(b",")
            whole = f'<?xml version="1.0"?><target><architecture>{escape(layout.name)}</architecture></target>'.encode()
            piece = whole[int(start, 16) : int(start, 16) + min(int(size, 16), PACKET // 2)]
            return (b"l" if int(start, 16) + len(piece) >= len(whole) else b"m") + piece
        return {b"Attached": b"1", b"Symbol::": b"OK"}.get(text, b"")
