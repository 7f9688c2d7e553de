"""modprobe for the capture kernel: answers what the kernel asks for at run time out of the modules in the image.

File systems ask for character sets, crypto users for algorithms, RAID for personalities, SCSI for device handlers: the
kernel starts the program in /proc/sys/kernel/modprobe as `modprobe -q -- WORD` and waits for it (kernel/module/kmod.c).
The image has the answers ready (`kdump.image.build.request_table`), so this imports next to nothing and is quick.
"""

from __future__ import annotations

import errno
import os
import sys

from kdump.capture import system

_SWITCH = "/proc/sys/kernel/modprobe"
_CONSOLE = "/dev/kmsg"
_NOTICE = "<5>"


def answer() -> None:
    """Have the kernel start the image's modprobe from now on. Raises OSError. A kernel without modules asks nobody."""
    if not os.path.exists(_SWITCH):  # noqa: PTH110 -- pathlib takes long to import
        return
    with open(_SWITCH, "w", encoding="ascii") as file:
        file.write(system.MODPROBE)


def main() -> None:
    """Load what the kernel asks for; the exit status tells it whether that went well."""
    word = sys.argv[-1].replace("-", "_")
    failed = False
    for entry in lookup(word):
        path, _, parameters = entry.partition(" ")
        try:
            if system.load_module(path, parameters):
                _say(f"{word}: loaded {path}")
        except OSError as error:
            failed = failed or error.errno != errno.ENODEV  # a driver for other processors
            _say(f"{word}: {path}: {error.strerror}")
    sys.exit(failed)


def lookup(word: str, table: str = system.REQUESTS) -> list[str]:
    """ "PATH PARAMETERS" of the modules that answer a request, in load order; none if the image has nothing for it."""
    start = f"{word}\t"
    with open(table, encoding="utf-8") as lines:
        return next((line.rstrip("\n").split("\t")[1:] for line in lines if line.startswith(start)), [])


def _say(text: str) -> None:
    """One line on the kernel's console and in its log; the kernel gives its helpers no standard output."""
    descriptor = os.open(_CONSOLE, os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, f"{_NOTICE}kdump modprobe: {text}\n".encode())
    os.close(descriptor)
