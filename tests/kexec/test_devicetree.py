"""Device trees: read, changed and written as dtc, whose code is another's, reads and writes them."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdump.errors import FormatError
from kdump.kexec import devicetree
from kdump.kexec.devicetree import DeviceTree, Node, parse

dtc = pytest.mark.skipif(shutil.which("dtc") is None, reason="needs device-tree-compiler")
SOURCE = """
/dts-v1/;
/memreserve/ 0x10000000 0x4000;
/ {
    #address-cells = <2>;
    #size-cells = <2>;
    compatible = "linux,dummy-virt";
    aliases { serial0 = &uart; };
    memory@40000000 { device_type = "memory"; reg = <0 0x40000000 0 0x40000000>; };
    psci { compatible = "arm,psci-1.0"; method = "hvc"; };
    uart: pl011@9000000 { compatible = "arm,pl011", "arm,primecell"; reg = <0 0x9000000 0 0x1000>; };
    chosen { stdout-path = "/pl011@9000000"; bootargs = "console=ttyAMA0"; kaslr-seed = <1 2>; empty; };
};
"""


def compiled(source: str = SOURCE) -> bytes:
    return subprocess.run(
        ["dtc", "-I", "dts", "-O", "dtb", "-@"], input=source.encode(), check=True, capture_output=True
    ).stdout


def shown(tree: bytes) -> str:
    """As dtc writes it out: complaints are about what the tree says, errors about how."""
    return subprocess.run(
        ["dtc", "-q", "-I", "dtb", "-O", "dts"], input=tree, check=True, capture_output=True
    ).stdout.decode()


@dtc
def test_what_is_read_and_written_again_is_the_same_tree() -> None:
    blob = compiled()
    tree = parse(blob)
    assert tree.reserved == [(0x10000000, 0x4000)]
    assert shown(tree.pack()) == shown(blob)
    assert parse(tree.pack()) == tree
    node = tree.find("/memory")
    assert node and node.name == "memory@40000000" and node.text("device_type") == "memory"
    assert tree.find("/none/such") is None


@dtc
def test_what_is_changed_is_what_dtc_finds_changed() -> None:
    tree = parse(compiled())
    tree.chosen().properties |= {"bootargs": b"panic=10\0", "linux,elfcorehdr": tree.cells((0x7FFF0000, 0x1000))}
    del tree.chosen().properties["kaslr-seed"]
    wanted = SOURCE.replace('"console=ttyAMA0"; kaslr-seed = <1 2>;', '"panic=10";').replace(
        "empty;", "empty; linux,elfcorehdr = <0 0x7fff0000 0 0x1000>;"
    )
    assert shown(tree.pack()) == shown(compiled(wanted))


def test_a_tree_without_chosen_gets_one() -> None:
    tree = DeviceTree(Node(""))
    tree.chosen().properties["bootargs"] = b"x\0"
    assert parse(tree.pack()).chosen().text("bootargs") == "x"


def test_cells_are_as_wide_as_the_root_says() -> None:
    tree = DeviceTree(Node("", {"#address-cells": b"\0\0\0\1", "#size-cells": b"\0\0\0\1"}))
    assert tree.cells((1, 2)) == struct.pack(">II", 1, 2)
    with pytest.raises(ValueError, match="too big"):
        tree.cells((1 << 32, 1))


def nested(depth: int) -> Node:
    node = Node("leaf")
    for _ in range(depth):
        node = Node("n", {}, [node])
    return Node("", {}, [node])


def changed(at: int, value: int) -> bytes:
    blob = bytearray(DeviceTree(Node("", {"a": b"1234"}, [Node("b")])).pack())
    struct.pack_into(">I", blob, at, value)
    return bytes(blob)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "truncated"),
        (bytes(64), "not a device tree"),
        (changed(4, 1 << 20), "outside its file"),
        (changed(8, 1 << 30), "outside its file"),
        (changed(12, 1 << 31), "outside its file"),
        (changed(20, 3), "version 3"),
        (changed(56, 7), "does not begin with a node"),
        (changed(64, 7), "token 0x7"),
        (changed(68, 1 << 31), "lies outside"),
        (changed(72, 1 << 31), "lies outside"),
        (DeviceTree(nested(100)).pack(), "too deep"),
    ],
)
def test_damage_is_named(data: bytes, named: str) -> None:
    with pytest.raises(FormatError, match=named):
        parse(data)


@settings(max_examples=300)
@given(data=st.data())
def test_no_damage_does_more_than_raise(data: st.DataObject) -> None:
    blob = bytearray(DeviceTree(Node("", {"a": b"1234"}, [Node("b", {"c": b""}), Node("d")]), [(1, 2)]).pack())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        tree = parse(bytes(blob))
    except FormatError:
        return
    assert len(tree.pack()) <= devicetree.SIZE_MAX
