"""One oops through every transport that people's logs come by: the same title, signature and task."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.cli.main import main
from kdump.report import build, logtext
from kdump.report import json as as_json
from kdump.report import text as as_text
from kdump.report.context import Context
from kdump.report.model import Verdict
from kdump.report.verdict import judge

# Message and seconds since boot, as the kernel prints them.
OOPS = (
    (70.5, "kd_ring: slot 3 lost"),
    (71.0, "BUG: unable to handle page fault for address: ffffc90000a17010"),
    (71.1, "#PF: supervisor write access in kernel mode"),
    (71.2, "#PF: error_code(0x0002) - not-present page"),
    (71.3, "Oops: 0002 [#1] PREEMPT SMP NOPTI"),
    (71.4, "CPU: 2 PID: 714 Comm: ringd Kdump: loaded Tainted: G           OE      6.1.0-9-amd64 #1 Debian 6.1.27-1"),
    (71.5, "Hardware name: Example Board"),
    (71.6, "RIP: 0010:kd_ring_put+0x1f/0x60 [kd_ring]"),
    (71.7, "Code: 48 8b 07 48 89 f2 <89> 10 c3 90"),
    (71.8, "RSP: 0018:ffffc900007dbd40 EFLAGS: 00010246"),
    (71.9, "RAX: ffffc90000a17010 RBX: 0000000000000003 RCX: 0000000000000001"),
    (72.0, "Call Trace:"),
    (72.1, " <TASK>"),
    (72.2, " ? __die_body+0x1a/0x60"),
    (72.3, " kd_ring_write+0x44/0xa0 [kd_ring]"),
    (72.4, " vfs_write+0xb3/0x3d0"),
    (72.5, " ksys_write+0x61/0xe0"),
    (72.6, " do_syscall_64+0x59/0xc0"),
    (72.7, " entry_SYSCALL_64_after_hwframe+0x64/0xce"),
    (72.8, " </TASK>"),
    (72.9, "Modules linked in: kd_ring(OE) e1000"),
    (73.0, "---[ end trace 0000000000000000 ]---"),
    (73.1, "Kernel panic - not syncing: Fatal exception"),
)
Transport = Callable[[int, float, str], str]


def stamp(seconds: float) -> str:
    return f"[{seconds:12.6f}] "


def clock(seconds: float) -> str:
    return f"{8 + int(seconds) // 60:02d}:{int(seconds) % 60:02d}:07"


TRANSPORTS: dict[str, Transport] = {
    "bare": lambda n, t, m: m,
    "dmesg": lambda n, t, m: stamp(t) + m,
    "dmesg -r": lambda n, t, m: f"<4>{stamp(t)}{m}",
    "dmesg -x": lambda n, t, m: f"kern  :alert : {stamp(t)}{m}",
    "dmesg -T": lambda n, t, m: f"[Sat May  6 {clock(t)} 2023] {m}",
    "dmesg -H": lambda n, t, m: f"[May 6 09:1{n % 2}] {m}" if n % 3 == 0 else f"[  +0.{n:06d}] {m}",
    "dmesg -d": lambda n, t, m: f"[{t:12.6f} <    0.100000>] {m}",
    "dmesg -d -t": lambda n, t, m: f"[<    0.100000>] {m}",
    "dmesg --time-format iso": lambda n, t, m: f"2023-05-06T{clock(t)},{n:06d}+02:00 {m}",
    "journal": lambda n, t, m: f"May 06 {clock(t)} node7 kernel: {m}",
    "journal, French": lambda n, t, m: f"févr. 06 {clock(t)} node7 kernel: {m}",
    "journal, full": lambda n, t, m: f"Sat 2023-05-06 {clock(t)} CEST node7 kernel: {m}",
    "journal, precise": lambda n, t, m: f"May 06 {clock(t)}.{n:06d} node7 kernel: {m}",
    "journal, unix": lambda n, t, m: f"16833{n:05d}.{n:06d} node7 kernel: {m}",
    "journal, no host": lambda n, t, m: f"May 06 {clock(t)} kernel: {m}",
    "journal as JSON": lambda n, t, m: json.dumps({"_HOSTNAME": "node7", "MESSAGE": m}),
    "syslog with stamp": lambda n, t, m: f"May  6 {clock(t)} node7 kernel: {stamp(t)}{m}",
    "RFC 3164": lambda n, t, m: f"<4>May  6 {clock(t)} node7 kernel: {stamp(t)}{m}",
    "RFC 5424": lambda n, t, m: f"<4>1 2023-05-06T{clock(t)}.{n:06d}Z node7 kernel - - - {m}",
    "RFC 5424, data": lambda n, t, m: f'<4>1 2023-05-06T{clock(t)}Z node7 kernel - - [meta seq="{n}"] {m}',
    "netconsole, by syslog": lambda n, t, m: f"May  6 {clock(t)} 192.0.2.9 {stamp(t)}{m}",
    "netconsole, by syslog, without stamps": lambda n, t, m: f"May  6 {clock(t)} 192.0.2.9 {m}",
    "netconsole, extended": lambda n, t, m: f"4,{900 + n},{int(t * 1e6)},-;{m}",
    "netconsole, extended, caller": lambda n, t, m: f"4,{900 + n},{int(t * 1e6)},-,caller=T714;{m}",
    "caller": lambda n, t, m: f"[{t:12.6f}][  T714] {m}",
    "Android": lambda n, t, m: f"<4>{stamp(t)}c2    714 {m}",
    "Samsung": lambda n, t, m: f"<4>{stamp(t)} [2:          ringd:  714] {m}",
    "MediaTek": lambda n, t, m: f"<4>{stamp(t)}(2)[714:ringd]{m}",
    "serial server": lambda n, t, m: f"[2023-05-06 {clock(t)}] {stamp(t)}{m}",
    "serial server, T": lambda n, t, m: f"[2023-05-06T{clock(t)}.{n:03d}] {stamp(t)}{m}",
    "time only": lambda n, t, m: f"{clock(t)}.{n:03d} {m}",
    "CI": lambda n, t, m: f"2023-05-06T{clock(t)}.1234567Z {stamp(t)}{m}",
    "container": lambda n, t, m: f"I0506 {clock(t)}.{n:06d}    4321 tail.go:33] {stamp(t)}{m}",
    "container as JSON": lambda n, t, m: json.dumps({"log": f"{stamp(t)}{m}\n", "stream": "stdout"}),
    "pod prefix, nothing else": lambda n, t, m: f"vm-7 | {m}",
    "quoted": lambda n, t, m: f"> {stamp(t)}{m}",
    "quoted twice": lambda n, t, m: f"> > {m}",
    "indented": lambda n, t, m: f"            {stamp(t)}{m}",
    "terminal": lambda n, t, m: f"\x1b[1;31m{stamp(t)}\x1b[0m{m}\x1b[K",
    "serial": lambda n, t, m: f"{stamp(t)}{m}\r",
    "login prompt": lambda n, t, m: (f"node7 login: {stamp(t)}" if n == 1 else stamp(t)) + m,
    "NUL bytes": lambda n, t, m: f"\0\0{stamp(t)}{m}\0",
}  # fmt: skip


def through(transport: Transport) -> str:
    return "\n".join(transport(number, *line) for number, line in enumerate(OOPS)) + "\n"


def verdict(text: str) -> Verdict:
    return judge(Context(None, logtext.from_text(text)))


EXPECTED = verdict(through(TRANSPORTS["dmesg"]))


def test_what_is_expected() -> None:
    assert EXPECTED.title == "BUG: unable to handle kernel paging request in kd_ring_put"
    assert EXPECTED.signature and EXPECTED.fatal
    assert [frame.function for frame in EXPECTED.frames][:3] == ["kd_ring_put", "kd_ring_write", "vfs_write"]
    assert EXPECTED.task is not None and (EXPECTED.task.command, EXPECTED.task.pid) == ("ringd", 714)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_transport(name: str) -> None:
    found = verdict(through(TRANSPORTS[name]))
    assert (found.title, found.signature, found.task) == (EXPECTED.title, EXPECTED.signature, EXPECTED.task)
    assert [frame.function for frame in found.frames] == [frame.function for frame in EXPECTED.frames]
    assert [line[0] for line in found.taints] == ["O", "E"]


@pytest.mark.parametrize("before", [0, 2000], ids=["short", "long"])
def test_a_pipe(before: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of `kdump report <(journalctl -k -b -1)`: it can be read only once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = "".join(f"{stamp(1)}usb 1-1: new device number {number}\n" for number in range(before))
    whole = text + through(TRANSPORTS["dmesg"])
    writer = threading.Thread(target=pipe.write_text, args=(whole,), daemon=True)
    writer.start()
    assert main(["report", "--signature", str(pipe)]) == 0
    writer.join()
    assert capsys.readouterr().out == EXPECTED.signature + "\n"


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8"])
def test_codings(coding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(through(TRANSPORTS["serial"]).encode(coding))
    assert main(["report", "--signature", str(path)]) == 0
    assert capsys.readouterr().out.strip() == EXPECTED.signature


def test_a_file_full_of_nul_bytes_is_still_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a serial line's noise and a pstore record's end leave them."""
    path = tmp_path / "console.log"
    path.write_bytes(b"\0" * 200 + through(TRANSPORTS["dmesg"]).encode() + b"\0" * 700)
    assert main(["report", "--signature", str(path)]) == 0
    assert capsys.readouterr().out.strip() == EXPECTED.signature


