"""Telling somebody of a crash: a command, a webhook, mail through the local MTA. Each gets the same JSON summary."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

from kdump.errors import KdumpError
from kdump.host.config import Notify

TIMEOUT: Final = 60  # seconds for each
SENDMAIL: Final = ("/usr/sbin/sendmail", "/usr/lib/sendmail")


def notify(wanted: Notify, summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Tell everyone configured; yields (who, "" or why it failed). One that fails does not keep the others from it."""
    ways: list[tuple[str, Callable[[], None]]] = []
    if wanted.command:
        ways.append((f"command {wanted.command[0]}", lambda: run_command(wanted.command, summary)))
    if wanted.webhook:
        ways.append((f"webhook {_host(wanted.webhook)}", lambda: post(wanted.webhook, summary)))
    if wanted.mail:
        ways.append((f"mail to {wanted.mail}", lambda: mail(wanted.mail, summary)))
    for who, tell in ways:
        try:
            tell()
        except KdumpError as error:
            yield who, str(error)
        else:
            yield who, ""


def run_command(command: Sequence[str], summary: Mapping[str, Any]) -> None:
    """Run a program with the summary on its standard input. Raises KdumpError."""
    text = json.dumps(summary)
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KdumpError(f"{command[0]} did not run", why=str(error)) from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise KdumpError(f"{command[0]} failed with status {done.returncode}", why="".join(last))


def post(url: str, summary: Mapping[str, Any]) -> None:
    """POST the summary. Raises KdumpError; the URL, which may hold a token, is not in the message."""
    if not url.startswith(("http://", "https://")):
        raise KdumpError("the webhook is no http:// or https:// URL", remedy="see [notify] in kdump.toml")
    headers = {"Content-Type": "application/json", "User-Agent": "kdump"}
    request = urllib.request.Request(url, json.dumps(summary).encode(), headers)  # noqa: S310 -- http only, see above
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        raise KdumpError(f"{_host(url)} answered {error.code} {error.reason}") from None
    except OSError as error:
        raise KdumpError(f"{_host(url)} cannot be reached", why=str(getattr(error, "reason", error))) from None


def mail(address: str, summary: Mapping[str, Any]) -> None:
    """Hand a message to the local sendmail. Raises KdumpError."""
    program = next((path for path in SENDMAIL if Path(path).exists()), None)
    if program is None:
        raise KdumpError("there is no sendmail on this machine", remedy="install an MTA, or use command or webhook")
    message = EmailMessage()
    message["To"] = address
    message["Subject"] = f"[kdump] {summary['host']}: {summary['title'] or 'crashed'}".replace("\n", " ")[:200]
    lines = [f"{name}: {value}" for name, value in summary.items() if value not in ("", [], None)]
    message.set_content("\n".join(lines) + "\n")
    try:
        subprocess.run(
            [program, "-t", "-i"], input=message.as_bytes(), timeout=TIMEOUT, check=True, capture_output=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise KdumpError("sendmail did not take the message", why=str(error)) from None


def _host(url: str) -> str:
    """The part of a URL that may be shown."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]
