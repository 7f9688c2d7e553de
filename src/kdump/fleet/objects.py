"""Where dumps and other large files are kept, by URL: a directory (file:///…) or a bucket (s3://bucket?endpoint=…).

A file arrives in pieces, each at its offset, and appears under its key when it is complete. In a directory the pieces
go into one file beside a journal of what is durable; in a bucket they are the parts of a multipart upload that hosts
send straight to it, with URLs that the collector signed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, quote, urlsplit

from kdump.errors import KdumpError, UsageError
from kdump.files.drafts import replace_file, sync_directory
from kdump.fleet.evidence import RefusedError
from kdump.targets.https import Server

CHUNK: Final = 64 << 20  # bytes of one piece at most
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}(?:/[A-Za-z0-9][A-Za-z0-9._+-]{0,200}){0,3}")
_STEP = 1 << 20
_SIGNED_FOR = 3600  # seconds


class Objects(Protocol):
    """A place for files. Keys are `host/crash/name`."""

    url: str
    direct: bool  # hosts may send to it without the collector in between

    def put(self, key: str, content: bytes) -> None:
        """A small file, at once."""

    def get(self, key: str) -> Iterator[bytes]:
        """A file's bytes. Raises `KdumpError` if there is none."""

    def local(self, key: str) -> contextlib.AbstractContextManager[Path]:
        """The file on a local disk, for as long as the context lasts."""

    def delete(self, key: str) -> None:
        """Remove a file; nothing happens if there is none."""

    def size(self, key: str) -> int | None:
        """Bytes, or None if there is no such file."""


