"""What fuzzing once found stays found: every file of the corpus is replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.readers import seeds
from tests.memory.test_fuzz import exercise

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    exercise(path)


def test_seeds_are_dumps(tmp_path: Path) -> None:
    from kdump.memory import open_dump

    seeds(tmp_path)
    for path in tmp_path.iterdir():
        with open_dump(path) as dump:
            assert dump.memory.ranges
