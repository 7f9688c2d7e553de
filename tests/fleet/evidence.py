"""Crashes for the fleet's tests: real logs of lab machines, and what hosts would send of them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import zstandard

LOGS = Path(__file__).parent.parent / "report" / "logs" / "6.1"


@functools.cache
def log_text(name: str) -> str:
    return (LOGS / f"{name}.txt").read_text()


@functools.cache
def report_of(name: str) -> dict[str, Any]:
    """The report on one of the logs, as the capture kernel would send it."""
    from kdump.report import json as as_json
    from kdump.report.build import build
    from kdump.report.context import Context
    from kdump.report.logtext import from_text

    return as_json.document(build(Context(None, from_text(log_text(name))), name, short=True))


def crash(
    host: str = "web1", number: int = 0, log: str = "softlockup", *, kernel: str = "", with_report: bool = True
) -> dict[str, Any]:
    """An envelope as plain values."""
    manifest: dict[str, Any] = {
        "format": "kdump-manifest/1",
        "crash": f"{host}-20261129T120000Z-{number:04x}",
        "host": host,
        "status": "complete",
    }
    if kernel:
        manifest["kernel"] = {"release": kernel, "build_id": ""}
    found: dict[str, Any] = {"manifest": manifest, "log": log_text(log)}
    if with_report:
        found["report"] = report_of(log)
    return found


def packed(envelope: dict[str, Any]) -> bytes:
    return zstandard.compress(json.dumps(envelope).encode())
