"""modprobe.d and the kernel's command line as modprobe reads them, and what follows for an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.image.test_kernel_tree import module

from kdump.capture import modprobe
from kdump.image import modprobe_conf
from kdump.image.build import module_paths, request_table
from kdump.image.kernel_tree import KernelTree
from kdump.image.modprobe_conf import SoftDependencies

ADMIN = r"""
# comment \
options of-the comment
options my-disk queue_depth=4 \
    name="a b"
options my_disk late=1
alias the-disk my-disk
alias wild* helper
softdep my_disk pre: the-helper absent post: after
weakdep my-disk rarely
blacklist odd-one
install helper /bin/echo run me; /sbin/modprobe --ignore-install helper
install forbidden /bin/false
"""
CMDLINE = 'ro my-disk.debug=1 my_disk.text="x y" "my_disk.quoted=z w" modprobe.blacklist=one-more,b -- a.b=c\n'
WRONG = """\
options
blacklist a b
softdep lonely
include other.conf
alias only-one
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with modprobe.d in three places, of which one hides another's file."""
    files = {
        "etc/modprobe.d/10-admin.conf": ADMIN,
        "etc/modprobe.d/20-wrong.conf": WRONG,
        "etc/modprobe.d/ignored": "blacklist everything\n",
        "usr/lib/modprobe.d/10-admin.conf": "options my_disk hidden=1\n",
        "usr/lib/modprobe.d/05-vendor.conf": "options my_disk queue_depth=1\n",
        "run/modprobe.d/30.conf": "blacklist from_run",
        "proc/cmdline": CMDLINE,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    modules = tmp_path / "lib/modules/r"
    modules.mkdir(parents=True)
    for name, info in {
        "my-disk": ["alias=virtio:d2*", "softdep=pre: own-helper"],
        "helper": ["alias=the-helper"],
        "own_helper": [],
        "after": [],
        "rarely": ["depends=needed-by-rarely"],
        "needed-by-rarely": [],
        "odd_one": ["alias=virtio:d2v1"],
        "forbidden": ["alias=the-helper"],
    }.items():
        (modules / f"{name}.ko").write_bytes(module(*info))
    return tmp_path


def test_the_administrators_words_count_as_in_modprobe(root: Path) -> None:
    conf = modprobe_conf.read(root)
    assert conf.parameters("my_disk") == (
        'queue_depth=1 queue_depth=4     name="a b" late=1 debug=1 text="x y" quoted=z w'
    )
    assert conf.aliases == (("the-disk", "my_disk"), ("wild*", "helper"))
    assert dict(conf.soft)["my_disk"] == SoftDependencies(weak=("rarely",))
    assert conf.soft[0] == ("my_disk", SoftDependencies(("the-helper", "absent"), ("after",)))
    assert conf.blacklist == {"odd_one", "from_run", "one_more", "b"}
    assert conf.install["helper"].startswith("/bin/echo run me;")
    assert [problem.rpartition("20-wrong.conf:")[2] for problem in conf.problems] == [
        "1: options has too few or too many words",
        "2: blacklist has too few or too many words",
        "3: softdep has too few or too many words",
        "4: 'include' is not a directive of modprobe.d",
        "5: alias has too few or too many words",
    ]


def test_an_image_has_the_parameters_the_soft_and_the_weak_dependencies(root: Path, tmp_path: Path) -> None:
    tree = KernelTree("r", tmp_path, root / "lib/modules/r", modprobe_conf.read(root))
    index = tree.module_index
    names = [module.name for module in index.load_order(["the-disk"])]
    assert names == ["helper", "own_helper", "my_disk", "after"]  # not what is installed as /bin/false
    assert {module.name for module in index.closure(["my_disk"])} == {*names, "rarely", "needed_by_rarely"}
    assert list(index.matching("virtio:d2v1")) == ["my_disk"]  # the other one is blacklisted
    assert module_paths(tree, ["my_disk"])[2].startswith("/usr/lib/modules/my_disk.ko queue_depth=1")
    table = tmp_path / "requests"
    table.write_text(request_table(tree, ["my_disk"]))
    answer = modprobe.lookup("the_disk", str(table))
    assert answer == modprobe.lookup("my_disk", str(table)) == module_paths(tree, ["my_disk"])
    assert modprobe.lookup("rarely", str(table)) == [
        "/usr/lib/modules/needed_by_rarely.ko", "/usr/lib/modules/rarely.ko",
    ]  # fmt: skip
    assert modprobe.lookup("my", str(table)) == modprobe.lookup("wild_thing", str(table)) == []


def test_lists_of_depmod_count_too(root: Path, tmp_path: Path) -> None:
    modules = root / "lib/modules/r"
    (modules / "modules.softdep").write_text("# Soft dependencies\nsoftdep after post: rarely\n")
    (modules / "modules.weakdep").write_text("weakdep helper odd_one\n")
    index = KernelTree("r", tmp_path, modules).module_index
    assert [module.name for module in index.load_order(["after"])] == ["after", "needed_by_rarely", "rarely"]
    assert [module.name for module in index.closure(["helper"])] == ["helper", "odd_one"]


def test_nothing_is_nothing(tmp_path: Path) -> None:
    conf = modprobe_conf.read(tmp_path)
    assert not conf.options
    assert len(conf.problems) == 1
    assert "proc/cmdline" in conf.problems[0]
