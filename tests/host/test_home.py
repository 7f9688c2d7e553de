"""The directory of our own: what was ours in the one of before is moved, what is Debian's kdump-tools' stays."""

from __future__ import annotations

import json
from pathlib import Path

from kdump.host import built, home


def test_what_is_ours_moves_and_what_is_not_stays(tmp_path: Path) -> None:
    before, state = tmp_path / "kdump", tmp_path / "linux-kdump"
    image = before / "6.1.0-1-amd64"
    image.mkdir(parents=True)
    (image / "capture.img").write_bytes(b"image")
    record = built.Record(str(image / "capture.img"), "6.1.0-1-amd64", "/boot/vmlinuz", 5, 1.0, {})
    record.write(image / "image.json")
    (before / "setup.json").write_text("{}")
    (before / "rehearsals").mkdir()
    (before / "vmlinuz").symlink_to("/boot/vmlinuz-6.1.0-1-amd64")  # kdump-tools'
    (before / "initrd.img-6.1.0-1-amd64").write_bytes(b"theirs")
    (before / "other").mkdir()
    (before / "build.cache").symlink_to("/etc/passwd")

    assert home.move_in(state, before) == ["6.1.0-1-amd64", "rehearsals", "setup.json"]
    assert sorted(each.name for each in before.iterdir()) == [
        "build.cache", "initrd.img-6.1.0-1-amd64", "other", "vmlinuz",
    ]  # fmt: skip
    found = built.recorded("6.1.0-1-amd64", state)
    assert found
    assert Path(found.image).read_bytes() == b"image"
    assert Path(found.image).is_relative_to(state)
    assert home.move_in(state, before) == []


def test_nothing_that_is_newer_is_replaced_and_an_empty_directory_goes(tmp_path: Path) -> None:
    before, state = tmp_path / "kdump", tmp_path / "linux-kdump"
    for place, content in ((before, "old"), (state, "new")):
        place.mkdir()
        (place / "setup.json").write_text(json.dumps(content))
    assert home.move_in(state, before) == []
    assert json.loads((state / "setup.json").read_text()) == "new"
    (before / "setup.json").rename(before / "drill.json")
    assert home.move_in(state, before) == ["drill.json"]
    assert not before.exists()
    assert home.move_in(state, before) == []


def test_a_record_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    image = tmp_path / "kdump/6.1"
    image.mkdir(parents=True)
    (image / "image.json").write_text("[]")
    assert home.move_in(tmp_path / "new", tmp_path / "kdump") == ["6.1"]
    assert built.recorded("6.1", tmp_path / "new") is None
