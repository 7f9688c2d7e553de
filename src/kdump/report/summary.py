"""One line for each section, which the HTML page shows beside its title."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from kdump.report.model import Facts, Section, Severity, Stack, Stacks, Table, Value
from kdump.units import duration_text, size_text

_RANK: dict[Severity, int] = {"critical": 0, "warning": 1, "note": 2}


class _Blocks:
    """The blocks of a section by name; what is missing is empty."""

    def __init__(self, section: Section) -> None:
        self._blocks = {block.name: block for block in section.blocks}

    def fact(self, block: str, key: str) -> Value:
        found = self._blocks.get(block)
        facts = found.facts if isinstance(found, Facts) else []
        return next((fact.value for fact in facts if fact.key == key), None)

    def size(self, block: str, key: str) -> str:
        value = self.fact(block, key)
        return size_text(value) if isinstance(value, int) else "?"

    def column(self, block: str, key: str) -> list[Value]:
        found = self._blocks.get(block)
        if not isinstance(found, Table):
            return []
        place = next((number for number, column in enumerate(found.columns) if column.key == key), None)
        return [row[place] for row in found.rows] if place is not None else []

    def stacks(self, block: str) -> list[Stack]:
        found = self._blocks.get(block)
        return found.stacks if isinstance(found, Stacks) else []

    def count(self, block: str) -> int:
        found = self._blocks.get(block)
        if isinstance(found, Table):
            return len(found.rows) + found.left_out
        if isinstance(found, Facts):
            return len(found.facts)
        return len(found.stacks) if isinstance(found, Stacks) else 0


def severity(section: Section) -> Severity | None:
    """That of the section's worst finding; None without any."""
    return min((finding.severity for finding in section.findings), key=_RANK.__getitem__, default=None)


def summary(section: Section) -> str:
    """A few words on what a section holds."""
    if section.error:
        return "not available"
    make = _LINES.get(section.name)
    return make(_Blocks(section)) if make and section.blocks else ""


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def _total(values: Iterable[Value]) -> int:
    return sum(value for value in values if isinstance(value, int))


def _longest(values: Iterable[Value]) -> str:
    known = [value for value in values if isinstance(value, (int, float))]
    return duration_text(max(known)) if known else ""


def _cpus(blocks: _Blocks) -> str:
    states = Counter(str(state) for state in blocks.column("cpus", "state"))
    return f"{_many(blocks.count('cpus'), 'CPU')}: " + ", ".join(f"{count} {name}" for name, count in states.items())


def _blocked(blocks: _Blocks) -> str:
    stacks = blocks.stacks("blocked")
    if not stacks:
        return "no task is blocked"
    tasks = sum(len(stack.owners) for stack in stacks)
    waiting, longest = _total(blocks.column("locks", "waiting")), _longest(blocks.column("locks", "longest"))
    known = f"; what for is known of {waiting}, which have waited {longest} at most" if longest else ""
    return f"{_many(tasks, 'task')}, {_many(len(stacks), 'different stack')}{known}"


def _runq(blocks: _Blocks) -> str:
    waited = _longest(blocks.column("ready", "waited"))
    count = blocks.count("ready")
    return f"{_many(count, 'task')} ready and not running" + (f", {waited} at most" if count and waited else "")


def _memory(blocks: _Blocks) -> str:
    size = blocks.size
    return f"{size('meminfo', 'MemAvailable')} of {size('meminfo', 'MemTotal')} were available"


def _owners(blocks: _Blocks) -> str:
    names, shares = blocks.column("classes", "class"), blocks.column("classes", "share")
    return ", ".join(f"{name} {share} %" for name, share in list(zip(names, shares, strict=True))[:3])


def _block(blocks: _Blocks) -> str:
    count = blocks.count("requests")
    oldest = _longest(blocks.column("requests", "age"))
    flying = f"{_many(count, 'request')} in flight" + (f", the oldest for {oldest}" if oldest else "")
    return f"{_many(blocks.count('disks'), 'disk')}, {flying}"


def _mounts(blocks: _Blocks) -> str:
    frozen = sum("frozen" in str(state) for state in blocks.column("mounts", "state"))
    waiting = _total(blocks.column("mounts", "waiting"))
    words = [f"{frozen} frozen"] * bool(frozen) + [f"{_many(waiting, 'task')} waiting"] * bool(waiting)
    return ", ".join([_many(blocks.count("mounts"), "mount"), *words])


def _network(blocks: _Blocks) -> str:
    devices, sockets = blocks.count("devices"), _total(blocks.column("sockets", "sockets"))
    return f"{_many(devices, 'device')}, {_many(sockets, 'socket')}"


def _workqueues(blocks: _Blocks) -> str:
    waiting = _total(blocks.column("pools", "waiting"))
    return f"{_many(blocks.count('running'), 'item')} running, {waiting} waiting"


def _clocks(blocks: _Blocks) -> str:
    names, used = blocks.column("sources", "source"), blocks.column("sources", "used")
    return next((f"{name} in use" for name, now in zip(names, used, strict=True) if now), "none in use")


def _groups(blocks: _Blocks) -> str:
    containers = blocks.count("containers")
    return _many(blocks.count("groups"), "group") + (f", {_many(containers, 'container')}" if containers else "")


_LINES: dict[str, Callable[[_Blocks], str]] = {
    "system": lambda blocks: f"{blocks.fact('system', 'release') or blocks.fact('system', 'version') or '?'}",
    "cpus": _cpus,
    "blocked": _blocked,
    "runq": _runq,
    "tasks": lambda blocks: _many(int(blocks.fact("counts", "threads") or 0), "thread"),
    "memory": _memory,
    "owners": _owners,
    "block": _block,
    "mounts": _mounts,
    "network": _network,
    "workqueues": _workqueues,
    "interrupts": lambda blocks: f"{_total(blocks.column('interrupts', 'count'))} taken",
    "timers": lambda blocks: _many(_total(blocks.column("timers", "timers")), "timer"),
    "clocks": _clocks,
    "cgroups": _groups,
    "modules": lambda blocks: _many(blocks.count("modules"), "module"),
    "livepatch": lambda blocks: (
        "not supported by this kernel"
        if blocks.fact("state", "supported") is False
        else _many(blocks.count("patches"), "live patch", "live patches")
    ),
    "bpf": lambda blocks: f"{_many(blocks.count('programs'), 'program')}, {_many(blocks.count('maps'), 'map')}",
    "ftrace": lambda blocks: _many(blocks.count("events"), "event"),
    "settings": lambda blocks: _many(blocks.count("sysctl"), "setting"),
}
