"""One line for each section, and what two reports say of a section that one of them has not."""

from __future__ import annotations

import pytest

from kdump.report.diff import Difference, compare
from kdump.report.model import Column, Fact, Facts, Finding, Section, Stack, Stacks, Table
from kdump.report.sections import ALL
from kdump.report.summary import severity, summary


def section(name: str, *blocks: Facts | Table | Stacks) -> Section:
    return Section(name, name.capitalize(), list(blocks))


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (section("cpus", Table("cpus", "", [Column("state", "")], [("idle",), ("panicked",), ("idle",)])),
         "3 CPUs: 2 idle, 1 panicked"),
        (section("blocked", Stacks("blocked", [])), "no task is blocked"),
        (section("blocked", Stacks("blocked", [Stack("", ["a", "b", "c"], []), Stack("", ["d"], [])]),
                 Table("locks", "", [Column("waiting", ""), Column("longest", "")], [(2, 4.25), (1, 3.0)])),
         "4 tasks, 2 different stacks; what for is known of 3, which have waited 4.25 s at most"),
        (section("memory", Facts("meminfo", [Fact("MemAvailable", "", 1 << 20), Fact("MemTotal", "", 1 << 30)])),
         "1.00 MiB of 1.00 GiB were available"),
        (section("block", Table("disks", "", [Column("disk", "")], [("vda",)]),
                 Table("requests", "", [Column("age", "")], [(None,), (12.5,)])),
         "1 disk, 2 requests in flight, the oldest for 12.5 s"),
        (section("timers", Table("timers", "", [Column("timers", "")], [(3,), (4,)])), "7 timers"),
        (section("clocks", Table("sources", "", [Column("source", ""), Column("used", "")],
                                 [("tsc", False), ("hpet", True)])), "hpet in use"),
        (section("tasks", Facts("counts", [Fact("threads", "", 1)])), "1 thread"),
    ],
)  # fmt: skip
def test_summaries(made: Section, line: str) -> None:
    assert summary(made) == line


@pytest.mark.parametrize("name", ALL)
def test_every_section_has_a_summary_even_of_nothing(name: str) -> None:
    assert isinstance(summary(section(name)), str)
    assert isinstance(summary(section(name, Table("anything", "", [Column("x", "")], []))), str)
    failed = section(name)
    failed.error = "damaged"
    assert summary(failed) == "not available"


def test_severity_is_the_worst() -> None:
    made = section("blocked")
    assert severity(made) is None
    made.findings = [Finding("note", "a"), Finding("critical", "b"), Finding("warning", "c")]
    assert severity(made) == "critical"


def test_absent_sections_are_told_once() -> None:
    def document(**sections: object) -> dict[str, object]:
        verdict = {"signature": "2-1", "coarse": "", "frames": []}
        return {"verdict": verdict, "findings": [], "sections": sections}

    full = {"title": "x", "rows": [{"a": 1}, {"a": 2}], "facts": {"b": 3}}
    gone = {"title": "x", "error": "needs a dump"}
    found = compare(document(memory=full, block=full, mounts=full), document(memory=gone, block=gone, mounts=full))
    assert found.differences == [Difference("memory, block", "present", "absent: needs a dump")]
    assert compare(document(memory=gone), document(memory=gone)).differences == []
    assert compare(document(memory=full), document()).differences == [Difference("memory", "present", "absent")]
