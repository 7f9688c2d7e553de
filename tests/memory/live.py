"""The first process of a guest that reads its own kernel through /proc/kcore, says what it found, and waits."""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path

from kdump.capture import system
from kdump.dump import manifest
from kdump.kernel.kernel import Kernel
from kdump.kernel.vmcoreinfo_scan import find_vmcoreinfo
from kdump.memory import open_dump
from kdump.report.build import build
from kdump.report.context import Context
from kdump.report.model import Report
from kdump.report.text import render

MODULES = Path("/etc/modules")  # paths of kernel modules, in load order


def log_of_the_running_kernel() -> list[str]:
    """Texts of the records in /dev/kmsg."""
    descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    texts: list[str] = []
    while True:
        try:
            record = os.read(descriptor, 8192)
        except BlockingIOError:
            os.close(descriptor)
            return texts
        texts.append(record.split(b";", 1)[1].split(b"\n", 1)[0].decode("ascii"))


def facts() -> dict[str, object]:
    """What the readers say of this kernel, beside what it says itself."""
    started = time.monotonic()
    with open_dump("/proc/kcore") as dump:
        kernel = Kernel(dump)
        log = kernel.log()
        seconds = time.monotonic() - started
        own = log_of_the_running_kernel()
        texts = [escaped(record.text) for record in log.records]
        info = kernel.vmcoreinfo
        found = find_vmcoreinfo(dump.memory, kernel.arch)
        banner = kernel.virtual.cstring(info.symbol("init_uts_ns") + info.offset("uts_namespace.name") + 130, 65)
        return {
            "format": dump.format,
            "ranges": dump.memory.ranges,
            "memory": sum(each.size for each in dump.memory.ranges),
            "meminfo": Path("/proc/meminfo").read_text(),
            "iomem": Path("/proc/iomem").read_text(),
            "release": [info.release, os.uname().release, banner.decode()],
            "log": [len(texts), texts == own[: len(texts)], len(own) - len(texts), log.lost],
            "vmcoreinfo found": found == dump.vmcoreinfo.rstrip(b"\0"),
            "seconds": seconds,
            "report": said(build(Context(kernel), "/proc/kcore", short=True)),
            "manifest live": manifest.describe(dump, [], {}, "complete")["live"],
        }


def said(report: Report) -> dict[str, object]:
    """What a report says of the kernel as a whole."""
    text = "\n".join(render(report))
    return {"live": report.live, "title": report.verdict.title, "text": text, "problems": report.problems}


def escaped(text: bytes) -> str:
    """As /dev/kmsg prints a record's text."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in text)


def main() -> None:
    """Load modules, print the facts, wait to be dumped from outside."""
    try:
        for path in MODULES.read_text().split():
            system.load_module(path)
        print("live kernel:", json.dumps(facts()), flush=True)
    except Exception:
        traceback.print_exc()
        print("live kernel: FAILED", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
