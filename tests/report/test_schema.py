"""docs/report.schema.json says what programs may rely on, and reports keep it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.report.test_render import LOGS

from kdump.report import json as as_json
from kdump.report import logtext
from kdump.report.build import build
from kdump.report.context import Context
from kdump.report.model import SCHEMA, Finding, Frame, Report, Stack, Task, Verdict

PUBLISHED = Path(__file__).parent.parent.parent / "docs/report.schema.json"
ALL: dict[str, Any] = json.loads(PUBLISHED.read_text())


def faults(document: dict[str, Any]) -> list[str]:
    """What the published schema has against a report, as it is after a trip through JSON."""
    checker = Draft202012Validator(ALL)
    return [
        f"{fault.json_path}: {fault.message[:300]}" for fault in checker.iter_errors(json.loads(json.dumps(document)))
    ]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(ALL)
    assert ALL["properties"]["schema"] == {"const": SCHEMA}


DESCRIBED = (("verdict", Verdict), ("frame", Frame), ("task", Task), ("finding", Finding), ("stack", Stack))


@pytest.mark.parametrize(("name", "kind"), DESCRIBED)
def test_every_field_is_described(name: str, kind: type) -> None:
    assert set(ALL["$defs"][name]["properties"]) == {entry.name for entry in fields(kind)}


def test_every_field_of_a_report_is_described() -> None:
    document = as_json.document(Report("x", "text", "", "", 0, Verdict("x", "x", "x", "")))
    assert set(ALL["properties"]) == set(document)


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.txt")), ids=lambda path: path.stem)
def test_reports_of_logs_keep_it(log: Path) -> None:
    assert faults(as_json.document(build(Context(None, logtext.from_text(log.read_text())), log.stem))) == []


def test_it_refuses_another_form() -> None:
    document = as_json.document(Report("x", "text", "", "", 0, Verdict("x", "x", "x", "")))
    assert faults(document) == []
    assert faults({**document, "schema": 2})
    assert faults({**document, "crash_time": "yesterday"})
    assert faults({**document, "findings": [{"severity": "dreadful", "text": "", "section": ""}]})
