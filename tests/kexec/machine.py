"""The host's side of a lab machine that obeys: build its image, type orders, look at its memory from outside."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.kexec.guest import ANSWER

from kdump.elf import PHDR
from kdump.image.build import build
from kdump.image.kernel_tree import KernelTree
from kdump.image.python import python_modules
from kdump.kexec import elfcore
from kdump.lab.foreign import platform_of
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec
from kdump.memory.protocol import Range

TIMEOUT = 120
PACKET = 1024  # bytes written by one packet; QEMU takes 2 KiB


class Answer(NamedTuple):
    """What an order came to: exit status, output, and the seconds it took in the guest."""

    status: int
    out: str
    err: str
    seconds: float


def image(
    tree: KernelTree,
    output: Path,
    files: Mapping[str, bytes | Path] | None = None,
    *,
    modules: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Path:
    """An image whose first process is `guest`, with those files, kernel modules and further Python modules in it."""
    entry = "tests.kexec.guest"
    platform = platform_of(tree.machine)
    python = python_modules(entry, imports, platform=platform)
    build(tree, entry=entry, modules=modules, python=python, files=dict(files or {}), output=output, platform=platform)
    return output


def order(machine: Machine, *words: str) -> Answer:
    """Have the guest do something; returns when it has answered."""
    machine.type(json.dumps(list(words)) + "\n")
    found = machine.wait_for(rf"^{re.escape(ANSWER)}(\{{.*\}})$", TIMEOUT, unless="Attempted to kill init")
    values: dict[str, Any] = json.loads(found[1])
    return Answer(**values)


def kdump(machine: Machine, *words: str) -> Answer:
    """Run one of our commands in the guest."""
    return order(machine, "kdump", *words)


def reservation(machine: Machine) -> Range:
    """Where the guest's kernel keeps room for the capture kernel."""
    text = order(machine, "read", "/proc/iomem").out
    found = re.search(r"([0-9a-f]+)-([0-9a-f]+) : Crash kernel", text)
    assert found
    return Range(int(found[1], 16), int(found[2], 16) + 1)


def physical(machine: Machine, part: Range, scratch: Path) -> bytes:
    """Physical memory of the guest, read from outside."""
    path = scratch / "memory"
    with machine.qmp() as monitor:
        monitor.execute("pmemsave", val=part.start, size=part.size, filename=str(path))
    return path.read_bytes()


def core_headers(memory: bytes) -> bytes:
    """The ELF core headers somewhere in `memory`, at a page boundary: header and program headers."""
    for offset in range(0, len(memory), 4096):
        if memory[offset : offset + 7] == b"\x7fELF\x02\x01\x01" and memory[offset + 16] == 4:
            (count,) = struct.unpack_from("<H", memory, offset + 56)
            return memory[offset : offset + 64 + 56 * count]
    raise AssertionError("no core headers in the reservation")


def program_headers(core: bytes) -> list[elfcore.Header]:
    """The program headers of an ELF core, in order."""
    (count,) = struct.unpack_from("<H", core, 56)
    (offset,) = struct.unpack_from("<Q", core, 32)
    fields = (PHDR.unpack_from(core, offset + index * PHDR.size) for index in range(count))
    return [elfcore.Header(*each[:6]) for each in fields]


def gdb_stub(path: Path) -> tuple[str, ...]:
    """QEMU arguments that offer its gdb stub at a socket."""
    return ("-gdb", f"unix:{path},server=on,wait=off")


def poke(stub: Path, address: int, data: bytes) -> None:
    """Write into the guest's physical memory through QEMU's gdb stub at a socket (see `gdb_stub`).

    The remote protocol is in GDB's manual (appendix E); Qqemu.PhyMemMode is QEMU's addition.
    """
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20)
        link.connect(str(stub))

        def order(packet: str) -> None:
            link.sendall(f"+${packet}#{sum(packet.encode()) % 256:02x}".encode())
            answer = b""
            # Attaching stops the machine, which the stub reports by a packet of its own at some time: pass over it.
            while not (found := re.search(rb"\$([^T#][^#]*)#[0-9a-f]{2}", answer)):
                piece = link.recv(4096)
                assert piece, "QEMU's gdb stub hung up"
                answer += piece
            assert found[1] == b"OK", (packet, found[1])

        order("Qqemu.PhyMemMode:1")
        for start in range(0, len(data), PACKET):
            piece = data[start : start + PACKET]
            order(f"M{address + start:x},{len(piece):x}:{piece.hex()}")
        order("D")


def reboots_and_finds_damage(spec: Spec, old: str, new: str, stub: Path, console: Path) -> None:
    """A machine with a device tree, of kernel `old`, reboots into `new`, loads for a panic, unloads, loads again.

    Its /vmlinuz and /image are what it loads. One word of the loaded image is then changed from outside through QEMU's
    gdb stub, and the machine panics: purgatory names that segment.
    """
    with Machine(spec, console=console) as running:
        assert running.wait_for(r"guest is up: (\S+)", TIMEOUT)[1] == old
        load = kdump(running, "kexec", "-l", "/vmlinuz", "--initrd=/image", "--reuse-cmdline")
        assert load.status == 0, load.err
        running.type(json.dumps(["kdump", "kexec", "-e"]) + "\n")
        assert running.wait_for(r"guest is up: (\S+)", TIMEOUT)[1] == new
        assert order(running, "read", "/proc/cmdline").out.strip() == spec.cmdline

        arguments = ("load", "--kernel=/vmlinuz", "--image=/image", "--append=panic=1")
        answer = kdump(running, *arguments, "--method=file")
        assert answer.status == 1 and "kexec_file_load" in answer.err  # Debian's kernels are built without it
        loaded = kdump(running, *arguments)
        assert loaded.status == 0, loaded.err
        assert order(running, "read", "/sys/kernel/kexec_crash_loaded").out.strip() == "1"
        assert kdump(running, "unload").status == 0
        assert order(running, "read", "/sys/kernel/kexec_crash_loaded").out.strip() == "0"
        assert kdump(running, *arguments).status == 0
        told = json.loads(kdump(running, *arguments, "--explain", "--json").out)
        place = reservation(running)
        segments = {each["name"]: each["address"] for each in told["segments"]}
        assert segments.keys() == {"kernel", "core headers", "image", "device tree", "purgatory"}
        assert all(place.start <= address < place.end for address in segments.values())

        poke(stub, segments["image"] + 12345, b"\xde\xad\xbe\xef")
        running.type(json.dumps(["write", "/proc/sysrq-trigger", "c"]) + "\n")
        found = running.wait_for(r"the segment at 0x([0-9a-f]{16}) is damaged; not booting it", TIMEOUT)
        assert int(found[1], 16) == segments["image"]
        running.run_to_exit(60)
