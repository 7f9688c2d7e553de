"""Every thread of a kernel with the fields that reports ask of all of them, read as columns.

Which threads there are the kernel's own lists say: processes by `tasks`, their threads by `signal->thread_head`. Lists
are read one node after the other, so before they are walked all that a namespace of PIDs knows is read at once, links
included; what only the lists have is read afterwards.

Source: include/linux/sched.h, include/linux/pid.h (`pid_namespace.idr`, `pid.tasks`), include/linux/xarray.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from kdump.errors import KdumpError
from kdump.kernel.objects import MissingMemberError, Objects, Struct
from kdump.kernel.task import Task, letter
from kdump.memory.gather import distinct

if TYPE_CHECKING:
    import numpy.typing as npt

    from kdump.kernel.columns import Addresses, Table
    from kdump.kernel.tasks import Tasks

_MAX_TASKS = 1 << 22  # PID_MAX_LIMIT
_KTHREAD = 0x00200000  # PF_KTHREAD
# What every kernel has, by our names; alternatives in the order in which they are tried.
_NEEDED = {
    "pid": ("pid",), "tgid": ("tgid",), "comm": ("comm",), "flags": ("flags",), "exit_state": ("exit_state",),
    "state": ("__state", "state"), "cpu": ("thread_info.cpu", "cpu"), "signal": ("signal",), "stack": ("stack",),
    "next": ("tasks.next",), "next_thread": ("thread_node.next",), "mm": ("mm",), "real_parent": ("real_parent",),
}  # fmt: skip
_WANTED = {
    "on_cpu": ("on_cpu",), "on_rq": ("on_rq",), "thread_pid": ("thread_pid",), "rss": ("rss_stat.count",),
}  # fmt: skip


def read_all(source: Tasks) -> TaskTable:
    """All threads, in the order of the kernel's lists."""
    objects = source.objects
    layout = objects.types.struct("task_struct")
    members = {name: member for name, paths in (_NEEDED | _WANTED).items() if (member := layout.first(*paths))}
    for name in _NEEDED:
        if name not in members:
            raise MissingMemberError(f"struct task_struct of this kernel has no member {_NEEDED[name][0]!r}")
    known = _candidates(objects)
    read = objects.columns.members
    table = read(known, members)
    order = np.array(_walk(objects, known, table), np.uint64)
    rows, found = _rows(known, order)
    columns = {name: table[name][rows] for name in members}
    ok = table.ok[rows] & found
    late = np.flatnonzero(~found)
    if len(late):
        more = read(order[late], members)
        for name in members:
            columns[name][late] = more[name]
        ok[late] = more.ok
    for _ in range(int((~ok).sum())):
        objects.problem("a task cannot be read: its memory is not in the dump")
    columns = {name: column[ok] for name, column in columns.items()}
    order = order[ok]
    return TaskTable(Threads(objects, order, columns), columns, order)


def _rows(known: Addresses, order: Addresses) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """For each address of `order` its place in `known`, and whether it is there."""
    if not len(known):
        return np.zeros(len(order), np.intp), np.zeros(len(order), np.bool_)
    by_address = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known, order, sorter=by_address), len(known) - 1)
    rows = by_address[place]
    return rows, known[rows] == order


def _candidates(objects: Objects) -> Addresses:
    """Tasks by the first namespace's table of PIDs, where the kernel has one such; only a head start for the lists."""
    none = np.zeros(1, np.uint64)[:0]
    types = objects.types
    layout = types.struct("task_struct")
    try:
        link = layout.offset("pid_links")
        base = objects.address(objects.variable("init_pid_ns").idr.idr_rt)
        pids = _entries(objects, base + types.struct("xarray").offset("xa_head"))
        first = objects.columns.pointers(pids, types.struct("pid").offset("tasks"))
    except (KdumpError, LookupError):
        return none
    return distinct(first[first > np.uint64(link)] - np.uint64(link))


def _entries(objects: Objects, head: int) -> Addresses:
    """Every pointer in the xarray whose `xa_head` is at `head`, unordered; read level by level."""
    kind = objects.types.struct("xa_node")
    slots = kind.offset("slots")
    count = kind.member("slots").type.resolve().length
    level = np.array([objects.unsigned(head)], np.uint64)
    found = []
    for _ in range(12):  # six bits of the index a level
        inner = (level & np.uint64(3) == 2) & (level > np.uint64(4096))
        found.append(level[(level != 0) & (level & np.uint64(3) == 0)])
        if not inner.any():
            break
        values, _ = objects.columns.words(level[inner] - np.uint64(2), range(slots, slots + 8 * count, 8))
        level = values.ravel()
    return np.concatenate(found)


