"""With what stands in for modules in the image, and nothing that is not in it, a dump comes out the same."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from tests.dump.machine import Block, PageMachine, fill

import kdump
from kdump.image import numpy_parts
from kdump.image.python import python_modules

SAVES = """
import sys
import numpy as np
from kdump.dump.pipeline import Options, save
from kdump.errors import NotPresentError
from kdump.memory import open_dump

class Stream:
    def __init__(self):
        self.data = bytearray(1 << 25)
    def skip(self, size):
        self.end = size
    def write(self, data):
        self.end += self.pwrite(data, self.end)
        return len(data)
    def pwrite(self, data, offset):
        self.data[offset:offset + len(data)] = data
        return len(data)

class Holes:
    def __init__(self, memory):
        self.memory = memory
        self.page_size, self.ranges = memory.page_size, memory.ranges
        self.present, self.held, self.close = memory.present, memory.held, memory.close
    def view(self, address, size):
        if address < 0x301000 and 0x300000 < address + size:
            raise NotPresentError(0x300000)
        return self.memory.view(address, size)

for level in 0, 1, 31:
    for codec in "zstd", "zlib":
        with open_dump(sys.argv[1]) as dump:
            stream = Stream()
            summary = save(dump._replace(memory=Holes(dump.memory)), lambda: stream, Options((level,), codec=codec))
        print(level, codec, summary.pages_unreadable, summary.dropped, summary.not_applied, summary.size)
        print(np.frombuffer(stream.data, np.uint64).sum() if codec == "zlib" or not level else "")
print(len([name for name in sys.modules if name.startswith("numpy")]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python modules of an image."""
    found = python_modules("kdump.capture")
    assert found.missing == ()
    root = tmp_path_factory.mktemp("image")
    for module in found.modules:
        target = root / module.place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(module.code or module.path.read_bytes())
    return root


def ran(code: str, *arguments: str | Path, path: list[str]) -> tuple[str, str]:
    code = f"import sys; sys.path[:] = {path!r}\n{code}"
    libraries = Path(np.__file__).parent.parent / "numpy.libs"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout, done.stderr


def test_a_dump_comes_out_the_same(root: Path, tmp_path: Path) -> None:
    machine = PageMachine("6.12")
    machine.use([Block(2048, 9, "free"), Block(3072, 3, "cache")])
    fill(machine, 1024)
    vmcore = tmp_path / "vmcore"
    vmcore.write_bytes(machine.elf())
    there, modules = ran(SAVES, vmcore, path=[str(root)])
    here, all_modules = ran(SAVES, vmcore, path=sys.path)
    # Sizes of zstd may differ: there it is the package's, which brings its own version of the library.
    assert [line for line in there.splitlines() if "zstd" not in line] == [
        line for line in here.splitlines() if "zstd" not in line
    ]
    assert "0 zstd 1 " in there and "31 zlib 1 {'free': 512" in there
    assert int(modules) < int(all_modules)


def test_functions_that_call_others_of_numpys_do_there_as_here(root: Path) -> None:
    calls = (
        "unique(a, return_counts=True)", "unique(a, return_inverse=True, return_index=True, return_counts=True)",
        "unique(a.reshape(3, 2), axis=0, return_inverse=True, return_counts=True)", "split(a, [2, 4])",
        "isin(a, [1, 9])", "lexsort((a, -a))", "cumsum(a)", "searchsorted(sort(a), 3)", "repeat(a, 2)", "argsort(a)",
        "concatenate([a, a])", "column_stack((a, a))", "stack((a, a))", "packbits(a > 2)", "count_nonzero(a)",
    )  # fmt: skip
    code = "import numpy\na = numpy.array([3, 1, 3, 2, 9, 1])\n"
    code += f"for call in {calls}:\n  print(eval(call, vars(numpy) | {{'a': a}}))"
    there, _ = ran(code, path=[str(root)])
    assert there == ran(code, path=sys.path)[0]


def test_what_was_left_out_says_so(root: Path) -> None:
    code = "import numpy\ntry: numpy.{}\nexcept NotImplementedError as error: print(error)"
    for call, name in (
        ("matrix(1)", "numpy.matrixlib.matrix"),
        ("polyfit([1], [1], 1)", "numpy.lib._polynomial_impl.polyfit"),
    ):
        said, _ = ran(code.format(call), path=[str(root)])
        assert said == f"{name} is not in the capture image\n"
    assert ran("import numpy; print(isinstance(numpy.arange(2), numpy.matrix))", path=[str(root)])[0] == "False\n"


def used_of_numpy() -> set[str]:
    """What the package's modules take from NumPy, by the names it has there."""
    found: set[str] = set()
    for path in Path(kdump.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                found.add(node.attr)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpy":
                assert node.module == "numpy.typing", f"{path}: {node.module}"
    return found


def test_nothing_that_is_called_is_a_stand_in() -> None:
    used = used_of_numpy()
    assert {"uint8", "flatnonzero", "packbits"} < used
    for part in numpy_parts.UNCALLED:
        kept = {*numpy_parts.STARRED.get(part, ()), *numpy_parts.HANDED_ON.get(part, ())}
        kept |= {numpy_parts.COUNTING[1]} if part == numpy_parts.COUNTING[0] else set()
        module = import_module(part)
        names = {name for name in used - kept if getattr(module, name, part) is getattr(np, name, None)}
        names -= {name for name in names if getattr(np, name).__module__ not in ("numpy", part)}
        own = {name for name in getattr(module, "__all__", ()) if name in names}
        assert not own, part
