"""Types of global variables: how the user declares them."""

from __future__ import annotations

import pytest
from tests.kernel.test_btf import section
from tools.globals import since

from kdump.errors import UsageError
from kdump.kernel import globals as kernel_globals
from kdump.kernel.btf import Btf


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("struct foo bar", ("bar", "struct foo")),
        ("struct foo *bar;", ("bar", "struct foo *")),
        ("unsigned long  counts[4][2]", ("counts", "unsigned long [4][2]")),
        ("char **names", ("names", "char **")),
    ],
)
def test_declarations(text: str, expected: tuple[str, str]) -> None:
    assert kernel_globals.declaration(text) == expected


@pytest.mark.parametrize("text", ["", "bar", "struct foo", "int (*call)(void)", "int a, b"])
def test_what_declares_no_variable(text: str) -> None:
    if text == "struct foo":  # a variable `foo` of a type `struct`, which no kernel has
        assert kernel_globals.declaration(text) == ("foo", "struct")
        return
    with pytest.raises(UsageError, match="declares no variable"):
        kernel_globals.declaration(text)


def test_an_array_that_is_shorter_than_in_debians_kernels() -> None:
    types = Btf(section().build())
    for room, text in ((40, "int [8]"), (8, "int [2]"), (3, None)):
        found = kernel_globals.choose(types, ["int [4]", "int [8]"], room)
        assert (found and found.text) == text


def test_types_that_changed() -> None:
    """Only the release tells them apart; if it is not known, or what it had does not fit, the best of all counts."""
    types = Btf(section().build())
    found = since([("7.2", "int [4]"), ("6.12", "int [8]"), ("6.6", "int *[4]"), ("6.1", "int **[4]")])
    assert found == ["6.12:int [4]", "6.12:int [8]", "6.6:int *[4]", "int **[4]"]
    for release, room, text in (
        ("7.3.1", 32, "int [8]"), ("7.3.1", 16, "int [4]"), ("6.12.9-rt", 32, "int [8]"), ("6.11", 32, "int *[4]"),
        ("6.1.0-57", 32, "int **[4]"), ("4.19", 32, "int **[4]"), ("", 32, "int [8]"), ("6.1.0-57", 16, "int **[2]"),
        ("6.1.0-57", 4, "int [1]"),
    ):  # fmt: skip
        chosen = kernel_globals.choose(types, found, room, release)
        assert chosen and chosen.text == text, release


def test_the_table() -> None:
    found = dict(kernel_globals.names())
    assert found["chrdevs"] == ["struct char_device_struct *[255]"]
    assert "unsigned long" in found["jiffies"]
    assert len(found) > 10000
