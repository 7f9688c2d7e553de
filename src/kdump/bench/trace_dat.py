"""ftrace's ring buffers as a trace.dat, which trace-cmd and KernelShark open.

Sources: trace-cmd.dat(5), version 6; kernel/trace/trace_events.c (what a format file has) and trace_printk.c
(printk_formats), kernel/trace/trace.h (struct saved_cmdlines_buffer).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from typing import Final, NamedTuple

from kdump.errors import KdumpError, NotPresentError
from kdump.files.drafts import pwrite_all
from kdump.kernel.ftrace import Field, Kind, Tracer
from kdump.kernel.kernel import Kernel
from kdump.kernel.objects import Array
from kdump.kernel.tasks import Tasks

_MAGIC: Final = b"\x17\x08\x44tracing6\0"
_OWN: Final = "ftrace"  # the system of everything but trace events: the function tracer, trace_printk, …
_COMMAND: Final = 16  # TASK_COMM_LEN
_MOST_COMMANDS: Final = 1 << 22
_MOST_TEXTS: Final = 1 << 16
_HEADER_EVENT: Final = (
    "# compressed entry header\n\ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n\tarray       :   32 bits\n\n"
    "\tpadding     : type == 29\n\ttime_extend : type == 30\n\ttime_stamp : type == 31\n"
    "\tdata max type_len  == 28\n"
)
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})


class Summary(NamedTuple):
    """What the file has."""

    cpus: int
    pages: int
    kinds: int
    size: int
    problems: tuple[str, ...]


def write(kernel: Kernel, descriptor: int) -> Summary:
    """Write the file through a descriptor of an empty one. Raises `KdumpError` if the kernel has traced nothing."""
    objects = kernel.objects
    try:
        tracer = Tracer(objects)
    except KeyError:
        raise KdumpError("the kernel has no ftrace", why="it was built without CONFIG_TRACING") from None
    buffers = dict(tracer.pages())
    count = sum(map(len, buffers.values()))
    if not count:
        raise KdumpError("the trace buffers are empty", why="no event was traced, or the dump lacks them")
    kinds = list(tracer.kinds())
    head = b"".join(_head(kernel, tracer, kinds))
    cpus = max(buffers) + 1
    head += struct.pack("<I", cpus) + b"options  \0" + struct.pack("<H", 0) + b"flyrecord\0"
    room, at = tracer.room, len(head) + 16 * cpus
    table = b""
    for cpu in range(cpus):
        at = -(-at // room) * room
        pages = buffers.get(cpu, [])
        table += struct.pack("<QQ", at, room * len(pages))
        for page in pages:
            raw = struct.pack("<QQ", page.time & (1 << 64) - 1, len(page.data)) + page.data
            pwrite_all(descriptor, raw.ljust(room, b"\0"), at)
            at += room
    pwrite_all(descriptor, head + table, 0)
    return Summary(cpus, count, len(kinds), at, tuple(objects.problems))


def _head(kernel: Kernel, tracer: Tracer, kinds: list[Kind]) -> Iterator[bytes]:
    """The file up to the number of CPUs."""
    room = tracer.room
    yield _MAGIC + struct.pack("<BBI", 0, 8, room)
    yield b"header_page\0" + _sized("<Q", _header_page(room, tracer.data_offset))
    yield b"header_event\0" + _sized("<Q", _HEADER_EVENT)
    common = tracer.common_fields()
    systems: defaultdict[str, list[bytes]] = defaultdict(list)
    for kind in kinds:
        systems[kind.system].append(_sized("<Q", _format(kind, common)))
    own = systems.pop(_OWN, [])
    yield struct.pack("<I", len(own)) + b"".join(own)
    yield struct.pack("<I", len(systems))
    for system, formats in systems.items():
        yield system.encode() + b"\0" + struct.pack("<I", len(formats)) + b"".join(formats)
    yield _sized("<I", "".join(_symbols(kernel)))
    yield _sized("<I", "".join(_texts(kernel)))
    commands = _commands(kernel)
    yield _sized("<Q", "".join(f"{pid} {command}\n" for pid, command in sorted(commands.items())))


def _sized(size: str, text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    return struct.pack(size, len(raw)) + raw


def _header_page(room: int, data: int) -> str:
    return (
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        f"\tfield: local_t commit;\toffset:8;\tsize:{data - 8};\tsigned:1;\n"
        "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
        f"\tfield: char data;\toffset:{data};\tsize:{room - data};\tsigned:1;\n"
    )


def _format(kind: Kind, common: list[Field]) -> str:
    """A format file of tracefs."""
    fields = "\n\n".join("\n".join(map(_field, each)) for each in (common, kind.fields) if each)
    return f"name: {kind.name}\nID: {kind.number}\nformat:\n{fields}\n\nprint fmt: {kind.print_format}\n"


def _field(field: Field) -> str:
    text = f"{field.type} {field.name}"
    base, bracket, rest = field.type.partition("[")
    if bracket and not field.type.startswith("__data_loc"):
        text = f"{base} {field.name}[{rest}"
    return f"\tfield:{text};\toffset:{field.offset};\tsize:{field.size};\tsigned:{int(field.signed)};"


def _symbols(kernel: Kernel) -> Iterator[str]:
    """/proc/kallsyms."""
    for symbol in kernel.symbols:
        yield f"{symbol.address:016x} {symbol.type} {symbol.name}\n"
    for module in kernel.modules:
        try:
            symbols = module.symbols()
        except KdumpError as error:
            kernel.objects.problem(f"symbols of module {module.name}: {error.what}")
            continue
        for symbol in symbols:
            yield f"{symbol.address:016x} {symbol.type} {symbol.name}\t[{module.name}]\n"


def _texts(kernel: Kernel) -> Iterator[str]:
    """printk_formats: texts that events refer to by their address."""
    objects, get = kernel.objects, kernel.symbols.get
    for name in ("__trace_bprintk_fmt", "__tracepoint_str"):
        start, end = get(f"__start_{name}"), get(f"__stop_{name}")
        if start is None or end is None or not 0 <= end - start <= 8 * _MOST_TEXTS:
            continue
        for place in range(start, end, 8):
            try:
                address = objects.unsigned(place)
                text = objects.string(address)
            except NotPresentError as error:
                objects.problem(f"a text that trace events refer to: {error}")
                continue
            yield f'0x{address:x} : "{text.translate(_ESCAPES)}"\n'


def _commands(kernel: Kernel) -> dict[int, str]:
    """Names of tasks by PID: those that the tracer remembers, which may be gone, and those that are there."""
    objects = kernel.objects
    found: dict[int, str] = {}
    place = kernel.symbols.get("savedcmd")
    try:
        saved = objects.struct("saved_cmdlines_buffer", objects.unsigned(place)) if place else None
        if saved is not None:
            texts = saved.saved_cmdlines
            start = objects.address(texts) if isinstance(texts, Array) else int(texts)
            for index in range(min(int(saved.cmdline_num), _MOST_COMMANDS)):
                pid = int(saved.map_cmdline_to_pid[index])
                if 0 < pid < _MOST_COMMANDS:
                    found[pid] = objects.string(start + index * _COMMAND, _COMMAND)
    except (KdumpError, KeyError) as error:
        objects.problem(f"names of tasks that the tracer remembers: {error}")
    found |= {task.pid: task.command for task in Tasks(kernel)}
    return {pid: " ".join(command.split("\n")) for pid, command in found.items()}
