"""Labels of a target's files, against libselinux's own answers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kdump.capture import system
from kdump.host import selinux
from kdump.targets.file import FileTarget
from kdump.targets.protocol import Ground, Spec

CONTEXTS = r"""
# a comment
/.*	system_u:object_r:default_t:s0
/[^/]+	--	system_u:object_r:etc_runtime_t:s0
/var/.*		system_u:object_r:var_t:s0
/var/crash(/.*)?	system_u:object_r:kdump_crash_t:s0
/var/crash/.*	-d	system_u:object_r:crash_dir_t:s0
/var/cras?/.*\.gz	--	system_u:object_r:zipped_t:s0
/srv/[a-c]{1,2}/.*	--	system_u:object_r:srv_t:s0
/var/crash/exact	system_u:object_r:exact_t:s0
/var/crash/dot\.ted/.*	system_u:object_r:dotted_t:s0
/home/[^/]+/.+	unconfined_u:object_r:user_home_t:s0
/proc/.*	<<none>>
/bad/(unclosed	system_u:object_r:bad_t:s0
"""
PATHS = (
    "/var/crash/crash", "/var/crash/a/vmcore", "/var/crash/exact", "/var/crash/dot.ted/x", "/var/crash/dotxted/x",
    "/var/cra/a.gz", "/var/crash/a.gz", "/srv/ab/x", "/srv/abc/x", "/srv/d/x", "/proc/1", "/vmcore", "/home/u/dumps",
    "/anywhere/else",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "etc/selinux/mls/contexts/files"
    place.mkdir(parents=True)
    (place / "file_contexts").write_text(CONTEXTS)
    (place / "file_contexts.subs_dist").write_text("/dumps /var/crash\n")
    (tmp_path / selinux.CONFIG).write_text("# SELINUXTYPE=other\nSELINUX=enforcing\nSELINUXTYPE=mls\n")
    (tmp_path / "sys/fs/selinux").mkdir(parents=True)
    (tmp_path / selinux.ENABLED).write_text("1")
    return tmp_path


@pytest.mark.skipif(not shutil.which("selabel_lookup"), reason="selinux-utils is not installed")
@pytest.mark.parametrize("kind", [selinux.DIRECTORY, selinux.FILE])
def test_labels_are_those_of_libselinux(root: Path, kind: str) -> None:
    place = root / "etc/selinux/mls/contexts/files"
    # libselinux refuses a whole file for one bad line; ours is passed over.
    (place / "file_contexts").write_text(CONTEXTS.replace("/bad/(unclosed", "/bad"))
    for path in PATHS:
        command = ["selabel_lookup", "-b", "file", "-f", str(place / "file_contexts"), "-k", path]
        command += ["-t", str({"-d": 0o40000, "--": 0o100000}[kind])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        theirs = done.stdout.strip().rpartition("context: ")[2].strip() if done.returncode == 0 else ""
        assert selinux.lookup(path, kind, place) == theirs, (path, done.stdout, done.stderr)


def test_facts_of_a_target(root: Path) -> None:
    assert selinux.labels("/var/crash", root) == {
        "directory_label": "system_u:object_r:crash_dir_t:s0",
        "file_label": "system_u:object_r:kdump_crash_t:s0",
    }
    assert selinux.labels("/dumps/", root) == selinux.labels("/var/crash", root)
    assert selinux.labels("/proc", root) == {}
    (root / selinux.ENABLED).unlink()
    assert selinux.labels("/var/crash", root) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="security labels take root")
def test_what_is_written_bears_them(tmp_path: Path) -> None:
    said: list[str] = []
    facts = {"directory_label": "system_u:object_r:crash_dir_t:s0", "file_label": "system_u:object_r:kdump_crash_t:s0"}
    ground = Ground(system.mount, system.unmount, said.append, lambda: 5.0)
    session = FileTarget(Spec(f"file://{tmp_path}", facts)).open("web1-x", ground)
    stream = session.create("vmcore")
    stream.write(b"x")
    stream.seal()
    session.close()
    assert os.getxattr(tmp_path / "web1-x", "security.selinux") == b"system_u:object_r:crash_dir_t:s0\0"
    assert os.getxattr(tmp_path / "web1-x/vmcore", "security.selinux") == b"system_u:object_r:kdump_crash_t:s0\0"
    assert said == []
