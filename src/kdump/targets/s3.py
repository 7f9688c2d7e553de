"""s3://bucket/prefix: objects on Amazon S3 or anything that speaks its protocol, streamed in parts.

No local space is needed and nothing is flattened: parts may be sent in any order, so the one with the dump's head goes
last. An object appears whole or not at all. Facts: `endpoint`, `region`, `credentials` (a TOML file, mode 0600, with
access_key_id, secret_access_key and perhaps session_token), `ca_file`, `addresses` of the endpoint.

Sources: Amazon S3 API reference (CreateMultipartUpload, UploadPart, CompleteMultipartUpload, AbortMultipartUpload,
PutObject); "Signature Version 4" in AWS's general reference.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kdump.errors import KdumpError
from kdump.files.secret import read_secret
from kdump.targets.https import certificates
from kdump.targets.names import resolve, system_addresses
from kdump.targets.protocol import Ground, Session, Spec, Stream
from kdump.targets.s3http import Client, Credentials

PART = 8 << 20  # bytes of a part to begin with
MINIMUM = 5 << 20  # the smallest part that S3 takes, except the last one
_DOUBLED_EVERY = 1000  # parts after which parts are twice as large: at most 10,000 are allowed
_PROBE = ".kdump-check"
_CREDENTIALS = ("access_key_id", "secret_access_key", "session_token")


class S3Target:
    """A bucket, and a prefix in it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        parts, facts = spec.parts, spec.facts
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket):
            raise KdumpError(f"{spec.url!r} is not an S3 target", remedy="write s3://bucket/prefix")
        self.region = facts.get("region", "us-east-1")
        self.endpoint = facts.get("endpoint", "") or f"https://s3.{self.region}.amazonaws.com"

    def describe(self) -> str:
        """Bucket, prefix and endpoint."""
        return f"s3://{self.bucket}/{self.prefix} at {self.endpoint}"

    def files(self) -> Mapping[str, Path | bytes]:
        """Files of the image beyond the credentials: certificates."""
        found = self._certificates() if self.endpoint.startswith("https:") else ""
        return {found: Path(found)} if found else {}

    def check(self) -> Spec:
        """Write and delete a small object as the capture kernel would."""
        spec = replace(self.spec, facts={**self.spec.facts, "endpoint": self.endpoint})
        client = self._client("")
        spec = replace(spec, facts={**spec.facts, "addresses": ",".join(system_addresses(client.host))})
        key = "/".join(filter(None, (self.prefix, _PROBE)))
        try:
            client.request("PUT", key, body=b"kdump")
            with contextlib.suppress(KdumpError):  # keys that may not delete are good keys
                client.request("DELETE", key)
        finally:
            client.close()
        return spec

    def open(self, crash: str, ground: Ground) -> Session:
        """Reach the endpoint; nothing is made yet."""
        client = self._client("")
        known = [each for each in self.spec.facts.get("addresses", "").split(",") if each]
        failure: KdumpError | None = None
        for address in resolve(client.host, ground.dns, known, search=ground.search):
            client = self._client(address)
            try:
                client.connect()
            except KdumpError as error:
                failure = error
                continue
            return S3Session(client, "/".join(filter(None, (self.prefix, crash))), f"s3://{self.bucket}")
        raise failure or KdumpError(f"{client.host} has no address")

    def _client(self, address: str) -> Client:
        credentials = read_credentials(self.spec.facts.get("credentials", "/etc/kdump/s3.toml"))
        return Client(self.endpoint, self.bucket, self.region, credentials, address, self._certificates())

    def _certificates(self) -> str:
        return certificates(self.spec.facts.get("ca_file", ""))


def read_credentials(path: str) -> Credentials:
    """The keys in a file that nobody else may read. Raises `KdumpError`."""
    text = read_secret(path, "the S3 credentials")
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise KdumpError(f"the S3 credentials in {path} cannot be read", why=str(error)) from None
    values = [raw.get(name, "" if name == "session_token" else None) for name in _CREDENTIALS]
    for name, value in zip(_CREDENTIALS, values, strict=True):
        if value is None:
            raise KdumpError(f"{path} has no {name}")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise KdumpError(f"{path}: {name} is not a string of printable ASCII")
    return Credentials(*map(str, values))


