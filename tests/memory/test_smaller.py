"""A dump in pages of 64 KiB, read in those of 4 KiB."""

from __future__ import annotations

import random
from pathlib import Path

from tests.memory.writers import kdump

from kdump.memory import open_dump
from kdump.memory.gather import gather
from kdump.memory.protocol import Range
from kdump.memory.smaller import InSmallerPages

LARGE, SMALL = 1 << 16, 1 << 12
HELD = {1, 2, 5}


def test_every_small_page_of_a_large_one_is_there(tmp_path: Path) -> None:
    import numpy as np

    source = random.Random(1)
    large = {pfn: source.randbytes(LARGE) for pfn in HELD}
    (tmp_path / "vmcore").write_bytes(kdump(large, ram=[(0, 8)], codec=1, block=LARGE))
    expected = [large[pfn // 16][pfn % 16 * SMALL :][:SMALL] if pfn // 16 in HELD else None for pfn in range(128)]
    with open_dump(tmp_path / "vmcore") as dump:
        memory = InSmallerPages(dump.memory, SMALL)
        assert memory.ranges == [Range(0, 8 * LARGE)]
        assert list(memory.held()) == [Range(LARGE, 3 * LARGE), Range(5 * LARGE, 6 * LARGE)]
        for first in (0, 1, 15, 16, 17, 40, 127):
            for count in (0, 1, 2, 16, 33):
                told = memory.present(first, min(count, 128 - first)).tolist()
                assert told == [each is not None for each in expected[first : first + count]]
        pages = np.empty((128, SMALL), np.uint8)
        held = gather(memory, np.arange(128), pages)
        assert [bytes(page) if there else None for page, there in zip(pages, held, strict=True)] == expected
