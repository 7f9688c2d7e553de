"""PID 1 of the production machine in the lab: does some work, loads the capture kernel, and crashes as it was told.

Runs from an image that `kdump.image` built with this module as its entry. What to do is in /etc/kdump/guest.json
(see `Orders`). Every line it prints starts with "kdump guest:"; the host waits for some of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdump import arch
from kdump.capture import system
from kdump.capture.worker import run_bounded
from kdump.errors import KdumpError
from kdump.kexec.cmdline import capture_command_line, running_command_line
from kdump.kexec.load import load
from kdump.lab.causes import find_cause
from kdump.targets.devices import find_uuid, wait_for

ORDERS = Path("/etc/kdump/guest.json")
DISK = Path("/run/disk")
BEFORE = "before-panic.json"  # on the disk: what the machine knew of itself, for tests to compare with the dump

MIB = 1 << 20
# For LVM's tools and cryptsetup: they make device nodes themselves, and have no directory for their archives.
WITHOUT_UDEV = {"DM_DISABLE_UDEV": "1", "LVM_SYSTEM_DIR": "", "LVM_SUPPRESS_FD_WARNINGS": "1"}
HOST_INSIDE, LISTENS, BPF_PROGRAM = "inside", 7, "kdump_lab"
UNREAD = 1000  # bytes that a socket has sent and its peer does not read
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # include/uapi/linux/sockios.h, if.h
_CLONE_NEWUTS, _CLONE_NEWPID = 0x04000000, 0x20000000  # include/uapi/linux/sched.h
_BPF_PROG_LOAD, _BPF_SOCKET_FILTER = 5, 1


@dataclass(frozen=True)
class Orders:
    """The tasks of the guest.

    `modules` are paths in the image, in load order; `disk` the UUID of its ext4 file system; `kernel` and `initrd`
    paths on that disk; `append` more options for the capture kernel, `method` how to load it. `work` is how many bytes
    of page cache, anonymous memory and slab it makes each. `crash` is the name of the cause; empty: power off instead.
    `watchdog` is a file to be armed, and left alone, before the crash. `crowd` is how many threads, processes and
    control groups shall be there (`kdump.lab.crowd`). `commands` are run one after the other before the capture kernel
    is loaded; all must succeed. `encrypted` are volumes to open (`kdump.lab.encrypted`).
    """

    disk: str
    kernel: str
    initrd: str
    crash: str
    work: int
    modules: Sequence[str] = ()
    append: str = ""
    method: str = "auto"
    watchdog: str = ""
    crowd: Sequence[int] = ()
    commands: Sequence[Sequence[str]] = ()
    encrypted: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> bytes:
        """The text of guest.json."""
        return json.dumps(vars(self), indent=1, default=list).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Orders:
        """Read guest.json."""
        return cls(**json.loads(text))


def main() -> None:
    """Carry the orders out; a machine that cannot says so and powers off."""
    try:
        _carry_out(Orders.from_json(ORDERS.read_bytes()))
    except (KdumpError, OSError) as error:
        say(f"FAILED {error}")
    time.sleep(0.2)  # let the console drain
    os.sync()
    system.reboot(system.POWER_OFF)


def say(text: str) -> None:
    """One line on the console."""
    print(f"kdump guest: {text}", flush=True)


def _carry_out(orders: Orders) -> None:
    say(f"user space is up, {time.clock_gettime(time.CLOCK_BOOTTIME):.1f} s after the kernel started")
    for path in orders.modules:
        try:
            system.load_module(path)
        except OSError as error:
            if error.errno != errno.ENODEV:  # a driver for other processors, such as crc32c_intel
                raise
    DISK.mkdir()
    device = wait_for(lambda: find_uuid(orders.disk), f"the file system {orders.disk}", 20)
    system.mount(device, str(DISK), "ext4")
    for volume in orders.encrypted:
        from kdump.lab.encrypted import open_and_fill

        open_and_fill(volume)
    for command in orders.commands:
        run_bounded(command, {**os.environ, **WITHOUT_UDEV})
    held = [_witnesses(), _work(orders.work)]
    if orders.crowd:
        from kdump.lab.crowd import gather

        gather(*orders.crowd)
        say("a crowd of {} threads, {} processes and {} control groups is there".format(*orders.crowd))
    if orders.crash:
        cause = find_cause(orders.crash)
        _load(orders)
        (DISK / BEFORE).write_text(json.dumps(_self_portrait(), indent=1))
        os.sync()
        if orders.watchdog:
            os.open(orders.watchdog, os.O_WRONLY)
            say(f"armed {orders.watchdog}")
        say(f"crashing: {cause.summary}")
        time.sleep(0.2)
        cause.trigger(DISK)
        time.sleep(120)
        say(f"FAILED still alive after: {cause.summary}")
    del held


def _load(orders: Orders) -> None:
    cmdline = capture_command_line(running_command_line(), append=orders.append).text
    result = load(DISK / orders.kernel, DISK / orders.initrd, cmdline, method=orders.method)
    say(f"LOADED the capture kernel by the {result.method} method in {result.seconds:.2f} s")


def _work(size: int) -> list[Any]:
    """Fill `size` bytes each of page cache, anonymous memory and slab (files of a tmpfs, pipes), and hold them."""
    noise = os.urandom(MIB)
    anonymous = mmap.mmap(-1, max(size, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size - MIB + 1, MIB):
        # Every other MiB is compressible, and no two are equal.
        block = noise if offset // MIB % 2 else b"anonymous memory of the lab guest ".ljust(64, b".") * (MIB // 64)
        anonymous[offset : offset + MIB] = offset.to_bytes(8, "little") + block[8:]
    with (DISK / "page-cache").open("wb") as file:
        for offset in range(0, size, MIB):
            file.write(offset.to_bytes(8, "little") + noise[8:])
    clutter = Path("/tmp/clutter")  # noqa: S108 -- the guest's own tmpfs
    clutter.mkdir()
    for number in range(size // (64 << 10)):
        (clutter / f"{number:08}").touch()
    pipes = [os.pipe() for _ in range(200)]
    say(f"made {size // MIB} MiB of page cache, as much anonymous memory, {size // (64 << 10)} files, 200 pipes")
    return [anonymous, pipes]


def _witnesses() -> list[Any]:
    """Things that a report should find again: a listening socket, a BPF program, a process in namespaces of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not os.fork():
        name = HOST_INSIDE.encode()
        if libc.unshare(_CLONE_NEWUTS | _CLONE_NEWPID) or libc.sethostname(name, len(name)):
            os._exit(1)
        os.fork()  # the child is the new namespace's first process
        while True:
            time.sleep(3600)
    _raise_loopback()  # first: a machine with another address has 127.0.0.1 only then
    listener = socket.create_server(("127.0.0.1", LISTENS))
    sender = socket.socket()
    sender.connect(("127.0.0.1", LISTENS))
    receiver, _ = listener.accept()
    sender.sendall(bytes(UNREAD))
    instructions = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0))  # r0 = 0; exit
    license_text = ctypes.create_string_buffer(b"GPL")
    # union bpf_attr of BPF_PROG_LOAD (include/uapi/linux/bpf.h), up to prog_name.
    request = struct.pack(
        "<IIQQIIQII16s", _BPF_SOCKET_FILTER, 2, ctypes.addressof(instructions), ctypes.addressof(license_text),
        0, 0, 0, 0, 0, BPF_PROGRAM.encode(),
    )  # fmt: skip
    program = libc.syscall(arch.native().syscalls.bpf, _BPF_PROG_LOAD, request, len(request))
    if program < 0:
        say(f"no BPF program: {os.strerror(ctypes.get_errno())}")
    return [listener, sender, receiver, program]


def _raise_loopback() -> None:
    """Set the interface lo up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("<16sh22x", b"lo", _IFF_UP))


def _self_portrait() -> dict[str, Any]:
    return {
        "uname": list(os.uname()),
        "cpus": os.cpu_count(),
        "pid": os.getpid(),
        **{
            name: Path(f"/proc/{name}").read_text()
            for name in ("cmdline", "meminfo", "iomem", "modules", "version", "interrupts", "net/protocols")
        },
        "kallsyms_readable": "0000000000000000" not in Path("/proc/kallsyms").open().readline(),
        "tasks": _tasks(),
    }


def _tasks() -> dict[str, str]:
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a kernel thread that has just ended
            found[path.name] = (path / "comm").read_text().strip()
    return found


if __name__ == "__main__":
    main()
