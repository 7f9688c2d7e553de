"""Disks of other machines, by iSCSI and by NVMe over TCP: the capture kernel connects as the healthy host is connected.

An entry of the plan's storage has "connect" ("iscsi" or "nvme-tcp"), "name" of the target, "address" and "port", and
what `kdump.host.remote` read besides. Nobody looks after a connection here: one that breaks is given up after PATIENCE
seconds, what is being written fails, and the next target has its turn.

Sources: iscsistart(8), scsi_transport_iscsi.c (/sys/class/iscsi_session); drivers/nvme/host/fabrics.c (what
/dev/nvme-fabrics takes).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdump.errors import KdumpError

ISCSI, NVME = "iscsi", "nvme-tcp"
ISCSISTART = "/usr/sbin/iscsistart"
PATIENCE = 30  # seconds in which a broken connection may come back
_FABRICS = "/dev/nvme-fabrics"
_SESSIONS = "/sys/class/iscsi_session"
_RETRY = 1.0  # seconds between two tries to reach a server
_POLL = 0.1


def connect(disk: Mapping[str, Any], seconds: float, say: Callable[[str], None]) -> None:
    """Make one of the plan's connections within `seconds`. Raises KdumpError or OSError.

    A connection that an earlier attempt made is left as it is.
    """
    end = time.monotonic() + seconds
    if disk["connect"] == ISCSI and _has_session(disk["name"]):
        return
    _reach(str(disk["address"]), int(disk["port"]), end)
    if disk["connect"] == ISCSI:
        _log_in(disk, end)
    else:
        _connect_nvme(disk)
    say(f"{disk['name']}: connected to {disk['address']}")


def _reach(address: str, port: int, end: float) -> None:
    """Wait until the server takes connections: what comes after this could wait longer than there is time."""
    while True:
        left = end - time.monotonic()
        try:
            # create_connection() would ask for the codec of international names, which the image does without.
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as connection:
                connection.settimeout(max(left, _POLL))
                connection.connect((address, port))
            return
        except OSError as error:
            if left <= _RETRY:
                raise KdumpError(f"{address} port {port} cannot be reached", why=error.strerror or str(error)) from None
        time.sleep(_RETRY)


def _has_session(target: str) -> bool:
    return any(path.read_text().strip() == target for path in Path(_SESSIONS).glob("*/targetname"))


def iscsi_command(disk: Mapping[str, Any]) -> list[str]:
    """iscsistart's command line for an entry."""
    options = {
        "-i": disk["initiator"], "-t": disk["name"], "-g": disk["portal_group"], "-a": disk["address"],
        "-p": disk["port"], "-u": disk.get("user"), "-w": disk.get("password"), "-U": disk.get("user_in"),
        "-W": disk.get("password_in"), "-P": f"node.session.timeo.replacement_timeout={PATIENCE}",
    }  # fmt: skip
    return [ISCSISTART, *(str(word) for pair in options.items() if pair[1] not in (None, "") for word in pair)]


def _log_in(disk: Mapping[str, Any], end: float) -> None:
    child = os.posix_spawn(ISCSISTART, iscsi_command(disk), {"PATH": "/usr/sbin:/usr/bin"}, setsid=True)
    try:
        while True:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                break
            if time.monotonic() >= end:
                raise KdumpError(f"the log-in at {disk['name']} does not end")
            time.sleep(_POLL)
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    if code := os.waitstatus_to_exitcode(status):
        raise KdumpError(
            f"the log-in at {disk['name']} failed",
            why=f"iscsistart ended with status {code}; see iscsiadm(8), EXIT STATUS",
        )


def nvme_options(disk: Mapping[str, Any]) -> str:
    """The options of an entry for /dev/nvme-fabrics: one short queue, since memory is scarce here."""
    options = {
        "nqn": disk["name"], "transport": "tcp", "traddr": disk["address"], "trsvcid": disk["port"],
        "hostnqn": disk["host"], "hostid": disk["host_id"], "nr_io_queues": 1, "queue_size": 64,
        "ctrl_loss_tmo": PATIENCE, "reconnect_delay": 2,
    }  # fmt: skip
    return ",".join(f"{name}={value}" for name, value in options.items() if value != "")


def _connect_nvme(disk: Mapping[str, Any]) -> None:
    try:
        with open(_FABRICS, "r+b", buffering=0) as control:
            control.write(nvme_options(disk).encode())
    except OSError as error:
        if error.errno != errno.EALREADY:
            raise KdumpError(
                f"{disk['name']} cannot be connected",
                why=error.strerror or str(error),
                remedy="the kernel's log says more",
            ) from None
