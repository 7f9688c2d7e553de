"""Where kernels come from: this machine's /boot, a path, or a Debian package fetched with apt and only unpacked."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from kdump.errors import KdumpError
from kdump.image.kernel_tree import KernelTree, ModuleIndex, tree_of
from kdump.lab import cache

DEFAULT = "6.1"
FLAVOURS = {"generic": "", "cloud": "cloud-", "rt": "rt-"}  # as Debian names its kernels: RELEASE-[FLAVOUR-]amd64
_SERIES = re.compile(rf"(\d+\.\d+)(?:-({'|'.join(FLAVOURS)}))?")
_PACKAGE = re.compile(r"linux-image-(\d\S*)")


def find(spec: str = DEFAULT) -> KernelTree:
    """The kernel meant by `spec`: a bzImage's path, a release in /boot, a series, or a Debian package's name.

    A series ("6.1", "6.1-generic", "6.12-rt"; without a flavour it is the cloud kernel) is the newest one fetched
    before, else Debian's newest, by preference one whose debug package exists too. Raises KdumpError: unknown kernel,
    no apt, no network, no room.
    """
    if "/" in spec:
        return tree_of(Path(spec))
    installed = Path("/boot") / f"vmlinuz-{spec}"
    if installed.exists():
        return tree_of(installed)
    package = spec if _PACKAGE.fullmatch(spec) else _fetched(spec) or _newest(spec)
    root = _unpacked(package)
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
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
        _extract(_download(package, directory), directory, inside)
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
            _extract(_download(package, directory), directory)
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
        _extract(_download(name, directory), directory)

    return cache.entry(f"packages/{name}", fetch)


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout
    except FileNotFoundError:
        raise KdumpError(
            f"{command[0]} is not installed",
            why="kernels are fetched as Debian packages",
            remedy="name a kernel image by its path instead",
        ) from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        raise KdumpError(f"{' '.join(command[:2])} failed", why="; ".join(lines[-3:])) from error


def _search(pattern: str) -> list[str]:
    found = _run("apt-cache", "search", "--names-only", pattern).splitlines()
    return [line.split(" ", 1)[0] for line in found]


def _numbers(name: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", name)]


def _wanted(spec: str) -> re.Pattern[str] | None:
    """What Debian's packages of that series and flavour are called, or None if `spec` is no series."""
    match = _SERIES.fullmatch(spec)
    if not match:
        return None
    series, flavour = match[1], FLAVOURS[match[2] or "cloud"]
    return re.compile(rf"linux-image-{re.escape(series)}\.[0-9][^ -]*(?:-[0-9]+)?-{flavour}amd64")


def _fetched(spec: str) -> str:
    if not (wanted := _wanted(spec)):
        return ""
    names = (f"linux-image-{path.name}" for path in (cache.directory() / "kernels").glob("*-amd64"))
    return max(filter(wanted.fullmatch, names), key=_numbers, default="")


def _newest(spec: str) -> str:
    wanted = _wanted(spec)
    if not wanted:
        raise _unknown(spec)

    def search() -> list[str]:
        return _search(rf"^linux-image-{re.escape(spec.partition('-')[0])}\..*-amd64(-dbg)?$")

    if not any(map(wanted.fullmatch, names := search())):
        with cache.lock("apt"):
            _run("apt-get", "update")
        names = search()
    images = list(filter(wanted.fullmatch, names))
    if not images:
        raise _unknown(spec)
    return max(images, key=lambda name: (f"{name}-dbg" in names, _numbers(name)))


def _unknown(spec: str) -> KdumpError:
    return KdumpError(
        f"there is no kernel {spec!r}",
        why="it is no file, no release in /boot, and no Debian package or series",
        remedy="try a series (6.1, 6.1-generic), a package such as linux-image-6.1.0-1-amd64, or a path with a slash",
    )


def _unpacked(name: str) -> Path:
    def fetch(directory: Path) -> None:
        _extract(_download(name, directory), directory)
        _index(directory)

    return cache.entry(f"kernels/{name.removeprefix('linux-image-')}", fetch)


def _index(root: Path) -> None:
    """Write modules.alias, as depmod does when the package is installed: reading thousands of modules takes long."""
    for modules in (*root.glob("lib/modules/*"), *root.glob("usr/lib/modules/*")):
        index = ModuleIndex(modules)
        if index.paths:
            (modules / "modules.alias").write_text(
                "".join(f"alias {alias} {name}\n" for alias, name in index.aliases())
            )


def _download(package: str, directory: Path) -> Path:
    try:
        _run("apt-get", "download", package, cwd=directory)
    except KdumpError as error:
        with cache.lock("apt"):  # the lists may be missing, or older than the archive
            try:
                _run("apt-get", "update")
            except KdumpError as update:
                error.add_note(str(update))
        try:
            _run("apt-get", "download", package, cwd=directory)
        except KdumpError as second:
            raise KdumpError(
                f"the package {package} cannot be fetched", why=second.why, remedy="is the network up, the name right?"
            ) from error
    return next(directory.glob("*.deb"))


def _extract(package: Path, directory: Path, *members: str) -> None:
    """Unpack a .deb (or only `members` of it) below `directory`, and remove it."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as source:
        command = ["tar", "-x", "-C", str(directory), *members]
        unpack = subprocess.run(command, stdin=source.stdout, capture_output=True, check=False)
    if unpack.returncode or source.returncode:
        why = unpack.stderr.decode(errors="replace").strip().splitlines()[-1:]
        full = shutil.disk_usage(directory).free < 1 << 20
        if full:
            raise OSError(28, "no space left on device", str(directory))
        raise KdumpError(f"{package.name} cannot be unpacked", why="".join(why))
    package.unlink()


def _dependencies(package: str) -> list[str]:
    lines = _run("apt-cache", "depends", package).splitlines()
    return [line.split(":", 1)[1].strip() for line in lines if "Depends:" in line]