def _walk(objects: Objects, known: Addresses, table: Table) -> list[int]:
    """Addresses of all threads in the order of the lists."""
    layout = objects.types.struct("task_struct")
    tasks, thread = layout.offset("tasks"), layout.offset("thread_node")
    at_signal = layout.offset("signal")
    at_head = objects.types.struct("signal_struct").offset("thread_head")
    good = table.ok
    places = known[good]
    leads = table["pid"][good] == table["tgid"][good]  # only these are in the list of processes
    leaders = places[leads]
    following = dict(zip((leaders + np.uint64(tasks)).tolist(), table["next"][good][leads].tolist(), strict=True))
    signals = dict(zip(leaders.tolist(), table["signal"][good][leads].tolist(), strict=True))
    heads = table["signal"][good].astype(np.uint64) + np.uint64(at_head)
    rings = _rings(objects, heads, places + np.uint64(thread), table["next_thread"][good].astype(np.uint64))
    start = objects.address(objects.variable("init_task")) + tasks
    order: list[int] = []
    for node in objects.nodes(start, _MAX_TASKS, "list of struct task_struct", following):
        leader = node - tasks
        try:
            signal = signals.get(leader) or objects.unsigned(leader + at_signal)
        except KdumpError as error:
            objects.problem(f"a process cannot be read: {error}")
            continue
        before = len(order)
        if signal:
            head = signal + at_head
            members = rings.get(head) or objects.nodes(head, _MAX_TASKS, "list of struct task_struct")
            order += [node - thread for node in members]
        if len(order) == before:  # already detached from its threads: exiting
            order.append(leader)
    return order


def _rings(objects: Objects, heads: Addresses, nodes: Addresses, following: Addresses) -> dict[int, list[int]]:
    """Nodes of lists by their list's head, in order, of those lists that lead through these nodes and no others.

    A row is a node: the head of its list, where it is, and where it leads. Every node's distance from the end of its
    list is found at once: a step of 1, then of 2, 4, 8 …
    """
    count = len(nodes)
    if not count:
        return {}
    shared, group, sizes = np.unique(heads, return_inverse=True, return_counts=True)
    rows, found = _rows(nodes, following)
    found &= group[rows] == group
    # One row more, the end, which leads to itself. Who leaves the list or what is known of it never gets there.
    step = np.full(count + 1, count)
    step[:-1] = np.where(following == heads, count, np.where(found, rows, np.arange(count)))
    distance = np.ones(count + 1, np.int64)
    distance[-1] = 0
    for _ in range(count.bit_length()):
        distance += distance[step]
        step = step[step]
    first, there = _rows(nodes, objects.columns.pointers(shared))
    ended = np.zeros(len(shared), np.int64)
    np.add.at(ended, group, step[:-1] == count)
    whole = there & (ended == sizes)
    whole &= (distance[first] == sizes) & (group[first] == np.arange(len(shared)))
    listed = np.split(nodes[np.lexsort((-distance[:-1], group))], np.cumsum(sizes)[:-1])
    return {int(shared[each]): listed[each].tolist() for each in np.flatnonzero(whole).tolist()}


class Threads(Sequence["Task"]):
    """Tasks made out of columns when they are asked for."""

    def __init__(self, objects: Objects, address: Addresses, columns: dict[str, npt.NDArray[np.int64]]) -> None:
        self._objects = objects
        self._kind = objects.types.struct("task_struct")
        self._address, self._columns = address, columns
        self.states = _letters(columns["exit_state"], columns["state"])
        self._running = columns.get("on_cpu", np.zeros(len(address), np.int64)) != 0

    def __len__(self) -> int:
        return len(self._address)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        columns = self._columns
        return Task(
            Struct(self._objects, self._kind, int(self._address[index])),
            int(columns["pid"][index]),
            int(columns["tgid"][index]),
            self.name(index),
            str(self.states[index]),
            int(columns["cpu"][index]),
            bool(self._running[index]),
            bool(columns["flags"][index] & _KTHREAD),
        )

    def name(self, index: int) -> str:
        """The command of a thread."""
        raw: bytes = self._columns["comm"][index]
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    def matching(self, rows: npt.NDArray[np.bool_]) -> list[Task]:
        """Those of a mask."""
        return [self[row] for row in np.flatnonzero(rows).tolist()]


class TaskTable(NamedTuple):
    """`columns` has a row for each of `tasks`, by the names above; what a kernel lacks is not among them."""

    tasks: Threads
    columns: dict[str, npt.NDArray[np.int64]]
    address: Addresses


def _letters(left: npt.NDArray[np.int64], bits: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
    """The states' letters of exit states and states: few differ."""
    pairs, place = np.unique(left << 32 | bits & 0xFFFFFFFF, return_inverse=True)
    letters = [letter(pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist()]
    return np.array(letters or [""])[place]
