"""Workqueues: pools with work that waits, and what their workers were doing.

Source: kernel/workqueue.c: all pools are in worker_pool_idr; a pool's `worklist` holds what waits, `busy_hash` what
runs.
"""

from __future__ import annotations

from collections import Counter

from kdump.kernel.objects import Struct
from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value

TITLE = "Workqueues"
NEEDS_DUMP = True
_MAX_WAITING = 10000
_MANY = 1000


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    pools = objects.struct("idr", objects.symbols.address("worker_pool_idr")).idr_rt
    rows: list[tuple[Value, ...]] = []
    running: list[tuple[Value, ...]] = []
    for number, address in objects.xarray(pools):
        pool = objects.struct("worker_pool", address)
        waiting: Counter[str] = Counter()
        for work in objects.list(pool.worklist, "work_struct", "entry", _MAX_WAITING):
            waiting[_function(context, work.func)] += 1
        busy = 0
        for head in pool.busy_hash:
            for worker in objects.hlist(head, "worker", "hentry"):
                busy += 1
                running.append((number, *_worker(context, worker)))
        total = sum(waiting.values())
        if total or busy:
            top = ", ".join(f"{name} ({count})" for name, count in waiting.most_common(5))
            rows.append((number, int(pool.cpu), int(pool.nr_workers), int(pool.nr_idle), busy, total, top))
        if total >= _MANY:
            section.findings.append(Finding("warning", f"{total} work items wait in pool {number}: {top}"))
    columns = [
        Column("pool", "Pool"), Column("cpu", "CPU"), Column("workers", "Workers"), Column("idle", "Idle"),
        Column("busy", "Busy"), Column("waiting", "Waiting"), Column("functions", "What waits"),
    ]  # fmt: skip
    section.blocks.append(Table("pools", "Pools with work", columns, rows))
    columns = [Column("pool", "Pool"), Column("pid", "PID"), Column("worker", "Worker"), Column("function", "Function")]
    section.blocks.append(Table("running", "Running work", columns, running))


def _worker(context: Context, worker: Struct) -> tuple[int, str, str]:
    task = worker.task
    name = clean(context.objects.string(task.comm)) if task else ""
    return (int(task.pid) if task else 0, name, _function(context, worker.current_func))


def _function(context: Context, address: object) -> str:
    symbol = context.kernel.symbolizer.at(int(address))  # type: ignore[call-overload]
    if symbol is None or not symbol.name:
        return f"{int(address):#x}"  # type: ignore[call-overload]
    return f"{symbol.name} [{symbol.module}]" if symbol.module else symbol.name
