"""The files of a crash arrive: in pieces through the collector, or as parts that the host sends to the bucket."""

from __future__ import annotations

import json
import re
import time
from typing import Any, Final

from kdump.fleet import evidence
from kdump.fleet.database import Row, Session
from kdump.fleet.evidence import RefusedError
from kdump.fleet.objects import Bucket, Directory
from kdump.fleet.service import Service

DUMP: Final = "vmcore"
_LARGEST: Final = 16 << 40
_FREE: Final = 1 << 30  # bytes that stay free on the collector's disk
_PARTS_AT_ONCE: Final = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def piece(service: Service, host: str, crash: str, name: str, offset: int, data: bytes) -> None:
    """Keep one piece of a file, durably."""
    row = _open(service, host, crash, name)
    store = service.objects
    assert isinstance(store, Directory)
    if offset + len(data) > _LARGEST:
        raise RefusedError(413, "the file is too large")
    if store.free() - len(data) < _FREE:
        raise RefusedError(507, "the collector's disk is full")
    if row["used"] + offset + len(data) > service.options.host_quota:
        raise RefusedError(507, "this host has used up its quota", remedy="wait for retention, or raise the quota")
    if data:
        store.write(_key(row, name), offset, data)


def arrived(service: Service, host: str, crash: str, name: str) -> list[tuple[int, int]]:
    """The parts of a file that are there: (offset, end)."""
    row = _find(service, host, crash, name)
    for known in row["files"]:
        if known["name"] == name:
            return [(0, known["size"])]
    return service.objects.arrived(_key(row, name)) if isinstance(service.objects, Directory) else []


