"""The wheel is one that PyPI takes, needs nothing but the standard library to be built, and carries what it must."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kdump.image import elf_files

ROOT = Path(__file__).parent.parent.parent
BARE = """
import sys


class Refuse:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "kdump"}:
            raise ImportError(name)


sys.meta_path.insert(0, Refuse())
sys.path.insert(0, "src")
from kdump.cli import share

print(len(share.files()))
"""


def test_pages_are_made_with_the_standard_library_alone() -> None:
    """A build has no dependency installed but hatchling."""
    done = subprocess.run([sys.executable, "-I", "-c", BARE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "tools/dist.py", "wheel", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = output.iterdir()
    return path


def test_the_wheel_has_a_tag_that_pypi_takes(wheel: Path) -> None:
    assert "-py3-none-manylinux2014_" in wheel.name


def test_the_wheel_carries_the_loops_the_units_and_the_pages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for end in (
        "kdump/native/libkdump.so",
        "units/linux-kdump.service",
        "share/man/man8/kdump-setup.8",
        "completions/kdump",
    ):
        assert any(name.endswith(end) for name in names), end
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


@pytest.mark.parametrize("script", sorted((ROOT / "packaging/deb").iterdir()), ids=lambda path: str(path.name))
def test_maintainer_scripts_never_reserve_load_or_enable(script: Path) -> None:
    text = script.read_text()
    for line in text.splitlines():
        for word in ("kdump load", "kdump build", "--yes", "systemctl", "crashkernel"):
            assert word not in line or "setup --undo" in line or line.startswith("#"), line
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.matrix
def test_the_debian_package_of_another_architecture_holds_that_architectures_code(tmp_path: Path) -> None:
    command = [sys.executable, "tools/dist.py", "deb", "--release=12", "--arch=aarch64", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (package,) = tmp_path.glob("*_arm64.deb")
    subprocess.run(["dpkg-deb", "-x", package, tmp_path / "root"], check=True)
    libraries = list((tmp_path / "root").rglob("*.so"))
    assert {path.name for path in libraries} >= {"libkdump.so"} and len(libraries) > 10
    assert {elf_files.parse(path).machine for path in libraries} == {"aarch64"}
