"""Tools we did not write, asked what they see in a dump: crash, drgn and makedumpfile.

Debian 12's crash (8.0.2, of 2022) stops at kernels since 6.4 ("invalid structure member offset: module_core_size") and
its makedumpfile is built without zstd. For these Debian 13's are used, the release that ships kernel 6.12: unpacked
beside, run through their own dynamic loader.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Seen:
    """What crash says of a dump."""

    panic: str
    pid: int
    command: str
    release: str
    frames: tuple[str, ...]


def run(*command: str | Path, text: str = "", timeout: float = 300) -> str:
    """Standard output of a tool; its failure fails the test with what it said."""
    result = subprocess.run(
        list(map(str, command)), input=text, capture_output=True, text=True, timeout=timeout, check=False,
        errors="replace",
    )  # fmt: skip
    assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result.stdout


def from_debian_13(tool: str) -> list[str | Path]:
    """How to call `tool` of Debian 13, fetched once and cached."""
    from kdump.lab import cache

    def make(directory: Path) -> None:
        root = directory / "root"
        run("debootstrap", "--variant=minbase", "--include=crash,makedumpfile", "trixie", root)
        (root / "var/cache/apt").rename(directory / "unused")
        shutil.rmtree(directory / "unused")

    root = cache.entry("debian-13", make) / "root"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    return [root / "lib64/ld-linux-x86-64.so.2", "--library-path", libraries, root / "usr/bin" / tool]


def crash(series: str) -> list[str | Path]:
    """How to call the crash that knows the kernel series."""
    return ["crash"] if series == "6.1" else from_debian_13("crash")


def ask_crash(vmlinux: Path, vmcore: Path, series: str) -> Seen:
    """Open the dump in the crash that knows the kernel series, with the debug vmlinux."""
    # -i /dev/null: no user's start-up file; the output of `sys` has the panic message, `bt` the panicking stack.
    text = run(*crash(series), "-s", "-i", "/dev/null", vmlinux, vmcore, text="sys\nbt\nquit\n")
    panic = re.search(r"^\s*PANIC: \"(.*)\"", text, re.MULTILINE)
    task = re.search(r"^PID: (\d+) .*COMMAND: \"(.*)\"", text, re.MULTILINE)
    release = re.search(r"^\s*RELEASE: (\S+)", text, re.MULTILINE)
    assert panic and task and release, text
    frames = tuple(re.findall(r"^\s*#\d+ \[[0-9a-f]+\] (\S+) at", text, re.MULTILINE))
    return Seen(panic[1], int(task[1]), task[2], release[1], frames)


def release_by_drgn(vmcore: Path) -> str:
    """Open the dump in drgn, which needs no debug information for what VMCOREINFO says."""
    import drgn

    program = drgn.Program()
    program.set_core_dump(vmcore)
    first: str = program["VMCOREINFO"].string_().decode().splitlines()[0]
    return first.removeprefix("OSRELEASE=")


def panicking_stack_by_drgn(vmcore: Path, vmlinux: Path) -> list[str]:
    """The names of the functions on the panicking task's stack, as drgn unwinds it."""
    import drgn

    program = drgn.Program()
    program.set_core_dump(vmcore)
    program.load_debug_info([vmlinux])
    return [frame.name for frame in program.crashed_thread().stack_trace()]


def log_of_makedumpfile(vmcore: Path, scratch: Path) -> str:
    """The kernel log as makedumpfile reads it."""
    output = scratch / "dmesg.makedumpfile"
    run(*from_debian_13("makedumpfile"), "--dump-dmesg", vmcore, output)
    text = output.read_text(errors="replace")
    output.unlink()
    return text


def log_messages(text: str) -> list[str]:
    """The messages of a dmesg text without their prefixes, for comparing formats: "[    1.234567] " and "[T12] " go."""
    lines = (re.sub(r"^(<\d+>)?\[ *\d+\.\d+\]( ?\[ *[TC]\d+\])? ?", "", line) for line in text.splitlines())
    return [line.strip() for line in lines if line.strip()]  # lines that continue a message may be indented
