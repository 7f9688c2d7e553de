"""`kdump load` and `kdump kexec` as they are called: options, exit statuses, what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.kexec import kernels, synthetic

from kdump.cli import kexec as cli
from kdump.cli.main import main
from kdump.kexec import cmdline, reboot
from kdump.kexec import load as loading
from kdump.kexec.sources import METHODS
from kdump.kexec.state import read_state
from kdump.kexec.wishes import Wishes


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the commands would do, written down instead (a mock: the real calls need a machine; the lab makes them)."""
    synthetic.machine(tmp_path / "machine")
    (tmp_path / "k").write_bytes(kernels.packed_bzimage(kernels.packed(kernels.VMLINUX, "lz4")))
    (tmp_path / "i").write_bytes(b"image")
    done: list[Any] = []

    def note(name: str) -> Any:
        return lambda *arguments, **options: done.append((name, arguments, options))

    for name in ("load", "load_for_reboot", "unload", "remove"):
        monkeypatch.setattr(loading, name, note(name))
    for name in ("reboot_now", "shut_down_and_reboot"):
        monkeypatch.setattr(reboot, name, note(name))
    monkeypatch.setattr(cli, "read_state", lambda: read_state(tmp_path / "machine"))
    monkeypatch.setattr(cmdline, "running_command_line", lambda: "BOOT_IMAGE=/v root=/dev/a crashkernel=1M quiet")
    monkeypatch.chdir(tmp_path)
    return done


def kexec(*words: str) -> int:
    return main(["kexec", *words])


def test_load_for_a_panic(calls: list[Any]) -> None:
    assert kexec("-p", "k", "--initrd=i", "--command-line=a b", "-c") == 0
    (name, arguments, options) = calls[0]
    assert (name, arguments) == ("load", (Path("k"), Path("i"), "a b"))
    assert options == {"method": "segments", "wishes": Wishes()}


def test_load_for_a_reboot_and_go(calls: list[Any]) -> None:
    assert kexec("-f", "-y", "-x", "k", "--reuse-cmdline", "--append=x") == 0
    assert [call[0] for call in calls] == ["load_for_reboot", "reboot_now"]
    assert calls[0][1][2] == "root=/dev/a crashkernel=1M quiet x"
    assert calls[1][2] == {"sync": False, "ifdown": False}


def test_without_an_action_the_system_shuts_down_into_it(calls: list[Any]) -> None:
    assert kexec("k", "--append=x") == 0
    assert [call[0] for call in calls] == ["load_for_reboot", "shut_down_and_reboot"]


def test_reuse_for_a_panic_leaves_the_reservation_out(calls: list[Any]) -> None:
    assert kexec("-p", "k", "--reuse-cmdline", "--noefi") == 0
    assert calls[0][1][2] == "root=/dev/a quiet noefi"


def test_bounds_ask_for_segments(calls: list[Any]) -> None:
    assert kexec("-l", "k", "--mem-min=0x1000000", "--mem-max=0x1ffffff", "-i") == 0
    assert calls[0][2]["method"] == "segments"
    assert calls[0][2]["wishes"] == Wishes(low=0x1000000, high=0x2000000, check=False)
    assert kexec("-l", "-s", "k", "--mem-min=1") == 2


@pytest.mark.parametrize(
    ("words", "name", "options"),
    [
        (("-u",), "remove", {"panic": False}),
        (("-p", "-u"), "unload", {}),
        (("-s", "-p", "-u"), "unload", {}),
        (("-e",), "reboot_now", {"sync": True, "ifdown": True}),
    ],
)
def test_other_actions(calls: list[Any], words: tuple[str, ...], name: str, options: dict[str, bool]) -> None:
    assert kexec(*words) == 0
    assert [(call[0], call[2]) for call in calls] == [(name, options)]


def test_status_is_one_when_loaded(calls: list[Any], tmp_path: Path) -> None:
    assert kexec("-S") == 0
    synthetic.write(tmp_path / "machine", sys__kernel__kexec_crash_loaded="1\n", sys__kernel__kexec_loaded="0\n")
    assert (kexec("-S"), kexec("-p", "-S"), kexec("-l", "-S")) == (1, 1, 0)
    assert not calls


@pytest.mark.parametrize(
    "words",
    [("-p",), ("-l", "k", "--entry=0x1"), ("-l", "k", "--real-mode"), ("-l", "k", "-t", "elf-x86_64"),
     ("-l", "k", "--module=m a"), ("-l", "k", "--elf32-core-headers"),
     ("-l", "k", "--console-serial", "--serial=lpt")],
)  # fmt: skip
def test_wrong_usage(calls: list[Any], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert kexec(*words) == 2
    assert capsys.readouterr().err.startswith("kdump kexec: ") and not calls


@pytest.mark.parametrize(
    ("words", "done"),
    [
        (("-u", "-p"), ["unload"]),  # either order
        (("-l", "k", "-e"), ["reboot_now"]),  # the last action counts
        (("-e", "-l", "k"), ["load_for_reboot"]),
        (("-p", "k", "-l", "-S"), []),  # -S supersedes everything
        (("-l", "k", "--args-linux", "--reset-vga", "--console-vga", "--reuse-video-type"), ["load_for_reboot"]),
        (("-p", "k", "--hotplug", "--elf64-core-headers", "-t", "bzImage"), ["load"]),
    ],
)
def test_options_together(calls: list[Any], words: tuple[str, ...], done: list[str]) -> None:
    assert kexec(*words) == 0
    assert [call[0] for call in calls] == done


def test_version_and_size_of_the_reservation(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert kexec("-v") == kexec("--print-ckr-size") == 0
    version, size = capsys.readouterr().out.splitlines()
    assert version.startswith("kexec (kdump ") and int(size) == read_state(Path("machine")).reserved
    assert not calls


def test_not_a_kernel(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert kexec("-l", "i") == 1
    assert "not a kernel" in capsys.readouterr().err and not calls


@pytest.mark.parametrize("method", METHODS)
def test_explain(
    calls: list[Any], method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdump.kexec.cmdline import capture_command_line
    from kdump.kexec.explain import explain, to_json, to_text
    from kdump.kexec.sources import choose_method, read_sources

    root = tmp_path / "machine"
    state, sources = read_state(root), read_sources(Path("k"), Path("i"))
    chosen, why = choose_method(sources.kernel, state, method, root=root)
    assert chosen == ("segments" if method == "auto" else method)
    line = capture_command_line("console=ttyS0 quiet crashkernel=256M")
    told = explain(sources, line, wanted=method, state=state, root=root)
    assert (told.method, told.why) == (chosen, why)
    text = to_text(told)
    assert all(len(row) <= 80 for row in text.splitlines())
    assert "removed  quiet" in text and "not loaded yet" in text
    model = json.loads(json.dumps(to_json(told)))
    assert model["cmdline"] == line.text and model["method"] == chosen
    assert sum(each["size"] for each in model["segments"]) + model["free"] == state.reserved
    named = {each["name"] for each in model["segments"] if each["name"].startswith("kernel")}
    assert named == ({"kernel"} if chosen == "file" else {"kernel, part 1", "kernel, part 2"})


def test_debug_tells_what_is_loaded(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert kexec("-l", "-d", "k") == 0
    assert capsys.readouterr().err.startswith("bzImage 6.1.0-test, 0x100000 bytes at a multiple of 0x200000\n")
    assert [call[0] for call in calls] == ["load_for_reboot"]
