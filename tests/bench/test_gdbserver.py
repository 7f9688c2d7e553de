"""GDB itself looks at a dump; and what is no GDB gets nowhere."""

from __future__ import annotations

import io
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.conftest import CrashMaker
from tests.report.machines import MACHINES

from kdump.arch.x86_64 import X86_64
from kdump.bench.gdbserver import PACKET, Connection, Target
from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.memory import open_dump


class Fake:
    """1,000 threads, a word of memory, three registers."""

    layout = X86_64.gdb
    threads = dict.fromkeys(range(1, 1001))

    def registers(self, number: int) -> dict[str, int]:
        return {"ip": 0xFFFFFFFF81000000 + number, "sp": 0x1000, "bp": -1}

    def memory(self, number: int, address: int, size: int) -> bytes:
        if address != 0x1000:
            raise KdumpError("not there")
        return b"$#}*\0\1\2\3"[:size]

    def about(self, number: int) -> str:
        return "$wapper, on CPU 0"


def packet(body: bytes) -> bytes:
    return b"$" + body + b"#%02x" % (sum(body) & 0xFF)


def answers(*asked: bytes) -> list[bytes]:
    """The bodies of what is answered, unescaped; checksums are checked."""
    sink = io.BytesIO()
    Connection(cast(Target, Fake()), io.BytesIO(b"".join(asked)), sink).serve()
    found = []
    for body, check in re.findall(rb"\$([^#]*)#(..)", sink.getvalue(), re.S):
        assert int(check, 16) == sum(body) & 0xFF
        found.append(re.sub(rb"\}(.)", lambda match: bytes([match[1][0] ^ 0x20]), body, flags=re.S))
    return found


def test_threads_are_named_in_batches() -> None:
    first, second, last = answers(*map(packet, (b"qfThreadInfo", b"qsThreadInfo", b"qsThreadInfo")))
    assert [int(each, 16) for part in (first, second) for each in part[1:].split(b",")] == list(range(1, 1001))
    assert last == b"l"


def test_registers_and_memory() -> None:
    all_of_them, program_counter, word, absent = answers(*map(packet, (b"Hg2", b"g", b"p10", b"m1000,8", b"m2000,8")))[
        1:
    ]
    assert len(all_of_them) == 2 * (17 * 8 + 7 * 4)
    assert program_counter == (0xFFFFFFFF81000002).to_bytes(8, "little").hex().encode()
    assert all_of_them[: 6 * 16] == b"x" * 6 * 16 and all_of_them[6 * 16 : 7 * 16] == b"f" * 16
    assert bytes.fromhex(word.decode()) == b"$#}*\0\1\2\3"
    assert absent == b"E01"


def test_nothing_runs_and_nothing_is_changed() -> None:
    for asked in (b"c", b"s", b"M1000,1:00", b"X1000,1:\0", b"G00", b"P0=00", b"Z0,1000,1", b"C05"):
        (answer,) = answers(packet(asked))
        assert answer.startswith(b"E.") and b"cannot be run or changed" in answer, asked


RAW = (b"", b"GET / HTTP/1.1\r\n\r\n", b"$", b"$g", b"$g#", b"$g#zz", b"\3\3+-", b"$" + b"x" * 10 * PACKET + b"#00")
ODD = (
    b"m", b"mzz,4", b"m0,zz", b"p", b"pzz", b"p-1", b"Hg", b"Hgzz", b"Hg7fffffff", b"T", b"T7fffffff", b"\xff\xfe",
    b"q", b"qThreadExtraInfo,zz", b"qXfer:features:read:target.xml:", b"vMustReplyEmpty",
)  # fmt: skip


@pytest.mark.parametrize("sent", [*RAW, *map(packet, ODD)])
def test_nonsense_ends_or_is_refused(sent: bytes) -> None:
    for answer in answers(sent):
        assert answer in (b"", b"E01") or answer.startswith(b"l")


