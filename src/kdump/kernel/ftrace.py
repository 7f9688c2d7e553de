"""Events that ftrace left in its ring buffers: trace events, the function tracer, trace_printk and markers.

Sources: kernel/trace/ring_buffer.c and include/linux/ring_buffer.h (pages, event headers, time stamps),
kernel/trace/trace.h and include/linux/trace_events.h (entries; every event type lists its fields, so none is known
here by its layout).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kdump.errors import KdumpError

if TYPE_CHECKING:
    from kdump.kernel.objects import Objects, Struct

_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31  # ring_buffer_type; smaller ones are lengths in words
_TIME_BITS = 27
_COMMIT_MASK = (1 << 20) - 1  # above it are flags about lost events
_TIME_TOP = 0xF8 << 56  # absolute time stamps have 59 bits
_POINTER_FLAGS = 3  # on a list's next pointer: this is the head page, or it is being moved
_MAX_PAGES = 1 << 16
_MAX_TYPES = 1 << 16
_ENTRY = struct.Struct("<HBBi")  # struct trace_entry: type, flags, preempt_count, pid
_PRINT = 1 << 16  # bytes of a print format
_TRACEPOINT = 16  # TRACE_EVENT_FL_TRACEPOINT: the call's name is its tracepoint's


class Event(NamedTuple):
    """One event: `nanoseconds` of the trace clock, and its fields as values by name (functions as addresses)."""

    nanoseconds: int
    cpu: int
    pid: int
    name: str
    fields: dict[str, int | str]


class Page(NamedTuple):
    """A page of a ring buffer: when its first event's time counts from, in nanoseconds, and its events."""

    time: int
    data: bytes


class Field(NamedTuple):
    """A field of an event as the kernel describes it; `offset` and `size` in bytes, the latter 0 up to the end."""

    name: str
    type: str
    offset: int
    size: int
    signed: bool


class Kind(NamedTuple):
    """A kind of event; `print_format` is C, as the kernel has it for those who print events."""

    number: int
    system: str
    name: str
    fields: list[Field]
    print_format: str


class _Type(NamedTuple):
    name: str
    fields: list[Field]


