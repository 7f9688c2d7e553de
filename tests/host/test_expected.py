"""What a crash will take: by measurement where there is one, by formula, against what distributions reserve."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kdump.capture.meminfo import ram
from kdump.cli.main import main
from kdump.host import config, crashkernel, expected, rehearsed
from kdump.host.config import Config

MIB, GIB = 1 << 20, 1 << 30
IOMEM = "00100000-ffffffff : System RAM\n  01000000-01ffffff : Kernel code\n  02000000-027fffff : Kernel bss\n"
MEMINFO = (
    "MemTotal: {} kB\nMemFree: 500000 kB\nAnonPages: 100000 kB\nCached: 200000 kB\nBuffers: 1000 kB\nShmem: 50000 kB\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "proc/meminfo": MEMINFO.format(1000000),
        "proc/iomem": IOMEM,
        "proc/sys/kernel/osrelease": "6.1.0\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def here(root: Path, text: str = "") -> Config:
    return config.parse(f'targets = ["file://{root}/crash"]\n{text}')


def captured(root: Path, name: str, memory: dict[str, int], status: str = "complete") -> None:
    place = root / "crash" / name
    place.mkdir(parents=True)
    (place / "vmcore").touch()
    (place / "manifest.json").write_text(json.dumps({"status": status, "panic_time": 1, "memory": memory}))


def test_the_formula_grows_with_ram_network_and_cpus(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    small = expected.by_formula(here(root), root)
    assert dict(small.parts)["the kernel"] == 24 * MIB
    assert small.size == 208 * MIB
    assert expected.by_formula(here(root, "[dump]\nreport = false\n"), root).size == 144 * MIB
    (root / "proc/meminfo").write_text(MEMINFO.format(512 << 20))  # 512 GiB
    large = expected.by_formula(here(root), root).size
    assert large == 272 * MIB
    networked = config.parse('targets = ["ssh://a@b/c"]\n[capture]\ncpus = 3\n')
    assert expected.by_formula(networked, root).size == large + 32 * MIB + 2 * 16 * MIB
    for many in (0, 32):  # all, or more than the machine has
        assert expected.by_formula(config.parse(f"[capture]\ncpus = {many}\n"), root).size == large + 3 * 16 * MIB
    (root / "sys/class/nvme/nvme0").mkdir(parents=True)
    for transport, more in (("pcie", 0), ("tcp", 32 * MIB)):  # a local disk, one of another machine
        (root / "sys/class/nvme/nvme0/transport").write_text(f"{transport}\n")
        assert expected.by_formula(here(root), root).size == large + more
    (root / "sys/class/nvme/nvme0/transport").unlink()
    for driver in ("dm_snapshot", "bcache"):  # lists of what is where, once
        (root / "sys/module" / driver).mkdir(parents=True)
        assert expected.by_formula(here(root), root).size == large + 32 * MIB
        (root / "sys/module" / driver).rmdir()
    (root / "proc/cpuinfo").write_text("flags\t\t: fpu tdx_guest\n")
    assert expected.by_formula(here(root), root).size == large + 64 * MIB


def test_a_kernel_that_hides_its_size_is_taken_for_a_large_one(root: Path) -> None:
    (root / "proc/iomem").write_text("00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n")
    assert dict(expected.by_formula(here(root), root).parts)["the kernel"] == expected.KERNEL


@pytest.mark.parametrize(
    ("release", "size", "text", "value"),
    [
        ("6.17.0", 256, "", "160M 96M,cma"),
        ("7.2.11+deb13-amd64", 192, "", "160M 32M,cma"),
        ("6.12.0", 256, "", ""),  # does not know it
        ("6.17.0", 176, "", ""),  # not worth it
        ("6.17.0", 256, "[dump]\nlevel = 1\n", ""),  # user pages are wanted
    ],
)
def test_part_of_it_may_be_movable(release: str, size: int, text: str, value: str) -> None:
    estimate = expected.Estimate(size * MIB, "formula", ())
    assert expected.movable(estimate, config.parse(text), crashkernel.Rules.of(release)) == value
    if value:
        parameters = " ".join(crashkernel.parameters(value))
        outcome = crashkernel.evaluate(parameters, ((MIB, 4 * GIB),), crashkernel.Rules.of(release))
        assert (outcome.size + outcome.cma, outcome.low) == (size * MIB, 0)


def test_the_worst_measurement_counts_with_the_reservation_it_was_made_in(root: Path) -> None:
    captured(root, "a", {"ram": 256 * MIB, "lowest_available": 136 * MIB})
    captured(root, "b", {"ram": 512 * MIB, "lowest_available": 412 * MIB})
    captured(root, "cut", {"ram": 256 * MIB, "lowest_available": 1 * MIB}, "incomplete")
    captured(root, "old", {"lowest_available": 1 * MIB})
    found = expected.wanted(here(root), root)
    assert (found.reason, found.parts[0], found.value) == ("measurement", ("peak of a", 120 * MIB), "192M")
    without = expected.wanted(here(root, "[dump]\nreport = false\n"), root)
    assert (without.value, without.parts[1]) == ("160M", ("margin, 25 %", 30 * MIB))
    rehearsed.record(rehearsed.Rehearsal(1, True, "6.1", 256 * MIB, 128 * MIB), root / "var/lib/linux-kdump")
    assert expected.wanted(here(root), root).parts[0] == ("peak of the last rehearsal", 128 * MIB)
    assert expected.wanted(here(root, "[crashkernel]\nmargin = 100\n"), root).size == 256 * MIB


def test_a_rehearsal_says_nothing_of_what_its_small_twin_lacks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAM to describe, a network, further CPUs, lists of caches: they would be missing in a real crash."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    (root / "proc/meminfo").write_text(MEMINFO.format(512 << 20))  # 512 GiB
    (root / "sys/module/dm_cache").mkdir(parents=True)
    networked = config.parse('targets = ["ssh://a@b/c"]\n[capture]\ncpus = 3\n')
    rehearsed.record(rehearsed.Rehearsal(1, True, "6.1", 256 * MIB, 128 * MIB), root / "var/lib/linux-kdump")
    found = expected.wanted(networked, root)
    assert found.reason == "measurement"
    assert [size // MIB for _name, size in found.parts] == [128, 64, 32, 32, 32, 64]
    assert found.size == 352 * MIB


def test_a_value_of_ones_own(root: Path) -> None:
    found = expected.wanted(here(root, '[crashkernel]\nvalue = "1G-4G:192M,4G-:512M"\n'), root)
    assert (found.size, found.reason) == (512 * MIB, "kdump.toml")


def test_the_dump_is_what_the_level_leaves(root: Path) -> None:
    assert expected.dump_size(0, root) == 1000000 << 10
    assert expected.dump_size(31, root) == 199000 << 10
    assert expected.dump_size(16, root) == 500000 << 10
    assert expected.dump_size(2, root) == (1000000 - 201000 + 50000) << 10


def test_distributions() -> None:
    assert expected.distributions(2 * GIB) == {
        "Debian 12": 128 * MIB,
        "Debian 13": 192 * MIB,
        "RHEL 9": 192 * MIB,
        "RHEL 10": 256 * MIB,
    }
    assert expected.distributions(128 * GIB)["RHEL 10"] == 512 * MIB


def test_free_space_of_a_directory_that_is_yet_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {tmp_path: 5 * GIB, tmp_path.parent: 7 * GIB}
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": free[place]}))
    assert expected.free_space(tmp_path / "a/b/c") == 5 * GIB == expected.free_space(tmp_path)


def test_ram_of_the_capture_kernel(tmp_path: Path) -> None:
    iomem = tmp_path / "iomem"
    iomem.write_text(
        "00001000-00001fff : System RAM\n30000000-3fffffff : System RAM\n  30000000-31ffffff : Kernel code\n"
    )
    assert ram(str(iomem)) == 256 * MIB + 4096
    iomem.write_text("00000000-00000000 : System RAM\n")
    assert ram(str(iomem)) == 0


def test_the_command_explains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "2G-4G:256M,4G-:512M", "--ram", "3G"]) == 0
    shown = capsys.readouterr().out
    assert "2G-4G:256M applies" in shown
    assert "reserves  256 MiB below 4 GiB" in shown
    assert main(["estimate", "--json", "1G,high", "--ram", "8G"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"]["low"] == 256 * MIB
    assert main(["estimate", "128MB", "--ram", "8G"]) == 1
    for both in ("512M,high 128M,low", "crashkernel=512M,high crashkernel=128M,low"):
        assert main(["estimate", both, "--ram", "16G"]) == 0
        assert "reserves  512 MiB above 4 GiB, and 128 MiB below" in capsys.readouterr().out
    assert main(["estimate", "auto", "--ram", "16G"]) == 1
    assert "only kernels of RHEL 7 and 8" in capsys.readouterr().err
    assert main(["estimate", "9G-:1G", "--ram", "8G"]) == 3
