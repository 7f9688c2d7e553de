"""The record of what is loaded: enough to load it again, and to tell whether anything has changed since.

The kernel says only that something is loaded. The record lives in /run and names the boot it belongs to. Files are
known by inode, size and times: a rewritten file is another file, whatever its content.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from kdump.errors import FormatError, KdumpError
from kdump.files.drafts import replace_file
from kdump.foreign import Schema, load_object, mapping, text
from kdump.kexec.elfcore import read_notes
from kdump.kexec.memory_map import read_memory_map

RECORD = Path("/run/kdump/loaded.json")
_LONG: Final = text(1 << 16)
_LOADED: Final[Schema] = {
    "kernel": _LONG, "initrd": _LONG, "cmdline": _LONG, "method": _LONG, "chosen": _LONG,
    "seen": mapping(text(1 << 20)),  # the memory map is part of it
}  # fmt: skip


class Loaded(NamedTuple):
    """A load: paths ("" for no image), command line, `method` ("file" or "segments"), and what it was made from.

    `chosen` is the method that was to do it, where this machine or its kernel demanded the other one.
    `seen` maps "kernel", "image", "machine" and "boot" to texts that change with them.
    """

    kernel: str
    initrd: str
    cmdline: str
    method: str
    chosen: str
    seen: Mapping[str, str]


def seen(kernel: Path, initrd: Path | None, root: Path = Path("/")) -> dict[str, str]:
    """How kernel, image, machine (memory map, places of the crash notes) and boot look now."""
    return {
        "kernel": _file(kernel),
        "image": _file(initrd) if initrd else "",
        "machine": _machine(root),
        "boot": _boot(root),
    }


def changes(record: Loaded | None, now: Loaded, *, keeps_up: bool = False) -> list[str]:
    """The differences between the record and what would be loaded now, in words; an empty list if both agree.

    `keeps_up`: the kernel has adapted what is loaded to the machine's changes, so those do not count.
    """
    if record is None or record.seen.get("boot") != now.seen["boot"]:
        return ["nothing was loaded by kdump since the machine booted"]
    names = {"kernel": "the kernel", "image": "the image"}
    names |= {} if keeps_up else {"machine": "the memory map or the CPUs"}
    found = [text for name, text in names.items() if record.seen.get(name) != now.seen[name]]
    found += ["the method"] * (record.chosen != now.chosen) + ["the command line"] * (record.cmdline != now.cmdline)
    return found


def read_record(path: Path = RECORD) -> Loaded | None:
    """The record; None if it is missing or from an older version."""
    with suppress(OSError, FormatError, TypeError):  # the last: keys of another version
        return Loaded(**load_object(path.read_bytes(), path, _LOADED))
    return None


def write_record(loaded: Loaded, path: Path = RECORD) -> None:
    """Replace the record, mode 0600."""
    replace_file(path, (json.dumps(loaded._asdict(), indent=1) + "\n").encode(), durable=False)  # /run is memory


@contextmanager
def locked(path: Path = RECORD) -> Iterator[None]:
    """Hold the record while loading. Raises KdumpError if another load or unload holds it."""
    import fcntl

    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KdumpError(
            f"{path.parent} cannot be written", why=error.strerror or "", remedy="run it as root"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise KdumpError("another kdump is loading or unloading", remedy="wait for it to end and try again") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _file(path: Path) -> str:
    status = path.stat()
    return (
        f"{path.resolve()} {status.st_dev}:{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    )


def _machine(root: Path) -> str:
    """Memory and notes as the core headers describe them; "" when the kernel hides them."""
    try:
        memory_map, notes = read_memory_map(root), read_notes(root)
    except KdumpError:
        return ""
    ranges = [*memory_map.ram, None, *memory_map.reservation, None, *notes.cpus, notes.vmcoreinfo]
    return " ".join(f"{part.start:x}-{part.end:x}" if part else "|" for part in ranges)


def _boot(root: Path) -> str:
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
