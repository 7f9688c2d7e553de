"""A kernel as installed: its image and its modules. Module metadata is read from the modules themselves.

`depends=`, `softdep=` and `alias=` in a module's `.modinfo` section are what depmod(8) makes its indexes from, so an
unpacked package, which has no indexes yet, serves as well as an installed kernel. Where `modules.dep` exists it
decides which of two modules of one name is meant, as the administrator's depmod.d may have said.

A dependency that symbols cause is a module's name. Everything else that asks for a module (a soft dependency, the
kernel itself) may use an alias: ext4 asks for "crypto-crc32c", which several modules call themselves. Source: kmod,
libkmod-module.c, kmod_module_new_from_lookup.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from kdump import arch
from kdump.errors import FormatError, KdumpError
from kdump.image.elf_files import section
from kdump.image.modprobe_conf import NEVER, ModprobeConf, SoftDependencies, logical_lines, soft_dependencies
from kdump.image.module_aliases import Aliases, normalised

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_VERSION_OFFSET = 0x20E  # kernel_version in the setup header, Documentation/arch/x86/boot.rst


@dataclass(frozen=True)
class KernelTree:
    """A kernel: its release (`uname -r`), its bootable image, and its modules' directory (None: it has none).

    `conf` is what the machine's administrator says about modules; `machine` its architecture, as `uname -m` prints it.
    """

    release: str
    vmlinuz: Path
    modules: Path | None
    conf: ModprobeConf = field(default_factory=ModprobeConf)
    machine: str = field(default_factory=lambda: os.uname().machine)

    @functools.cached_property
    def module_index(self) -> ModuleIndex:
        """The kernel's modules by name."""
        return ModuleIndex(self.modules, self.conf)

    def firmware(self, modules: Iterable[Module]) -> dict[str, Path]:
        """Files that these modules may ask for, as far as they are installed, by the names that the kernel asks by.

        Searched as drivers/base/firmware_loader does; a file may be compressed (`read_compressed` undoes it).
        """
        found: dict[str, Path] = {}
        if self.modules is None:
            return found
        root = self.modules.parent.parent / "firmware"
        places = [root / "updates" / self.release, root / "updates", root / self.release, root]
        for name in dict.fromkeys(name for module in modules for name in module.firmware):
            wanted = (place / f"{name}{suffix}" for place in places for suffix in ("", ".zst", ".xz"))
            if path := next((path for path in wanted if path.is_file()), None):
                found[name] = path
        return found


def read_compressed(path: Path) -> bytes:
    """A module's ELF, or firmware, whatever it is compressed with. Raises FormatError if it is damaged."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        import lzma

        with _as_damage(path, lzma.LZMAError):
            return lzma.decompress(data)
    if path.suffix == ".zst":
        import zstandard

        with _as_damage(path, zstandard.ZstdError):
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if path.suffix == ".gz":
        import gzip
        import zlib

        with _as_damage(path, EOFError, gzip.BadGzipFile, zlib.error):
            return gzip.decompress(data)
    return data


@contextlib.contextmanager
def _as_damage(path: Path, *errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise FormatError("damaged", path=path, why=str(error)) from None


def canonical(name: str) -> str:
    """A module's name as the kernel writes it: no directory, no suffix, underscores."""
    base = name.rsplit("/", 1)[-1]
    for suffix in _SUFFIXES:
        base = base.removesuffix(suffix)
    return base.replace("-", "_")


