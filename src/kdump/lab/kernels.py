"""Where kernels come from: this machine's /boot, a path, or a Debian package fetched with apt and only unpacked."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from kdump import arch
from kdump.errors import KdumpError
from kdump.image.kernel_tree import KernelTree, ModuleIndex, tree_of
from kdump.lab import apt, cache

# What stands before and behind the architecture in the names of Debian's kernels: RELEASE-[cloud-]ARCH[-16k].
FLAVOURS = {"generic": ("", ""), "cloud": ("cloud-", ""), "rt": ("rt-", ""), "16k": ("", "-16k")}
NEWEST = "newest"
_LATER = (apt.backports, apt.stable)  # what this machine's apt need not know
_SERIES = re.compile(rf"(\d+\.\d+|{NEWEST})(?:-({'|'.join(FLAVOURS)}))?")
# From 7.x on, a kernel's package is empty, and depends on those that hold its image, modules and configuration.
_PARTS = re.compile(r"linux-(?:binary|modules|base)-\d\S*")
_PACKAGE = re.compile(r"linux-image-(\d\S*)")


def default(machine: str = "") -> str:
    """The series that is meant if nobody says which: one whose kernels say everything of themselves."""
    return (arch.by_machine(machine) if machine else arch.native()).lab_series


def find(spec: str | None = None, machine: str = "") -> KernelTree:
    """The kernel meant by `spec`: an image's path, a release in /boot, a series, or a Debian package's name.

    `machine` is the architecture of packages, as `uname -m` prints it; this machine's by default.
    A series ("6.1", "6.1-generic", "6.12-rt"; without a flavour it is the cloud kernel) is the newest one fetched
    before, else Debian's newest, by preference one whose debug package exists too. "newest" ("newest-generic", …) is
    what Debian's stable backports have today. Raises KdumpError: unknown kernel, an architecture without machines here,
    no apt, no network, no room.
    """
    spec = default(machine) if spec is None else spec
    if "/" in spec:
        return tree_of(Path(spec))
    _check_machines(machine)
    source = _Source(machine)
    installed = Path("/boot") / f"vmlinuz-{spec}"
    if installed.exists() and not source.foreign:
        return tree_of(installed)
    package = spec if _PACKAGE.fullmatch(spec) else source.fetched(spec) or source.newest(spec)
    root = source.unpacked(package)
    kernels = sorted([*root.glob("boot/vmlinu[xz]-*"), *root.glob("usr/lib/modules/*/vmlinu[xz]")])
    if not kernels:
        raise KdumpError(
            f"{package} has no kernel image in it", remedy="name the package of a kernel, not a meta package"
        )
    return tree_of(kernels[0])


def _check_machines(machine: str) -> None:
    """Raise KdumpError if no machine here runs kernels of that architecture: a package would be fetched in vain."""
    architecture = arch.by_machine(machine) if machine else arch.native()
    try:
        _ = architecture.emulated
    except KdumpError as error:
        able = [each.name for each in arch.known() if each.handover]
        raise KdumpError(
            f"kernels of {architecture.name} are not fetched",
            why=error.what,
            remedy=f"choose {', '.join(able)}; dumps of {architecture.name} can be read",
        ) from None


def debug_vmlinux(tree: KernelTree) -> Path:
    """The kernel's vmlinux with DWARF, from its Debian debug package; only that file is kept (hundreds of MB)."""
    source, package = _Source(tree.machine), f"linux-image-{tree.release}-dbg"
    # Below boot and below lib/modules; one is a link to the other, since 7.x the first.
    inside = f"usr/lib/debug/boot/vmlinux-{tree.release}"

    def fetch(directory: Path) -> None:
        apt.extract(source.download(package, directory), directory, "--wildcards", "./usr/lib/debug/*/vmlinux*")
        (directory / inside).resolve(strict=True).rename(directory / "vmlinux")
        shutil.rmtree(directory / "usr")

    return cache.entry(f"debug/{tree.release}", fetch) / "vmlinux"


def headers(tree: KernelTree) -> Path:
    """A directory to build modules of that kernel against, from Debian's headers and kbuild packages.

    `make -C DIRECTORY M=SOURCES CONFIG_DEBUG_INFO_BTF_MODULES= modules`: without the last, it asks for pahole.
    """
    source, own = _Source(tree.machine), f"linux-headers-{tree.release}"

    def fetch(directory: Path) -> None:
        pending, done = [own], set()
        while pending:
            package = pending.pop()
            done.add(package)
            apt.extract(source.download(package, directory), directory)
            wanted = re.compile(r"linux-(?:headers-\S+-common(?:-rt)?|kbuild-\S+)")
            pending += [name for name in source.dependencies(package) if wanted.fullmatch(name) and name not in done]
        # The packages refer to each other by absolute paths below /usr.
        for makefile in directory.glob("usr/src/linux-headers-*/Makefile"):
            final = cache.directory() / "headers" / tree.release
            makefile.write_text(makefile.read_text().replace("/usr/", f"{final}/usr/"))

    return cache.entry(f"headers/{tree.release}", fetch) / "usr/src" / own


