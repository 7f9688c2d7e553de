"""Every number and duration is bounded where it is parsed, and every wait ends."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kdump.capture.plan import CapturePlan
from kdump.cli import inputs
from kdump.cli.commands import COMMANDS, Command
from kdump.cli.parsers import parser_for
from kdump.dump.workers import Aside, StoppedError, in_order, thread_count
from kdump.errors import FormatError, KdumpError, UsageError
from kdump.host import config
from kdump.host.config.tables import ConfigError, Duration, Size
from kdump.units import parse_duration, parse_size, whole_number

HOSTILE = (
    "-1", "5223023572093018873", "99999999999999999999999", "1e9", "nan", "inf", "0x7fffffffffffffffff", "²", "١٢٣",
    "1" * 5000, "", " ", "12 34", "99999999999999d", "16E",
)  # fmt: skip


def readers() -> Iterator[tuple[str, Callable[[str], Any]]]:
    """Every option of every command that has a reader of its value."""

    def of(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, Callable[[str], Any]]]:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub, inner in action.choices.items():
                    yield from of(inner, f"{name} {sub}")
            elif action.type not in (None, Path, inputs.dump):  # paths have no bounds
                assert callable(action.type)
                yield f"{name} {'/'.join(action.option_strings)}", action.type

    for command in COMMANDS:
        yield from of(parser_for(command)[1], command.name)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_default_is_a_value_that_its_option_takes(command: Command) -> None:
    """argparse reads a default that is a string as if it were given."""
    for action in parser_for(command)[1]._actions:
        if callable(action.type) and isinstance(action.default, str):
            action.type(action.default)


def test_no_option_takes_a_number_without_bounds() -> None:
    found = dict(readers())
    assert len(found) > 12
    for name, read in found.items():
        assert getattr(read, "__module__", "") == "kdump.cli.values", f"{name} reads its value by {read}"


@pytest.mark.parametrize(("name", "read"), list(readers()), ids=lambda value: value if isinstance(value, str) else "")
def test_options_refuse_what_no_machine_has(name: str, read: Callable[[str], Any]) -> None:
    for text in HOSTILE:
        if (name, text) in ACCEPTED:
            continue
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            read(text)
        assert "expected" in str(caught.value) or "size" in str(caught.value), name


# Values that mean something to an option all the same.
ACCEPTED = {
    *((f"{name} --codec-level", "-1") for name in ("save", "convert")),  # one of zstd's fast levels
    *((f"kexec --mem-{which}", "5223023572093018873") for which in ("min", "max")),
    *((name, "5223023572093018873") for name in ("makedumpfile -L", "estimate --shrink")),
}


def declared(kind: type) -> Iterator[tuple[str, Any]]:
    for entry in fields(kind):
        if "read" in entry.metadata:
            yield entry.name, entry.metadata["read"]


@pytest.mark.parametrize("table", [entry for entry in fields(config.Config) if "table" in entry.metadata])
def test_the_configuration_refuses_what_makes_no_dump(table: Any) -> None:
    for name, read in declared(table.metadata["table"]):
        if not isinstance(read, Duration | Size):
            continue
        for value in ('"99999999999999d"', "-1", str(1 << 64), '"1e9"', "1.5", "nan", '"²"', "true"):
            with pytest.raises(ConfigError, match=r"from \d"):
                config.parse(f"[{table.name}]\n{name} = {value}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[deadlines]\ndmesg = 0", "from 1s to 1h"),
        (
            "[deadlines]\ntotal = 20",
            "from 1min to 7d",
        ),  # the last half minute is kept for sealing: nothing would be dumped
        ('[deadlines]\ntotal = "99999999999999d"', "from 1min to 7d"),
        ("[hooks]\ntimeout = 0", "from 1s to 1h"),
        ("targets = ['ssh://u@h:99999/x']", "a port from 1 to 65535"),
        ("targets = ['ssh://u@h:0/x']", "a port from 1 to 65535"),
        ("targets = ['ssh://u@[::1/x']", "brackets"),
        ("[[network.interface]]\nmtu = 1", "from 68 to 65535"),
        ("[[network.interface]]\nmac = '52:54'", "a hardware address"),
        ("[[network.interface]]\nname = 'an interface too long'", "15 characters"),
        ("[[network.interface]]\naddresses = ['192.0.2.300/24']", "an address with its prefix length"),
        ("[[network.interface]]\ngateways = ['router']", "an address such as"),
        ("[network]\ndns = ['ns.example.net']", "an address such as"),
    ],
)
def test_what_passes_the_check_can_dump(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "1e300", str(10**30)])
def test_a_plan_has_bounds_too(value: str) -> None:
    with pytest.raises(FormatError):
        CapturePlan.from_json('{"deadlines": {"total": ' + value + "}}")
    with pytest.raises(FormatError):
        CapturePlan.from_json('{"keep": ' + value + "}")


def test_numbers_of_other_scripts_and_of_any_length() -> None:
    for text in ("²", "١٢", "9" * 30, "1_000", "0x10", "--1"):
        with pytest.raises(ValueError, match="from 0 to 9"):
            whole_number(text, 0, 9)
    assert whole_number(" +7 ", 0, 9) == 7
    with pytest.raises(UsageError, match="out of bounds"):
        parse_size("9999999E")
    with pytest.raises(ValueError, match="from 1s to 1h"):
        parse_duration("61min", 1, 3600)


@pytest.mark.parametrize("columns", ["²", "-5", "0", "99999999999999999999", "9" * 5000, "x", "1"])
def test_any_columns(columns: str) -> None:
    done = kdump("save", "--help", environment={"COLUMNS": columns})
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) < 130


@pytest.mark.parametrize("threads", ["5223023572093018873", "-1"])
def test_threads_of_makedumpfile(threads: str, tmp_path: Path) -> None:
    done = kdump("makedumpfile", "-l", "-d", "31", "--num-threads", threads, "in", str(tmp_path / "out"))
    assert done.returncode == 1, done.stderr  # what makedumpfile gives for wrong usage
    assert "from 0 to" in done.stderr
    assert "Traceback" not in done.stderr


def kdump(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdump", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_threads_are_clamped_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdump.dump import workers

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(8))
    monkeypatch.setattr(workers, "memory_left", lambda: 1 << 40)
    assert [thread_count(wanted) for wanted in (None, 0, 1, 5, 4096)] == [8, 0, 1, 5, 8]
    monkeypatch.setattr(workers, "memory_left", lambda: 100 << 20)
    assert [thread_count(wanted) for wanted in (None, 0, 2, 8)] == [3, 0, 2, 3]
    monkeypatch.setattr(workers, "memory_left", lambda: 0)
    assert thread_count(None) == 1


def test_the_memory_that_is_left_is_known() -> None:
    code = (
        "import resource; from kdump.dump.workers import memory_left\n"
        "whole = memory_left(); resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); print(whole, memory_left())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole, limited = map(int, done.stdout.split())
    assert 64 << 20 < whole < 1 << 46
    assert 0 < limited < 1 << 30


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit, ZeroDivisionError])
@pytest.mark.parametrize("place", ["making", "working"])
@pytest.mark.timeout(30)
def test_what_ends_a_worker_reaches_who_waits(error: type[BaseException], place: str) -> None:
    def make() -> Callable[[int], int]:
        if place == "making":
            raise error

        def work(job: int) -> int:
            if job == 3:
                raise error
            return job

        return work

    with pytest.raises(error):
        list(in_order(range(100), make, 3))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("compress")]


@pytest.mark.timeout(30)
def test_a_worker_that_hangs_is_given_up_when_stop_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdump.dump import workers

    monkeypatch.setattr(workers, "_LAST", 0.2)
    release = threading.Event()
    began = time.monotonic()

    def work(job: int) -> int:
        if job == 2:
            release.wait()
        return job

    done = []
    with pytest.raises(StoppedError, match="the deadline passed"):
        for job, _ in in_order(
            range(100), lambda: work, 2, lambda: "the deadline passed" if time.monotonic() > began + 0.5 else ""
        ):
            done.append(job)
    release.set()
    assert done == [0, 1]


@pytest.mark.timeout(30)
def test_without_threads_the_caller_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert [result for _, result in in_order(range(5), lambda: lambda job: job * 2, 4)] == [0, 2, 4, 6, 8]
    calls = []
    aside = Aside()
    aside.start(lambda: calls.append(1))
    aside.close()
    assert calls == [1]


@pytest.mark.timeout(30)
def test_an_error_aside_reaches_who_waits() -> None:
    def fail() -> None:
        raise MemoryError

    aside = Aside()
    aside.start(fail)
    with pytest.raises(MemoryError):
        aside.wait()
    aside.start(fail)
    with pytest.raises(MemoryError):
        aside.close()


def test_levels() -> None:
    from kdump.dump.levels import parse_levels

    for text in ("64", "-1", "²", "1,,2", "9" * 5000, ",".join(map(str, range(70)))):
        with pytest.raises(KdumpError):
            parse_levels(text)


@pytest.mark.parametrize(
    "line",
    ["config check FILE", "report FILE", "diff FILE FILE", "decrypt -i FILE /etc/hostname OUT", "list --config FILE",
     "fleet known --data DIR FILE", "fleet user x --data DIR --password-file FILE",
     "fleet serve --data DIR --oidc FILE", "config import FILE"],
)  # fmt: skip
@pytest.mark.parametrize("content", ["without end", "not UTF-8"])
def test_a_file_that_is_named_has_an_end_and_is_text(line: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe\xfd binary \xd0\0" * 10)
    file = "/dev/zero" if content == "without end" else f"{tmp_path}/file"
    names = {"FILE": file, "OUT": f"{tmp_path}/out", "DIR": f"{tmp_path}/d"}
    command = [sys.executable, "-m", "kdump", *(names.get(word, word) for word in line.split())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, preexec_fn=bounded)
    assert done.returncode in (0, 1, 2, 3)
    assert "Traceback" not in done.stderr


def bounded() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
