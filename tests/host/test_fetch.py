"""Collecting under attack: killed at any moment, damaged on the way, two at once, names of others."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.targets.test_block import FILES, area, begin, save

from kdump.cli.main import main
from kdump.errors import KdumpError
from kdump.host import stored
from kdump.host.fetch import fetch
from kdump.lab import disk
from kdump.targets import rawstore

__all__ = ["area"]  # a fixture
CRASH = "web1-x"
KILLS = int(os.environ.get("KDUMP_KILLS", "12"))


@pytest.fixture
def full(tmp_path: Path, area: Path) -> Path:
    session = begin(tmp_path, area)
    save(session, FILES)
    session.close()
    return area


def state(device: Path) -> int:
    with device.open("rb") as file:
        return rawstore.read_header(file.fileno(), str(device)).state


def whole(path: Path) -> bool:
    return {name: (path / name).read_bytes() for name in FILES} == FILES and (path / "manifest.json").exists()


def test_killed_at_any_moment_the_crash_is_there_and_the_next_run_ends_it(full: Path, tmp_path: Path) -> None:
    """The state is the old or the new: on the partition, or whole under its name."""
    before = full.read_bytes()
    to = tmp_path / "out"
    command = [sys.executable, "-m", "kdump", "collect", str(full), "--to", str(to)]
    began = time.monotonic()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    took = time.monotonic() - began
    seen = set()
    for _ in range(KILLS):
        full.write_bytes(before)
        if to.exists():
            subprocess.run(["rm", "-rf", str(to)], check=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(random.uniform(0.5 * took, 1.1 * took))
        process.send_signal(signal.SIGKILL)
        process.wait()
        named = (to / CRASH).exists()
        freed = state(full) == rawstore.CONSUMED
        seen.add((named, freed))
        assert not named or whole(to / CRASH)
        assert named or not freed
        assert [crash.name for crash in stored.scan([to])] == [CRASH] * named
        assert main(["collect", str(full), "--to", str(to)]) == 0
        assert whole(to / CRASH)
        assert state(full) == rawstore.CONSUMED
        assert [path.name for path in to.iterdir()] == [CRASH]
    assert seen


def test_a_run_that_came_to_name_but_not_to_free_is_ended_by_the_next(full: Path, tmp_path: Path) -> None:
    first = fetch(str(full), tmp_path / "out", keep=True)
    assert first and first.good and not first.freed
    second = fetch(str(full), tmp_path / "out")
    assert second and second.good and second.freed
    assert fetch(str(full), tmp_path / "out") is None


def test_what_does_not_verify_is_kept_on_the_partition(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(full.read_bytes())
    data[200_000] ^= 1
    full.write_bytes(data)
    for _ in range(2):  # and again at the next boot
        assert main(["collect", str(full), "--to", str(tmp_path / "out")]) == 3
        assert f"--free {full}" in capsys.readouterr().out
        assert state(full) == rawstore.SAVED
    assert main(["collect", str(full), "--to", str(tmp_path / "out"), "--free"]) == 3
    assert state(full) == rawstore.CONSUMED


def test_an_incomplete_crash_is_compared_and_freed(tmp_path: Path, area: Path) -> None:
    session = begin(tmp_path, area)
    stream = session.create("vmcore")
    stream.write(b"x" * 100_000)
    stream.abort()
    session.close()
    found = fetch(str(area), tmp_path / "out")
    assert found and found.freed and not found.good
    assert (tmp_path / f"out/{CRASH}/vmcore.incomplete").read_bytes() == b"x" * 100_000


@pytest.mark.parametrize("kind", ["other", "empty", "link", "file"])
def test_another_thing_of_that_name_is_left_alone(kind: str, full: Path, tmp_path: Path) -> None:
    to, victim = tmp_path / "out", tmp_path / "victim"
    to.mkdir()
    victim.mkdir()
    place = to / CRASH
    if kind == "link":
        place.symlink_to(victim)
    elif kind == "file":
        place.write_text("precious")
    else:
        place.mkdir()
        if kind == "other":
            (place / "vmcore").write_bytes(b"precious")
    with pytest.raises(KdumpError, match="exists already"):
        fetch(str(full), to)
    assert state(full) == rawstore.SAVED
    assert list(victim.iterdir()) == []
    assert kind != "file" or place.read_text() == "precious"


def test_two_at_once_exclude_each_other(full: Path, tmp_path: Path) -> None:
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'rb'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(100)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(full)], stdout=subprocess.PIPE)
    try:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(KdumpError, match="in use"):
            fetch(str(full), tmp_path / "out")
    finally:
        other.kill()
        other.wait()
    assert fetch(str(full), tmp_path / "out")


@pytest.mark.parametrize(
    "lie",
    [{"name": "../../etc/x"}, {"name": ".hidden"}, {"name": ""}, {"size": 1 << 62}, {"offset": 0}, {"offset": 1 << 62}],
)
def test_a_header_that_lies_writes_nothing(lie: dict[str, object], full: Path, tmp_path: Path) -> None:
    with full.open("r+b") as file:
        header = rawstore.read_header(file.fileno(), "x")
        rawstore.write_header(
            file.fileno(), replace(header, files=(replace(header.files[0], **lie), *header.files[1:]))  # type: ignore[arg-type]
        )  # fmt: skip
    with pytest.raises(KdumpError):
        fetch(str(full), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert state(full) == rawstore.SAVED


def test_a_pipe_is_no_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KdumpError, match="neither a block device"):
        fetch(str(tmp_path / "pipe"), tmp_path / "out", keep=True)
    assert main(["collect", "--format", "--force", str(tmp_path / "pipe")]) == 1


def test_a_mounted_device_is_neither_formatted_nor_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, place = tmp_path / "image", tmp_path / "place"
    disk.create_ext4(image, 8 << 20, uuid="0b5e1f5a-5f0c-4c53-9d4e-6b64756d7002")
    place.mkdir()
    done = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr}")
    loop = done.stdout.strip()
    try:
        subprocess.run(["mount", loop, str(place)], check=True)
        try:
            before = image.read_bytes()[:4096]
            assert main(["collect", "--format", "--force", loop]) == 1
            assert main(["collect", loop, "--to", str(tmp_path / "out")]) == 1
            assert capsys.readouterr().err.count("is in use") == 2
            assert image.read_bytes()[:4096] == before
        finally:
            subprocess.run(["umount", str(place)], check=True)
        assert main(["collect", "--format", "--force", loop]) == 0
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
