"""The image that is loaded is the one that was built: damage is seen, and there is always a record of the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.host import built
from kdump.host.config import Config
from kdump.host.python_search import MADE
from kdump.image.made import content_digest


@pytest.fixture
def record(tmp_path: Path) -> built.Record:
    image, kernel = tmp_path / "6.1/capture.img", tmp_path / "vmlinuz"
    image.parent.mkdir()
    image.write_bytes(b"image" * 1000)
    kernel.write_bytes(b"kernel")
    parts = dict.fromkeys(built.PARTS, "") | {"kernel": built._digest([kernel])}
    made = built.Record(str(image), "6.1", str(kernel), 5000, 1.0, parts, content_digest([image.read_bytes()]))
    made.write(image.parent / built.RECORD)
    return made


@pytest.mark.parametrize("content", [b"", b"0123456789", bytes(5000), b"image" * 999 + b"imagf", b"image" * 1001])
def test_another_content_is_damage_and_is_not_loaded(content: bytes, record: built.Record) -> None:
    assert built.damage(record) == ""
    built.check(record)
    Path(record.image).write_bytes(content)
    with pytest.raises(KdumpError, match="is damaged"):
        built.load_image(record, Config())


def test_a_missing_image_and_a_record_without_digest_are_damage(record: built.Record) -> None:
    assert built.damage(replace(record, digest=""))
    Path(record.image).unlink()
    assert built.damage(record).startswith("the image cannot be read")


def test_another_kernel_is_not_loaded_with_it(record: built.Record) -> None:
    Path(record.vmlinuz).write_bytes(b"another")
    with pytest.raises(KdumpError, match="the kernel was replaced"):
        built.check(record)


def test_between_image_and_record_the_next_record_counts(record: built.Record, tmp_path: Path) -> None:
    assert built.recorded("6.1", tmp_path) == record
    after = replace(record, size=3, digest=content_digest([b"new"]))
    after.write(tmp_path / "6.1" / built.NEXT)  # the power is cut here: the old image stands
    assert built.recorded("6.1", tmp_path) == record
    Path(record.image).write_bytes(b"new")  # or here
    assert built.recorded("6.1", tmp_path) == after
    built.check(after)


def test_undo_removes_images_and_nothing_else(record: built.Record, tmp_path: Path) -> None:
    for name in ("seen.json", "rehearsal.json", "6.1/mine", "other/file"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    (tmp_path / MADE).write_text("cache")
    assert built.damage(record) == ""
    built.remove_images(tmp_path)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {"seen.json", "rehearsal.json", "6.1/mine", "other/file", "vmlinuz"}
