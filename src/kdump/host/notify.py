"""Notifies of a crash by a command, a webhook, or mail through the local MTA. Each gets the same JSON summary."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.message import EmailMessage
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from kdump.display import shown
from kdump.errors import KdumpError, describe
from kdump.host.config import Notify

TIMEOUT: Final = 60  # seconds for each
_KEPT: Final = 4096  # bytes of what a program says
_POLL: Final = 0.05  # seconds
SENDMAIL: Final = ("/usr/sbin/sendmail", "/usr/lib/sendmail")


def notify(wanted: Notify, summary: Mapping[str, Any], told_before: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Tell everyone configured who is not in `told_before`; yields (who, "" or why it failed).

    A failure or delay of one does not affect the others.
    """
    ways: list[tuple[str, Callable[[], None]]] = []
    if wanted.command:
        ways.append((f"command {wanted.command[0]}", lambda: run_command(wanted.command, summary)))
    if wanted.webhook:
        ways.append((f"webhook {_host(wanted.webhook)}", lambda: post(wanted.webhook, summary)))
    if wanted.mail:
        ways.append((f"mail to {wanted.mail}", lambda: mail(wanted.mail, summary)))
    for who, tell in ways:
        if who in told_before:
            continue
        try:
            tell()
        except Exception as error:  # noqa: BLE001 -- one notifier must not keep the others from being told
            yield who, describe(error)
        else:
            yield who, ""


def run_command(command: Sequence[str], summary: Mapping[str, Any]) -> None:
    """Run a program with the summary on its standard input. Raises KdumpError."""
    status, said = run_bounded(command, json.dumps(summary).encode())
    if status:
        last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise KdumpError(f"{command[0]} failed with status {status}", why="".join(last)[-500:])


def run_bounded(command: Sequence[str], text: bytes, seconds: float = TIMEOUT) -> tuple[int, bytes]:
    """Run a program with `text` as its standard input: its status, and the end of what it said.

    It and what it started are killed after `seconds`; of what it says no more than a few KiB are kept. Raises
    KdumpError.
    """
    end = time.monotonic() + seconds
    with tempfile.TemporaryFile() as given:
        given.write(text)
        given.seek(0)
        try:
            process = subprocess.Popen(
                command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
            )
        except (OSError, ValueError) as error:  # the latter: a NUL in an argument
            raise KdumpError(f"{command[0]} did not run", why=describe(error)) from None
    assert process.stdout
    said = b""
    with process.stdout as pipe:
        os.set_blocking(pipe.fileno(), False)
        watched = [pipe]
        while True:
            ended = process.poll() is not None  # asked first, so that all it said is in the pipe
            said, whole = _drained(pipe.fileno(), said, end)
            if whole:
                watched = []  # a pipe that is closed is always readable
            if ended:
                return process.returncode, said
            if time.monotonic() >= end:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise KdumpError(f"{command[0]} did not end within {seconds:g} s", why="it was killed")
            select.select(watched, [], [], _POLL)


def _drained(pipe: int, said: bytes, end: float) -> tuple[bytes, bool]:
    """The end of `said` and of what is in the pipe now; whether that is all. Who else holds it is not waited for."""
    try:
        while time.monotonic() < end:
            data = os.read(pipe, 1 << 16)
            if not data:
                return said, True
            said = (said + data)[-_KEPT:]
    except BlockingIOError:
        pass
    return said, False


def post(url: str, summary: Mapping[str, Any]) -> None:
    """POST the summary. Raises KdumpError; the URL, which may hold a token, is not in the message."""
    if not url.startswith(("http://", "https://")):
        raise KdumpError("the webhook is not an http:// or https:// URL", remedy="see [notify] in kdump.toml")
    within(TIMEOUT, _host(url), lambda: _post(url, json.dumps(summary).encode()))


def _post(url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "kdump"}
    try:
        request = urllib.request.Request(url, body, headers)  # noqa: S310 -- http only, see above
        with urllib.request.build_opener(_Stay).open(request, timeout=TIMEOUT):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        why = "a redirection is not followed: name the new address" if 300 <= error.code < 400 else ""
        raise KdumpError(f"{_host(url)} answered {error.code} {error.reason}"[:200], why=why) from None
    except OSError as error:
        raise KdumpError(f"{_host(url)} cannot be reached", why=str(getattr(error, "reason", error))[:200]) from None
    except (http.client.HTTPException, ValueError) as error:
        kind = type(error).__name__
        raise KdumpError(f"{_host(url)} did not answer as HTTP servers do", why=kind) from None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the summary would be left out of the request there, and nobody told."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Leave the answer as it is: an error."""


def within(seconds: float, who: str, call: Callable[[], None]) -> None:
    """Call in a thread that is abandoned after `seconds`: a peer that sends a byte now and then never times out.

    Raises what the call raises, KdumpError if it takes longer.
    """
    outcome: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 -- handed to whoever waits
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=run, name=f"tell {who}", daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except Empty:
        raise KdumpError(f"{who} did not answer within {seconds:g} s") from None
    if error is not None:
        raise error


def mail(address: str, summary: Mapping[str, Any]) -> None:
    """Hand a message to the local sendmail. Raises KdumpError."""
    program = next((path for path in SENDMAIL if Path(path).exists()), None)
    if program is None:
        raise KdumpError("there is no sendmail on this machine", remedy="install an MTA, or use command or webhook")
    message = EmailMessage()
    message["To"] = address
    subject = f"[kdump] {summary['host']}: {summary['title'] or 'crashed'}"[:200]
    message["Subject"] = shown(subject).replace("\t", " ")  # a line break would begin a header
    lines = [shown(f"{name}: {value}") for name, value in summary.items() if value not in ("", [], None)]
    message.set_content("\n".join(lines) + "\n")
    status, said = run_bounded([program, "-t", "-i"], message.as_bytes())
    if status:
        why = said.decode("utf-8", "replace").strip()[-200:]
        raise KdumpError(f"sendmail did not take the message (status {status})", why=why)


def _host(url: str) -> str:
    """The part of a URL that may be shown."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]
