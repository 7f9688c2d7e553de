"""Page owner: what the section says of kernels that no machine here can be booted with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kdump.report.sections import owners


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({}, "built without CONFIG_PAGE_OWNER"),
        ({"__set_page_owner": 1, "page_owner_inited": 0}, "booted without page_owner=on"),
        ({"__set_page_owner": 1, "page_owner_inited": 1}, "which this report cannot read"),
    ],
)
def test_page_owner_is_never_passed_over(numbers: dict[str, int], sentence: str) -> None:
    objects: Any = SimpleNamespace(symbols=numbers, number=numbers.get)
    assert sentence in owners._page_owner(objects)
