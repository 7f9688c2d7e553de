"""Memory of processes that a dump keeps although its level leaves out that of all others."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.kernel.processes import address_space, processes

_MOST = 1 << 22  # runs of pages: 64 MiB of them
_DAMAGE = (KdumpError, AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError)


def _none() -> NDArray[np.int64]:
    return np.zeros((0, 2), np.int64)


@dataclass
class Kept:
    """What was asked for, and what there is of it.

    `runs`, shape (n, 2), are [first, end) page frame numbers, rising. `processes` are (PID, name) of those that are
    kept, `absent` the names that no process had, `failed` says what could not be found.
    """

    asked: tuple[str, ...]
    processes: list[tuple[int, str]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    runs: NDArray[np.int64] = field(default_factory=_none)

    def to_dict(self, pages: int) -> dict[str, Any]:
        """For the manifest; `pages` were kept that the level alone would have dropped."""
        found = [{"pid": pid, "name": name} for pid, name in self.processes]
        return {"asked": self.asked, "processes": found, "absent": self.absent, "failed": self.failed, "pages": pages}

    def to_json(self) -> str:
        """For another process."""
        flat = self.runs.reshape(-1)
        steps = flat.copy()
        steps[1:] -= flat[:-1]
        packed = zlib.compress(steps.tobytes(), 1)
        return json.dumps({**asdict(replace(self, runs=_none())), "runs": packed.hex()})

    @classmethod
    def from_json(cls, text: bytes) -> Kept:
        """What `to_json` gave."""
        raw = json.loads(text)
        runs = np.frombuffer(zlib.decompress(bytes.fromhex(raw["runs"])), np.int64)
        raw.update(asked=tuple(raw["asked"]), processes=list(map(tuple, raw["processes"])))
        raw["runs"] = np.cumsum(runs).reshape(-1, 2)
        return cls(**raw)


def find_pages(kernel: Kernel, names: Sequence[str]) -> Kept:
    """The pages that are mapped in processes of these names, or in these control groups (from "/" on)."""
    kept = Kept(tuple(names))
    runs: list[tuple[int, int]] = []
    for name in names:
        try:
            found = list(processes(kernel.objects, [name]))
        except _DAMAGE as error:
            kept.failed.append(f"processes of {name}: {error}")
            continue
        if not found:
            kept.absent.append(name)
        for process in found:
            if (entry := (process.pid, process.name)) in kept.processes:
                continue
            try:
                space = address_space(kernel, int(process.mm.pgd))
                shift = space.paging.shifts[-1]
                for extent in space.extents(0, 1 << space.paging.canonical_bits - 1):
                    runs.append((extent.physical >> shift, extent.physical + extent.size >> shift))
                    if len(runs) > _MOST:
                        raise KdumpError("its memory is in too many pieces", why=f"more than {_MOST}")
                kept.processes.append(entry)
            except _DAMAGE as error:
                kept.failed.append(f"{process.name} (PID {process.pid}): {error}")
    kept.runs = joined(np.array(runs, np.int64).reshape(-1, 2))
    return kept


def joined(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs in order, joined where they touch or overlap."""
    if not len(runs):
        return runs
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(runs[:, 1])
    first = np.concatenate(([True], runs[1:, 0] > reach[:-1]))
    last = np.concatenate((first[1:], [True]))
    return np.stack((runs[first, 0], reach[last]), axis=1)
