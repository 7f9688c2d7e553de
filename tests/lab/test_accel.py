"""The accelerator: KVM only when a boot with it succeeds; the answer is remembered; the environment overrides."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.image.kernel_tree import KernelTree
from kdump.lab import accel


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KDUMP_ACCEL", raising=False)
    return tmp_path / "kdump/accelerator"


@pytest.mark.parametrize(
    ("value", "meant"), [("tcg", "tcg,thread=multi"), ("kvm", "kvm"), ("tcg,tb-size=64", "tcg,tb-size=64")]
)
def test_the_environment_overrides(monkeypatch: pytest.MonkeyPatch, value: str, meant: str) -> None:
    monkeypatch.setenv("KDUMP_ACCEL", value)
    assert accel.choose(Path("/never/booted"), lambda kernel: pytest.fail("tried")) == meant


@pytest.mark.parametrize("boots", [True, False])
def test_the_probe_decides_once(monkeypatch: pytest.MonkeyPatch, cache: Path, boots: bool) -> None:
    calls: list[Path] = []

    def probe(kernel: Path) -> bool:
        calls.append(kernel)
        return boots

    monkeypatch.setattr("os.access", lambda path, mode: True)
    wanted = "kvm" if boots else "tcg,thread=multi"
    assert accel.choose(None, probe) == "tcg,thread=multi"  # nothing to try it with, so nothing is remembered
    assert not cache.exists()
    assert [accel.choose(Path("/k"), probe) for _ in range(3)] == [wanted] * 3
    assert calls == [Path("/k")]
    assert accel.choose(None, probe) == wanted
    cache.write_text("another host\nkvm\n")
    assert accel.choose(Path("/k"), probe) == wanted
    assert len(calls) == 2


def test_without_the_device_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert accel.choose(Path("/k"), lambda kernel: pytest.fail("tried")) == "tcg,thread=multi"


@pytest.mark.lab
def test_what_is_chosen_here_boots(kernel: Callable[[str], KernelTree], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a broken /dev/kvm the probe must say no, in bounded time. Either way it must be true."""
    from kdump.lab.machine import Machine, boots_with_kvm
    from kdump.lab.qemu import Spec

    monkeypatch.undo()  # the kernel is in the real cache
    image = kernel("6.1").vmlinuz
    started = time.monotonic()
    verdict = boots_with_kvm(image)
    assert time.monotonic() - started < accel.PROBE_SECONDS + 10
    chosen = accel.KVM if verdict else accel.EMULATION
    with Machine(Spec(kernel=image, memory=256 << 20), accelerator=chosen) as machine:
        machine.wait_for("Linux version", 60)
