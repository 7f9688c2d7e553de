from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.targets.test_file import add_disk, ground

from kdump.capture.crash import manifest_text
from kdump.cli.main import main
from kdump.errors import FormatError, KdumpError
from kdump.files.digest import Pieces
from kdump.targets import rawstore, target_for
from kdump.targets.protocol import Session, Spec

SIZE = 4 << 20


@pytest.fixture
def area(tmp_path: Path) -> Path:
    add_disk(tmp_path, "vdb", bytes(SIZE))
    assert main(["collect", "--format", str(tmp_path / "dev/vdb")]) == 0
    return tmp_path / "dev/vdb"


def begin(tmp_path: Path, area: Path, crash: str = "web1-x") -> Session:
    spec = Spec("block:///dev/vdb", {})
    target = target_for(spec)
    target.path = str(area)  # type: ignore[attr-defined]
    return target.open(crash, ground(tmp_path, []))


def save(session: Session, files: dict[str, bytes]) -> None:
    entries = []
    for name, data in files.items():
        stream = session.create(name)
        stream.skip(10)
        stream.write(data[10:])
        stream.pwrite(data[:10], 0)
        stream.seal()
        pieces = Pieces()
        pieces.add(0, data)
        entries.append({"name": name, **pieces.describe()})
    stream = session.create("manifest.json")
    stream.write(manifest_text({"crash": "web1-x", "status": "complete", "files": entries}))
    stream.seal()


FILES = {"vmcore-dmesg.txt": b"0123456789 log", "vmcore": bytes(range(256)) * 5000}


def test_a_crash_comes_back(tmp_path: Path, area: Path) -> None:
    session = begin(tmp_path, area)
    free = session.free()
    assert free is not None
    assert SIZE - 100_000 < free < SIZE
    save(session, FILES)
    session.close()
    assert main(["collect", str(area), "--to", str(tmp_path / "out")]) == 0
    out = tmp_path / "out/web1-x"
    assert {name: (out / name).read_bytes() for name in FILES} == FILES
    assert json.loads((out / "manifest.json").read_text())["status"] == "complete"
    assert all(path.stat().st_mode & 0o077 == 0 for path in out.iterdir())
    assert main(["collect", str(area), "--to", str(tmp_path / "again")]) == 0
    assert not (tmp_path / "again").exists()


def test_nothing_is_written_over_a_crash_that_was_not_collected(tmp_path: Path, area: Path) -> None:
    session = begin(tmp_path, area)
    save(session, FILES)
    session.close()
    with pytest.raises(KdumpError, match="still holds the crash web1-x"):
        begin(tmp_path, area, "web1-y")
    assert main(["collect", str(area), "--to", str(tmp_path / "out"), "--keep"]) == 0
    with pytest.raises(KdumpError, match="still holds"):
        begin(tmp_path, area, "web1-y")
    assert main(["collect", str(area), "--to", str(tmp_path / "out2")]) == 0
    begin(tmp_path, area, "web1-y").close()


def test_a_power_cut_leaves_an_incomplete_crash(tmp_path: Path, area: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = begin(tmp_path, area)
    save(session, {"vmcore-dmesg.txt": FILES["vmcore-dmesg.txt"]})
    stream = session.create("vmcore")
    stream.write(b"x" * 10_000)
    # Nothing is closed: this is what is on the device when the power goes.
    assert main(["collect", str(area), "--to", str(tmp_path / "out"), "--json"]) == 3
    (fetched,) = json.loads(capsys.readouterr().out)["fetched"]
    assert (fetched["path"], fetched["whole"]) == (str(tmp_path / "out/web1-x"), False)
    out = tmp_path / "out/web1-x"
    assert (out / "vmcore-dmesg.txt").read_bytes() == FILES["vmcore-dmesg.txt"]
    assert (out / "vmcore.incomplete").exists()
    assert not (out / "vmcore").exists()


def test_a_second_attempt_goes_on_with_the_same_crash(tmp_path: Path, area: Path) -> None:
    first = begin(tmp_path, area)
    save(first, {"vmcore-dmesg.txt": FILES["vmcore-dmesg.txt"]})
    first.create("vmcore").write(b"x" * 10_000)
    second = begin(tmp_path, area)
    save(second, FILES)
    second.close()
    assert main(["collect", str(area), "--to", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/web1-x/vmcore").read_bytes() == FILES["vmcore"]


def test_a_full_device(tmp_path: Path, area: Path) -> None:
    stream = begin(tmp_path, area).create("vmcore")
    with pytest.raises(OSError, match="No space left"):
        for _ in range(5):
            stream.write(bytes(1 << 20))
    stream.abort()
    assert main(["collect", str(area), "--to", str(tmp_path / "out")]) == 3
    assert (tmp_path / "out/web1-x/vmcore.incomplete").stat().st_size == 3 << 20


def test_one_flipped_byte_is_found(tmp_path: Path, area: Path) -> None:
    session = begin(tmp_path, area)
    save(session, FILES)
    session.close()
    data = bytearray(area.read_bytes())
    data[200_000] ^= 1
    area.write_bytes(data)
    assert main(["collect", str(area), "--to", str(tmp_path / "out")]) == 3


@pytest.mark.parametrize("slot", [0, 1])
def test_a_torn_header_falls_back_to_the_one_before(area: Path, slot: int) -> None:
    with area.open("r+b") as file:
        before = rawstore.read_header(file.fileno(), "x")
        rawstore.write_header(file.fileno(), rawstore.RawHeader(rawstore.WRITING, "c", sequence=before.sequence + slot))
        after = rawstore.read_header(file.fileno(), "x")
        file.seek(rawstore.SLOTS[after.sequence % 2] + 20)
        file.write(b"\xff")
        file.flush()
        assert rawstore.read_header(file.fileno(), "x").sequence < after.sequence
        file.seek(0)
        file.write(bytes(16384))
        file.flush()
        with pytest.raises(FormatError, match="no raw dump area"):
            rawstore.read_header(file.fileno(), "x")


def test_formatting_spares_a_crash_that_nobody_fetched(area: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def state(new: int | None = None) -> int:
        with area.open("r+b") as file:
            header = rawstore.read_header(file.fileno(), "x")
            if new is not None:
                rawstore.write_header(file.fileno(), rawstore.RawHeader(new, "c-1", sequence=header.sequence))
            return header.state

    for unfetched in (rawstore.WRITING, rawstore.SAVED):
        state(unfetched)
        assert main(["collect", "--format", str(area)]) == 1
        assert "holds the crash c-1, which nobody fetched" in capsys.readouterr().err
        assert state() == unfetched
    assert main(["collect", "--format", "--force", str(area)]) == 0
    assert state() == rawstore.EMPTY
    state(rawstore.CONSUMED)
    assert main(["collect", "--format", str(area)]) == 0


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"XFSB" + bytes(60), "xfs"),
        (bytes(510) + b"\x55\xaa", "partition table"),
        (b"precious", "does not know"),
    ],
)
def test_formatting_spares_what_is_there(
    tmp_path: Path, head: bytes, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    device = tmp_path / "device"
    device.write_bytes(head.ljust(SIZE, b"\0"))
    assert main(["collect", "--format", str(device)]) == 1
    assert what in capsys.readouterr().err
    assert device.read_bytes()[: len(head)] == head
    assert main(["collect", "--format", "--force", str(device)]) == 0
