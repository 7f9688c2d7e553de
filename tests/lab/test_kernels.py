"""Where kernels come from. apt stands in as a script here, so that it can fail; the lab fetches for real."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.image.kernel_tree import KernelTree
from kdump.lab import apt as debian
from kdump.lab import kernels

APT_CACHE = """#!/bin/sh
echo "cache $@" >> {log}
[ -e {lists} ] || exit 0
P="$3" awk '$1 ~ ENVIRON["P"]' <<END
linux-image-6.1.0-9-cloud-amd64 - old
linux-image-6.1.0-9-cloud-amd64-dbg - old, debug
linux-image-6.1.0-41-cloud-amd64 - Linux for clouds
linux-image-6.1.0-41-cloud-amd64-dbg - Linux for clouds, debug
linux-image-6.1.0-50-cloud-amd64 - newer, without a debug package
END
"""
APT_GET = """#!/bin/sh
echo "get $@" >> {log}
[ "$1" = update ] && touch {lists}
[ "$1" = download ] || exit 0
case "$2" in
  *-41-*|*-50-*) cp {deb} ./package.deb;;
  *) echo "E: Unable to locate package $2" >&2; exit 100;;
esac
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt that knows three kernels once its lists are there. Returns the file that logs what it was asked."""
    root = tmp_path / "package"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text("Package: p\nVersion: 1\nArchitecture: amd64\nMaintainer: m\nDescription: d\n")
    (root / "boot").mkdir()
    image = bytearray(0x4000)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x100)
    image[0x300:0x310] = b"6.1.0-41-fake #1"
    (root / "boot/vmlinuz-6.1.0-41-fake").write_bytes(image)
    (root / "lib/modules/6.1.0-41-fake").mkdir(parents=True)
    modules = root / "usr/lib/debug/lib/modules/6.1.0-41-fake"
    modules.mkdir(parents=True)
    (modules / "vmlinux").symlink_to("../../../boot/vmlinux-6.1.0-41-fake")  # as Debian has it
    (root / "usr/lib/debug/boot").mkdir()
    (root / "usr/lib/debug/boot/vmlinux-6.1.0-41-fake").write_bytes(b"debug information")
    subprocess.run(["dpkg-deb", "--build", root, tmp_path / "deb"], check=True, capture_output=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("apt-cache", APT_CACHE), ("apt-get", APT_GET)):
        script = programs / name
        script.write_text(text.format(log=tmp_path / "log", lists=tmp_path / "lists", deb=tmp_path / "deb"))
        script.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin:/usr/sbin")
    return tmp_path / "log"


def test_a_series_is_its_newest_kernel_with_debug_package_and_fetched_once(apt: Path) -> None:
    tree = kernels.find("6.1")
    assert tree.release == "6.1.0-41-fake"
    assert tree.vmlinuz.parent.parent.name == "6.1.0-41-cloud-amd64"
    assert tree.modules
    assert tree.modules.is_dir()
    asked = apt.read_text().splitlines()
    assert [line.split()[1] for line in asked] == [
        "search",
        "update",
        "search",
        "depends",
        "depends",
        "depends",
        "download",
    ]
    assert kernels.find("6.1") == kernels.find("linux-image-6.1.0-41-cloud-amd64") == tree
    assert apt.read_text().splitlines() == asked
    assert not list(tree.vmlinuz.parent.parent.glob("*.deb"))


def test_a_package_is_taken_as_named(apt: Path) -> None:
    tree = kernels.find("linux-image-6.1.0-50-cloud-amd64")
    assert tree.vmlinuz.parent.parent.name == "6.1.0-50-cloud-amd64"
    assert kernels.find("6.1") == tree  # the newest that is here already


def test_the_debug_package_leaves_only_vmlinux(apt: Path) -> None:
    tree = KernelTree("6.1.0-41-fake", Path("/k"), None)
    path = kernels.debug_vmlinux(tree)
    assert path.read_bytes() == b"debug information"
    assert [item.name for item in path.parent.iterdir()] == ["vmlinux"]


@pytest.mark.parametrize("spec", ["6.9", "5", "hello world", ""])
def test_an_unknown_kernel_is_explained(apt: Path, spec: str) -> None:
    with pytest.raises(KdumpError, match=r"there is no kernel '.*'.*\n.*try a series"):
        kernels.find(spec)


@pytest.mark.parametrize("machine", ["s390x", "ppc64le"])
@pytest.mark.parametrize("spec", [None, "6.1-generic", "newest", "linux-image-6.1.0-41-s390x"])
def test_kernels_that_no_machine_here_runs_are_refused_before_they_are_fetched(
    apt: Path, spec: str | None, machine: str
) -> None:
    with pytest.raises(KdumpError, match=f"kernels of {machine} are not fetched.*not supported on {machine}"):
        kernels.find(spec, machine)
    assert not apt.exists()


def test_a_flavour_that_backports_lack_is_an_unknown_kernel(apt: Path) -> None:
    """The stand-in for apt finds nothing, as the archive does for a flavour that it lacks."""
    source = debian.Apt(("-oknown=none",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(debian, "backports", lambda _debian="": source)
        with pytest.raises(KdumpError, match="there is no kernel 'newest-16k'"):
            kernels.find("newest-16k")


def test_a_package_that_is_not_there_leaves_nothing_half_made(apt: Path, tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match=r"linux-image-6\.1\.0-9-cloud-amd64 cannot be fetched.*Unable to locate"):
        kernels.find("linux-image-6.1.0-9-cloud-amd64")
    assert list((tmp_path / "cache/kdump/kernels").iterdir()) == []
    assert "get update" in apt.read_text()


def test_a_package_without_a_kernel_is_refused(apt: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "package/boot").iterdir():
        path.unlink()
    subprocess.run(["dpkg-deb", "--build", tmp_path / "package", tmp_path / "deb"], check=True, capture_output=True)
    with pytest.raises(KdumpError, match="has no kernel image in it"):
        kernels.find("linux-image-6.1.0-41-cloud-amd64")


def test_without_apt_a_path_still_works(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KdumpError, match="apt-cache is not installed"):
        kernels.find("6.1")
    assert kernels.find(str(tmp_path / "package/boot/vmlinuz-6.1.0-41-fake")).release == "6.1.0-41-fake"


@pytest.mark.lab
def test_debians_kernels_are_whole(kernel: Callable[[str], KernelTree]) -> None:
    for series in ("6.1", "6.12"):
        tree = kernel(series)
        assert tree.release.startswith(f"{series}.")
        assert tree.modules
        index = tree.module_index
        listed = {Path(line).name.split(".ko")[0] for line in (tree.modules / "modules.order").read_text().split()}
        assert {path.name.split(".ko")[0] for path in index.paths.values()} == listed
        everything = [module.name for module in index.load_order(sorted(index.paths))]
        assert len(everything) == len(index.paths) > 500
        place = {name: number for number, name in enumerate(everything)}
        for name in everything:
            module = index.get(name)
            assert module
            assert all(place.get(before, -1) < place[name] for before in module.depends)
        assert "virtio_net" in index.matching("virtio:d00000001v00001AF4")


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("6.1", ["linux-image-6.1.0-57-cloud-amd64"]),
        ("6.1-generic", ["linux-image-6.1.0-57-amd64"]),
        ("6.1-rt", ["linux-image-6.1.0-57-rt-amd64"]),
        ("6.12-generic", ["linux-image-6.12.117+deb12-amd64"]),
        ("6.12-rt", ["linux-image-6.12.117+deb12-rt-amd64"]),
        ("6.12-cloud", ["linux-image-6.12.117+deb12-cloud-amd64"]),
        ("newest-rt", ["linux-image-6.1.0-57-rt-amd64", "linux-image-6.12.117+deb12-rt-amd64"]),
        ("newest", ["linux-image-6.1.0-57-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64"]),
    ],
)
def test_a_series_and_flavour_names_kernels_and_nothing_else(spec: str, names: list[str]) -> None:
    offered = [
        f"linux-image-{release}-{flavour}amd64{ending}"
        for release in ("6.1.0-57", "6.12.117+deb12")
        for flavour in ("", "cloud-", "rt-")
        for ending in ("", "-dbg", "-unsigned")
    ]
    wanted = kernels._Source("x86_64").wanted(spec)
    assert wanted
    assert list(filter(wanted.fullmatch, offered)) == names
    assert wanted.fullmatch("linux-image-6.12-rt-amd64") is None or spec == "newest-rt"  # only there no meta package
    foreign = kernels._Source("aarch64").wanted(spec)
    assert foreign and not list(filter(foreign.fullmatch, offered))
    assert list(filter(foreign.fullmatch, (name.replace("amd64", "arm64") for name in offered))) == [
        name.replace("amd64", "arm64") for name in names
    ]


def test_a_flavour_may_stand_behind_the_architecture() -> None:
    wanted = kernels._Source("aarch64").wanted("6.12-16k")
    assert wanted and wanted.fullmatch("linux-image-6.12.117+deb12-arm64-16k")
    assert not wanted.fullmatch("linux-image-6.12.117+deb12-arm64")


def test_packages_of_another_architecture_have_an_apt_of_their_own(private: Path, tmp_path: Path) -> None:
    (tmp_path / "bin/apt-get").write_text(
        f"""#!/bin/sh
