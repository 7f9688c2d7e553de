"""Byte code for the image, compiled by interpreters of their own (compile.py), on all CPUs, and only once."""

from __future__ import annotations

import contextlib
import marshal
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from kdump.errors import KdumpError
from kdump.image.made import Made, content_digest, file_digest

_PROCESSES = 4  # at most: there is not more to do than that


class Interpreter:
    """A fresh interpreter that runs a script beside this module; questions and answers are marshalled."""

    def __init__(self, script: str, entry: str = "") -> None:
        """`entry` is the script's argument, and what errors are about."""
        # A fixed hash seed and a fresh process make the byte code the same every time.
        environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
        if "LD_LIBRARY_PATH" in os.environ:
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        self._script = script
        self._about = entry or "the capture kernel's Python"
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the process
        command = [sys.executable, "-s", "-S", "-P", str(Path(__file__).with_name(script)), entry]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, env=environment
        )

    def tell(self, question: Any) -> None:
        """Tell it what to work on."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # `hear` says why
            self._process.stdin.write(marshal.dumps(question))
            self._process.stdin.flush()

    def ask(self, question: Any) -> Any:
        """Its answer."""
        self.tell(question)
        return self.hear()

    def hear(self) -> Any:
        """Its next answer. Raises `KdumpError` with its last words if there is none."""
        assert self._process.stdout
        try:
            return marshal.load(self._process.stdout)  # noqa: S302 -- our own child writes it
        except (EOFError, ValueError, TypeError):
            self._process.wait()
            self._complaints.seek(0)
            lines = self._complaints.read().decode(errors="replace").strip().splitlines()
            why = f"{self._script} failed: " + " ".join(lines[-1:])
            raise KdumpError(f"{self._about} cannot be put in an image", why=why) from None

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """Until it has ended."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # of what it did not read
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._complaints.close()


class Compilers:
    """Compiles in the background."""

    def __init__(self, made: Made) -> None:
        """Modules in `made` are not compiled again."""
        self._made = made
        self._pool = ThreadPoolExecutor(min(_PROCESSES, os.cpu_count() or 1))
        self._mine = threading.local()
        self._processes: list[Interpreter] = []
        self._begun: dict[tuple[str, bytes | Path], Future[bytes]] = {}

    def close(self) -> None:
        """Give up what has not begun."""
        self._pool.shutdown(cancel_futures=True)
        for process in self._processes:
            process.close()

    def begin(self, shown: str, source: bytes | Path) -> Future[bytes]:
        """The .pyc of a source, in time; `shown` is the file's name in tracebacks."""
        key = (shown, source)
        if key not in self._begun:
            self._begun[key] = self._pool.submit(self._code, shown, source)
        return self._begun[key]

    def _code(self, shown: str, source: bytes | Path) -> bytes:
        digest = file_digest(source) if isinstance(source, Path) else content_digest([source])
        recipe = f"byte code {sys.version}"
        return self._made.get(recipe, marshal.dumps((shown, digest)), lambda: self._compile(shown, source))

    def _compile(self, shown: str, source: bytes | Path) -> bytes:
        if isinstance(source, Path):
            source = source.read_bytes()
        if not hasattr(self._mine, "process"):
            self._mine.process = Interpreter("compile.py")
            self._processes.append(self._mine.process)
        code: bytes = self._mine.process.ask((shown, source))
        return code
