"""Encrypted volumes under a target: can the capture kernel open them with the key in this kernel's memory?

What cannot work is refused here by name. `prove` goes further: it looks for the key in the memory of the running
kernel, as the capture kernel will, and compares it with the digest in the LUKS header.

Sources: cryptsetup's on-disk formats (LUKS1: struct luks_phdr; LUKS2: digests in the JSON area);
Documentation/admin-guide/device-mapper/dm-crypt.rst.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from kdump.capture import devicemapper
from kdump.capture.child import bytes_from_child
from kdump.capture.crypt import device_of, layout_of, without_options
from kdump.capture.devicemapper import DmTarget
from kdump.errors import KdumpError
from kdump.host import storage
from kdump.image.kernel_tree import KernelTree
from kdump.kernel.dmcrypt import Devices
from kdump.kernel.kernel import Kernel
from kdump.memory import open_dump
from kdump.targets.devices import find_uuid

KCORE: Final = "proc/kcore"
_REMEDY: Final = "choose a file system that is not encrypted, or the network; [encrypt] in kdump.toml protects dumps"
# Ciphers whose key can be told from what they hold while they work, as dm-crypt's table names them.
_CIPHERS: Final = re.compile(
    r"aes-(?P<mode>xts|cbc)-(?P<iv>plain|plain64|plain64be|eboiv|null|essiv:sha256)"
    r"|capi:(?:(?P<outer>essiv)\()?(?P<inner>xts|cbc)\(aes\)(?:,sha256\))?-(?:plain|plain64|plain64be|eboiv|null)"
)
_MEMORY: Final = 512 << 20  # bytes for the search in the running kernel
_HEADER: Final = 4096
_MAX_HEADER: Final = 4 << 20
# A header may say anything: cryptsetup measures iterations for an eighth of a second, and writes one digest or two.
_MOST_DIGESTS: Final = 8
_MOST_ITERATIONS: Final = 1 << 24
_LONGEST_DIGEST: Final = 64  # bytes: SHA-512


def plan_of(name: str, table: list[DmTarget], root: Path = Path("/")) -> DmTarget:
    """The one segment of an encrypted volume, without its key, as the capture plan has it.

    Raises KdumpError with the reason if the capture kernel could not open it.
    """

    def refuse(why: str) -> KdumpError:
        return KdumpError(f"the encrypted volume {name} cannot be opened after a crash", why=why, remedy=_REMEDY)

    if len(table) != 1 or table[0].kind != devicemapper.CRYPT:
        raise refuse("it has more than one segment: is it being encrypted anew?")
    [target] = table
    options = target.parameters.split()[6:]
    if any(word.startswith("integrity") for word in options):
        raise refuse("it stores integrity data, whose keys are not looked for")
    layout = layout_of(target)
    if not _CIPHERS.fullmatch(layout.cipher):
        raise refuse(f"keys of the cipher {layout.cipher} cannot be told from what is in memory: only those of AES")
    if reason := _unreadable(root):
        raise refuse(reason)
    return without_options(target)


def _unreadable(root: Path) -> str:
    """Why this kernel's memory would not tell the key; empty if it would."""
    flags = re.findall(r"^flags\s*:.*\b(sev|sev_es|sev_snp|tdx_guest)\b", _read(root / "proc/cpuinfo"), re.MULTILINE)
    if flags and "hypervisor" in _read(root / "proc/cpuinfo"):
        return f"the memory of this virtual machine is encrypted ({flags[0]})"
    for module in ("dm_mod", "dm_crypt"):
        own = (root / "sys/module" / module / "initstate").exists()  # else it is built in
        if not (root / "sys/kernel/btf" / (module if own else "vmlinux")).exists():
            return f"this kernel has no types for {module} (CONFIG_DEBUG_INFO_BTF_MODULES)"
    return ""


def modules_of(volume: Mapping[str, Any], tree: KernelTree) -> list[str]:
    """Names of the kernel modules that an encrypted volume of the plan needs. Raises KdumpError if one is missing."""
    return modules(DmTarget(*volume["table"][0]), tree, running=tree.release == os.uname().release)


