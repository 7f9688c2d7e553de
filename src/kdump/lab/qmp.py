"""A small QMP client: control of a running QEMU over a UNIX socket.

Source: QEMU's docs/interop/qmp-spec and the QMP reference. One command at a time; events are skipped.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdump.errors import KdumpError, reason


class Qmp:
    """A connection to QEMU's monitor. Raises KdumpError when QEMU refuses a command or is gone."""

    def __init__(self, path: Path, *, timeout: float = 20.0) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._connect(time.monotonic() + timeout)
        self._lines = self._socket.makefile("rb")
        self._receive()  # the greeting
        self.execute("qmp_capabilities")

    def _connect(self, deadline: float) -> None:
        while True:
            try:
                return self._socket.connect(str(self._path))
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > deadline:
                    raise KdumpError("QEMU's monitor does not answer", why=reason(error)) from error
                time.sleep(0.02)

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise KdumpError("QEMU's monitor does not answer", why=reason(error)) from error
        if not line:
            raise KdumpError("QEMU closed its monitor", why="the virtual machine has ended")
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, command: str, **arguments: object) -> Any:
        """Run one QMP command and return what it returns."""
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise KdumpError(f"QEMU did not take {command!r}", why=reason(error)) from error
        while True:
            message = self._receive()
            if "error" in message:
                raise KdumpError(f"QEMU refused {command!r}", why=message["error"].get("desc", ""))
            if "return" in message:
                return message["return"]

    def human(self, command: str) -> None:
        """Run a command of the human monitor, for what QMP lacks. What it has to say is an error."""
        said = self.execute("human-monitor-command", **{"command-line": command}).strip()
        if said:
            raise KdumpError(f"QEMU refused {command!r}", why=said)

    def inject_nmi(self) -> None:
        """Send a non-maskable interrupt to the guest, as a service processor would."""
        self.execute("inject-nmi")

    def power_button(self) -> None:
        """Press the ACPI power button."""
        self.execute("system_powerdown")

    def reset(self) -> None:
        """Press the reset button."""
        self.execute("system_reset")

    def quit(self) -> None:
        """End QEMU at once: for the guest, a power cut."""
        self.execute("quit")

    def status(self) -> str:
        """The run state: "running", "paused", "shutdown", "guest-panicked" …"""
        state: str = self.execute("query-status")["status"]
        return state

    def dump_guest_memory(self, path: Path) -> None:
        """Write the guest's memory as an ELF core, QEMU's own independent dump. The guest pauses meanwhile."""
        self._socket.settimeout(300.0)
        self.execute("dump-guest-memory", paging=False, protocol=f"file:{path}")

    def close(self) -> None:
        """Drop the connection; the machine runs on."""
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
