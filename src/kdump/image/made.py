"""What parts of an image were made of before, by the digest of what they are made from, so that a rebuild is quick.

Compiled modules and compressed blocks are the same from one image to the next until Python or kdump is replaced. The
file is a cache: without it, or with a damaged one, everything is made anew, and comes out the same.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable
from pathlib import Path

from kdump.digest import sha256

_DIGEST = 64  # hexadecimal digits, in front of what they are the digest of


class Made:
    """Results by their recipe: in memory, and kept in a file if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = _read(path) if path else {}
        self._used: dict[str, bytes] = {}

    def get(
        self,
        recipe: str,
        source: bytes,
        make: Callable[[], bytes],
        valid: Callable[[bytes], bool] = lambda _result: True,
    ) -> bytes:
        """What `make()` gives; `recipe` names what it does to `source`, with everything else that the result is due to.

        If it is due to what is only found out by making it, `valid` says whether a result of before still holds. To be
        called from any thread.
        """
        digest = sha256()
        digest.update(f"{recipe}\n".encode())
        digest.update(source)
        key = digest.hexdigest()
        result = self._used.get(key) or self._known.get(key)
        if not result or not valid(result):
            result = make()
        self._used[key] = result
        return result

    def keep(self) -> None:
        """Write the file, mode 0600, with what was used since this was made. An error costs time at the next build."""
        if self._path is None or self._used == self._known:
            return
        content = marshal.dumps(self._used)
        digest = sha256()
        digest.update(content)
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(digest.hexdigest().encode() + content)
            draft.replace(self._path)
        except OSError:
            draft.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, bytes]:
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    digest = sha256()
    digest.update(memoryview(data)[_DIGEST:])
    if data[:_DIGEST] != digest.hexdigest().encode():
        return {}
    known: dict[str, bytes] = marshal.loads(memoryview(data)[_DIGEST:])  # noqa: S302 -- as we wrote it
    return known