class S3Session:
    """One crash in the bucket."""

    def __init__(self, client: Client, prefix: str, shown: str) -> None:
        self.client = client
        self._prefix = prefix
        self.where = f"{shown}/{prefix}"

    def free(self) -> int | None:
        """Unknown, and for practical purposes without bound."""
        return None

    def create(self, name: str) -> Stream:
        """Begin an object."""
        return S3Stream(self.client, name, f"{self._prefix}/{name}")

    def prune(self, keep: int, min_free: int) -> list[str]:
        """Left to the bucket's lifecycle rules: this machine needs no right to delete."""
        return []

    def close(self) -> None:
        """Hang up."""
        self.client.close()


class PartStream:
    """A file that is sent in parts. The first MINIMUM bytes (or the gap, if larger) stay in memory until `seal`.

    A kind of storage brings how a part is sent and what makes a file of the parts: `_put`, `_whole`, `_finish`,
    `_forget`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._first = bytearray()
        self._gap = 0
        self._pending = bytearray()
        self._parts: dict[int, str] = {}  # part number → ETag; 1 is sent last
        self._done = False

    def skip(self, size: int) -> None:
        """Leave a gap at the front."""
        self._first = bytearray(size)
        self._gap = size

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append; whole parts are sent."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        if (room := MINIMUM - len(self._first)) > 0:
            self._first += rest[:room]
            rest = rest[room:]
        self._pending += rest
        while len(self._pending) >= (part := PART << len(self._parts) // _DOUBLED_EVERY):
            self._send(len(self._parts) + 2, bytes(self._pending[:part]))
            del self._pending[:part]
        return size

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Fill the gap."""
        raw = memoryview(data).cast("B")
        if offset + len(raw) > self._gap:
            raise ValueError("outside the gap at the front")
        self._first[offset : offset + len(raw)] = raw
        return len(raw)

    def seal(self) -> None:
        """Send the rest and the first part, and make the file appear."""
        if not self._parts and not self._pending:
            self._whole(bytes(self._first))
        else:
            if self._pending:
                self._send(len(self._parts) + 2, bytes(self._pending))
                self._pending.clear()
            self._send(1, bytes(self._first))
            self._finish(sorted(self._parts.items()))
        self._done = True

    def abort(self) -> None:
        """Leave nothing."""
        if not self._done:
            with contextlib.suppress(OSError, KdumpError):
                self._forget()
        self._done = True

    def _send(self, number: int, data: bytes) -> None:
        self._parts[number] = self._put(number, data)

    def _put(self, number: int, data: bytes) -> str:
        """Send one part; its ETag."""
        raise NotImplementedError

    def _whole(self, data: bytes) -> None:
        """Send a file that is small enough for one request."""
        raise NotImplementedError

    def _finish(self, parts: list[tuple[int, str]]) -> None:
        """Make a file of the parts."""
        raise NotImplementedError

    def _forget(self) -> None:
        """The parts that were sent are not needed."""
        raise NotImplementedError


class S3Stream(PartStream):
    """An object in the making."""

    def __init__(self, client: Client, name: str, key: str) -> None:
        super().__init__(name)
        self._client = client
        self._key = key
        self._upload = ""

    def _whole(self, data: bytes) -> None:
        self._client.request("PUT", self._key, body=data)

    def _finish(self, parts: list[tuple[int, str]]) -> None:
        listed = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in parts)
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        answer = self._client.request("POST", self._key, {"uploadId": self._upload}, body)
        if b"<Error>" in answer.body:  # it may fail after it has said 200
            raise self._client.refusal("the upload could not be completed", answer)

    def _forget(self) -> None:
        if self._upload:
            self._client.request("DELETE", self._key, {"uploadId": self._upload})

    def _put(self, number: int, data: bytes) -> str:
        if not self._upload:
            answer = self._client.request("POST", self._key, {"uploads": ""})
            found = re.search(rb"<UploadId>([!-;=-~]{1,1024})</UploadId>", answer.body)
            if not found:
                raise self._client.refusal("the upload could not be begun", answer)
            self._upload = found[1].decode()
        query = {"partNumber": str(number), "uploadId": self._upload}
        return self._client.request("PUT", self._key, query, data).headers.get("etag", "")
