"""crashkernel= as we read it against what real kernels made of it.

`data/crashkernel_boots.json` was recorded by booting Debian's 6.1 and 6.12 cloud kernels under QEMU with each command
line and reading /proc/iomem and /sys/kernel/kexec_crash_size; `test_boot.py` does a few of them afresh.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdump.errors import KdumpError
from kdump.host import crashkernel
from kdump.host.crashkernel import GIB, MIB, Clause, CrashkernelError, Outcome, Range, Ranges, Rules, evaluate, parse
from kdump.host.reservation import ram_ranges, shrink, system_ram

BOOTS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data/crashkernel_boots.json").read_text())


def ranges(texts: list[str]) -> Ranges:
    pairs = (text.split("-") for text in texts)
    return tuple(sorted((int(start, 16), int(last, 16) + 1) for start, last in pairs))


@pytest.mark.parametrize(
    "boot", BOOTS, ids=lambda boot: f"{boot['release'][:4]} {boot['memory_mib']}M {boot['cmdline']}"
)
def test_the_evaluation_agrees_with_the_kernel(boot: dict[str, Any]) -> None:
    outcome = evaluate(boot["cmdline"], ranges(boot["ram"]), Rules.of(boot["release"]))
    crash = ranges(boot["crash"])
    assert sorted(end - start for start, end in crash) == sorted(filter(None, (outcome.size, outcome.low)))
    assert any(start >= 4 * GIB for start, _end in crash) == (outcome.size > 0 and outcome.above_4g)
    if outcome.size and outcome.base:
        assert outcome.base in [start for start, _end in crash]
    assert bool(outcome.why) == (not crash)


def test_there_are_enough_boots() -> None:
    assert len({boot["cmdline"] for boot in BOOTS}) >= 25
    assert sum(not boot["crash"] for boot in BOOTS) >= 10


def test_clauses_are_parsed() -> None:
    assert parse("256M") == Clause("256M", 256 * MIB)
    assert parse("0x10000000@16M") == Clause("0x10000000@16M", 256 * MIB, 16 * MIB)
    assert parse("1G,high") == Clause("1G,high", GIB, suffix="high")
    assert parse("2G-4G:256M,4G-:512M@1G").ranges == (
        Range(2 * GIB, 4 * GIB, 256 * MIB),
        Range(4 * GIB, None, 512 * MIB),
    )
    assert parse("2G-4G:256M,4G-:512M@1G").offset == GIB
    assert parse("010K").size == 8 << 10  # a leading zero means octal


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "a size is missing"),
        ("128MB", "'B' after the size"),
        ("auto", "expected at 'auto'"),
        ("64M,low,high", "',low'"),
        ("1G:64M", "START-"),
        ("2G-1G:64M", "ends before it starts"),
        ("1G-2G", "'-2G' after the size"),
        ("1G-2G:64M,", "missing"),
        ("1G-:64M,2G-", "missing"),
    ],
)
def test_a_faulty_value_says_why(value: str, says: str) -> None:
    with pytest.raises(CrashkernelError) as caught:
        parse(value)
    assert says in caught.value.why or says in str(caught.value)


def test_words() -> None:
    assert parse("2G-64G:256M,64G-:512M").explain() == (
        "256 MiB if RAM is 2.00 GiB or more and below 64.0 GiB; 512 MiB if RAM is 64.0 GiB or more"
    )
    assert "movable" in parse("64M,cma").explain()
    ram = ((0x1000, 0x9F000), (MIB, 2 * GIB))
    told = evaluate("crashkernel=64M crashkernel=1G-:96M", ram, Rules())
    assert told.size == 96 * MIB
    assert told.steps == (
        "crashkernel=64M is overridden by a later crashkernel=1G-:96M",
        "RAM is 2.00 GiB, taken as 2.00 GiB (rounded up to 128 MiB)",
        "1G-:96M applies",
    )


def test_cma_is_known_from_6_17_on() -> None:
    ram = ((MIB, 8 * GIB),)
    line = "crashkernel=128M crashkernel=256M,cma"
    assert evaluate(line, ram, Rules.of("6.17.0")) == Outcome(128 * MIB, cma=256 * MIB)
    assert "knows no ,cma" in evaluate(line, ram, Rules.of("6.16.3")).why
    assert evaluate("crashkernel=256M,cma", ram, Rules.of("7.0.0")).why


def test_reading_this_machines_ram(tmp_path: Path) -> None:
    iomem = tmp_path / "proc/iomem"
    iomem.parent.mkdir()
    iomem.write_text(
        "00001000-0009fbff : System RAM\n00100000-3fffffff : System RAM\n  01000000-01ffffff : System RAM\n"
    )
    assert system_ram(tmp_path) == ((0x1000, 0x9FC00), (0x100000, 0x40000000))
    assert ram_ranges("") == []
    iomem.write_text("00000000-00000000 : System RAM\n00000000-00000000 : System RAM\n")
    with pytest.raises(KdumpError, match="run as root"):
        system_ram(tmp_path)


def test_shrinking_asks_the_kernel_and_refuses_to_grow(tmp_path: Path) -> None:
    size = tmp_path / "sys/kernel/kexec_crash_size"
    size.parent.mkdir(parents=True)
    size.write_text(str(256 * MIB))
    with pytest.raises(KdumpError, match="256 MiB are reserved"):
        shrink(512 * MIB, tmp_path)
    assert shrink(128 * MIB, tmp_path) == 128 * MIB
    assert size.read_text() == str(128 * MIB)


def test_low_part_follows_swiotlb() -> None:
    assert crashkernel.low_default("") == 256 * MIB
    assert crashkernel.low_default("quiet swiotlb=262144,force") == 520 * MIB
    assert crashkernel.low_default("swiotlb=force") == 256 * MIB


@pytest.mark.parametrize(
    ("release", "line", "reserved", "says"),
    [
        ("3.10.0-1160.el7.x86_64", "crashkernel=auto", 161 * MIB, ""),
        ("4.18.0-553.el8.x86_64", "crashkernel=auto", 192 * MIB, ""),
        ("5.14.0-427.el9.x86_64", "crashkernel=auto", 0, "only kernels of RHEL 7 and 8"),
        ("6.1.0-56-amd64", "crashkernel=auto", 0, "only kernels of RHEL 7 and 8"),
        # Before 5.2 a plain value is placed below 896 MiB or nowhere.
        ("3.10.0-1160.el7.x86_64", "crashkernel=1G", 0, "below 896 MiB"),
        ("4.19.0-27-amd64", "crashkernel=1G", 0, "below 896 MiB"),
        ("4.19.0-27-amd64", "crashkernel=1G,high", GIB, ""),
        ("4.18.0-553.el8.x86_64", "crashkernel=1G", GIB, ""),
        ("5.2.0", "crashkernel=1G", GIB, ""),
    ],
)
def test_old_kernels(release: str, line: str, reserved: int, says: str) -> None:
    found = evaluate(line, ((MIB, 3 * GIB), (4 * GIB, 17 * GIB)), Rules.of(release))
    assert found.size == reserved
    assert says in found.why
