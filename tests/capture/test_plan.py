from __future__ import annotations

import pytest

from kdump.capture.plan import CapturePlan, Deadlines, Hooks, load_plan
from kdump.errors import FormatError
from kdump.targets.protocol import Spec


def test_a_plan_survives_the_journey() -> None:
    plan = CapturePlan(
        hostname="web1",
        modules=("/lib/a.ko", "/lib/b.ko x=1"),
        targets=(Spec("file:///var/crash", {"uuid": "1-2", "fstype": "xfs"}),),
        deadlines=Deadlines(stall=7),
        hooks=Hooks(pre=("/bin/x",)),
    )
    assert CapturePlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "JSON"),
        ("[]", "[plan]"),
        ('{"levle": 3}', "levle"),
        ('{"level": "31"}', "[plan.level]"),
        ('{"level": true}', "[plan.level]"),
        ('{"targets": [{"facts": {}}]}', "[plan.targets[0]]"),
        ('{"deadlines": {"stall": []}}', "[plan.deadlines.stall]"),
        ('{"modules": "x"}', "[plan.modules]"),
        ('{"inject": []}', "[plan.inject]"),
    ],
)
def test_a_broken_plan_says_where(text: str, field: str) -> None:
    with pytest.raises(FormatError) as caught:
        CapturePlan.from_json(text)
    assert field in str(caught.value)


def test_a_missing_plan_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        load_plan("/nonexistent/plan.json")