echo "get $@" >> {private}
case "$*" in
  *indextargets*) echo "https://mirror.example/debian/ bookworm Debian";
    echo "https://mirror.example/security/ bookworm-security Debian-Security"; echo "https://x.example/ all Other";;
esac
"""
    )
    from kdump.lab import apt

    foreign = apt.host("arm64")
    assert foreign.place and foreign.place.name == "apt-arm64"
    text = (foreign.place / "debian.sources").read_text()
    assert text.count("URIs:") == 2 and "Suites: bookworm-security" in text and "x.example" not in text
    assert (foreign.place / "status").read_text() == ""
    updates = [line for line in private.read_text().splitlines() if line.endswith("update")]
    assert len(updates) == 1 and "-oAPT::Architectures=arm64" in updates[0]
    apt.host("arm64")
    assert [line for line in private.read_text().splitlines() if line.endswith("update")] == updates


PRIVATE_CACHE = """#!/bin/sh
echo "cache $@" >> {log}
case "$*" in
  *backports*depends*linux-image-rt-amd64) echo "  Depends: linux-image-7.9.1+deb13-rt-amd64";;
  *backports*depends*linux-image-7.9.1*)
    echo "  Depends: linux-base-7.9.1+deb13-rt-amd64"; echo "  Depends: linux-binary-7.9.1+deb13-rt-amd64"
    echo "  Depends: <linux-initramfs-tool>";;
  *backports*depends*linux-b*) ;;
  *) exit 100;;