class Tracer:
    """The buffers of the global trace instance."""

    def __init__(self, objects: Objects) -> None:
        """Raises `KeyError` if the kernel has no tracing."""
        self._objects = objects
        self.trace = objects.struct("trace_array", objects.symbols.address("global_trace"))
        self._calls: dict[int, Struct] = {}
        self._types: dict[int, _Type | None] = {}

    @property
    def name(self) -> str:
        """The tracer that was set ("nop", "function", …)."""
        return self._objects.string(self.trace.current_trace.name)

    def last(self, pages: int) -> list[Event]:
        """Events of the last `pages` pages of every CPU's buffer, by time."""
        found: list[Event] = []
        for cpu, buffer in self._buffers():
            for page in self._pages(buffer)[-pages:]:
                try:
                    found += self._events(cpu, page)
                except KdumpError as error:
                    self._objects.problem(f"trace buffer of CPU {cpu}: {error}")
        return sorted(found, key=lambda event: event.nanoseconds)

    def pages(self) -> Iterator[tuple[int, list[Page]]]:
        """Every CPU that has a buffer, and its pages with events, the oldest first."""
        for cpu, buffer in self._buffers():
            found = []
            for page in self._pages(buffer):
                try:
                    content = self._content(page)
                except KdumpError as error:
                    self._objects.problem(f"trace buffer of CPU {cpu}: {error}")
                    continue
                if content.data:
                    found.append(content)
            yield cpu, found

    @property
    def room(self) -> int:
        """Bytes of a page of the buffers, its head included."""
        buffer = self.trace.array_buffer.buffer  # `subbuf_size`, since 6.8, leaves the head out
        if self._objects.has(buffer, "subbuf_size"):
            return int(buffer.subbuf_size) + self.data_offset
        return self._objects.kernel.vmcoreinfo.page_size

    @property
    def data_offset(self) -> int:
        """Bytes of a page's head."""
        return self._objects.types.struct("buffer_data_page").offset("data")

    def kinds(self) -> Iterator[Kind]:
        """Every kind of event that the kernel knows; those that cannot be read are noted and left out."""
        self._read_calls()
        for number, call in self._calls.items():
            kind = self._type(number)
            if kind is None:
                continue
            try:
                system = self._objects.string(getattr(call, "class").system)
                yield Kind(number, system, kind.name, kind.fields, self._objects.string(call.print_fmt, _PRINT))
            except KdumpError as error:
                self._objects.problem(f"the trace event {kind.name}: {error}")

    def common_fields(self) -> list[Field]:
        """The fields that every event begins with."""
        head = self._objects.symbols.address("ftrace_common_fields")
        return self._listed(self._objects.struct("list_head", head))

    def _buffers(self) -> Iterator[tuple[int, Struct]]:
        buffer = self.trace.array_buffer.buffer
        for cpu in self._objects.cpus("possible"):
            place = buffer.buffers[cpu]
            if place:
                yield cpu, self._objects.struct("ring_buffer_per_cpu", place)

    def _pages(self, buffer: Struct) -> list[Struct]:
        """Pages that hold events, the oldest first: what the reader took out, then from the head to the last commit."""
        objects = self._objects
        reader, commit = int(buffer.reader_page), int(buffer.commit_page)
        found = [objects.struct("buffer_page", reader)] if reader else []
        if reader == commit:
            return found
        page = self._head(int(buffer.head_page))
        seen: set[int] = set()
        while page and page not in seen and len(seen) < _MAX_PAGES:
            seen.add(page)
            found.append(objects.struct("buffer_page", page))
            if page == commit:
                break
            page = objects.unsigned(page) & ~_POINTER_FLAGS
        return found

    def _head(self, page: int) -> int:
        """The true head: the page whose predecessor's next pointer is flagged; `head_page` itself may lag."""
        objects = self._objects
        at, seen = page, set[int]()
        while at not in seen and len(seen) < _MAX_PAGES:
            seen.add(at)
            following = objects.unsigned(at)
            if following & _POINTER_FLAGS:
                return following & ~_POINTER_FLAGS
            at = following
        return page

    def _events(self, cpu: int, page: Struct) -> Iterator[Event]:
        clock, data = self._content(page)
        place = 0
        while place + 4 <= len(data):
            (word,) = struct.unpack_from("<I", data, place)
            kind, delta = word & 31, word >> 5
            second = int.from_bytes(data[place + 4 : place + 8], "little")
            if kind == _PADDING:
                if not delta:
                    return
                clock += delta
                place += 4 + second
            elif kind == _TIME_EXTEND:
                clock += delta + (second << _TIME_BITS)
                place += 8
            elif kind == _TIME_STAMP:
                clock = (second << _TIME_BITS) + delta | clock & _TIME_TOP
                place += 8
            else:
                clock += delta
                head, length = (4, kind * 4) if kind else (8, second - 4)
                if length < 0 or place + head + length > len(data):
                    return
                event = self._decode(cpu, clock, data[place + head : place + head + length])
                if event:
                    yield event
                place += head + length

    def _content(self, page: Struct) -> Page:
        objects = self._objects
        content = page.page
        commit = content.commit  # local_t: an atomic_long_t on most architectures, a plain number on others
        size = int(commit.a.counter if objects.has(commit, "a.counter") else commit.v) & _COMMIT_MASK
        if size > objects.kernel.vmcoreinfo.page_size * 16:
            raise KdumpError(f"a page of {size} bytes is damaged")
        return Page(int(content.time_stamp), objects.kernel.virtual.read(int(content) + self.data_offset, size))

    def _decode(self, cpu: int, clock: int, raw: bytes) -> Event | None:
        if len(raw) < _ENTRY.size:
            return None
        number, _, _, pid = _ENTRY.unpack_from(raw)
        kind = self._type(number)
        if kind is None:
            return Event(clock, cpu, pid, f"event type {number}", {})
        fields = {field.name: value for field in kind.fields if (value := self._value(field, raw)) is not None}
        return Event(clock, cpu, pid, kind.name, fields)

    def _value(self, field: Field, raw: bytes) -> int | str | None:
        data = raw[field.offset : field.offset + field.size] if field.size else raw[field.offset :]
        if field.type.startswith("__data_loc") and len(data) == 4:
            place = int.from_bytes(data, "little")
            data = raw[place & 0xFFFF : (place & 0xFFFF) + (place >> 16)]
            return _text(data) if "char" in field.type else data.hex()
        if "[" in field.type:
            return _text(data) if "char" in field.type else data.hex()
        if len(data) in (1, 2, 4, 8):
            return int.from_bytes(data, "little", signed=field.signed)
        return None

    def _type(self, number: int) -> _Type | None:
        """An event type by its number; there are some thousands, few of which occur."""
        self._read_calls()
        if number not in self._types:
            self._types[number] = self._describe(self._calls[number]) if number in self._calls else None
        return self._types[number]

    def _read_calls(self) -> None:
        objects = self._objects
        if not self._calls:
            head = objects.symbols.address("ftrace_events")
            for call in objects.list(head, "trace_event_call", "list", _MAX_TYPES):
                self._calls[int(call.event.type)] = call

    def _describe(self, call: Struct) -> _Type | None:
        try:
            name = call.tp.name if int(call.flags) & self._tracepoint_flag() else call.name
            return _Type(self._objects.string(name), self._fields(call))
        except KdumpError as error:
            self._objects.problem(f"a trace event's description: {error}")
            return None

    def _tracepoint_flag(self) -> int:
        try:
            return self._objects.types.enumerator("TRACE_EVENT_FL_TRACEPOINT")
        except KeyError:
            return _TRACEPOINT

    def _fields(self, call: Struct) -> list[Field]:
        objects = self._objects
        head = getattr(call, "class").fields
        getter = objects.kernel.symbolizer.at(int(getattr(call, "class").get_fields))
        if getter and getter.name == "syscall_get_enter_fields":  # system calls keep theirs elsewhere
            head = objects.struct("syscall_metadata", call.data).enter_fields
        return self._listed(head)

    def _listed(self, head: Struct) -> list[Field]:
        objects = self._objects
        fields: list[Field] = []
        for field in objects.list(head, "ftrace_event_field", "link", 256):
            name, kind = objects.string(field.name), objects.string(field.type)
            fields.insert(0, Field(name, kind, int(field.offset), int(field.size), bool(field.is_signed)))
        return fields  # the kernel puts each in front


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")
