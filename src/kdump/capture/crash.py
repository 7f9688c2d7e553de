"""A crash's name and its manifest."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

from kdump.targets.protocol import LAST

MANIFEST = LAST
LOG = "capture.log"
DMESG = "vmcore-dmesg.txt"
REPORT = "report.txt"
REPORT_JSON = "report.json"
VMCORE = "vmcore"
FORMAT = "kdump-manifest/1"

COMPLETE, DEGRADED, INCOMPLETE = "complete", "degraded", "incomplete"


def crash_name(host: str, panic_time: int) -> str:
    """HOST-YYYYMMDDTHHMMSSZ-XXXX: the time of the panic (UTC; now, if the kernel did not note it), four random digits.

    The digits keep two crashes apart that fall into one second, and two hosts that were given one name.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(panic_time or time.time()))
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", host).lstrip(".-") or "localhost"
    return f"{plain[:64]}-{stamp}-{os.urandom(2).hex()}"


def manifest_text(content: dict[str, Any]) -> bytes:
    """The manifest as it is written."""
    return json.dumps({"format": FORMAT, **content}, indent=1).encode() + b"\n"
