"""A guest that read itself and was then dumped from outside: one boot for many tests."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kdump.capture import rungs
from kdump.image.build import build, module_paths
from kdump.image.kernel_tree import KernelTree
from kdump.image.python import python_modules
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec

MEMORY = 512 << 20  # bytes
Options = dict[str, object]
FORMATS: dict[str, Options] = {"elf": {}, "elf-paging": {"paging": True}, "kdump-zlib": {"format": "kdump-zlib"}}
# What QEMU was not built with is left out: Debian 12's has neither lzo nor snappy.
OPTIONAL: dict[str, Options] = {name: {"format": name} for name in ("kdump-lzo", "kdump-snappy")}


class Live(NamedTuple):
    """What the guest found in its own memory (`tests.memory.live`), and QEMU's dumps of it by kind."""

    tree: KernelTree
    facts: dict[str, Any]
    dumps: dict[str, Path]


Maker = Callable[..., Live]


@pytest.fixture(scope="session")
def live(kernel: Callable[[str], KernelTree], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    """`live("6.1", "max,la57=off", vmcoreinfo=True)`: with the device that gives QEMU's dumps VMCOREINFO, or not."""
    directories = []

    @functools.cache
    def make(series: str, cpu: str, *, vmcoreinfo: bool) -> Live:
        tree, directory = kernel(series), tmp_path_factory.mktemp("live")
        directories.append(directory)
        image, modules = directory / "image", ("qemu_fw_cfg",) if vmcoreinfo else ()
        paths = "\n".join(module_paths(tree, modules)).encode()
        build(
            tree, entry="tests.memory.live", output=image, modules=modules, files={"/etc/modules": paths},
            python=python_modules("tests.memory.live", rungs.__capture_imports__),
        )  # fmt: skip
        spec = Spec(
            kernel=tree.vmlinuz, initrd=image, cmdline="console=ttyS0 crashkernel=64M", memory=MEMORY, cpus=2,
            cpu=cpu, extra=("-device", "vmcoreinfo") if vmcoreinfo else (),
        )  # fmt: skip
        with Machine(spec) as machine:
            line = machine.wait_for(r"live kernel: (\{.*\})", 120, unless="live kernel: FAILED|Kernel panic")[1]
            with machine.qmp() as monitor:
                monitor.execute("stop")
                able = monitor.execute("query-dump-guest-memory-capability")["formats"]
                wanted = FORMATS | {name: options for name, options in OPTIONAL.items() if name in able}
                for name, options in wanted.items():
                    place = {"protocol": f"file:{directory / name}"}
                    monitor.execute("dump-guest-memory", **({"paging": False} | options | place))
        return Live(tree, json.loads(line), {name: directory / name for name in wanted})

    yield make
    for directory in directories:
        shutil.rmtree(directory)
