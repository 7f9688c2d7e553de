"""Outputs under attack: inputs by other names, devices, links, two writers, makers that were killed."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyrage
import pytest
from tests.dump.machine import PageMachine, fill

from kdump.cli.main import main
from kdump.dump.file_output import FileOutput
from kdump.errors import KdumpError
from kdump.files import outputs
from kdump.files.directory import Directory, DraftDirectory
from kdump.files.drafts import INCOMPLETE, Draft, PartFile, replace_file
from kdump.memory import open_dump


@pytest.fixture(scope="module")
def content() -> bytes:
    machine = PageMachine("6.12")
    fill(machine, 1024)
    return machine.elf()


@pytest.fixture
def vmcore(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "vmcore"
    path.write_bytes(content)
    return path


@pytest.fixture
def null(tmp_path: Path) -> Iterator[Path]:
    """A node of our own for /dev/null: the real one is everybody's."""
    path = tmp_path / "null"
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    yield path
    assert stat.S_ISCHR(path.stat().st_mode), "a device was replaced by a file"


def drafts(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


Run = Callable[[Path, Path], list[str]]
COMMANDS: dict[str, Run] = {
    "save": lambda source, out: ["save", "-f", str(source), str(out)],
    "convert": lambda source, out: ["convert", "-f", "--elf", str(source), str(out)],
    "flat": lambda source, out: ["save", "-f", "--flat", str(source), str(out)],
    "makedumpfile": lambda source, out: ["makedumpfile", "-f", "-d", "31", str(source), str(out)],
    "makedumpfile -E": lambda source, out: ["makedumpfile", "-f", "-E", str(source), str(out)],
    "--split": lambda source, out: ["makedumpfile", "-f", "--split", str(source), f"{out}-1", str(out)],
    "--reassemble": lambda source, out: ["makedumpfile", "-f", "--reassemble", str(source), str(source), str(out)],
    "--dump-dmesg": lambda source, out: ["makedumpfile", "-f", "--dump-dmesg", str(source), str(out)],
    "-g": lambda source, out: ["makedumpfile", "-f", "-g", str(out), str(source)],
    "report": lambda source, out: ["report", str(source), "-o", str(out)],
}


@pytest.mark.parametrize("name", [*COMMANDS])
@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link", "path"])
def test_what_is_read_is_never_replaced(name: str, how: str, vmcore: Path, content: bytes, tmp_path: Path) -> None:
    out = tmp_path / "other"
    if how == "itself":
        out = vmcore
    elif how == "hard link":
        out.hardlink_to(vmcore)
    elif how == "symbolic link":
        out.symlink_to(vmcore)
    else:
        (tmp_path / "x").mkdir()
        out = tmp_path / "x/../vmcore"
    before = out.lstat()
    assert main(COMMANDS[name](vmcore, out)) != 0
    assert vmcore.read_bytes() == content
    assert (out.lstat().st_ino, out.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert drafts(tmp_path) == []


@pytest.mark.parametrize("name", ["save", "convert", "makedumpfile", "flat"])
def test_an_incomplete_dump_can_be_read_while_its_name_is_written(
    name: str, vmcore: Path, content: bytes, tmp_path: Path
) -> None:
    source = vmcore.rename(tmp_path / f"vmcore{INCOMPLETE}")
    assert main(COMMANDS[name](source, tmp_path / "vmcore")) == 0
    assert source.read_bytes() == content
    with open_dump(tmp_path / "vmcore") as dump:
        assert not dump.incomplete


def test_a_dump_that_is_cut_short_does_not_take_its_inputs_name(vmcore: Path, content: bytes, tmp_path: Path) -> None:
    source = vmcore.rename(tmp_path / f"vmcore{INCOMPLETE}")
    assert main(["makedumpfile", "-f", "-L", "700000", str(source), str(tmp_path / "vmcore")]) == 1
    assert source.read_bytes() == content
    (cut,) = tmp_path.glob(f"vmcore.*{INCOMPLETE}")
    assert 0 < cut.stat().st_size <= 700_000


def test_decrypting_does_not_delete_what_it_reads(tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key").write_text(f"{identity}\n")
    source = tmp_path / f"v.age{INCOMPLETE}"
    source.write_bytes(pyrage.encrypt(b"plain" * 100_000, [identity.to_public()]))
    before = source.read_bytes()
    assert main(["decrypt", str(source), str(tmp_path / "v.age"), "-i", str(tmp_path / "key")]) == 0
    assert source.read_bytes() == before
    assert (tmp_path / "v.age").read_bytes() == b"plain" * 100_000
    assert main(["decrypt", str(source), str(source), "-i", str(tmp_path / "key")]) == 1
    assert source.read_bytes() == before


def test_standard_input_is_an_input(vmcore: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    assert main(["save", "--flat", str(vmcore), str(flat)]) == 0
    before = flat.read_bytes()
    command = [sys.executable, "-m", "kdump", "makedumpfile", "-f", "-R", str(flat)]
    with flat.open("rb") as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is the input" in done.stderr
    assert flat.read_bytes() == before


def test_a_part_is_not_named_twice(vmcore: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, same = str(tmp_path / "one"), str(tmp_path / "../" / tmp_path.name / "one")
    assert main(["makedumpfile", "--split", str(vmcore), one, same]) == 1
    assert "named twice" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["save", "makedumpfile", "--dump-dmesg", "-g", "report"])
@pytest.mark.parametrize("kind", ["block", "pipe", "directory", "symbolic link"])
def test_only_regular_files_are_replaced(name: str, kind: str, vmcore: Path, tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "block":
        os.mknod(out, 0o600 | stat.S_IFBLK, os.makedev(240, 77))  # a driver that nobody has
    elif kind == "pipe":
        os.mkfifo(out)
    elif kind == "directory":
        out.mkdir()
    else:
        out.symlink_to(victim)
    if (name, kind) == ("report", "pipe"):
        reader = threading.Thread(target=out.read_bytes)
        reader.start()
        assert main(COMMANDS[name](vmcore, out)) in (0, 3)  # a pipe is written into
        reader.join()
    elif (name, kind) == ("makedumpfile", "symbolic link"):  # with -f written through, as makedumpfile does
        assert main(COMMANDS[name](vmcore, out)) == 0
        with open_dump(victim) as dump:
            assert not dump.incomplete
        victim.write_bytes(b"precious")
    else:
        assert main(COMMANDS[name](vmcore, out)) == 1
    assert stat.S_IFMT(out.lstat().st_mode) == {
        "block": stat.S_IFBLK, "pipe": stat.S_IFIFO, "directory": stat.S_IFDIR, "symbolic link": stat.S_IFLNK,
    }[kind]  # fmt: skip
    assert victim.read_bytes() == b"precious"
    assert drafts(tmp_path) == []


@pytest.mark.parametrize("name", ["save", "makedumpfile", "report"])
def test_dev_null_is_written_into(name: str, vmcore: Path, null: Path) -> None:
    assert main(COMMANDS[name](vmcore, null)) in (0, 3)
    assert sorted(path.name for path in null.parent.iterdir()) == ["null", "vmcore"]


def test_dev_stdout_is_written_into(vmcore: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kdump", "report", str(vmcore), "-o", "/dev/stdout"]
    with (tmp_path / "text").open("wb") as out:
        subprocess.run(command, stdout=out, check=False)
    assert b"kernel" in (tmp_path / "text").read_bytes()


def test_two_saves_to_one_name_do_not_mix(vmcore: Path, tmp_path: Path) -> None:
    """Both are whole; one has the name, the other says that it has not."""
    out = tmp_path / "out"
    first, second = FileOutput(out), FileOutput(out)
    for output, byte in ((first, b"1"), (second, b"2")):
        output.write(byte * 1000)
    second.seal()
    with pytest.raises(KdumpError, match="in the meantime"):
        first.seal()
    assert out.read_bytes() == b"2" * 1000
    assert (tmp_path / f"out{INCOMPLETE}").read_bytes() == b"1" * 1000
    assert drafts(tmp_path) == []
    command = [sys.executable, "-m", "kdump", "save", str(vmcore), str(tmp_path / "both")]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    statuses = sorted((each.communicate(), each.returncode)[1] for each in running)
    assert statuses[0] == 0  # and the other one's, if they met, is 1
    assert main(["verify", str(tmp_path / "both")]) == 0


def test_a_draft_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever guesses its name gains nothing: neither a link nor a file of that name is opened."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(os, "urandom", lambda size: b"\0" * size)
    name = f".out.{'0' * 12}{INCOMPLETE}"
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(FileExistsError):
        Draft(tmp_path / "out")
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_a_resumed_file_is_ours_alone(kind: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part = tmp_path / f"out{INCOMPLETE}"
    if kind == "pipe":
        os.mkfifo(part)
    elif kind == "link":
        part.symlink_to(victim)
    else:
        part.hardlink_to(victim)
    stream = PartFile(str(tmp_path / "out"), resume=True)
    stream.write(b"ours")
    stream.seal()
    assert (tmp_path / "out").read_bytes() == b"ours"
    assert victim.read_bytes() == b"precious"


def test_the_drafts_of_killed_makers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    code = (
        "import sys, time; from kdump.files.drafts import Draft; "
        "draft = Draft(sys.argv[1]); print('made', flush=True); "
        "time.sleep(100)"
    )
    makers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE) for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout
        maker.stdout.readline()
    makers[0].send_signal(signal.SIGKILL)
    makers[0].wait()
    others = tmp_path / f".other.{'0' * 12}{INCOMPLETE}"
    others.touch()
    assert len(drafts(tmp_path)) == 3
    replace_file(tmp_path / "out", b"x")
    assert len(drafts(tmp_path)) == 2  # the living one's, and another file's
    makers[1].kill()
    makers[1].wait()
    replace_file(tmp_path / "out", b"x")
    assert drafts(tmp_path) == [others.name]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_are_right_from_the_first_byte(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        draft = Draft(tmp_path / "secret")
        assert stat.S_IMODE((tmp_path / draft.called).stat().st_mode) == 0o600
        draft.discard()
        replace_file(tmp_path / "public", b"x", mode=0o644)
        assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644
    finally:
        os.umask(before)


@pytest.mark.parametrize("length", [1, 230, 255])
def test_any_name_has_room_for_its_draft(length: int, tmp_path: Path) -> None:
    replace_file(tmp_path / ("n" * length), b"x")
    replace_file(tmp_path / ("ä" * (length // 2 or 1)), b"x")
    assert drafts(tmp_path) == []


def test_a_failed_text_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    with pytest.raises(ZeroDivisionError), outputs.text(out) as file:
        file.write("half")
        raise ZeroDivisionError
    assert out.read_text() == "before"
    assert drafts(tmp_path) == []


def test_figures_for_a_collector_replace_no_device(null: Path, tmp_path: Path) -> None:
    assert main(["status", "--quiet", "--prometheus", str(null)]) == 1
    assert main(["status", "--quiet", "--prometheus", str(tmp_path / "kdump.prom")]) in (0, 3)
    assert stat.S_IMODE((tmp_path / "kdump.prom").stat().st_mode) == 0o644


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FAT has it; the check whether a name is free is not one step with taking it there."""

    def link(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    for expected in (True, False):
        output = FileOutput(tmp_path / "out")
        output.write(b"x")
        (output.seal if expected else output.abort)()
        assert output.sealed == expected
        if expected:
            with pytest.raises(KdumpError, match="exists"):
                FileOutput(tmp_path / "out")
            (tmp_path / "out").rename(tmp_path / "first")
    assert {path.name for path in tmp_path.iterdir()} == {"first", f"out{INCOMPLETE}"}


@pytest.mark.parametrize("resume", [False, True])
def test_a_place_that_cannot_be_written_to_is_told_by_the_name_that_was_given(resume: bool, tmp_path: Path) -> None:
    """/proc takes no new files, whoever asks."""
    with pytest.raises(OSError) as caught:
        Draft("/proc/self/out", resume=resume)
    assert caught.value.filename == "/proc/self/out"
    with Directory.open(Path("/proc/self")) as parent, pytest.raises(OSError) as caught:
        DraftDirectory(parent, "out")
    assert caught.value.filename == "/proc/self/out"
    with pytest.raises(FileNotFoundError) as caught:
        Draft(tmp_path / "nowhere/out", resume=resume)
    assert caught.value.filename == str(tmp_path / "nowhere")


def test_an_error_of_writing_names_the_file_that_the_draft_becomes(tmp_path: Path) -> None:
    code = """import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096,) * 2)
from kdump.dump.flat_stream import put_to
from kdump.files import drafts, outputs
data, path = b"x" * 10000, sys.argv[1]
def stream():
    with open(path, "wb") as file: put_to(file.fileno())(data)
def buffer():
    draft = drafts.Draft(path)
    with outputs.writer(draft.fd) as file: file.write(data)
def text():
    with outputs.text(path) as file: file.write(data.decode())
def part(): drafts.PartFile(path).write(data)
def room(): drafts.PartFile(path).skip(10000)
for write in (lambda: drafts.replace_file(path, data), stream, buffer, text, part, room):
    try: write()
    except OSError as error: print(error.filename)
"""
    path = tmp_path / "some.name"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.stdout.splitlines(), done.stderr) == ([str(path)] * 6, "")
