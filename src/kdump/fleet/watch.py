"""Buckets that hosts write to with their own `s3://` targets: what arrives there is taken as if it had been reported.

`manifest.json` is written last, so a crash is whole once that is there. A listing every EVERY seconds finds what is
new; events of the bucket (`POST /v1/events/s3`, in the form that AWS, MinIO, Ceph and SeaweedFS share) only make that
sooner, so an event that is lost, forged or sent twice does no harm. Dumps stay where they are. Whoever may write to the
bucket can speak for any host.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote_plus

from kdump.errors import KdumpError
from kdump.fleet import evidence
from kdump.fleet.importing import LARGEST, store
from kdump.fleet.objects import Bucket
from kdump.fleet.service import Service
from kdump.foreign import load_object
from kdump.report.logtext import decode

EVERY: Final = 300.0  # seconds
_MANIFEST: Final = "/manifest.json"
_SEEN: Final = 1_000_000  # keys that are remembered; those forgotten are read again, which changes nothing
_log = logging.getLogger("kdump.fleet")


class Watch:
    """One bucket, by the URL that `--store` would take. Safe to use from several threads."""

    def __init__(self, service: Service, url: str) -> None:
        self._service = service
        self.bucket = Bucket(url)
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self.refused: dict[str, str] = {}  # keys of manifests whose crash could not be taken, and why

    def sweep(self) -> int:
        """List the bucket and take what is new; how many crashes that was."""
        return sum(self.take(key) for key, _, _ in self.bucket.listing() if key.endswith(_MANIFEST))

    def take(self, key: str) -> bool:
        """Take the crash whose manifest is at `key`, below the prefix; whether it was new."""
        with self._lock:
            if key in self._seen:
                return False
        try:
            new = not store(self._service, self._envelope(key))
        except (KdumpError, ValueError) as error:  # what is wrong with one crash keeps none of the others out
            if str(error) != self.refused.get(key):
                _log.warning("%s in %s: %s", key, self.bucket.bucket, error)
            self.refused[key] = str(error)
            return False
        with self._lock:
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            self._seen.add(key)
        self.refused.pop(key, None)
        return new

    def keys_of(self, event: dict[str, Any]) -> list[str]:
        """Keys below the prefix of the manifests in an event."""
        records = event.get("Records", ())
        found = []
        for each in records if isinstance(records, list) else ():
            entry = each.get("s3") if isinstance(each, dict) else None
            bucket = entry.get("bucket") if isinstance(entry, dict) else None
            thing = entry.get("object") if isinstance(entry, dict) else None
            if not isinstance(bucket, dict) or not isinstance(thing, dict) or bucket.get("name") != self.bucket.bucket:
                continue
            key = unquote_plus(str(thing.get("key", "")))
            prefix = f"{self.bucket.prefix}/" if self.bucket.prefix else ""
            if key.startswith(prefix) and key.endswith(_MANIFEST):
                found.append(key.removeprefix(prefix))
        return found

    def _envelope(self, key: str) -> bytes:
        crash = key.removesuffix(_MANIFEST)
        manifest = load_object(self._read(key, evidence.UNPACKED), "its manifest")
        report = self._read(f"{crash}/report.json", evidence.UNPACKED)
        log = self._read(f"{crash}/vmcore-dmesg.txt", LARGEST)
        own = {"crash": crash.rpartition("/")[2], "status": "complete"}
        return evidence.compose(
            {**own, **{name: value for name, value in manifest.items() if value}}, report, decode(log)
        )

    def _read(self, key: str, most: int) -> bytes:
        """An object of a bounded size; empty if absent."""
        size = self.bucket.size(key)
        if size is None:
            return b""
        if size > most:
            raise KdumpError(f"{key} is larger than {most >> 20} MiB")
        return b"".join(self.bucket.get(key))


def take_events(watches: Sequence[Watch], event: dict[str, Any]) -> int:
    """Take the crashes in an event; returns how many were new."""
    return sum(watch.take(key) for watch in watches for key in watch.keys_of(event))
