"""Paths by their identity, and the map of them; a real one that loses a path is a machine of docs/machines.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdump.capture import devicemapper, multipath
from kdump.capture.devicemapper import DmTarget
from kdump.errors import KdumpError
from kdump.targets.devices import _is_path

MAP = {
    "multipath": "naa.3600", "name": "m", "uuid": "mpath-3600", "paths": 2, "size": 8192,
    "handler": "1 alua", "selector": "service-time",
}  # fmt: skip


def disk(sysfs: Path, name: str, number: str, identity: str) -> Path:
    place = sysfs / "devices" / name
    (place / "device").mkdir(parents=True)
    (place / "dev").write_text(f"{number}\n")
    if identity:
        (place / "device/wwid").write_text(f"{identity}\n")
    (sysfs / "block").mkdir(exist_ok=True)
    (sysfs / "block" / name).symlink_to(place)
    return place


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[DmTarget]:
    found: list[DmTarget] = []
    monkeypatch.setattr(devicemapper, "is_active", lambda _name: False)
    monkeypatch.setattr(devicemapper, "create", lambda _name, _uuid, table: found.extend(table))
    monkeypatch.setattr(multipath, "PATIENCE", 0.0)
    return found


def test_every_path_is_a_group_and_nothing_waits_for_a_daemon(tmp_path: Path, made: list[DmTarget]) -> None:
    disk(tmp_path, "sda", "8:0", "naa.3600")
    disk(tmp_path, "sdb", "8:16", "naa.3700")
    disk(tmp_path, "sdc", "8:32", "naa.3600")
    disk(tmp_path, "vda", "254:0", "")
    said: list[str] = []
    multipath.assemble(MAP, 5, said.append, str(tmp_path))
    assert made == [DmTarget(0, 8192, "multipath", "0 1 alua 2 1 service-time 0 1 0 8:0 service-time 0 1 0 8:32")]
    assert said == ["multipath m: 2 of 2 paths"]


def test_one_path_is_enough_and_none_is_named(tmp_path: Path, made: list[DmTarget]) -> None:
    disk(tmp_path, "sda", "8:0", "naa.3600")
    multipath.assemble(MAP, 5, print, str(tmp_path))
    assert made[0].parameters == "0 1 alua 1 1 service-time 0 1 0 8:0"
    with pytest.raises(KdumpError, match="no path to m is here"):
        multipath.assemble(MAP | {"multipath": "naa.3800"}, 0, print, str(tmp_path))


def test_what_is_on_a_path_is_found_on_the_map_only(tmp_path: Path) -> None:
    place = disk(tmp_path, "sda", "8:0", "naa.3600")
    (place / "sda1").mkdir()
    (place / "sda1/partition").write_text("1\n")
    other = disk(tmp_path, "sdb", "8:16", "")
    for holder, uuid in ((place / "holders/dm-0/dm", "mpath-3600"), (other / "holders/dm-1/dm", "LVM-x")):
        holder.mkdir(parents=True)
        (holder / "uuid").write_text(f"{uuid}\n")
    assert [_is_path(each) for each in (place, place / "sda1", other)] == [True, True, False]
