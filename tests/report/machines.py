"""The machines whose dumps the report's tests read: the same as tests/test_whole_path.py asks for, so crashed once."""

from __future__ import annotations

from typing import Any

_SAME: dict[str, Any] = {"cpus": 2, "cmdline": "", "memory": 768 << 20}
MACHINES: dict[str, dict[str, Any]] = {
    "6.1": {"cause": "cpu", "cpu": "max,la57=off", **_SAME},
    "6.12": {"cause": "oom", "cpu": "max", **_SAME},
}
