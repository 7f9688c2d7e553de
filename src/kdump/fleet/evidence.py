"""A crash as a host reports it: an envelope of manifest, report and log, taken apart with every bound checked.

The envelope is one JSON object, `{"manifest": {…}, "report": {…}, "log": "…"}`, usually packed with zstd; each part may
be missing, but not both report and log unless there is a manifest. Nothing in it is believed: sizes are bounded before
memory is spent, text is cut and loses its control characters, times that cannot be are replaced by the collector's own.
"""

from __future__ import annotations

import functools
import json
import re
import time
from typing import Any, Final

import msgspec
import zstandard

from kdump.errors import KdumpError
from kdump.report import frames as names

PACKED: Final = 8 << 20  # bytes of an envelope as it travels
UNPACKED: Final = 32 << 20  # bytes of JSON
_TITLE, _NAME, _FRAMES = 300, 128, 32  # characters, characters, frames
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CRASH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,159}")
_SIGNATURE = re.compile(r"[0-9]{1,3}-[0-9a-f]{8,64}")
_OLDEST = 10 * 366 * 86400.0  # seconds before today: no machine reports later
_AHEAD = 86400.0  # seconds a host's clock may be ahead


class RefusedError(KdumpError):
    """The request is not accepted; `status` is HTTP's."""

    def __init__(self, status: int, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.status = status


class _Function(msgspec.Struct):
    function: str = ""


class _Verdict(msgspec.Struct):
    kind: str = ""
    title: str = ""
    signature: str = ""
    coarse: str = ""
    module: str = ""
    guilty: _Function | None = None
    frames: list[_Function] = []


class _Report(msgspec.Struct):
    verdict: _Verdict = msgspec.field(default_factory=_Verdict)
    kernel: str = ""
    build_id: str = ""
    crash_time: float = 0


class _Kernel(msgspec.Struct):
    release: str = ""
    build_id: str = ""


class _Manifest(msgspec.Struct):
    crash: str = ""
    host: str = ""
    status: str = ""
    signature: str = ""
    panic_time: float | None = None
    kernel: _Kernel = msgspec.field(default_factory=_Kernel)


class _Envelope(msgspec.Struct):
    manifest: _Manifest
    report: _Report | None = None
    log: str = ""


class Crash(msgspec.Struct, frozen=True):
    """The facts of one crash that the database keeps in columns; `todo` is what a worker has to read first."""

    host: str
    name: str
    crashed: float
    kernel: str
    build_id: str
    signature: str
    kind: str
    title: str
    guilty: str
    module: str
    frames: str  # functions, innermost first, each on its line
    coarse: str
    status: str
    todo: str = ""

    @property
    def build(self) -> str:
        """The key of a kernel build: the build id if it is known, else the release."""
        return self.build_id or self.kernel


_decode = msgspec.json.Decoder(_Envelope, strict=False).decode


def unpack(body: bytes, coding: str) -> bytes:
    """The JSON of a request's body. Raises `RefusedError` for a coding that is unknown and for what grows too large."""
    if len(body) > PACKED:
        raise RefusedError(413, f"a report of more than {PACKED >> 20} MiB")
    if coding in ("", "identity"):
        return body
    if coding != "zstd":
        raise RefusedError(415, "the content coding is not known", remedy="send zstd, or none")
    return unzstd(body, UNPACKED)


def unzstd(body: bytes, limit: int) -> bytes:
    """One zstd frame, of at most `limit` bytes whatever its header says."""
    try:
        said = zstandard.frame_content_size(body)
        if said > limit:
            raise RefusedError(413, f"a report of more than {limit >> 20} MiB unpacked")
        unpacker = zstandard.ZstdDecompressor(max_window_size=limit)
        if said >= 0:
            return unpacker.decompress(body, max_output_size=limit)
        return _slowly(unpacker, body, limit)
    except zstandard.ZstdError as error:
        raise RefusedError(400, "the report is not zstd", why=str(error)) from None


def _slowly(unpacker: zstandard.ZstdDecompressor, body: bytes, limit: int) -> bytes:
    """A frame that does not say how large it is."""
    found = bytearray()
    with unpacker.stream_reader(body) as reader:
        while more := reader.read(1 << 20):
            found += more
            if len(found) > limit:
                raise RefusedError(413, f"a report of more than {limit >> 20} MiB unpacked")
    return bytes(found)


def pack(text: bytes) -> bytes:
    """As the database keeps an envelope."""
    return zstandard.ZstdCompressor(level=3).compress(text)


def read(text: bytes, now: float | None = None) -> Crash:
    """The facts in an envelope. Raises `RefusedError` naming the field that is wrong."""
    now = time.time() if now is None else now
    try:
        found = _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise RefusedError(400, "the report cannot be read", why=str(error)[:300]) from None
    manifest, report = found.manifest, found.report or _Report()
    verdict = report.verdict
    if not is_host(manifest.host):
        raise RefusedError(400, "manifest.host is not a host name")
    if not _CRASH.fullmatch(manifest.crash):
        raise RefusedError(400, "manifest.crash is not the name of a crash")
    signature = verdict.signature or ("" if found.report else manifest.signature)
    return Crash(
        host=manifest.host,
        name=manifest.crash,
        crashed=_when(manifest.panic_time or report.crash_time, now),
        kernel=clean(manifest.kernel.release or report.kernel, _NAME),
        build_id=clean(manifest.kernel.build_id or report.build_id, _NAME),
        signature=signature if _SIGNATURE.fullmatch(signature) else "",
        kind=clean(verdict.kind, 64),
        title=clean(verdict.title, _TITLE),
        guilty=clean(verdict.guilty.function if verdict.guilty else "", _NAME),
        module=clean(verdict.module, _NAME),
        frames="\n".join(filter(None, (plain(frame.function) for frame in verdict.frames[:_FRAMES]))),
        coarse=clean(verdict.coarse, _NAME),
        status=clean(manifest.status, 32),
        todo="log" if found.report is None and found.log else "",
    )


def is_host(name: str) -> bool:
    """Whether a text can be a host's name."""
    return _HOST.fullmatch(name) is not None


def clean(text: str, size: int) -> str:
    """Text from outside for a column: no control characters, no more than `size` characters."""
    return _CONTROL.sub(" ", text[: 2 * size]).strip()[:size]


@functools.lru_cache(1 << 16)
def plain(function: str) -> str:
    """A function's name as its source has it, without what a compiler adds."""
    return clean(names.normalise(clean(function, _NAME)), _NAME)


def compose(manifest: dict[str, Any], report: bytes, log: str) -> bytes:
    """An envelope of parts that were found somewhere; `report` is JSON text or empty."""
    parts = [b'{"manifest":' + json.dumps(manifest).encode()]
    if report:
        parts.append(b',"report":' + report)
    if log:
        parts.append(b',"log":' + json.dumps(log).encode())
    return b"".join(parts) + b"}"


def opened(envelope: bytes) -> dict[str, Any]:
    """A stored envelope as plain values; parts that are missing are empty."""
    found = msgspec.json.decode(unzstd(envelope, UNPACKED))
    if not isinstance(found, dict):
        raise RefusedError(400, "a stored report is damaged")
    return {
        "manifest": found.get("manifest") or {},
        "report": found.get("report") or {},
        "log": found.get("log") or "",
    }


def _when(said: float, now: float) -> float:
    """When the host says that it crashed, unless its clock cannot be right: then now."""
    return said if now - _OLDEST < said < now + _AHEAD else now
