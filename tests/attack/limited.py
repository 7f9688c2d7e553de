"""Runs commands of kdump, each in a process of its own with 5 s of CPU time, and says what they used.

    python -m tests.attack.limited FILE ...        (started by test_claims.py; prints one JSON object a line)

The commands are forked from one process that has everything imported: what counts is what they do, not how they start.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

CPU = 5  # seconds of one command
MEMORY = 512 << 20  # bytes resident

# FILE is the file, OUT a new one.
DUMP_COMMANDS = (
    "info FILE",
    "info --json FILE",
    "dmesg FILE",
    "report FILE",
    "report --html FILE",
    "report --json FILE",
    "report --signature FILE",
    "verify FILE",
    "save FILE OUT",
    "save -d 0 --elf FILE OUT",
    "save -d 31 --flat FILE OUT",
    "save --estimate --json FILE",
    "convert FILE OUT",
    "makedumpfile --mem-usage FILE",
    "makedumpfile -c -d 17 FILE OUT",
    "makedumpfile --split -d 1 FILE OUT OUT2",
    "makedumpfile --dump-dmesg FILE OUT",
    "makedumpfile -g OUT FILE",
    "export --isf -f -o OUT.json FILE",
    "export --elf -f -o OUT FILE",
    "export --lime -f -o OUT FILE",
    "export --gcore 1 -f -o OUT FILE",
    "export --trace-dat -f -o OUT FILE",
    "export --files / -o OUT FILE",
    "diff FILE FILE",
    "shell -c 1 FILE",
    "vmcore-dmesg FILE",
)


def warm() -> None:
    """Import what the commands import."""
    import importlib
    import pkgutil

    for room in ("cli", "bench", "dump", "kernel", "memory", "report", "native", "host", "targets"):
        package = importlib.import_module(f"kdump.{room}")
        for each in pkgutil.walk_packages(package.__path__, f"kdump.{room}."):
            if each.name.rpartition(".")[2] not in ("__main__", "demo", "shell", "program", "libkdump"):
                importlib.import_module(each.name)


def run(command: str, file: str, directory: str) -> dict[str, object]:
    """Run one command on a file: what came of it."""
    names = {"FILE": file, "OUT": f"{directory}/out", "OUT2": f"{directory}/out2", "OUT.json": f"{directory}/out.json"}
    words = [names.get(word, word) for word in command.split()]
    errors = Path(directory) / "stderr"
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w+b") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(nothing.fileno(), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        used = int(sum(os.times()[:2])) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (used + 2 * CPU, used + 2 * CPU))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        try:
            from kdump.cli.main import main

            os._exit(main(words))
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(99)
    _, status, usage = os.wait4(child, 0)
    for name in os.listdir(directory):  # noqa: PTH208
        if name.startswith("out"):
            path = Path(directory, name)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {
        "command": command,
        "file": file,
        "status": os.waitstatus_to_exitcode(status),
        "seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "memory": usage.ru_maxrss << 10,
        "stderr": errors.read_text("utf-8", "replace")[-2000:],
    }


def main() -> None:
    """Every command on every file."""
    commands, *files = sys.argv[1:]
    warm()
    for file in files:
        with tempfile.TemporaryDirectory() as directory:
            for command in commands.split(";"):
                print(json.dumps(run(command, file, directory)), flush=True)


if __name__ == "__main__":
    main()
