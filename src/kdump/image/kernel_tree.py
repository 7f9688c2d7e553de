"""A kernel as installed: its image and its modules. Module metadata is read from the modules themselves.

`depends=`, `softdep=` and `alias=` in a module's `.modinfo` section are what depmod(8) makes its indexes from, so an
unpacked package, which has no indexes yet, serves as well as an installed kernel. Where `modules.dep` exists it
decides which of two modules of one name is meant, as the administrator's depmod.d may have said.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from kdump.errors import KdumpError
from kdump.image.elf_files import section

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_VERSION_OFFSET = 0x20E  # kernel_version in the setup header, Documentation/arch/x86/boot.rst


@dataclass(frozen=True)
class KernelTree:
    """A kernel: its release (`uname -r`), its bootable image, and its modules' directory (None: it has none)."""

    release: str
    vmlinuz: Path
    modules: Path | None

    @functools.cached_property
    def module_index(self) -> ModuleIndex:
        """The kernel's modules by name."""
        return ModuleIndex(self.modules)

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
    """A module's ELF, or firmware, whatever it is compressed with."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        import lzma

        return lzma.decompress(data)
    if path.suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if path.suffix == ".gz":
        import gzip

        return gzip.decompress(data)
    return data


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
        """(key, value) pairs, in order; keys repeat. KdumpError if the file is no module."""
        content = section(self.data, ".modinfo")
        if content is None:
            raise KdumpError(f"{self.path} is not a kernel module", why="it has no .modinfo section")
        fields = [item.decode("utf-8", "replace").partition("=") for item in content.split(b"\0") if item]
        return [(key, value) for key, _, value in fields]

    @property
    def depends(self) -> list[str]:
        """Modules whose symbols it uses."""
        return [canonical(name) for key, value in self.info if key == "depends" for name in value.split(",") if name]

    @property
    def soft_before(self) -> list[str]:
        """`softdep: pre:` modules, wanted before it but not required."""
        found: list[str] = []
        for key, value in self.info:
            if key == "softdep":
                kind = ""
                for word in value.split():
                    if word.endswith(":"):
                        kind = word
                    elif kind == "pre:":
                        found.append(canonical(word))
        return found

    @property
    def aliases(self) -> list[str]:
        """Patterns of the devices (modaliases) and names it serves."""
        return [value for key, value in self.info if key == "alias"]

    @property
    def firmware(self) -> list[str]:
        """Firmware files it may ask for, relative to the firmware directory."""
        return [value for key, value in self.info if key == "firmware"]


class ModuleIndex:
    """Modules below /lib/modules/RELEASE, found by name or by modalias."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
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

    def get(self, name: str) -> Module | None:
        """The module of that name; None if there is no such file."""
        name = canonical(name)
        if name not in self._modules and name in self.paths:
            self._modules[name] = Module(self.paths[name])
        return self._modules.get(name)

    def load_order(self, names: Iterable[str]) -> list[Module]:
        """These modules and all they need, each after what it needs. Built-in ones are left out.

        KdumpError names a module that is neither a file nor built in.
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
            for before in module.soft_before:
                if before != name and before in self.paths:
                    add(before, name)
            for before in module.depends:
                add(before, name)
            order[name] = module

        for name in names:
            add(name, "")
        return list(order.values())

    @functools.cached_property
    def _aliases(self) -> list[tuple[str, str]]:
        listing = self.directory / "modules.alias" if self.directory else None
        if listing and listing.exists():
            lines = (line.split() for line in listing.read_text().splitlines())
            return [(words[1], canonical(words[2])) for words in lines if len(words) == 3 and words[0] == "alias"]
        modules = filter(None, map(self.get, self.paths))
        return [(alias, module.name) for module in modules for alias in module.aliases]

    def matching(self, modalias: str) -> Iterator[str]:
        """Names of the modules that serve a device, by its `modalias` file in sysfs."""
        seen = set()
        for pattern, name in self._aliases:
            if name not in seen and fnmatchcase(modalias, pattern):
                seen.add(name)
                yield name


def release_of(vmlinuz: Path) -> str:
    """The release (`uname -r`) of a bzImage, out of its setup header. KdumpError if it is none."""
    try:
        with vmlinuz.open("rb") as file:
            header = file.read(0x10000)
    except OSError as error:
        raise KdumpError(f"the kernel {vmlinuz} cannot be read", why=error.strerror or str(error)) from error
    if header[0x202:0x206] != b"HdrS":
        raise KdumpError(f"{vmlinuz} is not a bzImage", why="no HdrS at offset 0x202")
    start = int(struct.unpack_from("<H", header, _VERSION_OFFSET)[0]) + 0x200
    return header[start : header.find(b"\0", start)].decode("ascii", "replace").split(" ", 1)[0]


def tree_of(vmlinuz: Path, modules: Path | None = None) -> KernelTree:
    """The tree around a bzImage: modules from `modules`, else ../lib/modules/RELEASE, else /lib/modules/RELEASE."""
    release = release_of(vmlinuz)
    places = [modules] if modules else [vmlinuz.parent.parent / "lib/modules" / release, Path("/lib/modules") / release]
    if modules and not modules.is_dir():
        raise KdumpError(f"the modules' directory {modules} does not exist")
    return KernelTree(release, vmlinuz, next((place for place in places if place.is_dir()), None))
