"""What was found by walking, in plain values: a child process may look, and its parent write."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field

from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.kernel.objects import Objects

_MOST = 1 << 24  # bytes of one secret
_SOUGHT = 512  # bytes of a secret whose copies are looked for


@dataclass
class Contexts:
    """How a context of a cipher is told: a struct crypto_tfm that points to a registered algorithm.

    `sizes` has the bytes of a context by the algorithm's address; the offsets are those of members of crypto_tfm, -1
    for one that the kernel lacks. `code` is where functions are, `algorithms` where the algorithms themselves lie, both
    as (start, end), the latter physical.
    """

    sizes: dict[int, int] = field(default_factory=dict)
    algorithm: int = 0
    context: int = 0
    node: int = -1
    leave: int = -1
    code: list[tuple[int, int]] = field(default_factory=list)
    algorithms: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Found:
    """`ranges` are physical, as (start, size); copies of `values` are looked for in all memory.

    `counts` says how many of what was found for each kind, `failed` why a kind, or a part of it, could not be.
    """

    kinds: tuple[str, ...] = ()
    ranges: list[tuple[int, int]] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    contexts: Contexts | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)

    def to_json(self) -> str:
        """For another process."""
        return json.dumps({**asdict(self), "values": [value.hex() for value in self.values]})

    @classmethod
    def from_json(cls, text: bytes) -> Found:
        """What `to_json` gave."""
        raw = json.loads(text)
        raw["kinds"] = tuple(raw["kinds"])
        raw["ranges"] = list(map(tuple, raw["ranges"]))
        raw["values"] = [bytes.fromhex(value) for value in raw["values"]]
        if contexts := raw["contexts"]:
            contexts["sizes"] = {int(at): size for at, size in contexts["sizes"].items()}
            for name in ("code", "algorithms"):
                contexts[name] = list(map(tuple, contexts[name]))
            raw["contexts"] = Contexts(**contexts)
        return cls(**raw)

    def count(self, kind: str, what: str, number: int = 1) -> None:
        """So many more of these."""
        counts = self.counts.setdefault(kind, {})
        counts[what] = counts.get(what, 0) + number

    def fail(self, kind: str, why: str) -> None:
        """Say once why something could not be found."""
        reasons = self.failed.setdefault(kind, [])
        if why not in reasons:
            reasons.append(why)


class Walk:
    """One kind's walk through a kernel: blanks what it is told of."""

    def __init__(self, kernel: Kernel, kind: str, found: Found) -> None:
        self.kernel = kernel
        self.objects: Objects = kernel.objects
        self.kind = kind
        self.found = found
        self.modules = {module.name: module for module in kernel.modules}
        self.lacking: Counter[str] = Counter()

    def blank(self, address: int, size: int, *, seek: bool = True) -> None:
        """Blank `size` bytes at a virtual address; with `seek` their copies too."""
        if not 0 < size <= _MOST:
            raise KdumpError(f"{size} bytes cannot be the size of a secret", why=f"at {address:#x}")
        at, end, page = address, address + size, self.kernel.memory.page_size
        while at < end:
            stop = min(end, at // page * page + page)
            self.found.ranges.append((self.kernel.virtual.translate(at), stop - at))
            at = stop
        if seek:
            try:
                value = bytes(self.objects.bytes(address, min(size, _SOUGHT)))
            except KdumpError:  # it is not in the dump: nothing to blank, and nothing to look for
                return
            if value not in self.found.values:
                self.found.values.append(value)

    def count(self, what: str, number: int = 1) -> None:
        """So many more of these are blanked."""
        self.found.count(self.kind, what, number)

    def fail(self, why: str) -> None:
        """Something of this kind could not be found."""
        self.found.fail(self.kind, why)
