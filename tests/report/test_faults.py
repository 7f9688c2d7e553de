"""A fault of kdump is told as one: the dump is not blamed for it, and the other sections are made."""

from __future__ import annotations

from typing import Any

import pytest

from kdump.kernel.objects import MissingMemberError
from kdump.report import build, text
from kdump.report.context import Context
from kdump.report.damage import DAMAGE, fault
from kdump.report.logtext import from_text
from kdump.report.sections import log


def test_a_fault_is_named_and_the_report_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(_context: Context, _section: Any) -> None:
        raise TypeError("unsupported operand")

    monkeypatch.setattr(log, "collect", collect)
    report = build.build(Context(None, from_text("[    1.000000] Linux version 6.1.0\n")), "log", only=["log", "cpus"])
    first, second = report.sections
    assert first.error.startswith("a fault of kdump, not of the dump, please report it: TypeError: unsupported operand")
    assert "test_faults.py:" in first.error
    assert second.error == "needs a dump; there is only the kernel's log"
    assert "a fault of kdump" in "\n".join(text.render(report))


def test_what_counts_as_damage() -> None:
    assert not issubclass(TypeError, DAMAGE) and not issubclass(AttributeError, DAMAGE)
    assert issubclass(MissingMemberError, DAMAGE)
    assert fault(ValueError("x")) == "a fault of kdump, not of the dump, please report it: ValueError: x"
