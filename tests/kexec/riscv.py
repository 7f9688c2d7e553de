"""The first process of riscv64 machines: Debian 13's Python, which runs kdump from its sources.

kdump builds no image for this architecture (docs/platforms.md), so this one is made here: whole packages, unpacked.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import kdump
from kdump.arch.riscv64 import RISCV64
from kdump.image.cpio import archive
from kdump.image.kernel_tree import KernelTree, read_compressed
from kdump.image.tree import Tree
from kdump.lab import apt, cache
from kdump.lab.foreign import library_for

PYTHON = "python3.13"
PACKAGES = (
    f"{PYTHON}-minimal", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libc6", "libexpat1", "libffi8", "libgcc-s1",
    "libssl3t64", "zlib1g", "busybox-static",
)  # fmt: skip
LEFT_OUT = ("usr/share", "usr/include", f"usr/lib/{RISCV64.triplet}/gconv", f"usr/lib/{RISCV64.triplet}/ossl-modules")
START = "#!/bin/busybox sh\n" + "".join(
    f"/bin/busybox mount -t {kind} none /{place}\n"
    for kind, place in (("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev"))
)
SERVE = START + f"export PYTHONPATH=/opt PYTHONDONTWRITEBYTECODE=1\nexec /usr/bin/{PYTHON} -m tests.kexec.guest\n"
COPY = START + "/bin/busybox insmod /virtio_blk.ko\n/bin/busybox dd if=/proc/vmcore of=/dev/vda bs=1M\n"
COPY += "/bin/busybox sync\n/bin/busybox poweroff -f\n"


def serving(output: Path, files: Mapping[str, bytes | Path] | None = None) -> Path:
    """An image whose first process is `tests.kexec.guest`, with those files in it."""
    root = _root(SERVE)
    for top, place in ((Path(kdump.__file__).parent, "opt/kdump"), (Path(__file__).parent, "opt/tests/kexec")):
        for path in top.rglob("*.py"):
            root.file(f"{place}/{path.relative_to(top)}", path.read_bytes())
    root.file("opt/tests/__init__.py", b"")
    library = library_for(RISCV64)
    assert library, f"there is no {RISCV64.triplet}-gcc"
    root.file(f"opt/kdump/native/{library.name}", library.read_bytes())
    for unpacked, name in _packages(*PACKAGES):
        if not name.startswith(LEFT_OUT):
            _copy(root, unpacked, name)
    for name, content in (files or {}).items():
        root.file(name.lstrip("/"), content.read_bytes() if isinstance(content, Path) else content)
    output.write_bytes(archive(root))
    return output


def copying(tree: KernelTree, output: Path) -> Path:
    """An image that copies /proc/vmcore to the first disk and turns the machine off."""
    root = _root(COPY)
    for unpacked, name in _packages("busybox-static"):
        if name == "usr/bin/busybox":
            _copy(root, unpacked, name)
    module = tree.module_index.get("virtio_blk")
    assert module
    root.file("virtio_blk.ko", read_compressed(module.path))
    output.write_bytes(archive(root))
    return output


def _root(script: str) -> Tree:
    root = Tree()
    for name in ("proc", "sys", "dev", "tmp", "run", "var/lib/kdump", "usr/bin", "usr/lib"):
        root.directory(name)
    root.character_device("dev/console", 5, 1)
    for name in ("bin", "lib"):
        root.symlink(name, f"usr/{name}")
    root.file("init", script.encode(), 0o755)
    return root


def _packages(*names: str) -> Iterator[tuple[Path, str]]:
    """The directory of all packages, and the name of each file in it."""

    def fetch(directory: Path) -> None:
        source = apt.stable(RISCV64.debian)
        for name in names:
            apt.extract(source.download(name, directory), directory)

    unpacked = cache.entry(f"packages/{RISCV64.name}-{'-'.join(names)}"[:120], fetch)
    for path in sorted(unpacked.rglob("*")):
        if not path.is_dir() or path.is_symlink():
            yield unpacked, str(path.relative_to(unpacked))


def _copy(root: Tree, unpacked: Path, name: str) -> None:
    path = unpacked / name
    if path.is_symlink():
        root.symlink(name, str(path.readlink()))
    else:
        root.file(name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