def test_lines_of_other_programs_are_no_part_of_a_stack() -> None:
    """In a syslog by their tag, on a console by the missing stamp, in a tagged log by another caller."""
    noise = {
        "syslog with stamp": "May  6 08:01:12 node7 systemd[1]: Started a unit: RIP: 0010:nothing+0x1/0x2",
        "journal": "May 06 08:01:12 node7 sshd[77]: Call Trace:",
        "dmesg": "executing program 3: open(0x0)",
        "caller": "[   72.350000][  T999] audit: type=1400: Call Trace:",
    }
    for name, line in noise.items():
        lines = through(TRANSPORTS[name]).splitlines()
        mixed = [part for each in lines for part in (each, line)]
        found = verdict("\n".join(mixed))
        assert (found.title, found.signature) == (EXPECTED.title, EXPECTED.signature), name
        assert len(found.frames) == len(EXPECTED.frames), name


def test_two_oopses_that_interleave_are_told_apart_by_caller() -> None:
    other = (
        through(TRANSPORTS["caller"]).replace("T714", "T900").replace("kd_ring", "kd_pump").replace("ringd", "pumpd")
    )
    pairs = zip(through(TRANSPORTS["caller"]).splitlines(), other.splitlines(), strict=True)
    lines = [part for pair in pairs for part in pair]
    panics = [line for line in lines if "Kernel panic" in line]
    for panic, name in zip(panics, ("kd_ring_put", "kd_pump_put"), strict=True):
        rest = [line for line in lines if "Kernel panic" not in line]
        found = verdict("\n".join([*rest, panic]))
        assert found.title.endswith(name)
        assert {frame.module for frame in found.frames if frame.module} == {name.removesuffix("_put")}


