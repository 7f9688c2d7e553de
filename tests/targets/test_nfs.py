"""NFS targets on the healthy machine: what is refused before anything is mounted. The lab mounts for real."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.targets import nfs
from kdump.targets.protocol import Spec

URL = "nfs://server/export"


@pytest.mark.parametrize("options", ["sec=krb5", "hard,sec=krb5p,ro", "sec=krb5i"])
def test_kerberos_is_refused_by_name(options: str) -> None:
    with pytest.raises(KdumpError, match=r"mounted with sec=krb5\w?, and the capture kernel has no Kerberos"):
        nfs.NfsTarget(Spec(URL, {"options": options})).check()


@pytest.mark.parametrize(
    ("problem", "mounted"), [("", "rw,vers=4.2,sec=krb5,addr=x"), ("Permission denied", "sec=krb5")]
)
def test_kerberos_that_kernel_and_server_agreed_on_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, problem: str, mounted: str
) -> None:
    """Who mounts is made up: it takes a server with a realm."""
    monkeypatch.setattr(nfs, "system_addresses", lambda _host: ["192.0.2.1"])
    monkeypatch.setattr(nfs, "_try_mount", lambda *_: (problem, mounted))
    with pytest.raises(KdumpError, match="no Kerberos"):
        nfs.NfsTarget(Spec(URL, {})).check()
    monkeypatch.setattr(nfs, "_try_mount", lambda *_: ("", "rw,vers=4.2,sec=sys"))
    assert nfs.NfsTarget(Spec(URL, {})).check().facts["version"] == "4.2"


def test_the_capture_kernel_gets_what_an_fstab_says_but_for_what_mount_keeps_to_itself() -> None:
    """The lab mounts with these options: mount(2) refuses _netdev and its like, which mount(8) takes."""
    configured = "defaults,vers=4.1,sec=sys,_netdev,noatime,nofail,x-systemd.automount,rsize=65536"
    options = nfs.NfsTarget(Spec(URL, {"options": configured})).options("4.1", "192.0.2.1")
    assert options == "vers=4.1,addr=192.0.2.1,proto=tcp,soft,timeo=50,retrans=2,sec=sys,rsize=65536"


class _Option(ctypes.Structure):
    """struct libmnt_optmap of libmount.h."""

    _fields_ = (("name", ctypes.c_char_p), ("id", ctypes.c_int), ("mask", ctypes.c_int))


def _options_of_mount() -> Iterator[str]:
    """Every option that is flags or instructions to mount(8), as its own library lists them."""
    ask = ctypes.CDLL("libmount.so.1").mnt_get_builtin_optmap
    ask.restype = ctypes.POINTER(_Option)
    for number in (1, 2):  # MNT_LINUX_MAP, MNT_USERSPACE_MAP
        yield from (each.name.decode() for each in itertools.takewhile(lambda each: each.name, ask(number)))


def test_mount_knows_no_other_option_that_it_keeps_to_itself() -> None:
    # Those that mount(2) takes as text, too (fs/fs_context.c), and those with which mount(8) mounts nothing new.
    passed = {"ro", "rw", "sync", "async", "dirsync", "mand", "nomand", "lazytime", "nolazytime"}
    passed |= {"remount", "bind", "rbind"}
    names = list(_options_of_mount())
    assert {"noatime", "nousers", "uhelper=", "user[=]", "x-"} < set(names)
    for name in names:
        bare = name.removesuffix("[=]")
        forms = {name + "value" if name[-1] in "=-" else bare, bare if bare == name else f"{bare}=value"}
        for option in (each for each in forms if each[-1] not in "=-"):
            options = nfs.NfsTarget(Spec(URL, {"options": f"{option},sec=sys"})).options("4.2", "192.0.2.1")
            assert options.rpartition("retrans=2,")[2] == (f"{option},sec=sys" if option in passed else "sec=sys")


def test_options_are_those_of_the_last_mount_on_a_directory(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(
        "proc /proc proc rw 0 0\nserver:/a /m nfs4 rw,sec=sys 0 0\nserver:/b /m nfs4 ro,sec=krb5 0 0\nshort\n"
    )
    assert nfs.mounted_options("/m", tmp_path / "mounts") == "ro,sec=krb5"
    assert nfs.mounted_options("/none", tmp_path / "mounts") == ""
