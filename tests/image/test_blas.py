"""The stand-in for BLAS: loads, serves NumPy's import, computes real dot products, ends the process on the rest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdump.image import blas, elf_files
from kdump.image.build import shared_libraries
from kdump.image.made import Made

PACKAGE = Path(np.__file__).parent
USERS = [next(PACKAGE.glob("_core/_multiarray_umath*.so")), next(PACKAGE.glob("linalg/_umath_linalg*.so"))]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for what this NumPy is linked against."""
    found = elf_files.resolve(map(elf_files.parse, USERS))
    name = next(name for name in found if blas.can_replace(name, found[name], USERS))
    path = tmp_path_factory.mktemp("blas") / name
    path.write_bytes(blas.stand_in(name, found[name], USERS))
    return path


def run(library: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Python with the stand-in loaded first, so that NumPy's libraries find it under that name."""
    preload = f"import ctypes; library = ctypes.CDLL({str(library)!r}, ctypes.RTLD_GLOBAL)\n"
    return subprocess.run([sys.executable, "-c", preload + code], capture_output=True, text=True, check=False)


def test_numpy_imports_and_works_without_its_library(library: Path) -> None:
    code = """
import numpy as np
used = {line.split()[-1] for line in open("/proc/self/maps") if "blas" in line}
x = np.arange(1000, dtype=np.uint64)
print(used == {library._name}, int((x & 7 == 3).sum()), np.bincount(x.astype(np.int64) % 3).tolist(), int(x @ x))
"""
    done = run(library, code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "True 125 [334, 333, 333] 332833500\n"


def test_dot_products_of_real_vectors_are_right(library: Path) -> None:
    code = """
import numpy as np
for kind in "fd":
    x = np.linspace(-3, 5, 1001, dtype=kind)
    y = np.arange(2002, dtype=kind)[::2]
    for a, b in ((x, y), (x[::-1], y), (y, y[::-1]), (x[:0], y[:0]), (x[:1], y[:1])):
        exact = float((a.astype("d") * b.astype("d")).sum())
        assert np.isclose(a.dot(b), exact, rtol=1e-4), (kind, a.dot(b), exact)
"""
    done = run(library, code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_length_of_zero_reads_nothing(library: Path) -> None:
    names = elf_symbols(library)
    name = next(name for name in names if "cblas_ddot" in name)
    code = f"f = library[{name!r}]; f.restype = ctypes.c_double; print(f(0, None, 1, None, 1), f(-1, None, 1, None, 1))"
    assert run(library, code).stdout == "0.0 0.0\n"


def elf_symbols(library: Path) -> list[str]:
    output = subprocess.run(["readelf", "-W", "-s", "-D", library], capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in output.stdout.splitlines() if " FUNC " in line]


def test_it_defines_what_numpy_wants_and_nothing_else(library: Path) -> None:
    wanted = {name for user in USERS for name in elf_files.symbols(user).undefined if "blas" in name}
    assert wanted
    assert wanted <= set(elf_symbols(library))
    assert library.stat().st_size < 16384


def test_anything_else_ends_the_process_with_a_message(library: Path) -> None:
    done = run(library, "import numpy as np; np.ones((3, 3)) @ np.ones((3, 3)); print('not reached')")
    assert done.returncode == -4  # SIGILL
    assert "no linear algebra library" in done.stderr
    assert done.stdout == ""


def test_only_numpys_library_is_replaced() -> None:
    found = elf_files.resolve(map(elf_files.parse, USERS))
    name, path = next((name, path) for name, path in found.items() if "blas" in name)
    assert blas.can_replace(name, path, USERS)
    assert not blas.can_replace(name, path, [*USERS, Path("/usr/lib/other.so")])
    assert not blas.can_replace(name, path, [])
    assert not blas.can_replace("libm.so.6", found["libm.so.6"], USERS)


def test_a_numpy_that_multiplies_matrices_when_it_is_imported_keeps_its_library(tmp_path: Path) -> None:
    package = next(parent for parent in USERS[0].parents if parent.name == "numpy")
    site = tmp_path / "site"
    shutil.copytree(package, site / "numpy", ignore=shutil.ignore_patterns("tests", "*.pyc"))
    shutil.copytree(package.parent / "numpy.libs", site / "numpy.libs")
    users = [site / path.relative_to(package.parent) for path in USERS]
    core = [next(path for path in users if path.name.startswith("_multiarray_umath"))]  # all that an image has
    assert any(isinstance(library, bytes) for library in shared_libraries(core, Made()).values())
    with (site / "numpy/__init__.py").open("a") as file:
        file.write("\nones((20, 20)) @ ones((20, 20))\n")  # as NumPy 2.3 does
    assert all(isinstance(library, Path) for library in shared_libraries(core, Made()).values())