def opened(url: str) -> Objects:
    """The store that a URL means."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Directory(Path(parts.path), url)
    if parts.scheme == "s3":
        return Bucket(url)
    raise UsageError(f"{url!r} is not a store", remedy="file:///path or s3://bucket/prefix?endpoint=https://…")


def checked(key: str) -> str:
    """A key that cannot lead out of the store. Raises `RefusedError`."""
    if not _KEY.fullmatch(key):
        raise RefusedError(400, "the name of a file is not allowed")
    return key


class Directory:
    """Files below a directory, mode 0600."""

    direct = False

    def __init__(self, root: Path, url: str = "") -> None:
        self.root = root
        self.url = url or f"file://{root}"
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, key: str, content: bytes) -> None:
        """Durable, then named."""
        replace_file(self._path(key), content)

    def get(self, key: str) -> Iterator[bytes]:
        """In steps of a MiB."""
        try:
            with self._path(key).open("rb") as file:
                while more := file.read(_STEP):
                    yield more
        except OSError as error:
            raise KdumpError(f"{key} cannot be read", why=error.strerror or str(error)) from None

    @contextlib.contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """It is local."""
        yield self._path(key)

    def delete(self, key: str) -> None:
        """And its directory, if that is empty."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    def size(self, key: str) -> int | None:
        """By stat(2)."""
        with contextlib.suppress(OSError):
            return self._path(key).stat().st_size
        return None

    def write(self, key: str, offset: int, data: bytes) -> None:
        """One piece of a file that is arriving; durable when this returns."""
        path = self._path(key)
        descriptor = os.open(_part(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset + len(data) - len(view))
                view = view[written:]
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        journal = os.open(_journal(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(journal, f"{offset} {len(data)}\n".encode())
            os.fdatasync(journal)
        finally:
            os.close(journal)

    def arrived(self, key: str) -> list[tuple[int, int]]:
        """The parts of a file that have arrived: (offset, end), merged and in order."""
        path = self._path(key)
        try:
            lines = _journal(path).read_text("ascii").splitlines()
        except OSError:
            return []
        spans = sorted(
            (int(at), int(at) + int(size)) for at, _, size in (line.partition(" ") for line in lines) if size
        )
        merged: list[tuple[int, int]] = []
        for begin, end in spans:
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        return merged

    def complete(self, key: str, size: int, sha256: str = "") -> str:
        """All of it is there: check it, name it; returns its SHA-256. Raises `RefusedError` if it is not as said."""
        path = self._path(key)
        if path.exists() and not _part(path).exists():  # a replay
            return _digest(path)
        if self.arrived(key) != ([(0, size)] if size else []) or _part(path).stat().st_size != size:
            raise RefusedError(
                409, "the file is not complete", why="pieces are missing", remedy="HEAD says what is there"
            )
        found = _digest(_part(path))
        if sha256 and found != sha256:
            self.abandon(key)
            raise RefusedError(422, "the file does not match its description", why="its SHA-256 differs")
        _part(path).rename(path)
        sync_directory(str(path.parent))
        _journal(path).unlink(missing_ok=True)
        return found

    def abandon(self, key: str) -> None:
        """Forget what has arrived."""
        path = self._path(key)
        _part(path).unlink(missing_ok=True)
        _journal(path).unlink(missing_ok=True)

    def stale(self, seconds: float) -> int:
        """Remove uploads that nobody went on with for so long; returns how many."""
        old = [path for path in self.root.rglob("*.part") if time.time() - path.stat().st_mtime > seconds]
        for path in old:
            path.unlink(missing_ok=True)
            path.with_suffix(".journal").unlink(missing_ok=True)
        return len(old)

    def free(self) -> int:
        """Bytes left on the file system."""
        return shutil.disk_usage(self.root).free

    def _path(self, key: str) -> Path:
        path = self.root / checked(key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _journal(path: Path) -> Path:
    return path.with_name(path.name + ".journal")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Bucket:
    """Objects in an S3 bucket. Credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps AWS_SESSION_TOKEN."""

    direct = True

    def __init__(self, url: str) -> None:
        from obstore.store import S3Store

        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise UsageError(f"{url!r} is no bucket", remedy="s3://bucket/prefix?endpoint=https://…")
        asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.url = url
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self.region = asked.get("region", os.environ.get("AWS_REGION", "us-east-1"))
        self.endpoint = asked.get("endpoint", "") or f"https://s3.{self.region}.amazonaws.com"
        Server.of(self.endpoint)  # raises what the library would say worse
        self._store: Any = S3Store(
            self.bucket,
            prefix=self.prefix or None,
            endpoint=self.endpoint,
            region=self.region,
            virtual_hosted_style_request=False,
            client_options={"allow_http": self.endpoint.startswith("http:"), "timeout": "60s"},
            retry_config={"max_retries": 6, "retry_timeout": _seconds(60)},
        )

    def put(self, key: str, content: bytes) -> None:
        """One request."""
        self._store.put(checked(key), content)

    def get(self, key: str) -> Iterator[bytes]:
        """Streamed."""
        try:
            yield from map(bytes, self._store.get(checked(key)).stream(min_chunk_size=_STEP))
        except (OSError, ValueError) as error:
            raise KdumpError(f"{key} cannot be read", why=str(error)[:200]) from None

    @contextlib.contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """A copy."""
        with tempfile.NamedTemporaryFile(prefix="kdump-object-") as file:
            for piece in self.get(key):
                file.write(piece)
            file.flush()
            yield Path(file.name)

    def delete(self, key: str) -> None:
        """As S3 does: no error if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._store.delete(checked(key))

    def size(self, key: str) -> int | None:
        """By HEAD."""
        with contextlib.suppress(FileNotFoundError):
            return int(self._store.head(checked(key))["size"])
        return None

    def listing(self, prefix: str = "") -> Iterator[tuple[str, int, float]]:
        """Keys, sizes and times below a prefix."""
        for some in self._store.list(prefix or None):
            for each in some:
                yield each["path"], int(each["size"]), each["last_modified"].timestamp()

    def begin(self, key: str) -> str:
        """Begin a multipart upload; its id."""
        answer = self._client().request("POST", self._full(key), {"uploads": ""})
        found = re.search(rb"<UploadId>([^<]+)</UploadId>", answer.body)
        if not found:
            raise KdumpError("an upload could not be begun")
        return found[1].decode()

    def part_urls(self, key: str, upload: str, numbers: Sequence[int]) -> dict[int, str]:
        """Where to PUT each part; good for an hour, and for nothing else."""
        client = self._client()
        return {
            number: client.presigned(
                "PUT", self._full(key), {"partNumber": str(number), "uploadId": upload}, _SIGNED_FOR
            )
            for number in numbers
        }

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        """Make the object appear. `parts` are numbers and ETags."""
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{quote(tag, safe=chr(34))}</ETag></Part>"
            for number, tag in sorted(parts)
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        client = self._client()
        answer = client.request("POST", self._full(key), {"uploadId": upload}, body)
        if b"<Error>" in answer.body:
            raise client.refusal("the upload could not be completed", answer)

    def abandon(self, key: str, upload: str) -> None:
        """Forget the parts."""
        with contextlib.suppress(KdumpError):
            self._client().request("DELETE", self._full(key), {"uploadId": upload})

    def _client(self) -> Any:
        from kdump.targets.s3http import Client, Credentials

        try:
            keys = Credentials(
                os.environ["AWS_ACCESS_KEY_ID"],
                os.environ["AWS_SECRET_ACCESS_KEY"],
                os.environ.get("AWS_SESSION_TOKEN", ""),
            )
        except KeyError as error:
            raise KdumpError(f"{error.args[0]} is not set", why="parts of uploads are signed with it") from None
        return Client(self.endpoint, self.bucket, self.region, keys)

    def _full(self, key: str) -> str:
        return "/".join(filter(None, (self.prefix, checked(key))))


def _seconds(number: int) -> Any:
    from datetime import timedelta

    return timedelta(seconds=number)
