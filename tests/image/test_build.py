"""The image as a whole: reproducible, small, complete; and what a guest sees of it."""

from __future__ import annotations

import errno
import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.image.build import build, module_paths
from kdump.image.kernel_tree import KernelTree
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec

ENTRY = textwrap.dedent('''
    """Says what it sees, and powers off."""

    import json, os, socket, sys
    import numpy, zstandard
    from kdump.capture import modprobe, randomness, system

    def asked():
        """The kernel wants af_alg for the address family and algif_hash for the type, and asks by their aliases."""
        modprobe.answer()
        found = []
        for name in ("sha256", "no-such-hash"):
            try:
                found.append(socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).bind(("hash", name)))
            except OSError as error:
                found.append(error.errno)
        return found

    def main():
        memory = dict(line.split(":") for line in open("/proc/meminfo"))
        paths = json.load(open("/etc/modules.json"))
        seen = {
            "pid": os.getpid(),
            "release": os.uname().release,
            "root": sorted(os.listdir("/")),
            "mounts": [line.split()[1:3] for line in open("/proc/mounts")],
            "secret_mode": oct(os.stat("/etc/secret").st_mode),
            "tool": os.spawnv(os.P_WAIT, "/usr/bin/tool", ["tool", "/etc/modules.json"]),
            "loaded": [system.load_module(path) for path in paths],
            "again": [system.load_module(path) for path in paths],
            "modules": [line.split()[0] for line in open("/proc/modules")],
            "sum": int(numpy.arange(1000, dtype=numpy.uint64).sum()),
            "zstd": len(zstandard.ZstdDecompressor().decompress(zstandard.compress(bytes(1 << 20)))),
            "path": sys.path,
            "available": int(memory["MemAvailable"].split()[0]),
            "seeded": [randomness.ready(), randomness.add_entropy(bytes(32)), randomness.ready()],
            "asked": asked(),
            "modules_asked": [line.split()[0] for line in open("/proc/modules")],
            "read_only": not os.access("/etc", os.W_OK),
        }
        print("SEEN " + json.dumps(seen), flush=True)
        system.reboot(system.POWER_OFF)

    if __name__ == "__main__":
        main()
''')


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A module on sys.path whose closure has NumPy and zstandard in it."""
    directory = tmp_path_factory.mktemp("entry")
    (directory / "image_entry.py").write_text(ENTRY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        yield "image_entry"


@pytest.mark.lab
@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_a_guest_enters_the_image(tmp_path: Path, entry: str, series: str, kernel: Callable[[str], KernelTree]) -> None:
    tree = kernel(series)
    names = ["virtio_pci", "virtio_blk", "ext4", "xfs", "btrfs", "dm_mod", "raid1", "virtio_net", "nfsv4"]
    paths = module_paths(tree, names)
    files: dict[str, bytes | Path] = {
        "etc/secret": b"s3cret",
        "/etc/modules.json": json.dumps(paths).encode(),
        "/usr/bin/tool": Path("/bin/cat"),
    }
    summary = build(tree, entry=entry, modules=names, files=files, output=tmp_path / "image")
    assert summary.size == (tmp_path / "image").stat().st_size < 25 << 20
    assert (tmp_path / "image").stat().st_mode & 0o777 == 0o600
    again = build(tree, entry=entry, modules=names, files=files, output=tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "image").read_bytes()
    assert summary.modules == again.modules
    assert summary.missing == ()
    with Machine(
        Spec(kernel=tree.vmlinuz, initrd=summary.path, cmdline="console=ttyS0 panic=-1", memory=256 << 20)
    ) as m:
        seen = json.loads(m.wait_for("SEEN (.*)", 90, unless="Kernel panic|Traceback|kdump: the first stage")[1])
        m.run_to_exit(20)
    assert seen["pid"] == 1
    assert seen["release"] == tree.release
    assert seen["secret_mode"] == "0o100600"
    assert seen["read_only"]
    assert not {"af_alg", "algif_hash"} & set(seen["modules"])
    assert seen["asked"] == [None, errno.ENOENT]
    assert {"af_alg", "algif_hash"} <= set(seen["modules_asked"])
    assert seen["seeded"] == [True, None, True]
    assert seen["tool"] == 0
    assert ["/", "squashfs"] in seen["mounts"]
    assert {"/proc", "/sys", "/dev", "/run", "/tmp"} <= {place for place, _ in seen["mounts"]}
    # The kernel took every module in this order, so none came before what it needs.
    assert seen["loaded"] == [True] * len(paths)
    assert seen["again"] == [False] * len(paths)
    assert {"loop", "squashfs", "virtio_net", "btrfs", "nfsv4"} <= set(seen["modules"])
    assert seen["sum"] == 499500
    assert seen["zstd"] == 1 << 20
    assert all(place.startswith("/usr/lib/python3") for place in seen["path"])


@pytest.mark.lab
def test_a_first_stage_that_fails_says_so_and_restarts(
    tmp_path: Path, entry: str, kernel: Callable[[str], KernelTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdump.image import squashfs

    monkeypatch.setattr(squashfs, "pack", lambda _tree, made: bytes(8192))  # an image that cannot be mounted
    summary = build(kernel("6.1"), entry=entry, output=tmp_path / "image")
    spec = Spec(kernel=kernel("6.1").vmlinuz, initrd=summary.path, memory=256 << 20)
    with Machine(spec) as machine:
        machine.wait_for(r"kdump: the first stage of the capture image failed: OSError: .*newroot", 60)
        machine.wait_for(r"kdump: nothing was saved; restarting in 5 s", 5)
        machine.run_to_exit(30)  # a restart ends the machine


@pytest.mark.lab
def test_a_kernel_without_squashfs_gets_a_plain_image(
    tmp_path: Path, entry: str, kernel: Callable[[str], KernelTree]
) -> None:
    tree = replace(kernel("6.1"), modules=None)
    files: dict[str, bytes | Path] = {
        "etc/secret": b"s3cret",
        "/etc/modules.json": b"[]",
        "usr/bin/tool": Path("/bin/cat"),
    }
    summary = build(tree, entry=entry, files=files, output=tmp_path / "image")
    assert summary.first_stage_size == 0
    assert summary.size == summary.root_size
    with Machine(
        Spec(kernel=tree.vmlinuz, initrd=summary.path, cmdline="console=ttyS0 panic=-1", memory=256 << 20)
    ) as m:
        seen = json.loads(m.wait_for("SEEN (.*)", 90, unless="Kernel panic|Traceback|kdump: the first stage")[1])
        m.run_to_exit(20)
    assert seen["pid"] == 1
    assert seen["sum"] == 499500
    assert seen["secret_mode"] == "0o100600"
    assert seen["modules"] == []


def fake_tree(tmp_path: Path) -> KernelTree:
    """A kernel whose loop and squashfs are built in."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "modules.builtin").write_text("kernel/drivers/block/loop.ko\nkernel/fs/squashfs/squashfs.ko\n")
    return KernelTree("6.1.0-fake", tmp_path / "vmlinuz", modules)


