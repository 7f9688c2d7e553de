"""What fuzzing once found stays found: the seeds and the corpus of every target are replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.targets import TARGETS, dump_seeds, once

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    assert seeds
    for data in (*seeds.values(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))):
        once(target, data)


def test_every_corpus_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in ("superblocks", "words")])
def test_a_seed_is_not_refused(name: str) -> None:
    """A search that starts from what is refused at once finds nothing."""
    target = TARGETS[name]
    target.one(next(iter(target.seeds().values())))


def test_seeds_are_dumps(tmp_path: Path) -> None:
    from kdump.memory import open_dump

    for name, data in dump_seeds().items():
        (tmp_path / name).write_bytes(data)
        with open_dump(tmp_path / name) as dump:
            assert dump.memory.ranges
