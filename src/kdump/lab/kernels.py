"""Where kernels come from: this machine's /boot, a path, or a Debian package fetched with apt and only unpacked."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from kdump.errors import KdumpError
from kdump.image.kernel_tree import KernelTree, ModuleIndex, tree_of
from kdump.lab import apt, cache

DEFAULT = "6.1"
FLAVOURS = {"generic": "", "cloud": "cloud-", "rt": "rt-"}  # as Debian names its kernels: RELEASE-[FLAVOUR-]amd64
NEWEST = "newest"
_SERIES = re.compile(rf"(\d+\.\d+|{NEWEST})(?:-({'|'.join(FLAVOURS)}))?")
# From 7.x on, a kernel's package is empty, and depends on those that hold its image, modules and configuration.
_PARTS = re.compile(r"linux-(?:binary|modules|base)-\d\S*")
_PACKAGE = re.compile(r"linux-image-(\d\S*)")


def find(spec: str = DEFAULT) -> KernelTree:
    """The kernel meant by `spec`: a bzImage's path, a release in /boot, a series, or a Debian package's name.

    A series ("6.1", "6.1-generic", "6.12-rt"; without a flavour it is the cloud kernel) is the newest one fetched
    before, else Debian's newest, by preference one whose debug package exists too. "newest" ("newest-generic", …) is
    what Debian's stable backports have today. Raises KdumpError: unknown kernel, no apt, no network, no room.
    """
    if "/" in spec:
        return tree_of(Path(spec))
    installed = Path("/boot") / f"vmlinuz-{spec}"
    if installed.exists():
        return tree_of(installed)
    package = spec if _PACKAGE.fullmatch(spec) else _fetched(spec) or _newest(spec)
    root = _unpacked(package)
    kernels = sorted([*root.glob("boot/vmlinuz-*"), *root.glob("usr/lib/modules/*/vmlinuz")])
    if not kernels:
        raise KdumpError(
            f"{package} has no kernel image in it", remedy="name the package of a kernel, not a meta package"
        )
    return tree_of(kernels[0])


def debug_vmlinux(tree: KernelTree) -> Path:
    """The kernel's vmlinux with DWARF, from its Debian debug package; only that file is kept (hundreds of MB)."""
    package = f"linux-image-{tree.release}-dbg"
    inside = f"./usr/lib/debug/boot/vmlinux-{tree.release}"  # what the one below lib/modules links to

    def fetch(directory: Path) -> None:
        apt.extract(_download(package, directory), directory, inside)
        (directory / inside).rename(directory / "vmlinux")
        shutil.rmtree(directory / "usr")

    return cache.entry(f"debug/{tree.release}", fetch) / "vmlinux"


def headers(tree: KernelTree) -> Path:
    """A directory to build modules of that kernel against, from Debian's headers and kbuild packages.

    `make -C DIRECTORY M=SOURCES CONFIG_DEBUG_INFO_BTF_MODULES= modules`: without the last, it asks for pahole.
    """
    own = f"linux-headers-{tree.release}"

    def fetch(directory: Path) -> None:
        pending, done = [own], set()
        while pending:
            package = pending.pop()
            done.add(package)
            apt.extract(_download(package, directory), directory)
            wanted = re.compile(r"linux-(?:headers-\S+-common(?:-rt)?|kbuild-\S+)")
            pending += [name for name in _dependencies(package) if wanted.fullmatch(name) and name not in done]
        # The packages refer to each other by absolute paths below /usr.
        for makefile in directory.glob("usr/src/linux-headers-*/Makefile"):
            final = cache.directory() / "headers" / tree.release
            makefile.write_text(makefile.read_text().replace("/usr/", f"{final}/usr/"))

    return cache.entry(f"headers/{tree.release}", fetch) / "usr/src" / own


def package(name: str) -> Path:
    """A directory with the files of a Debian package, fetched once and only unpacked. Raises KdumpError."""

    def fetch(directory: Path) -> None:
        apt.extract(_download(name, directory), directory)

    return cache.entry(f"packages/{name}", fetch)


