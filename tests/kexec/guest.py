"""First process of a lab machine that does what is typed on its console: one JSON list per line.

["kdump", ARG …] runs a command of ours in this process, ["python", ARG …] a Python of its own, ["run", PROGRAM, ARG …]
another program, ["write", PATH, TEXT] and ["read", PATH] handle files, ["damage", PATH, TO, OFFSET, HEX] copies one and
writes over a part of it, ["mount", SOURCE, TARGET, TYPE] mounts, ["module", PATH] loads a module. The answer is one
line of JSON behind ANSWER.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kdump.capture import system
from kdump.cli import kexec, load, main, unload

# The image holds what is imported; argparse imports shutil when it is used.
__all__ = ["kexec", "load", "shutil", "unload"]

ANSWER = "guest answers: "


def serve() -> None:
    """Answer until the console closes or an order ends the machine."""
    print(f"guest is up: {os.uname().release}", flush=True)
    for line in sys.stdin:
        if line.strip():
            started = time.monotonic()
            answer = _obey(json.loads(line))
            answer["seconds"] = time.monotonic() - started
            print(f"\n{ANSWER}{json.dumps(answer)}", flush=True)


def _obey(order: list[str]) -> dict[str, Any]:
    verb, *rest = order
    if verb == "kdump":
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = main.main(rest)
        return {"status": status, "out": out.getvalue(), "err": err.getvalue()}
    if verb == "python":
        verb, rest = "run", [sys.executable, *rest]
    if verb == "run":
        done = subprocess.run(rest, capture_output=True, text=True, check=False)
        return {"status": done.returncode, "out": done.stdout, "err": done.stderr}
    if verb == "write":
        Path(rest[0]).write_text(rest[1])
    elif verb == "damage":
        content = bytearray(Path(rest[0]).read_bytes())
        part = bytes.fromhex(rest[3])
        content[int(rest[2]) : int(rest[2]) + len(part)] = part
        Path(rest[1]).write_bytes(content)
    elif verb == "mount":
        system.mount(rest[0], rest[1], rest[2])
    elif verb == "module":
        system.load_module(rest[0])
    return {"status": 0, "out": Path(rest[0]).read_text() if verb == "read" else "", "err": ""}


if __name__ == "__main__":
    serve()