def test_a_packet_that_arrives_damaged_is_asked_for_again() -> None:
    sink = io.BytesIO()
    Connection(cast(Target, Fake()), io.BytesIO(b"$?#00" + packet(b"?")), sink).serve()
    assert sink.getvalue().startswith(b"-+$T05")


def gdb(*commands: str) -> str:
    """What GDB prints."""
    settings = ("set pagination off", "set confirm off", "set remotetimeout 60")  # on a busy machine 2 s are too few
    words = [word for command in (*settings, *commands) for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout + done.stderr


@pytest.mark.lab
@pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed")
def test_gdb_sees_every_thread_and_its_stack(lab_crash: CrashMaker, debug_vmlinux: Callable[[str], Path]) -> None:
    path = lab_crash("6.1", **MACHINES["6.1"]).directory / "vmcore"
    with open_dump(str(path)) as dump:
        kernel = Kernel(dump)
        tasks = Tasks(kernel)
        threads = Target(kernel).threads
        panicked = tasks.panic_cpu()
        assert panicked is not None
        names = [kernel.symbolizer.at(frame.lookup) for frame in tasks.cpu_stack(panicked).frames]
        sleeping = next(task for task in tasks if task.kernel_thread and not task.running)
        there = [frame.pc for frame in tasks.stack(sleeping).frames][:4]
        offset = kernel.vmcoreinfo.kaslr_offset
    said = gdb(
        f"symbol-file -o {offset:#x} {debug_vmlinux('6.1')}",
        f"target remote | {sys.executable} -m kdump serve --stdio {path}",
        "info threads", "echo =first\\n", "bt", "echo =second\\n",
        f"thread {list(threads).index(sleeping.pid) + 1}", "bt", "echo =third\\n", "print init_task.comm",
        "stepi", "detach",
    )  # fmt: skip
    listed, first, second, third = re.split(r"^=\w+\n", said, flags=re.M)
    assert sorted(map(int, re.findall(r"^\*? +\d+ +Thread (\d+) ", listed, re.M))) == sorted(threads)
    functions = re.findall(r"^#\d+ +(?:0x[0-9a-f]+ in )?(\w+) ", first, re.M)
    ours = [symbol.name.partition(".")[0] for symbol in names if symbol]
    # GDB shows inlined functions as frames of their own.
    assert [name for name in functions if name in ours][: len(ours) - 1] == ours[: len(ours) - 1], (functions, ours)
    assert there[0] == int(re.findall(r"^#0 +0x([0-9a-f]+) in ", second, re.M)[0], 16)
    assert '"swapper/0' in third and "cannot be run or changed" in third


@pytest.mark.lab
def test_it_waits_on_the_loopback_address_only(lab_crash: CrashMaker) -> None:
    path = lab_crash("6.1", **MACHINES["6.1"]).directory / "vmcore"
    command = [sys.executable, "-m", "kdump", "serve", "--once", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        found = re.search(r"target remote 127\.0\.0\.1:(\d+)$", process.stdout.readline())
        assert found
        with socket.create_connection(("127.0.0.1", int(found[1]))) as peer:
            peer.sendall(packet(b"?"))
            heard = b""
            while b"#" not in heard:
                heard += peer.recv(100)
            assert re.search(rb"\$T05thread:[0-9a-f]+;#", heard)
            peer.sendall(packet(b"D"))
        assert process.wait(60) == 0


def test_an_architecture_whose_registers_gdb_orders_in_a_way_not_known_here_is_named() -> None:
    kernel = SimpleNamespace(arch=SimpleNamespace(gdb=None, name="riscv64"))
    with pytest.raises(KdumpError, match="riscv64"):
        Target(cast(Any, kernel))


@pytest.mark.parametrize("place", ["x", "70000", "1:2:x", "-1"])
def test_places_that_are_none(place: str) -> None:
    command = [sys.executable, "-m", "kdump", "serve", "--listen", place, "vmcore"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "expected a port from 0 to 65535" in done.stderr and "Traceback" not in done.stderr
