"""Builds the capture image: one file that a kernel takes as its initramfs.

It is two cpio archives in a row. The first, plain, holds the root file system as a squashfs, which is compressed
already; the second, compressed, holds the first stage (see `kdump.image.stage0`) that mounts it and lends it the
interpreter. For a kernel that can not (no loop devices, no squashfs) it is one compressed archive of the root, which
then lies in memory uncompressed.
"""

from __future__ import annotations

import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import zstandard

from kdump import arch
from kdump.capture import system
from kdump.errors import KdumpError
from kdump.files import digest
from kdump.files.drafts import file_version, replace_file
from kdump.image import blas, cpio, elf_files, squashfs, stage0
from kdump.image.closure import Closure, PythonModule
from kdump.image.kernel_tree import KernelTree, Module, ModuleIndex, read_compressed
from kdump.image.made import Made
from kdump.image.module_aliases import is_pattern, normalised
from kdump.image.platform import NATIVE, Platform
from kdump.image.python import STAGE0, python_modules
from kdump.image.tree import Tree

PYTHON = "/usr/bin/python3"
FIRMWARE = "usr/lib/firmware"  # the kernel looks in /lib/firmware
_MODPROBE = "kdump.capture.modprobe"
_YES, _NO = b"yes", b"no"
_STAGE0_MODULES = ("loop", "squashfs")
_LIBRARY = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
_DIRECTORIES = ("dev", "proc", "sys", "run", "tmp", "etc", "root", "mnt", "usr/bin", "usr/lib")
_WINDOW_LOG = 21  # the kernel allocates the window when it unpacks, at its tightest moment


@dataclass(frozen=True)
class ImageSummary:
    """The built image. Sizes in bytes; `contents` maps a class of files to (number, bytes before compression).

    `missing` are Python modules that the entry may ask for and that are not installed here.
    """

    path: Path
    release: str
    entry: str
    size: int
    root_size: int
    first_stage_size: int
    seconds: float
    contents: Mapping[str, tuple[int, int]]
    modules: tuple[str, ...]
    missing: tuple[str, ...]


def module_paths(tree: KernelTree, names: Iterable[str]) -> list[str]:
    """ "PATH" or "PATH PARAMETERS" of these modules in an image, in the order in which they are to be loaded."""
    index = tree.module_index
    return [_loading(module, index) for module in index.load_order(names)]


def request_table(tree: KernelTree, names: Iterable[str]) -> str:
    """The answers of `kdump.capture.modprobe` to the kernel: lines "WORD\\tPATH PARAMETERS\\tPATH …" in load order.

    Words are the names and aliases of the modules in the image, as `normalised` writes them. Aliases with wildcards are
    left out: they stand for devices, for which the kernel tells user space instead of asking.
    """
    index = tree.module_index
    answers: dict[str, dict[str, None]] = {}
    for module in index.closure(names):
        loading = [_loading(each, index) for each in index.load_order([module.name])]
        for word in (module.name, *module.aliases, *index.configured_aliases(module.name)):
            if not is_pattern(word):
                answers.setdefault(normalised(word), {}).update(dict.fromkeys(loading))
    return "".join("\t".join([word, *loading]) + "\n" for word, loading in sorted(answers.items()))


def _loading(module: Module, index: ModuleIndex) -> str:
    return f"{system.MODULES}/{module.name}.ko {index.conf.parameters(module.name)}".rstrip()


def shared_libraries(executables: Iterable[Path], made: Made, platform: Platform = NATIVE) -> dict[str, bytes | Path]:
    """The libraries of these ELF files in an image, by name: files or stand-ins.

    Whether that serves is tried once, and `made` knows.
    """
    users = [elf_files.parse(path) for path in executables]
    for user in users:
        if user.machine != platform.machine:
            raise KdumpError(f"{user.path} is for {user.machine}", why=f"the image is for {platform.machine}")
    stand_ins: dict[str, bytes] = {}
    for name, path in elf_files.resolve(users, directories=platform.directories).items():
        direct = [user.path for user in users if name in user.needed]
        if blas.can_replace(name, path, direct):
            found = blas.stand_in(name, path, direct)
            users_of_it = "".join(f"{user} {file_version(user)}" for user in direct)
            tried = made.get(f"serves {users_of_it}", found, partial(_serves, platform.here(direct[0])))
            if tried == _YES:
                stand_ins[name] = found
    return {**stand_ins, **elf_files.resolve(users, stand_ins, platform.directories)}


def _serves(user: Path) -> bytes:
    """Whether NumPy's extension `user`, of this machine, works with a stand-in. (Another's is of the same version.)"""
    for name, library in elf_files.resolve([elf_files.parse(user)]).items():
        if blas.can_replace(name, library, [user]):
            return _YES if blas.serves(name, library, user) else _NO
    return _NO


