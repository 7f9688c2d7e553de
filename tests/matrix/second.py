"""The second machine of those whose disk is another's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.matrix import disk_server
from tests.targets.servers import free_port

from kdump.image.build import build, module_paths
from kdump.lab import kernels
from kdump.lab.machine import Machine
from kdump.lab.qemu import Disk, Spec


@contextlib.contextmanager
def served(kind: str, data: Path, directory: Path, cmdline: str = "") -> Iterator[int]:
    """A second machine that lends the disk `data` by "iscsi" or "nvme-tcp"; the port on which its cable waits."""
    tree, port = kernels.find("6.1-generic"), free_port()
    modules = ("virtio_pci", "virtio_net", "virtio_blk", *disk_server.MODULES_OF[kind])
    image = directory / "server-initrd.img"
    files: dict[str, bytes | Path] = {disk_server.MODULES: "\n".join(module_paths(tree, modules)).encode()}
    build(tree, entry="tests.matrix.disk_server", modules=modules, files=files, output=image)
    wire = f"socket,id=wire,listen=127.0.0.1:{port}"
    spec = Spec(
        kernel=tree.vmlinuz, initrd=image, cmdline=f"console=ttyS0,115200 panic=-1 {kind} {cmdline}",
        disks=[Disk(data)], memory=384 << 20,
        extra=("-netdev", wire, "-device", f"virtio-net-pci,netdev=wire,mac={disk_server.MAC}"),
    )  # fmt: skip
    with Machine(spec, console=directory / "server.log") as machine:
        machine.wait_for("disk-server: ready", 600, unless="disk-server: FAILED|Kernel panic")
        yield port