def modules(target: DmTarget, tree: KernelTree, *, running: bool, root: Path = Path("/")) -> list[str]:
    """Names of the kernel modules that an encrypted volume needs. Raises KdumpError if the kernel lacks one.

    `running`: `tree` is the kernel of now, whose choice among several AES drivers is a good one.
    """
    cipher = layout_of(target).cipher
    index = tree.module_index
    wanted = ["xts", "ecb"] if "xts" in cipher else ["cbc"]
    wanted += ["essiv", "sha256"] if "essiv" in cipher else []
    found = ["dm_crypt"]
    for algorithm in (*wanted, "aes"):
        names = index.lookup(f"crypto-{algorithm}-generic")
        names = index.lookup(f"crypto-{algorithm}") if names is None else names
        if names is None and not index.lookup(algorithm):
            raise KdumpError(f"the kernel {tree.release} has no {algorithm}", why=f"the cipher {cipher} needs it")
        found += names or ()
    loaded = root / "sys/module"
    found += [name for name in index.matching("crypto-aes") if running and (loaded / name).exists()]
    return list(dict.fromkeys(found))


def prove(volume: Mapping[str, Any], root: Path = Path("/")) -> bool:
    """Whether the key of an encrypted volume of the plan was found in the running kernel and is the volume's.

    False if that cannot be tried (no /proc/kcore, or a header that is not understood); raises KdumpError if it was and
    failed: the capture kernel would fail, too.
    """
    core = root / KCORE
    try:
        with core.open("rb") as file:
            file.read(1)
    except OSError:
        return False
    [target] = (DmTarget(*line) for line in volume["table"])
    try:
        return bytes_from_child(partial(_prove, str(core), volume["uuid"], target), _MEMORY) == b"proved"
    except KdumpError as error:
        raise KdumpError(
            f"the encrypted volume {volume['name']} cannot be opened after a crash", why=error.why, remedy=_REMEDY
        ) from None


def _prove(core: str, uuid: str, target: DmTarget) -> bytes:
    keys = Devices(Kernel(open_dump(core))).keys(uuid, layout_of(target))
    try:
        device = _device_under(target)
        outcomes = [header_digest(device, key) for key in keys]
    finally:
        for key in keys:
            devicemapper.wipe(key)
    if None in outcomes:
        return b"unknown"
    if not any(outcomes):
        raise KdumpError("the key in memory is not the volume's", why="its LUKS header says so")
    return b"proved"


def _device_under(target: DmTarget) -> Path:
    """The device with the LUKS header, by which the plan's table names it."""

    def find(uuid: str) -> str:
        if device := find_uuid(uuid):
            return device
        raise KdumpError(f"no device holds {uuid}")

    [line] = devicemapper.resolved([target], find)
    return Path("/dev", storage.block_directory(device_of(line)).name.replace("!", "/"))


def header_digest(device: Path, key: bytearray) -> bool | None:
    """Whether the LUKS header on a device says that this is its volume key; None if it cannot tell. Raises OSError."""
    with device.open("rb") as file:
        head = file.read(_HEADER)
        if head[:6] != b"LUKS\xba\xbe" or len(head) < _HEADER:
            return None
        if head[6:8] == b"\0\1":
            # struct luks_phdr: hashSpec at 72, mkDigest at 112, mkDigestSalt at 132, mkDigestIterations at 164.
            name = head[72:104].split(b"\0")[0].decode("ascii", "replace")
            (iterations,) = struct.unpack_from(">I", head, 164)
            return _matches(name, key, head[132:164], iterations, head[112:132])
        (size,) = struct.unpack_from(">Q", head, 8)
        if not _HEADER < size <= _MAX_HEADER:
            return None
        text = file.read(size - _HEADER).split(b"\0")[0]
    try:
        digests = json.loads(text)["digests"].values()
        answers = [
            _matches(
                each["hash"], key, base64.b64decode(each["salt"]), each["iterations"], base64.b64decode(each["digest"])
            )
            for each in list(digests)[:_MOST_DIGESTS]
            if each["type"] == "pbkdf2"
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return True if True in answers else None if None in answers or not answers else False


def _matches(name: str, key: bytearray, salt: bytes, iterations: int, digest: bytes) -> bool | None:
    bounded = 0 < iterations <= _MOST_ITERATIONS and 0 < len(digest) <= _LONGEST_DIGEST
    if name not in hashlib.algorithms_available or not bounded:
        return None
    return hashlib.pbkdf2_hmac(name, key, salt, iterations, len(digest)) == digest


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
