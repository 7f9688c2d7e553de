"""The rungs: what is read out of the dead kernel's memory and written to a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kdump.capture.plan import CapturePlan
from kdump.errors import KdumpError
from kdump.targets.protocol import Stream

if TYPE_CHECKING:
    from kdump.memory.protocol import Dump

__capture_imports__ = ("kdump.kernel.kernel", "kdump.kernel.printk", "kdump.memory")


def dmesg(dump: Dump, stream: Stream) -> list[str]:
    """The kernel's log from its ring buffer, as its console prints it; returns what of it could not be read."""
    from kdump.kernel.kernel import Kernel
    from kdump.kernel.printk import format_record

    log = Kernel(dump).log()
    text = "".join(f"{line}\n" for record in log.records for line in format_record(record))
    text += "".join(f"# {sentence}\n" for sentence in log.lost)
    if not text:
        raise KdumpError("the kernel's log is empty")
    stream.write(text.encode("utf-8", "replace"))
    return log.lost


def vmcore(
    dump: Dump, stream: Stream, plan: CapturePlan, progress: Callable[[int, int], None], *, frugal: bool = False
) -> dict[str, Any]:
    """The filtered, compressed dump; returns the filter's summary. `frugal`: one thread, little memory."""
    raise NotImplementedError
