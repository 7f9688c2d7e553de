"""Which pages are searched for secrets."""

from __future__ import annotations

import numpy as np

from kdump.dump.pfnset import PfnSet
from kdump.dump.scrub import scan


def test_all_that_is_kept_but_struct_pages() -> None:
    """Their ranges may repeat and lie in each other: huge pages share struct pages."""
    kept = PfnSet(5000)
    members = np.ones(5000, np.bool_)
    members[7] = False
    kept.put(0, members)
    own = np.array([[4000, 4100], [10, 20], [12, 15], [12, 15], [20, 21], [6, 8]], np.int64)
    searched = np.concatenate(list(scan._batches(kept, own)))
    for start, end in own.tolist():
        members[start:end] = False
    assert searched.tolist() == np.flatnonzero(members).tolist()
    everything = np.concatenate(list(scan._batches(kept, np.zeros((0, 2), np.int64))))
    assert len(everything) == 4999