def parts(service: Service, host: str, crash: str, name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """URLs for parts of a file. `asked` has "numbers", from 1."""
    store = service.objects
    numbers = asked.get("numbers")
    if not isinstance(store, Bucket):
        raise RefusedError(409, "this collector has no bucket", remedy="PUT the file in pieces")
    good = isinstance(numbers, list) and 0 < len(numbers) <= _PARTS_AT_ONCE
    if not good or not all(type(number) is int and 1 <= number <= 10_000 for number in numbers or ()):
        raise RefusedError(400, f"numbers: a list of 1 to {_PARTS_AT_ONCE} part numbers")
    row = _open(service, host, crash, name)
    key = _key(row, name)
    with service.database.read() as session:
        upload = _upload(session, row["id"], name)
    if upload is None:
        begun = store.begin(key)

        def keep(session: Session) -> str:
            session.execute(
                "INSERT INTO uploads (crash, name, upload, begun) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (crash, name) DO NOTHING",
                row["id"], name, begun, time.time(),
            )  # fmt: skip
            return str(_upload(session, row["id"], name))

        upload = service.database.run(keep)
        if upload != begun:
            store.abandon(key, begun)
    assert numbers is not None
    return {"urls": {str(number): url for number, url in store.part_urls(key, upload, numbers).items()}}


def complete(service: Service, host: str, crash: str, name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """A file is all there. `asked` has "size", perhaps "sha256", and "parts" ([number, ETag]) for a bucket."""
    size, sha256 = asked.get("size"), asked.get("sha256", "")
    if type(size) is not int or not 0 <= size <= _LARGEST or not re.fullmatch(r"(?:[0-9a-f]{64})?", str(sha256)):
        raise RefusedError(400, "size and sha256 are needed")
    row = _find(service, host, crash, name)
    if any(known["name"] == name for known in row["files"]):
        return {"stored": True, "again": True}
    key, store = _key(row, name), service.objects
    if isinstance(store, Directory):
        sha256 = store.complete(key, size, str(sha256))
    elif isinstance(store, Bucket):
        _complete_parts(service, store, row, name, size, asked.get("parts"))
    _arrived(service, row, name, size, str(sha256), key)
    return {"stored": True, "again": False}


def abandon(service: Service, host: str, crash: str, name: str) -> None:
    """The host gives up on a file that it began."""
    row = _find(service, host, crash, name)
    if any(known["name"] == name for known in row["files"]):
        raise RefusedError(409, "the file is complete")
    store = service.objects
    if isinstance(store, Directory):
        store.abandon(_key(row, name))
    elif isinstance(store, Bucket):
        with service.database.read() as session:
            upload = _upload(session, row["id"], name)
        if upload:
            store.abandon(_key(row, name), upload)
            service.database.run(
                lambda s: s.execute("DELETE FROM uploads WHERE crash = ? AND name = ?", row["id"], name)
            )


def manifest(service: Service, host: str, crash: str, text: bytes) -> None:
    """The manifest as the capture kernel wrote it last: it replaces what the report came with."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("crash") != crash or found.get("host") != host:
        raise RefusedError(400, "this is not the crash's manifest")
    row = _find(service, host, crash, DUMP)

    def work(session: Session) -> None:
        body = session.value("SELECT envelope FROM bodies WHERE crash = ?", row["id"])
        if body is None:
            return  # retention has let go of it
        old = evidence.opened(bytes(body))
        report = json.dumps(old["report"]).encode() if old["report"] else b""
        new = evidence.compose(found, report, old["log"])
        session.execute("UPDATE bodies SET envelope = ? WHERE crash = ?", evidence.pack(new), row["id"])
        session.execute(
            "UPDATE crashes SET status = ? WHERE id = ?", evidence.clean(str(found.get("status", "")), 32), row["id"]
        )

    service.database.run(work)


def _complete_parts(service: Service, store: Bucket, row: Row, name: str, size: int, listed: Any) -> None:
    good = isinstance(listed, list) and 0 < len(listed) <= 10_000
    good = good and all(
        isinstance(each, list)
        and len(each) == 2
        and type(each[0]) is int
        and re.fullmatch(r'"?[\w-]{1,80}"?', str(each[1]))
        for each in listed or ()
    )
    if not good:
        raise RefusedError(400, "parts: a list of [number, ETag]")
    key = _key(row, name)
    with service.database.read() as session:
        upload = _upload(session, row["id"], name)
    if store.size(key) is None:  # else a replay after a commit that was lost
        if upload is None:
            raise RefusedError(409, "no upload was begun")
        store.complete(key, upload, [(number, str(tag)) for number, tag in listed])
    if store.size(key) != size:
        store.delete(key)
        raise RefusedError(422, "the file does not match its description", why="its size differs")


def _arrived(service: Service, row: Row, name: str, size: int, sha256: str, key: str) -> None:
    def work(session: Session) -> None:
        session.execute(
            "INSERT INTO files (crash, name, size, sha256, place, arrived) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (crash, name) DO NOTHING",
            row["id"], name, size, sha256, key, time.time(),
        )  # fmt: skip
        session.execute("DELETE FROM uploads WHERE crash = ? AND name = ?", row["id"], name)
        if name == DUMP and not row["frames"]:
            session.execute("UPDATE crashes SET todo = 'dump', tries = 0, lease = 0 WHERE id = ?", row["id"])

    service.database.run(work)


def _open(service: Service, host: str, crash: str, name: str) -> Row:
    """The crash's row for a file that may still be written."""
    row = _find(service, host, crash, name)
    if any(known["name"] == name for known in row["files"]):
        raise RefusedError(409, "the file is complete")
    return row


def _find(service: Service, host: str, crash: str, name: str) -> Row:
    if not _NAME.fullmatch(name):
        raise RefusedError(400, "the name of the file is not allowed")
    with service.database.read() as session:
        row = session.one("SELECT id, host, name, frames FROM crashes WHERE host = ? AND name = ?", host, crash)
        if row is None:
            raise RefusedError(404, "there is no such crash", remedy="POST its report first")
        row["files"] = session.all("SELECT name, size FROM files WHERE crash = ?", row["id"])
        row["used"] = int(
            session.value(
                "SELECT COALESCE(SUM(f.size), 0) AS used FROM files f JOIN crashes c ON c.id = f.crash"
                " WHERE c.host = ?",
                host,
            )
        )
        return row


def _upload(session: Session, crash: int, name: str) -> str | None:
    found = session.value("SELECT upload FROM uploads WHERE crash = ? AND name = ?", crash, name)
    return None if found is None else str(found)


def _key(row: Row, name: str) -> str:
    return f"{row['host']}/{row['name']}/{name}"
