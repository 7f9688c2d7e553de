"""Commands that need a missing package say so, and how to get it."""

import subprocess
import sys

import pytest

from kdump.errors import KdumpError
from kdump.extras import extra

HIDE = """
import sys
for name in {names!r}:
    sys.modules[name] = None
from kdump.cli.main import main
sys.exit(main({args!r}))
"""


def without(names: list[str], *args: str) -> subprocess.CompletedProcess[str]:
    """The command in a Python that does not have these packages."""
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(names=names, args=list(args))], capture_output=True, text=True, check=False
    )


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(KdumpError) as caught, extra("shell", "kdump shell"):
        import kdump_has_no_such_package  # type: ignore[import-not-found]  # noqa: F401
    assert str(caught.value).startswith("kdump shell needs a package that is not installed")
    assert "kdump_has_no_such_package is missing" in str(caught.value)
    assert "pip install 'linux-kdump[shell]'" in str(caught.value)


def test_a_fault_of_our_own_is_not_called_a_missing_package() -> None:
    with pytest.raises(ImportError, match=r"kdump\.no_such_module"), extra("shell", "kdump shell"):
        import kdump.no_such_module  # type: ignore[import-not-found]  # noqa: F401


@pytest.mark.parametrize(
    ("names", "args", "name"),
    [(["drgn"], ("shell", "vmcore"), "shell"), (["uvicorn"], ("fleet", "serve", "--data", "x"), "fleet")],
)
def test_commands_say_what_they_miss(names: list[str], args: tuple[str, ...], name: str) -> None:
    result = without(names, *args)
    assert result.returncode == 1
    assert f"linux-kdump[{name}]" in result.stderr and "Traceback" not in result.stderr


def test_most_commands_need_no_extra() -> None:
    everything = ["drgn", "capstone", "uvicorn", "starlette", "jinja2", "cramjam", "lzallright", "elftools"]
    assert without(everything, "report", "--help").returncode == 0
    assert "No such file" in without(everything, "report", "no-such-dump").stderr
