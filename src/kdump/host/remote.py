"""Disks of other machines under a target: how the healthy host is connected to them, for the capture kernel's plan.

Sources: drivers/scsi/scsi_transport_iscsi.c (attributes of iscsi_session and iscsi_connection),
drivers/nvme/host/sysfs.c (attributes of a controller).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from kdump.capture import remote
from kdump.errors import KdumpError
from kdump.host import storage

ISCSISTART: Final = (remote.ISCSISTART, "/sbin/iscsistart", "/usr/bin/iscsistart")
_UNSET: Final = ("", "(null)", "<NULL>", "none")


def connections(layers: Iterable[storage.Layer], sysfs: Path = storage.SYSFS) -> tuple[dict[str, Any], ...]:
    """Entries of the plan's storage for the disks of other machines among `layers`, each connection once.

    Raises KdumpError for a connection that the capture kernel could not make.
    """
    found: list[dict[str, Any]] = []
    for layer in layers:
        if layer.kind == remote.ISCSI:
            found.append(_iscsi(storage.block_directory(layer.device, sysfs), sysfs))
        elif layer.kind == remote.NVME:
            directory = storage.block_directory(layer.device, sysfs)
            found += [_nvme(each, layer.name) for each in storage.controllers(directory)]
    return tuple(entry for number, entry in enumerate(found) if entry not in found[:number])


def files(entries: Iterable[dict[str, Any]]) -> dict[str, bytes | Path]:
    """Files of the image. Raises KdumpError if they are not installed."""
    if not any(entry["connect"] == remote.ISCSI for entry in entries):
        return {}
    for name in ISCSISTART:
        if Path(name).exists():
            return {remote.ISCSISTART: Path(name)}
    raise KdumpError(
        "the capture kernel cannot log in at an iSCSI target",
        why=f"{remote.ISCSISTART} is not installed",
        remedy="install open-iscsi, or iscsi-initiator-utils",
    )


def _iscsi(directory: Path, sysfs: Path) -> dict[str, Any]:
    session = next(part for part in directory.parts if re.fullmatch(r"session\d+", part))
    of_session = sysfs / "class/iscsi_session" / session
    of_connection = sysfs / "class/iscsi_connection" / f"connection{session.removeprefix('session')}:0"
    said = {
        name: _read(place / name)
        for place, names in (
            (of_session, "targetname tpgt initiatorname username password username_in password_in"),
            (of_connection, "persistent_address address persistent_port"),
        )
        for name in names.split()
    }
    address = said["persistent_address"] if _is_address(said["persistent_address"]) else said["address"]
    if not (said["targetname"] and said["initiatorname"] and address and said["persistent_port"].isdigit()):
        raise KdumpError(
            f"the iSCSI session of {directory.name} does not say what it is connected to",
            why=f"{of_session} and {of_connection} lack targetname, initiatorname, address or port",
            remedy="is it connected? iscsiadm -m session says",
        )
    entry = {
        "connect": remote.ISCSI, "name": said["targetname"], "address": address, "port": int(said["persistent_port"]),
        "initiator": said["initiatorname"], "portal_group": said["tpgt"] or "1",
    }  # fmt: skip
    secrets = {
        "user": "username", "password": "password", "user_in": "username_in", "password_in": "password_in",
    }  # fmt: skip
    return entry | {name: said[attribute] for name, attribute in secrets.items() if said[attribute]}


def _nvme(controller: Path, disk: str) -> dict[str, Any]:
    def refuse(why: str) -> KdumpError:
        return KdumpError(
            f"{disk} is an NVMe namespace that the capture kernel cannot connect to",
            why=why,
            remedy="choose a file system on another disk, or nfs://, ssh:// or s3://",
        )

    if _read(controller / "dhchap_secret") or _read(controller / "dhchap_ctrl_secret"):
        raise refuse("the connection is authenticated (DH-HMAC-CHAP)")
    if _read(controller / "tls_key"):
        raise refuse("the connection is encrypted (TLS)")
    words = dict(word.partition("=")[::2] for word in _read(controller / "address").split(","))
    name, address, port = _read(controller / "subsysnqn"), words.get("traddr", ""), words.get("trsvcid", "")
    if not name or not _is_address(address) or not port.isdigit():
        raise refuse(f"{controller} does not say what it is connected to")
    host, identity = _read(controller / "hostnqn"), _read(controller / "hostid")
    return {
        "connect": remote.NVME,
        "name": name,
        "address": address,
        "port": int(port),
        "host": host,
        "host_id": identity,
    }


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _read(path: Path) -> str:
    """An attribute; empty if it is not there or not set."""
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return ""
    return "" if text in _UNSET else text