def package(name: str, machine: str = "") -> Path:
    """A directory with the files of a Debian package, fetched once and only unpacked. Raises KdumpError."""
    source = _Source(machine)

    def fetch(directory: Path) -> None:
        apt.extract(source.download(name, directory), directory)

    return cache.entry(f"packages/{name}" + (f"-{source.debian}" if source.foreign else ""), fetch)


def _numbers(name: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", name)]


class _Source:
    """Where the packages of one architecture are to be had."""

    def __init__(self, machine: str) -> None:
        architecture = arch.by_machine(machine) if machine else arch.native()
        self.debian = architecture.debian
        self.foreign = self.debian if architecture is not arch.native() else ""  # what apt has to be told

    def wanted(self, spec: str) -> re.Pattern[str] | None:
        """The names of Debian's packages of that series and flavour, or None if `spec` is not a series."""
        match = _SERIES.fullmatch(spec)
        if not match:
            return None
        series, (before, behind) = match[1], FLAVOURS[match[2] or "cloud"]
        number = r"\d+\.\d[^ -]*" if series == NEWEST else re.escape(series) + r"\.[0-9][^ -]*"
        return re.compile(rf"linux-image-{number}(?:-[0-9]+)?-{before}{self.debian}{behind}")

    def fetched(self, spec: str) -> str:
        """The newest package of a series that is here already; empty if absent."""
        if spec.startswith(NEWEST) or not (wanted := self.wanted(spec)):
            return ""
        return self._latest(wanted)

    def _latest(self, wanted: re.Pattern[str]) -> str:
        names = (f"linux-image-{path.name}" for path in (cache.directory() / "kernels").glob(f"*-{self.debian}*"))
        return max(filter(wanted.fullmatch, names), key=_numbers, default="")

    def newest(self, spec: str) -> str:
        """The newest package of a series in the archive. Raises KdumpError."""
        wanted = self.wanted(spec)
        if not wanted:
            raise _unknown(spec)
        if spec.startswith(NEWEST):
            return self._of_backports(spec, wanted)
        pattern = rf"^linux-image-{re.escape(spec.partition('-')[0])}\..*-{self.debian}(-16k)?(-dbg)?$"
        error = _unknown(spec)
        for source in (apt.host, apt.updated, *_LATER):
            try:
                names = source(self.foreign).search(pattern)
            except KdumpError as problem:
                if source not in _LATER:
                    raise
                error.add_note(str(problem))
                continue
            if images := list(filter(wanted.fullmatch, names)):
                return max(images, key=lambda name: (f"{name}-dbg" in names, _numbers(name)))
        raise error

    def _of_backports(self, spec: str, wanted: re.Pattern[str]) -> str:
        """The package of the newest kernel of a flavour in the archive; without a network, the newest one here."""
        before, behind = FLAVOURS[spec.partition("-")[2] or "cloud"]
        package = f"linux-image-{before}{self.debian}{behind}"
        try:
            found = filter(wanted.fullmatch, apt.backports(self.foreign).dependencies(package) or ())
            known = next(found, "") or self._latest(wanted)
        except KdumpError:
            if known := self._latest(wanted):
                return known
            raise
        if not known:
            raise _unknown(spec)
        return known

    def unpacked(self, name: str) -> Path:
        """A kernel's package and what belongs to it, unpacked."""

        def fetch(directory: Path) -> None:
            for part in (name, *filter(_PARTS.fullmatch, self.dependencies(name))):
                apt.extract(self.download(part, directory), directory)
            _index(directory)

        return cache.entry(f"kernels/{name.removeprefix('linux-image-')}", fetch)

    def dependencies(self, package: str) -> list[str]:
        """The dependencies of a package; empty if it is not known."""
        return self._of(package).dependencies(package) or []

    def _of(self, package: str) -> apt.Apt:
        """Where a package is available: the configured suites, unless only later ones know it."""
        host = apt.host(self.foreign)
        if host.dependencies(package) is None:
            for later in _LATER:
                with contextlib.suppress(KdumpError):  # it cannot be asked: what is wrong, the first one will say
                    if later(self.foreign).dependencies(package) is not None:
                        return later(self.foreign)
        return host

    def download(self, package: str, directory: Path) -> Path:
        """The package's file in `directory`. Raises KdumpError."""
        source = self._of(package)
        try:
            return source.download(package, directory)
        except KdumpError as error:
            try:
                source.update()  # the lists may be missing, or older than the archive
            except KdumpError as update:
                error.add_note(str(update))
            try:
                return source.download(package, directory)
            except KdumpError as second:
                raise KdumpError(
                    f"the package {package} cannot be fetched",
                    why=second.why,
                    remedy="check the network and the name",
                ) from error


def _unknown(spec: str) -> KdumpError:
    return KdumpError(
        f"there is no kernel {spec!r}",
        why="it is not a file, a release in /boot, or a Debian package or series",
        remedy="try a series (6.1, 6.1-generic), newest, a package (linux-image-…), or a path with a slash",
    )


def _index(root: Path) -> None:
    """Write modules.alias, as depmod does when the package is installed: reading thousands of modules takes long."""
    for modules in (*root.glob("lib/modules/*"), *root.glob("usr/lib/modules/*")):
        index = ModuleIndex(modules)
        if index.paths:
            (modules / "modules.alias").write_text(
                "".join(f"alias {alias} {name}\n" for alias, name in index.aliases())
            )