def _numbers(name: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", name)]


def _wanted(spec: str) -> re.Pattern[str] | None:
    """What Debian's packages of that series and flavour are called, or None if `spec` is no series."""
    match = _SERIES.fullmatch(spec)
    if not match:
        return None
    series, flavour = match[1], FLAVOURS[match[2] or "cloud"]
    number = r"\d+\.\d[^ -]*" if series == NEWEST else re.escape(series) + r"\.[0-9][^ -]*"
    return re.compile(rf"linux-image-{number}(?:-[0-9]+)?-{flavour}amd64")


def _fetched(spec: str) -> str:
    if spec.startswith(NEWEST) or not (wanted := _wanted(spec)):
        return ""
    return _latest(wanted)


def _latest(wanted: re.Pattern[str]) -> str:
    names = (f"linux-image-{path.name}" for path in (cache.directory() / "kernels").glob("*-amd64"))
    return max(filter(wanted.fullmatch, names), key=_numbers, default="")


def _newest(spec: str) -> str:
    wanted = _wanted(spec)
    if not wanted:
        raise _unknown(spec)

    if spec.startswith(NEWEST):
        return _of_backports(spec, wanted)
    pattern = rf"^linux-image-{re.escape(spec.partition('-')[0])}\..*-amd64(-dbg)?$"
    error = _unknown(spec)
    for source in (apt.host, apt.updated, apt.backports):
        try:
            names = source().search(pattern)
        except KdumpError as problem:
            if source is not apt.backports:
                raise
            error.add_note(str(problem))
            break
        if images := list(filter(wanted.fullmatch, names)):
            return max(images, key=lambda name: (f"{name}-dbg" in names, _numbers(name)))
    raise error


def _of_backports(spec: str, wanted: re.Pattern[str]) -> str:
    """What the archive's package for the newest kernel of a flavour leads to; without a network, what is here."""
    flavour = FLAVOURS[spec.partition("-")[2] or "cloud"]
    try:
        found = filter(wanted.fullmatch, apt.backports().dependencies(f"linux-image-{flavour}amd64") or ())
        return next(found, "") or _latest(wanted)
    except KdumpError:
        if known := _latest(wanted):
            return known
        raise


def _unknown(spec: str) -> KdumpError:
    return KdumpError(
        f"there is no kernel {spec!r}",
        why="it is no file, no release in /boot, and no Debian package or series",
        remedy="try a series (6.1, 6.1-generic), newest, a package (linux-image-6.1.0-1-amd64), or a path with a slash",
    )


def _unpacked(name: str) -> Path:
    def fetch(directory: Path) -> None:
        for part in (name, *filter(_PARTS.fullmatch, _dependencies(name))):
            apt.extract(_download(part, directory), directory)
        _index(directory)

    return cache.entry(f"kernels/{name.removeprefix('linux-image-')}", fetch)


def _dependencies(package: str) -> list[str]:
    return _source_of(package).dependencies(package) or []


def _source_of(package: str) -> apt.Apt:
    """Where a package is to be had: this machine's apt, unless only backports know it."""
    if apt.HOST.dependencies(package) is None:
        with contextlib.suppress(KdumpError):  # they cannot be asked: what is wrong, the machine's own apt will say
            if apt.backports().dependencies(package) is not None:
                return apt.backports()
    return apt.HOST


def _index(root: Path) -> None:
    """Write modules.alias, as depmod does when the package is installed: reading thousands of modules takes long."""
    for modules in (*root.glob("lib/modules/*"), *root.glob("usr/lib/modules/*")):
        index = ModuleIndex(modules)
        if index.paths:
            (modules / "modules.alias").write_text(
                "".join(f"alias {alias} {name}\n" for alias, name in index.aliases())
            )


def _download(package: str, directory: Path) -> Path:
    source = _source_of(package)
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
                f"the package {package} cannot be fetched", why=second.why, remedy="is the network up, the name right?"
            ) from error