def build(
    tree: KernelTree,
    *,
    entry: str,
    output: Path,
    modules: Iterable[str] = (),
    python: Closure | None = None,
    files: Mapping[str, bytes | Path] | None = None,
    made: Made | None = None,
    platform: Platform = NATIVE,
    ready: Callable[[bytes], None] = lambda _image: None,
) -> ImageSummary:
    """Write the image for kernel `tree` whose first process runs the module `entry` (`python -m entry`).

    `modules` are names of kernel modules; what they depend on comes along. `python` is what `python_modules` found, if
    `entry` imports modules by name or it was asked for already. `files` maps paths in the image to bytes (mode 0600) or
    to files of this machine (their own mode); shared libraries that an executable needs come along. What `made` knows
    is not made again. `platform` is where executables and libraries come from. `ready` gets the image before it is
    written. The output is replaced whole, mode 0600, or left alone if it has these bytes already: what is loaded of it
    stays up to date. Raises KdumpError: unknown modules, libraries not found, not written.
    """
    started = time.monotonic()
    made = made or Made()
    squashed = _can_mount(tree)
    if tree.machine != platform.machine:
        raise KdumpError(f"the kernel {tree.release} is for {tree.machine}", why=f"the image is for {platform.machine}")
    needed = python or python_modules(entry, made=made, platform=platform)
    with ThreadPoolExecutor() as pool:
        first_stage = _first_stage(tree, needed, made, platform) if squashed else None
        root = _Root(platform)
        if first_stage:
            root.borrow(first_stage)
            first_stage.init(entry, [f"{system.MODULES}/{name}.ko" for name in first_stage.module_names], root.borrowed)
            compressed = pool.submit(lambda: _compress(cpio.archive(first_stage.tree), made))
        root.python(needed.modules)
        root.files(files or {})
        root.libraries(made)
        index = tree.module_index
        hashing = [name for name in (*digest.KERNEL_MODULES, digest.PROCESSOR_MODULE) if name in index.paths]
        root.kernel_modules(tree, (*modules, *hashing))
        if any(module.name == _MODPROBE for module in needed.modules):
            root.modprobe(request_table(tree, (*modules, *hashing)))
        if first_stage:
            outer = Tree()
            outer.file(stage0.IMAGE.lstrip("/"), squashfs.pack(root.tree, made=made))
            image, first = cpio.archive(outer), compressed.result()
        else:
            root.init(entry, [], [])
            image, first = _compress(cpio.archive(root.tree), made), b""
        kept = pool.submit(made.keep)
        data = image + first
        ready(data)
        _write(output, data)
        kept.result()
    return ImageSummary(
        path=output,
        release=tree.release,
        entry=entry,
        size=len(data),
        root_size=len(image),
        first_stage_size=len(first),
        seconds=time.monotonic() - started,
        contents=root.contents,
        modules=tuple(root.module_names),
        missing=needed.missing,
    )


