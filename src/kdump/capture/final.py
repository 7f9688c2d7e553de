"""The last act of the capture kernel: reboot, power off, halt, a shell, or another kernel. It always happens."""

from __future__ import annotations

import contextlib
import os
import time

from kdump.capture import system
from kdump.capture.console import Console

_CALLS = {"reboot": system.RESTART, "poweroff": system.POWER_OFF, "halt": system.HALT, "kexec": system.KEXEC}
# Source: Documentation/admin-guide/sysrq.rst: b reboots at once, o powers off.
_FORCED = {"poweroff": "o"}
_SHELLS = ("/bin/sh", "/bin/bash", "/bin/busybox")


def act(action: str, console: Console, seconds: float) -> None:
    """Do it. Returns only if the kernel refuses everything; a shell is followed by a reboot."""
    console.say(f"final action: {action}")
    if action == "shell":
        shell(console)
        action = "reboot"
    force_later(_FORCED.get(action, "b"), seconds)
    for attempt in (action, "reboot"):
        try:
            system.reboot(_CALLS[attempt])
        except OSError as error:
            console.say(f"{attempt}: {error.strerror}")
    press(_FORCED.get(action, "b"))


def force_later(key: str, seconds: float) -> None:
    """A child that forces the matter if a driver's shutdown or sync hangs the orderly way."""
    if os.fork() == 0:
        time.sleep(seconds)
        press(key)
        os._exit(1)


def press(key: str) -> None:
    """Do what a magic SysRq key does."""
    with contextlib.suppress(OSError), open("/proc/sysrq-trigger", "w", encoding="ascii") as trigger:
        trigger.write(key)


def shell(console: Console) -> None:
    """An interactive shell on the console, if the image has one; Python's prompt otherwise."""
    import sys

    found = next((path for path in _SHELLS if os.access(path, os.X_OK)), None)
    command = [found] if found else [sys.executable, "-I", "-q", "-i"]
    console.say(f"{command[0]}: leave it to go on")
    try:
        os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)
    except OSError as error:
        console.say(f"{command[0]}: {error.strerror}")