class Module:
    """One module file and what its `.modinfo` says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = canonical(path.name)

    @functools.cached_property
    def data(self) -> bytes:
        """The uncompressed ELF."""
        return read_compressed(self.path)

    @functools.cached_property
    def info(self) -> list[tuple[str, str]]:
        """(key, value) pairs, in order; keys repeat. KdumpError if the file is not a module."""
        content = section(self.data, ".modinfo", self.path)
        if content is None:
            raise KdumpError(f"{self.path} is not a kernel module", why="it has no .modinfo section")
        fields = [item.decode("utf-8", "replace").partition("=") for item in content.split(b"\0") if item]
        return [(key, value) for key, _, value in fields]

    @property
    def depends(self) -> list[str]:
        """Modules whose symbols it uses."""
        return [canonical(name) for key, value in self.info if key == "depends" for name in value.split(",") if name]

    @property
    def soft(self) -> SoftDependencies:
        """Its own `softdep` and `weakdep`: wanted with it, but not required."""
        found = [soft_dependencies(value.split()) for key, value in self.info if key == "softdep"]
        weak = (word for key, value in self.info if key == "weakdep" for word in value.split())
        return combined([*found, SoftDependencies(weak=tuple(weak))])

    @property
    def aliases(self) -> list[str]:
        """Patterns of the devices (modaliases) and names it serves."""
        return [value for key, value in self.info if key == "alias"]

    @property
    def firmware(self) -> list[str]:
        """Firmware files it may ask for, relative to the firmware directory."""
        return [value for key, value in self.info if key == "firmware"]


def combined(every: Iterable[SoftDependencies]) -> SoftDependencies:
    """All of them together, each word once."""
    lists = list(zip(*((each.before, each.after, each.weak) for each in every), strict=True)) or [(), (), ()]
    return SoftDependencies(*(tuple(dict.fromkeys(word for words in each for word in words)) for each in lists))


class ModuleIndex:
    """Modules below /lib/modules/RELEASE, found by name, by alias or by modalias."""

    def __init__(self, directory: Path | None, conf: ModprobeConf | None = None) -> None:
        self.directory = directory
        self.conf = conf or ModprobeConf()
        self._modules: dict[str, Module] = {}

    @functools.cached_property
    def paths(self) -> dict[str, Path]:
        """File of each module name. Without modules.dep, `updates` and `extra` come before `kernel`, as in depmod."""
        if self.directory is None:
            return {}
        listing = self.directory / "modules.dep"
        if listing.exists():
            names = (line.partition(":")[0] for line in listing.read_text().splitlines())
            files = [self.directory / name for name in names]
        else:
            rank = {"updates": 0, "extra": 1}
            top = len(self.directory.parts)
            found = (path for path in self.directory.rglob("*.ko*") if path.name.endswith(_SUFFIXES))
            files = sorted(found, key=lambda path: (rank.get(path.parts[top], 2), path))
        result: dict[str, Path] = {}
        for path in files:
            result.setdefault(canonical(path.name), path)
        return result

    @functools.cached_property
    def builtin(self) -> frozenset[str]:
        """Names of modules that are built into the kernel."""
        listing = self.directory / "modules.builtin" if self.directory else None
        return frozenset(map(canonical, listing.read_text().split())) if listing and listing.exists() else frozenset()

    @functools.cached_property
    def builtin_aliases(self) -> frozenset[str]:
        """Aliases without wildcards of what is built in, from modules.builtin.modinfo (kernel 5.2 and later)."""
        listing = self.directory / "modules.builtin.modinfo" if self.directory else None
        if not listing or not listing.exists():
            return frozenset()
        fields = listing.read_bytes().decode("utf-8", "replace").split("\0")
        pairs = (field.partition(".")[2].partition("=") for field in fields)
        return frozenset(normalised(value) for key, _, value in pairs if key == "alias")

    def get(self, name: str) -> Module | None:
        """The module of that name; None if there is no such file."""
        name = canonical(name)
        if name not in self._modules and name in self.paths:
            self._modules[name] = Module(self.paths[name])
        return self._modules.get(name)

    def lookup(self, word: str) -> list[str] | None:
        """Names of the module files that modprobe(8) would load for a name or an alias, in this order.

        Empty if it is built in, None if nothing here is called so. An alias of modprobe.d comes before a name.
        """
        if found := list(self._configured.find(word)):
            return [name for name in found if name in self.paths]
        name = canonical(word)
        if name in self.builtin:
            return []
        if name in self.paths:
            return [name]
        if found := list(self.matching(word)):
            return [name for name in found if name in self.paths]
        return [] if normalised(word) in self.builtin_aliases else None

    def soft(self, module: Module) -> SoftDependencies:
        """The soft dependencies from modprobe.d, modules.softdep, modules.weakdep and the module itself."""
        named = (each for pattern, each in (*self.conf.soft, *self._listed) if fnmatchcase(module.name, pattern))
        return combined([*named, module.soft])

    def load_order(self, names: Iterable[str]) -> list[Module]:
        """The modules of these names or aliases and all that is loaded with them, each after what it needs.

        Built-in ones are left out. KdumpError names a module that is neither a file nor built in.
        """
        order: dict[str, Module] = {}

        def add(name: str, wanted_by: str) -> None:
            name = canonical(name)
            if name in order or name in self.builtin:
                return
            module = self.get(name)
            if module is None:
                where = self.directory or "a kernel without modules"
                why = f"{wanted_by} needs it" if wanted_by else ""
                raise KdumpError(f"there is no module {name!r} in {where}", why=why)
            under_way.add(name)
            soft = self.soft(module)
            wish(soft.before, name)
            for before in module.depends:
                add(before, name)
            order[name] = module
            wish(soft.after, name)

        def wish(words: Iterable[str], wanted_by: str) -> None:
            for word in words:
                for name in self.lookup(word) or ():
                    if name not in under_way and self.conf.install.get(name) not in NEVER:
                        add(name, wanted_by)

        under_way: set[str] = set()  # soft dependencies may form a circle, which modprobe breaks too
        for word in names:
            found = self.lookup(word)
            for name in [word] if found is None else found:
                add(name, "")
        return list(order.values())

    def closure(self, names: Iterable[str]) -> list[Module]:
        """`load_order`, and behind it what these modules may ask for later (weakdep)."""
        wanted = list(names)
        while True:
            modules = self.load_order(wanted)
            weak = dict.fromkeys(word for module in modules for word in self.soft(module).weak)
            new = [name for word in weak for name in self.lookup(word) or () if name not in {m.name for m in modules}]
            if not new:
                return modules
            wanted += new

    def configured_aliases(self, name: str) -> list[str]:
        """The aliases of a module in modprobe.d."""
        return [alias for alias, module in self.conf.aliases if module == name]

    @functools.cached_property
    def _configured(self) -> Aliases:
        return Aliases(self.conf.aliases)

    @functools.cached_property
    def _listed(self) -> list[tuple[str, SoftDependencies]]:
        """The dependencies that depmod found, which an administrator may have edited."""
        found = []
        for file, word in (("modules.softdep", "softdep"), ("modules.weakdep", "weakdep")):
            listing = self.directory / file if self.directory else None
            lines = logical_lines(listing.read_text(errors="replace")) if listing and listing.exists() else ()
            for words in (line.split() for _, line in lines):
                if words[0] == word and len(words) > 2:
                    soft = (
                        soft_dependencies(words[2:])
                        if word == "softdep"
                        else SoftDependencies((), (), tuple(words[2:]))
                    )
                    found.append((canonical(words[1]), soft))
        return found

    def aliases(self) -> Iterator[tuple[str, str]]:
        """(alias, name of the module) pairs, from modules.alias or else from every module."""
        listing = self.directory / "modules.alias" if self.directory else None
        if listing and listing.exists():
            lines = (line.split() for line in listing.read_text().splitlines())
            yield from ((words[1], canonical(words[2])) for words in lines if len(words) == 3 and words[0] == "alias")
            return
        for name, path in self.paths.items():
            yield from ((alias, name) for alias in Module(path).aliases)  # forgotten at once: all are hundreds of MB

    @functools.cached_property
    def _aliases(self) -> Aliases:
        return Aliases(self.aliases())

    def matching(self, modalias: str) -> Iterator[str]:
        """Names of the modules that have this alias, or serve the device whose `modalias` file in sysfs says this.

        Blacklisted ones are left out: they would not be loaded for a device either.
        """
        for name in self._aliases.find(modalias):
            if name not in self.conf.blacklist and self.conf.install.get(name) not in NEVER:
                yield name


def identify(vmlinuz: Path) -> tuple[str, str]:
    """Release (`uname -r`) and architecture (`uname -m`) of a kernel image. KdumpError if it is not one.

    A bzImage's setup header tells; with others it is the kernel's banner.
    """
    try:
        with vmlinuz.open("rb") as file:
            header = file.read(0x10000)
    except OSError as error:
        raise KdumpError(f"the kernel {vmlinuz} cannot be read", why=error.strerror or str(error)) from error
    if header[0x202:0x206] == b"HdrS":
        start = int(struct.unpack_from("<H", header, _VERSION_OFFSET)[0]) + 0x200
        return header[start : header.find(b"\0", start)].decode("ascii", "replace").split(" ", 1)[
            0
        ], arch.by_boot_params().name
    from kdump.kexec.formats import read_kernel

    try:
        kernel = read_kernel(vmlinuz)
    except FormatError as error:
        raise KdumpError(f"{vmlinuz} is not a kernel image", why=str(error.what)) from None
    if not kernel.release:
        raise KdumpError(f"{vmlinuz} does not say which kernel it is", why="there is no banner in it")
    return kernel.release, kernel.machine


def tree_of(vmlinuz: Path, modules: Path | None = None) -> KernelTree:
    """The tree around a kernel image.

    Modules are in `modules`, else in ../lib/modules/RELEASE, ../usr/lib/modules/RELEASE, beside the image (Debian's
    kernels after 6.12), or /lib/modules/RELEASE.
    """
    release, machine = identify(vmlinuz)
    top = vmlinuz.parent.parent
    beside = [vmlinuz.parent] if vmlinuz.parent.name == release else []
    unpacked = [top / directory / release for directory in ("lib/modules", "usr/lib/modules")]
    places = [modules] if modules else [*unpacked, *beside, Path("/lib/modules") / release]
    if modules and not modules.is_dir():
        raise KdumpError(f"the modules' directory {modules} does not exist")
    return KernelTree(release, vmlinuz, next((place for place in places if place.is_dir()), None), machine=machine)