class _Root:
    """A root file system in the making, and the count of what went into it."""

    def __init__(self, platform: Platform = NATIVE) -> None:
        self._platform = platform
        self.tree = Tree()
        self.contents: dict[str, tuple[int, int]] = {}
        self.module_names: list[str] = []
        self.borrowed: list[str] = []  # absolute paths of files that the first stage has, and puts here
        self._executables: dict[str, Path] = {}
        for name in _DIRECTORIES:
            self.tree.directory(name, 0o1777 if name == "tmp" else 0o755)
        # Loaders of all distributions look in one of these.
        for name in ("lib", "lib64"):
            self.tree.symlink(name, "usr/lib")
        self.tree.symlink("bin", "usr/bin")
        self.tree.symlink("usr/lib64", "lib")
        self.tree.symlink(f"usr/lib/{arch.by_machine(platform.machine).triplet}", ".")

    def borrow(self, other: _Root) -> None:
        """Leave executables and libraries to the other, and have an empty file where each will be mounted."""
        for path in other.binaries:
            self.tree.file(path, b"", 0o755)
            self.borrowed.append(f"/{path}")

    @property
    def binaries(self) -> list[str]:
        """ELF files."""
        return [path for path, node in self.tree.items() if elf_files.is_elf(node.content) and not path.endswith(".ko")]

    def add(self, kind: str, path: str, content: bytes, mode: int = 0o644) -> None:
        if f"/{path}" in self.borrowed:
            return
        self.tree.file(path, content, mode)
        count, size = self.contents.get(kind, (0, 0))
        self.contents[kind] = (count + 1, size + len(content))

    def python(self, modules: Sequence[PythonModule]) -> None:
        """The interpreter and its modules, in the order in which they are read."""
        self.executable(PYTHON.lstrip("/"), self._platform.interpreter, "python")
        self.tree.directory(f"{_LIBRARY}/lib-dynload")  # its absence makes the interpreter complain
        for module in modules:
            place = f"{_LIBRARY}/{module.place}"
            if module.code:
                self.add("python", place, module.code)
            else:
                self.executable(place, module.path, "extensions")

    def executable(self, place: str, path: Path, kind: str) -> None:
        """An ELF file; `libraries` brings what it needs."""
        self._executables[place] = path
        self.add(kind, place, elf_files.strip(path.read_bytes()), 0o755)

    def libraries(self, made: Made) -> None:
        """Loaders and shared libraries of all executables, in one directory, by the names they are asked for."""
        paths = self._executables.values()
        for name, library in shared_libraries(paths, made, self._platform).items():
            content = library if isinstance(library, bytes) else elf_files.strip(library.read_bytes())
            self.add("libraries", f"usr/lib/{name.rpartition('/')[2]}", content, 0o755)
        for interpreter in sorted({elf_files.parse(path).interpreter for path in paths} - {""}):
            if interpreter.startswith(("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/")):  # links to one directory
                place = f"usr/lib/{interpreter.rpartition('/')[2]}"
            else:
                place = interpreter.lstrip("/")
            if place not in self.tree:
                self.add("libraries", place, elf_files.strip(self._platform.file(interpreter).read_bytes()), 0o755)

    def files(self, files: Mapping[str, bytes | Path]) -> None:
        """The caller's files in the image."""
        for place, source in sorted(files.items()):
            if isinstance(source, bytes):
                self.add("files", place.lstrip("/"), source, 0o600)
                continue
            try:
                content, mode = source.read_bytes(), stat.S_IMODE(source.stat().st_mode)
            except OSError as error:
                raise KdumpError(f"{source} cannot be put in the image", why=error.strerror or str(error)) from error
            if elf_files.is_elf(content) and mode & 0o111:
                self.executable(place.lstrip("/"), source, "files")
            else:
                self.add("files", place.lstrip("/"), content, mode)

    def kernel_modules(self, tree: KernelTree, names: Iterable[str]) -> None:
        """Kernel modules and their firmware, uncompressed: the squashfs compresses better than they do one by one."""
        modules = tree.module_index.closure(names)
        for module in modules:
            self.module_names.append(module.name)
            self.add("modules", f"{system.MODULES}/{module.name}.ko".lstrip("/"), module.data)
        for name, path in tree.firmware(modules).items():
            self.add("firmware", f"{FIRMWARE}/{name}", read_compressed(path))

    def modprobe(self, table: str) -> None:
        """The program that the kernel starts to request a module, once `kdump.capture.modprobe.answer` has told it
        so."""
        script = f"#!{PYTHON} -ISB\nfrom {_MODPROBE} import main\nmain()\n"
        self.add("python", system.MODPROBE.lstrip("/"), script.encode(), 0o755)
        self.add("files", system.REQUESTS.lstrip("/"), table.encode(), 0o600)

    def init(self, entry: str, modules: list[str], lent: list[str]) -> None:
        """The program that the kernel starts: the first stage, which becomes `entry` in the end."""
        self.tree.character_device("dev/console", 5, 1)
        # The interpreter wants a hash seed before anything is mounted. If the kernel's generator is not seeded yet (the
        # CPU has no RDRAND, or it is not trusted), getrandom(GRND_NONBLOCK) fails, and Python reads this device, which
        # answers in any case: after a second, in which newer kernels seed themselves from their clock's jitter.
        self.tree.character_device("dev/urandom", 1, 9)
        script = f"#!{PYTHON} -ISB\nfrom {STAGE0} import main\nmain({modules!r}, {lent!r}, {entry!r})\n"
        self.add("python", "init", script.encode(), 0o755)


def _can_mount(tree: KernelTree) -> bool:
    index = tree.module_index
    return all(name in index.builtin or name in index.paths for name in _STAGE0_MODULES)


def _first_stage(tree: KernelTree, python: Closure, made: Made, platform: Platform) -> _Root:
    root = _Root(platform)
    root.python(python.first)
    root.libraries(made)
    root.kernel_modules(tree, _STAGE0_MODULES)
    root.tree.directory(stage0.ROOT.lstrip("/"))
    return root


def _compress(data: bytes, made: Made) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(squashfs.LEVEL, window_log=_WINDOW_LOG)
    compress = zstandard.ZstdCompressor(compression_params=parameters).compress
    return made.get(f"zstd {zstandard.ZSTD_VERSION} {squashfs.LEVEL} {_WINDOW_LOG}", data, lambda: compress(data))


def _write(output: Path, data: bytes) -> None:
    try:
        if output.exists() and output.stat().st_mode & 0o777 == 0o600 and output.read_bytes() == data:
            return
        replace_file(output, data)
    except OSError as error:
        raise KdumpError(f"the image {output} cannot be written", why=error.strerror or str(error)) from error