def test_time_and_caller_are_kept() -> None:
    for name in ("dmesg", "container", "netconsole, extended, caller", "dmesg -d"):
        lines = logtext.from_text(through(TRANSPORTS[name]))
        assert [round(line.seconds or 0, 6) for line in lines if line.text] == [seconds for seconds, _ in OOPS], name
    for name in ("caller", "netconsole, extended, caller", "Android", "Samsung", "MediaTek"):
        lines = logtext.from_text(through(TRANSPORTS[name]))
        assert {line.caller for line in lines if line.text} == {"T714"}, name


def test_a_message_that_another_broke_off_is_not_lost() -> None:
    text = "BUG: spinlock bad magic on CPU#1, ringd/714[   71.000000] e1000: link up\n"
    assert verdict(text).kind == "spinlock"


def test_taint_field_of_rhel() -> None:
    """Dashes stand for flags that upstream has not: kernel/panic.c of RHEL 6 to 9."""
    for field, letters in (
        ("Tainted: G        W      ------------ T 3.10.0-957.el7.x86_64", ["W", "T"]),
        ("Tainted: G           OE     -------  ---  5.14.0-427.13.1.el9_4.x86_64", ["O", "E"]),
        ("Tainted: P           ---------------   2.6.32-431.el6.x86_64", ["P"]),
        ("Not tainted 5.14.0-427.el9.x86_64", []),
        ("Not tainted ------------  3.10.0-957.el7.x86_64", []),
    ):
        text = re.sub(r"Tainted: .*? 6\.1\.0-9-amd64", field, through(TRANSPORTS["dmesg"]))
        found = judge(context := Context(None, logtext.from_text(text)))
        assert [line[0] for line in found.taints] == letters, field
        assert found.task is not None and found.task.command == "ringd", field
        assert context.crash.event.release == field.split()[-1], field


@pytest.mark.parametrize("name", TRANSPORTS)
def test_numbers_that_no_kernel_prints_are_only_text(name: str) -> None:
    """Python makes no float of 400 digits and no decimal number of 5000. Each kind of number of a log is one once."""
    whole, seen = through(TRANSPORTS[name]), set()
    part, digits = (whole, 5000) if name == "bare" else (whole.splitlines()[1], 400)
    for found in re.finditer(r"\d+|(?<=x)[0-9a-f]+|[0-9a-f]{16}", part):
        around = re.sub(r"[0-9a-f]+", "9", part[max(0, found.start() - 20) : found.end() + 10])
        if around not in seen:
            seen.add(around)
            text = whole.replace(found[0], "9" * digits)
            report = build.build(Context(None, logtext.from_text(text)), "log", only=["system", "log"])
            assert json.loads("".join(as_json.render(report)))
            assert list(as_text.render(report))