esac
"""
PRIVATE_GET = """#!/bin/sh
echo "get $@" >> {log}
case "$*" in
  *indextargets*) echo "https://other.example/x/ stable Other"
    echo "https://mirror.example/debian/ bookworm Debian"; echo "https://mirror.example/debian/ bookworm Debian";;
  *backports*update*) grep -q "^URIs: https://mirror.example/debian/$" {cache}/apt-stable-backports/debian.sources;;
  *backports*download*linux-binary*) cp {deb} ./package.deb;;
  *backports*download*) cp {empty} ./package.deb;;
  *) exit 100;;
esac
"""


@pytest.fixture
def private(apt: Path, tmp_path: Path) -> Path:
    """An apt that knows nothing; only with our own configuration does it know a kernel in three packages."""
    empty = tmp_path / "empty"
    shutil.copytree(tmp_path / "package/DEBIAN", empty / "DEBIAN")
    subprocess.run(["dpkg-deb", "--build", empty, tmp_path / "empty.deb"], check=True, capture_output=True)
    modules = tmp_path / "package/usr/lib/modules/6.1.0-41-fake"
    modules.mkdir(parents=True)
    (tmp_path / "package/boot/vmlinuz-6.1.0-41-fake").rename(modules / "vmlinuz")
    subprocess.run(["dpkg-deb", "--build", tmp_path / "package", tmp_path / "deb"], check=True, capture_output=True)
    names = {"log": apt, "deb": tmp_path / "deb", "empty": tmp_path / "empty.deb", "cache": tmp_path / "cache/kdump"}
    for name, text in (("apt-cache", PRIVATE_CACHE), ("apt-get", PRIVATE_GET)):
        (tmp_path / "bin" / name).write_text(text.format(**names))
    return apt


def test_the_newest_kernel_is_what_backports_offer_today(private: Path) -> None:
    tree = kernels.find("newest-rt")
    assert tree.vmlinuz.parts[-6:-1] == ("7.9.1+deb13-rt-amd64", "usr", "lib", "modules", "6.1.0-41-fake")
    asked = private.read_text()
    assert all("-oDir::Etc::sourcelist=" in line for line in asked.splitlines() if line.endswith(" update"))
    assert kernels.find("newest-rt") == tree
    assert private.read_text().count(" update\n") == 1  # lists of today are new enough


def test_without_a_network_the_newest_kernel_is_the_newest_one_here(private: Path, tmp_path: Path) -> None:
    (tmp_path / "bin/apt-get").write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
    with pytest.raises(KdumpError, match="no network"):
        kernels.find("newest")
    for release in ("6.1.0-9-cloud-amd64", "7.2.11+deb13-cloud-amd64", "7.2.9+deb13-cloud-amd64", "7.3.1-rt-amd64"):
        modules = tmp_path / f"cache/kdump/kernels/{release}/usr/lib/modules/{release}"
        modules.mkdir(parents=True)
        shutil.copyfile(tmp_path / "package/usr/lib/modules/6.1.0-41-fake/vmlinuz", modules / "vmlinuz")
    assert kernels.find("newest").vmlinuz.parent.name == "7.2.11+deb13-cloud-amd64"