def test_the_summary_counts_what_went_in(tmp_path: Path) -> None:
    tree = fake_tree(tmp_path)
    files: dict[str, bytes | Path] = {"/etc/config": b"12345", "usr/bin/tool": Path("/bin/cat")}
    summary = build(tree, entry="kdump.capture.plan", files=files, output=tmp_path / "image")
    assert summary.contents["files"] == (2, 5 + len(Path("/bin/cat").read_bytes()) - _stripped("/bin/cat"))
    assert summary.size == summary.root_size + summary.first_stage_size == (tmp_path / "image").stat().st_size
    assert "extensions" in summary.contents
    data = (tmp_path / "image").read_bytes()
    assert data[:6] == b"070701"
    assert data.count(b"hsqs") >= 1


def _stripped(path: str) -> int:
    from kdump.image import elf_files

    data = Path(path).read_bytes()
    return len(data) - len(elf_files.strip(data))


def test_what_is_there_already_stays_there(tmp_path: Path) -> None:
    """What is loaded is known by the file's inode and times: the same bytes once more change nothing."""
    tree, output = fake_tree(tmp_path), tmp_path / "image"
    build(tree, entry="kdump.capture.plan", output=output)
    before = output.stat()
    build(tree, entry="kdump.capture.plan", output=output)
    after = output.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    build(tree, entry="kdump.capture.plan", files={"/etc/more": b""}, output=output)
    assert output.stat().st_ino != before.st_ino


def test_what_cannot_be_built_is_explained_and_leaves_nothing(tmp_path: Path) -> None:
    tree = fake_tree(tmp_path)
    entry = "kdump.capture.plan"
    with pytest.raises(KdumpError, match=r"no module 'nothing'"):
        build(tree, entry=entry, modules=["nothing"], output=tmp_path / "image")
    with pytest.raises(KdumpError, match=r"/no/such/file cannot be put in the image: No such file"):
        build(tree, entry=entry, files={"x": Path("/no/such/file")}, output=tmp_path / "image")
    with pytest.raises(KdumpError, match=r"cannot be written: No such file or directory"):
        build(tree, entry=entry, output=tmp_path / "none/image")
    assert {path.name for path in tmp_path.iterdir()} == {"modules"}
