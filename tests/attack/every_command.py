"""Runs every command with standard streams that fail, and says how each ended.

    python -m tests.attack.every_command DIRECTORY        (test_foreign_text.py starts it; prints JSON lines)

The commands are forked from one process that has everything imported; each begins where the console script does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.attack.limited import warm

# What each command can do without changing this machine, or crashing it. DUMP, CRASHES, CRASH and TOML are inputs.
COMMANDS: dict[str, tuple[str, ...]] = {
    "demo": ("--memory 1",),
    "status": ("", "--json", "--policy"),
    "setup": ("--nonsense",),
    "estimate": ("", "2G-64G:256M --ram 4G"),
    "config": ("show", "show --template", "check TOML", "import TOML"),
    "rehearse": ("--kernel /nonexistent\x1b[31m",),
    "test": ("--config /nonexistent",),
    "list": ("CRASHES", "CRASHES --json", "/nonexistent\x1b[31m"),
    "prune": ("--dry-run --config TOML",),
    "propagate": ("--config /nonexistent\u202e",),
    "collect": ("CRASH", "--json CRASH"),
    "build": ("--kernel /nonexistent\x1b[31m",),
    "load": ("--explain --kernel /nonexistent\x1b[31m",),
    "unload": ("--nonsense\x1b[31m",),
    "kexec": ("-l /nonexistent\x1b[31m",),
    "capture": ("--plan /nonexistent\x1b[31m",),
    "save": ("DUMP OUT", "--estimate DUMP", "--flat DUMP"),
    "info": ("DUMP", "--json DUMP"),
    "dmesg": ("DUMP", "--json DUMP"),
    "verify": ("DUMP", "CRASH", "--json CRASH"),
    "convert": ("DUMP OUT",),
    "decrypt": ("DUMP OUT -i TOML",),
    "makedumpfile": ("--mem-usage DUMP", "-F DUMP", "-c DUMP OUT"),
    "report": ("DUMP", "--json DUMP", "--html DUMP", "--signature DUMP"),
    "diff": ("DUMP DUMP", "DUMP CRASH"),
    "shell": ("-c 1 DUMP",),
    "debuginfo": ("DUMP -o OUT",),
    "export": ("--isf -o OUT.json DUMP", "--elf -o OUT DUMP", "--gcore 1 -o OUT DUMP", "--trace-dat -o OUT DUMP"),
    "serve": ("--stdio DUMP", "--listen nonsense\x1b[31m DUMP"),
    "mcp": ("CRASHES", "--config /nonexistent\x1b[31m"),
    "fleet": ("token list --data CRASHES", "nonsense\x1b[31m"),
    "kdumpctl": ("showmem", "get-default-crashkernel", "nonsense\x1b[31m"),
    "kdump-config": ("status", "nonsense\x1b[31m"),
    "vmcore-dmesg": ("DUMP",),
    "man": ("", "status"),
    "completion": ("bash",),
}  # fmt: skip


def closed_pipe(number: int) -> None:
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, number)


def full(number: int) -> None:
    """A device without room."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), number)


# What happens to which standard streams.
STREAMS: dict[str, tuple[Callable[[int], object], tuple[int, ...]]] = {
    "kept": (os.fstat, ()),
    "closed pipe": (closed_pipe, (1,)),
    "both in a closed pipe": (closed_pipe, (1, 2)),
    "full": (full, (1,)),
    "all full": (full, (1, 2)),
    "closed": (os.close, (1,)),
    "all closed": (os.close, (0, 1, 2)),
}
# A stream's encoding and what Python does about letters that it lacks: LC_ALL=C, latin-1, odd ones.
ENCODINGS = ("utf-8:strict", "ascii:strict", "ascii:surrogateescape", "latin-1:strict", "utf-16:strict", "cp037:strict")


def runs() -> Iterator[tuple[str, str, str]]:
    """Command line, streams and encoding of each run."""
    for number, (name, lines) in enumerate(COMMANDS.items()):
        for line in lines:
            yield f"{name} {line}", "kept", "ascii:strict"
        yield f"{name} --help", "closed pipe", ENCODINGS[0]
        for streams in ("closed pipe", "full", "all closed"):
            yield f"{name} {lines[0]}", streams, ENCODINGS[0]
        for place, streams in enumerate((*STREAMS, *ENCODINGS)):  # the rest by turns
            if place % 3 == number % 3:
                yield f"{name} {lines[-1]}", *((streams, "utf-8:strict") if streams in STREAMS else ("kept", streams))
    for line in ("", "--help", "--version", "nonsense\x1b[31m\u202e\udcff"):
        for streams in STREAMS:
            yield line, streams, "ascii:strict"


def run(line: str, streams: str, encoding: str, directory: Path) -> dict[str, object]:
    """Run one command: its status and what it wrote, read as Latin-1."""
    inputs = {word: str(directory / word.lower()) for word in ("DUMP", "CRASHES", "CRASH", "TOML", "OUT", "OUT.json")}
    words = [inputs.get(word, word) for word in line.split()]
    outputs = [directory / "stdout", directory / "stderr"]
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(outputs, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        trace = os.open(directory / "trace", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os._exit(begin(words, streams, encoding, trace))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(FileNotFoundError):
        (directory / "out").unlink()
    out, err = (path.read_text("latin-1") for path in outputs)
    trace_text = (directory / "trace").read_text("utf-8", "replace")
    return {"line": line, "streams": streams, "encoding": encoding, "status": status, "stdout": out, "stderr": err,
            "trace": trace_text}  # fmt: skip


def begin(words: list[str], streams: str, encoding: str, trace: int) -> int:
    """Be the console script, and write to `trace` what Python would at the end."""
    from kdump.cli.main import entry

    change, numbers = STREAMS[streams]
    for number in numbers:
        change(number)
    name, _, errors = encoding.partition(":")
    for number, each in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
            raw = open(number, "wb", closefd=False)  # noqa: SIM115
            setattr(sys, each, io.TextIOWrapper(raw, name, errors if number == 1 else "backslashreplace"))
        except OSError:
            setattr(sys, each, None)
    sys.argv[:] = ["kdump", *words]
    try:
        try:
            entry()
        except SystemExit as ended:
            sys.stdout.flush()
            sys.stderr.flush()
            return ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        import traceback

        os.write(trace, traceback.format_exc().encode("utf-8", "backslashreplace"))
        return 99
    return 98  # entry never returns


def main() -> None:
    """Every command with every kind of stream."""
    directory = Path(sys.argv[1])
    warm()
    for line, streams, encoding in dict.fromkeys(runs()):
        print(json.dumps(run(line, streams, encoding, directory)), flush=True)


if __name__ == "__main__":
    main()
