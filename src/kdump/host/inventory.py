"""The daily inventory for a fleet's collector: kernel, hardware, firmware, modules, settings, readiness.

Facts are "name:value", so that a collector can compare hosts without knowing what each of them means.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kdump.errors import KdumpError
from kdump.host.config import Config
from kdump.host.plan import plan_of, specification

SETTINGS: Final = (
    "kernel/panic_on_oops", "kernel/numa_balancing", "kernel/sched_autogroup_enabled", "vm/swappiness",
    "vm/overcommit_memory", "vm/panic_on_oom", "net/ipv4/tcp_congestion_control", "kernel/randomize_va_space",
)  # fmt: skip
_FIRMWARE: Final = ("sys_vendor", "product_name", "bios_version", "bios_date", "board_name")


def gather(config: Config, root: Path = Path("/")) -> dict[str, Any]:
    """The inventory as the collector takes it. What cannot be read is left out."""
    from kdump.host import readiness

    found = readiness.Examination(config, root).run()
    hardware = " ".join(filter(None, (_read(root / "sys/class/dmi/id" / name) for name in _FIRMWARE[:2])))
    return {
        "host": plan_of(config).hostname,
        "kernel": os.uname().release,
        "hardware": hardware,
        "ready": found.ready,
        "problem": "" if found.ready else found.verdict.removeprefix("not ready: "),
        "facts": sorted(set(facts(root))),
    }


def facts(root: Path = Path("/")) -> Iterator[str]:
    """Everything that hosts may be told apart by."""
    for line in _read(root / "proc/modules").splitlines():
        yield f"module:{line.split()[0]}"
    for name in _FIRMWARE:
        if value := _read(root / "sys/class/dmi/id" / name):
            yield f"{name}:{value}"
    for name in SETTINGS:
        if value := _read(root / "proc/sys" / name):
            yield f"sysctl:{name.replace('/', '.')}={value}"
    seen: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        seen.setdefault(key.strip(), value.strip())
    for key in ("model name", "microcode"):
        if key in seen:
            yield f"{key.replace(' ', '_')}:{seen[key]}"
    for patch in sorted(root.glob("sys/kernel/livepatch/*")):
        yield f"livepatch:{patch.name}"


def send(config: Config, content: dict[str, Any]) -> None:
    """Send an inventory to the first collector of the configuration. Raises `KdumpError`."""
    from kdump.targets.collector import CollectorTarget

    urls = [url for url in config.targets if url.startswith("collector+")]
    if not urls:
        raise KdumpError(
            "no collector is configured", remedy="`kdump setup --collector https://…` makes it the first target"
        )
    CollectorTarget(specification(urls[0], config)).post("/v1/inventory", json.dumps(content).encode())


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
