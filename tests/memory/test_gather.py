"""Scattered pages read together: the same bytes as one by one, whatever holds them, and whatever is wrong with some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.memory.test_kdump_compressed import CODECS, PAGES, RAM
from tests.memory.writers import PAGE, Load, elf, flattened, kdump

from kdump.memory import open_dump, unpack
from kdump.memory.gather import gather, one_by_one
from kdump.memory.protocol import Dump
from kdump.native import plain

ASKED = np.array([0, 1, 5, 8, 63, 64, 65, 130, 199, 200, 1000, 1098, 1099, 1100, 9999], np.int64)


def both(dump: Dump) -> int:
    """Compares `gather` with `Memory.view`; how many pages there were."""
    size = dump.memory.page_size
    pages, others = np.zeros((2, len(ASKED), size), np.uint8)
    held = gather(dump.memory, ASKED, pages)
    assert held.tolist() == one_by_one(dump.memory, ASKED, others).tolist()
    assert (pages[held] == others[held]).all()
    return int(held.sum())


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("native", [True, False], ids=["C", "Python"])
def test_every_codec(tmp_path: Path, codec: int, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(unpack, "engine", plain)
    path = tmp_path / "vmcore"
    path.write_bytes(kdump(PAGES, ram=RAM, codec=codec))
    with open_dump(path) as dump:
        assert both(dump) == len(set(ASKED.tolist()) & set(PAGES))


def test_many_pages_on_several_threads(tmp_path: Path) -> None:
    many = {pfn: (b"%d" % pfn).ljust(PAGE, b"-") for pfn in range(1, 3000)}
    path = tmp_path / "vmcore"
    path.write_bytes(kdump(many, ram=[(1, 3000)], codec=0x20))
    wanted = np.arange(2999, dtype=np.int64) + 1
    pages = np.zeros((len(wanted), PAGE), np.uint8)
    with open_dump(path) as dump:
        assert gather(dump.memory, wanted, pages).all()
    assert [bytes(page[:4]).strip(b"-") for page in pages] == [b"%d" % pfn for pfn in wanted.tolist()]


def test_elf_and_flattened(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(
        elf([Load(PAGE, PAGES[64] + PAGES[65]), Load(64 * PAGE, b"".join(PAGES[64 + n] for n in range(9)))])
    )
    with open_dump(path) as dump:
        assert both(dump) == 3
    path.write_bytes(flattened(kdump(PAGES, ram=RAM, codec=0x20)))
    with open_dump(path) as dump:
        assert both(dump) == len(set(ASKED.tolist()) & set(PAGES))


def test_damaged_and_missing_data(tmp_path: Path) -> None:
    """A page that does not unpack, and a file cut short, cost those pages only."""
    whole = kdump(PAGES, ram=RAM, codec=0x20)
    path = tmp_path / "vmcore"
    place = whole.index(bytes(PAGES[8]))  # noise is stored as it is
    for data in (whole[: place + 100], whole[:place] + bytes(50) + whole[place + 50 :], whole[:-3000]):
        path.write_bytes(data)
        with open_dump(path) as dump:
            both(dump)
