"""Which architecture a kdump-compressed dump is of, where QEMU does not say. (`-m matrix` has QEMU's own dumps.)"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.memory.writers import kdump, note

from kdump import arch
from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.memory import open_dump


def opened(path: Path, size: int, order: str = "<") -> arch.Architecture:
    path.write_bytes(
        kdump(
            {0: bytes(4096)}, ram=[(0, 8)], notes=note("CORE", 1, bytes(size), order), machine=b"Unknown", order=order
        )
    )
    with open_dump(path) as dump:
        return Kernel(dump).arch


@pytest.mark.parametrize(("size", "name"), [(392, "aarch64"), (376, "riscv64"), (504, "ppc64le")])
def test_the_size_of_the_registers_tells(size: int, name: str, tmp_path: Path) -> None:
    assert opened(tmp_path / "vmcore", size).name == name


@pytest.mark.parametrize(("order", "text"), [("<", "unknown is not supported"), (">", "of an unknown machine are not")])
def test_other_registers_are_of_no_machine_that_is_known(order: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match=text):
        opened(tmp_path / "vmcore", 400, order)
