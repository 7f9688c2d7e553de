"""The report as data: one model that text, JSON and HTML render.

A section holds blocks (facts, tables, text, stacks) whose values are raw numbers with a unit; renderers write them for
people, JSON passes them on. `SCHEMA` counts changes of the JSON form that would break a reader.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kdump.report.known import Match

SCHEMA = 1

Value = str | int | float | bool | None
Unit = Literal["", "bytes", "seconds", "stamp", "hex", "percent"]


@dataclass(frozen=True)
class Fact:
    """One named value; `key` is for programs, `title` for people."""

    key: str
    title: str
    value: Value
    unit: Unit = ""


@dataclass(frozen=True)
class Facts:
    """A list of facts."""

    name: str
    facts: list[Fact]


@dataclass(frozen=True)
class Column:
    """A table's column."""

    key: str
    title: str
    unit: Unit = ""


@dataclass(frozen=True)
class Table:
    """Rows of values under columns. `left_out` rows are not shown (a limit was reached)."""

    name: str
    title: str
    columns: list[Column]
    rows: list[tuple[Value, ...]]
    left_out: int = 0


@dataclass(frozen=True)
class Text:
    """Lines as they are, or, if it is `prose`, sentences."""

    name: str
    lines: list[str]
    title: str = ""
    prose: bool = False


@dataclass(frozen=True)
class Frame:
    """A stack frame. `offset` is from the function's start; `context` says what interrupted it ("" or "exception").

    `arguments` are those of the call as far as they are known, "file=0xffff…, count=?"; empty if none is.
    """

    function: str
    offset: int = 0
    size: int = 0
    module: str = ""
    address: int = 0
    context: str = ""
    source: str = ""
    arguments: str = ""

    def __str__(self) -> str:
        text = f"{self.function or f'{self.address:#x}'}"
        if self.function:
            text += f"+{self.offset:#x}" + (f"/{self.size:#x}" if self.size else "")
        if self.module:
            text += f" [{self.module}]"
        if self.arguments:
            text += f" ({self.arguments})"
        return text + (f" at {self.source}" if self.source else "")


@dataclass(frozen=True)
class Stack:
    """One stack and whose it is (several tasks may share it)."""

    title: str
    owners: list[str]
    frames: list[Frame]
    note: str = ""

    @property
    def unnamed(self) -> list[str]:
        """Owners that have to be listed: all, unless the only one is in the title."""
        return [] if len(self.owners) == 1 and self.owners[0] in self.title else self.owners


@dataclass(frozen=True)
class Stacks:
    """A list of stacks."""

    name: str
    stacks: list[Stack]


Block = Facts | Table | Text | Stacks
Severity = Literal["critical", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something a reader should see first."""

    severity: Severity
    text: str
    section: str = ""


@dataclass
class Section:
    """The result of one section; `error` if it failed, `notes` on the parts that it could not read."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Task:
    """Whose work the kernel was doing."""

    command: str
    pid: int
    cpu: int | None = None
    user: int | None = None
    command_line: str = ""
    container: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a crash.

    `kind` is one of `kdump.report.kinds`; `title` the one line kernel developers would write; `explanation` the same
    in plain words. `guilty` is the first frame after the kernel's infrastructure. `address` and `access` are of the
    access that failed. `signature` and the coarser `coarse` are empty where nothing tells the crash apart; `fatal` says
    whether anything tells that the kernel died of it; `stack_of` whose stack `frames` are.
    """

    kind: str
    title: str
    explanation: str
    signature: str
    panic: str = ""
    headline: str = ""
    guilty: Frame | None = None
    module: str = ""
    task: Task | None = None
    uptime: float | None = None
    address: int | None = None
    access: str = ""
    taints: list[str] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    pointers: dict[str, str] = field(default_factory=dict)  # what registers point to, by their names
    code: list[str] = field(default_factory=list)
    earlier: list[str] = field(default_factory=list)
    stack_of: str = ""
    coarse: str = ""
    fatal: bool = False


@dataclass
class Report:
    """The whole report. `known`: faults that are known upstream and may be this one, the likeliest first."""

    source: str
    format: str
    kernel: str
    build_id: str
    crash_time: int
    verdict: Verdict
    sections: list[Section] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    incomplete: bool = False
    live: bool = False  # taken while the kernel ran: it did not crash
    seconds: float = 0.0
    known: list[Match] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """Findings of all sections, the worst first."""
        rank = {"critical": 0, "warning": 1, "note": 2}
        found = [
            Finding(finding.severity, finding.text, section.name)
            for section in self.sections
            for finding in section.findings
        ]
        return sorted(found, key=lambda finding: rank[finding.severity])
