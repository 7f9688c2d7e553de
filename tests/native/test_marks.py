"""Struct pages marked in C and by NumPy: the same, for whatever they hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.dump.machine import LAYOUTS, STRUCT, VMEMMAP, PageMachine

from kdump.dump import marks
from kdump.dump.classes import Classifier
from kdump.dump.facts import PageFacts, find_facts
from kdump.dump.marks import Marker, find_fates
from kdump.kernel import vmcoreinfo
from kdump.native import plain
from kdump.native.engine import engine

FACTS = {series: find_facts(vmcoreinfo.parse(PageMachine(series).vmcoreinfo)) for series in LAYOUTS}
FACTS["6.6"] = replace(FACTS["6.1"], hugetlb_dtor=None, hugetlb_flag=1 << 8, flags=8, head_pointer=0)
FACTS["high flags"] = replace(FACTS["6.12"], hwpoison=1 << 43, lru=1 << 63)


@st.composite
def struct_pages(draw: st.DrawFn) -> tuple[PageFacts, bytes]:
    """One to 40 of them: a few flags, page types and heads, which may be wrong, among noise."""
    facts = draw(st.sampled_from(list(FACTS.values())))
    count = draw(st.integers(1, 40))
    noise = np.random.default_rng(draw(st.integers(0, 99)))
    raw = noise.integers(0, 256, (count, facts.size), np.uint8)
    masks = [facts.lru, facts.private_bit, facts.swapcache, facts.swapbacked, facts.head_bit, facts.slab_bit or 0]
    types = [facts.buddy_type, facts.offline_type, facts.slab_type, facts.hugetlb_type, facts.unaccepted_type]
    for page in raw:
        flags = sum(draw(st.sets(st.sampled_from(masks))))
        kind = draw(st.sampled_from([0xFFFFFFFF, 3, *(value for value in types if value is not None)]))
        head = VMEMMAP + draw(st.integers(-1, count)) * STRUCT + draw(st.sampled_from([0, 1, 1, 1, 9]))
        if draw(st.integers(0, 9)) == 0:
            head = (1 << 64) - (STRUCT << draw(st.integers(0, 4))) | 1
        for offset, value, size in (
            (facts.flags, flags | draw(st.sampled_from([0, 1 << 3, facts.hwpoison or 0])), 8),
            (facts.mapping, draw(st.sampled_from([0, 0xFFFF888000123450, 0xFFFF888000123451])), 8),
            (facts.mapcount, kind, 4),
            (facts.private, draw(st.integers(0, 11)), 8),
            (facts.head_pointer, head, 8),
        ):
            page[offset : offset + size] = np.frombuffer(value.to_bytes(size, "little"), np.uint8)
    return facts, raw.tobytes()


@given(made=struct_pages(), before=st.integers(-1, 2))
@settings(max_examples=150)
def test_c_and_numpy_mark_the_same(made: tuple[PageFacts, bytes], before: int) -> None:
    facts, raw = made
    assert engine.NAME == "compiled"
    table = np.arange(1 << marks.BITS, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(24)

    def run() -> tuple[list[int], list[int], int, int, list[int]]:
        marker = Marker(facts, table.astype(np.uint8))
        marked = marker(memoryview(raw))
        classes = marked.classes.tolist()
        lost = marker.follow_tails(memoryview(raw), VMEMMAP, marked, (VMEMMAP + before * STRUCT, 77))
        return marked.marks.tolist(), classes, marked.seen, lost, marked.classes.tolist()

    in_c = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks, "engine", plain)
        assert run() == in_c
    assert in_c[1] == table[in_c[0]].tolist()


@given(made=struct_pages(), first=st.sampled_from([0, 512, 1024]))
@settings(max_examples=60)
def test_classes_and_doubts_are_the_same(made: tuple[PageFacts, bytes], first: int) -> None:
    facts, raw = made

    def run() -> tuple[list[int], int, int]:
        classifier = Classifier(facts, off_lru=True)
        found = classifier.classify(memoryview(raw), first, VMEMMAP).tolist()
        return found, classifier.doubts.bad_orders, classifier.doubts.lost_tails

    in_c = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks, "engine", plain)
        assert run() == in_c


@given(classes=st.binary(max_size=300), held=st.integers(0, 99))
def test_fates_are_the_same_and_what_tables_say(classes: bytes, held: int) -> None:
    given_classes = np.frombuffer(bytes(each % 5 if each < 200 else 255 for each in classes), np.uint8)
    there: NDArray[np.bool_] = np.random.default_rng(held).integers(0, 2, len(classes)).astype(np.bool_)
    keep, begin = np.array([True, False, True, True, False]), np.array([True, False, False, True, True])

    def run() -> list[list[int]]:
        return [each.tolist() for each in find_fates(given_classes, there, keep, begin)]

    in_c = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks, "engine", plain)
        assert run() == in_c
    known = given_classes < 5
    place = np.where(known, given_classes, 0)
    assert in_c == [
        (keep[place] & there & known).tolist(),
        (begin[place] & there & known).tolist(),
        [int(np.count_nonzero(given_classes == kind)) for kind in range(5)],
    ]
