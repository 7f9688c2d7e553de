"""Seeding a kernel that has no randomness. The request to the kernel is looked at here; the lab makes it for real."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NoReturn

import pytest

from kdump.capture import randomness
from kdump.elf import EHDR, ET_CORE, PHDR, PT_LOAD, PT_NOTE

IMAGE = 0xFFFFFFFF81000000


def vmcore(path: Path, *loads: tuple[int, bytes]) -> Path:
    """An ELF core with these (virtual address, content) and a note that must not count."""
    headers, body = [PHDR.pack(PT_NOTE, 0, 0, 0, 0, 0, 0, 0)], b""
    start = EHDR.size + PHDR.size * (len(loads) + 1)
    for virtual, content in loads:
        headers.append(PHDR.pack(PT_LOAD, 7, start + len(body), virtual, 0, len(content), len(content), 0))
        body += content
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = EHDR.pack(ident, ET_CORE, 62, 1, 0, EHDR.size, 0, 0, EHDR.size, PHDR.size, len(headers), 0, 0, 0)
    path.write_bytes(head + b"".join(headers) + body)
    return path


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the kernel is given."""
    given: list[bytes] = []

    def ioctl(_descriptor: int, request: int, info: bytes) -> None:
        bits, size = struct.unpack_from("=ii", info)
        assert (request, bits, size, len(info)) == (0x40085203, 256, 32, 40)
        given.append(info[8:])

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    return given


def test_the_seed_follows_from_the_dead_kernels_image_and_the_clock(
    tmp_path: Path, secrets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.perf_counter_ns", lambda: 1)
    monkeypatch.setattr(randomness, "_ENOUGH", 3 << 20)
    other, image = (0xFFFF888000000000, bytes(4 << 20)), bytes(2 << 20)
    for last in (b"a", b"b", b"a"):  # the image's last byte counts, though other memory stands before it
        randomness.seed(str(vmcore(tmp_path / "vmcore", other, (IMAGE, image + last))))
    assert secrets[0] == secrets[2] != secrets[1]
    monkeypatch.undo()
    monkeypatch.setattr("fcntl.ioctl", lambda _descriptor, _request, info: secrets.append(info[8:]))
    randomness.seed(str(tmp_path / "vmcore"))
    assert secrets[3] != secrets[2]


@pytest.mark.parametrize("content", [b"", b"\x7fELF", bytes(4096)])
def test_no_memory_is_no_seed(tmp_path: Path, secrets: list[bytes], content: bytes) -> None:
    (tmp_path / "vmcore").write_bytes(content)
    with pytest.raises(OSError, match="holds no memory"):
        randomness.seed(str(tmp_path / "vmcore"))
    assert secrets == []


def test_readiness_is_asked_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_size: int, _flags: int) -> NoReturn:
        raise BlockingIOError

    assert randomness.ready()
    monkeypatch.setattr("os.getrandom", refuse)
    assert not randomness.ready()
