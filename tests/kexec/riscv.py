"""The first process of riscv64 machines: Debian 13's Python, which runs kdump from its sources.

kdump builds no image for this architecture (docs/platforms.md), so this one is made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.kexec.packaged import BUSYBOX, START, copy, packages, root, with_busybox

import kdump
from kdump.arch.riscv64 import RISCV64
from kdump.image.cpio import archive
from kdump.image.kernel_tree import KernelTree, read_compressed
from kdump.lab.foreign import library_for

PYTHON = "python3.13"
PACKAGES = (
    f"{PYTHON}-minimal", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libc6", "libexpat1", "libffi8", "libgcc-s1",
    "libssl3t64", "zlib1g", BUSYBOX,
)  # fmt: skip
LEFT_OUT = ("usr/share", "usr/include", f"usr/lib/{RISCV64.triplet}/gconv", f"usr/lib/{RISCV64.triplet}/ossl-modules")
SERVE = START + f"export PYTHONPATH=/opt PYTHONDONTWRITEBYTECODE=1\nexec /usr/bin/{PYTHON} -m tests.kexec.guest\n"
COPY = START + "/bin/busybox insmod /virtio_blk.ko\n/bin/busybox dd if=/proc/vmcore of=/dev/vda bs=1M\n"
COPY += "/bin/busybox sync\n/bin/busybox poweroff -f\n"


def serving(output: Path, files: Mapping[str, bytes | Path] | None = None) -> Path:
    """An image whose first process is `tests.kexec.guest`, with those files in it."""
    tree = root(SERVE)
    for top, place in ((Path(kdump.__file__).parent, "opt/kdump"), (Path(__file__).parent, "opt/tests/kexec")):
        for path in top.rglob("*.py"):
            tree.file(f"{place}/{path.relative_to(top)}", path.read_bytes())
    tree.file("opt/tests/__init__.py", b"")
    library = library_for(RISCV64)
    assert library, f"there is no {RISCV64.triplet}-gcc"
    tree.file(f"opt/kdump/native/{library.name}", library.read_bytes())
    for unpacked, name in packages(RISCV64, *PACKAGES):
        if not name.startswith(LEFT_OUT):
            copy(tree, unpacked, name)
    for name, content in (files or {}).items():
        tree.file(name.lstrip("/"), content.read_bytes() if isinstance(content, Path) else content)
    output.write_bytes(archive(tree))
    return output


def copying(kernel: KernelTree, output: Path) -> Path:
    """An image that copies /proc/vmcore to the first disk and turns the machine off."""
    tree = with_busybox(RISCV64, COPY)
    module = kernel.module_index.get("virtio_blk")
    assert module
    tree.file("virtio_blk.ko", read_compressed(module.path))
    output.write_bytes(archive(tree))
    return output
