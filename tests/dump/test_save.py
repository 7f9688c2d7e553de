"""Saving: every container and codec read back page by page, full disks, deadlines, signals, unreadable pages."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.dump.machine import PAGE, Block, PageMachine, fill
from tests.memory.writers import Load, elf, note

from kdump.cli.main import main
from kdump.dump import manifest
from kdump.dump.codecs import CODECS
from kdump.dump.destination import Destination, save_to
from kdump.dump.elf_writer import loads_of
from kdump.dump.levels import ZERO
from kdump.dump.pfnset import CHUNK, PfnSet
from kdump.dump.pipeline import Options, save
from kdump.dump.split import ALIGN, plan_parts
from kdump.errors import KdumpError, NotPresentError, UsageError
from kdump.memory import open_dump
from kdump.memory.protocol import Memory, Range

DROPPED = range(2048, 2560)


@pytest.fixture(scope="module")
def machine() -> PageMachine:
    machine = PageMachine("6.12")
    machine.use([Block(DROPPED.start, 9, "free"), Block(3072, 3, "cache")])
    fill(machine, 1024)
    return machine


@pytest.fixture
def vmcore(machine: PageMachine, tmp_path: Path) -> Path:
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    return path


def same_pages(machine: PageMachine, path: str | list[str], *, level: int = 31) -> None:
    """Every page in the dump equals the machine's; what level 31 drops is absent."""
    with open_dump(path) as dump:
        assert dump.vmcoreinfo.rstrip(b"\0") == machine.vmcoreinfo
        held = dump.memory.present(0, machine.pages)
        edges = np.flatnonzero(np.diff(held, prepend=False, append=False)).tolist()
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            theirs = dump.memory.view(start * PAGE, (end - start) * PAGE)
            assert theirs == memoryview(machine.memory)[start * PAGE : end * PAGE], hex(start)
        gone = np.flatnonzero(~held).tolist()
        if level == 31:
            assert set(DROPPED) <= set(gone)
            with pytest.raises(NotPresentError, match="physical address"):
                dump.memory.view(DROPPED.start * PAGE, 1)
        else:
            assert gone == []


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("level", [0, 1, 31])
def test_every_codec_gives_back_what_was_saved(
    codec: str, level: int, vmcore: Path, machine: PageMachine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with open_dump(vmcore) as dump:
        saved = save_to(dump, Destination.parse(str(out)), Options(levels=(level,), codec=codec))
    assert saved.summary.as_asked
    assert out.stat().st_mode & 0o777 == 0o600
    assert out.stat().st_size == saved.summary.size
    same_pages(machine, str(out), level=level)
    with open_dump(out) as dump:
        assert dump.header["dump_level"] == level
        assert not dump.incomplete


@pytest.mark.parametrize("form", ["elf", "flat", "split", "elf-flat"])
def test_every_container_gives_back_what_was_saved(
    form: str, vmcore: Path, machine: PageMachine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = Options(levels=(30 if "elf" in form else 31,), container="elf" if "elf" in form else "kdump")
    target = Destination.parse(str(out), parts=3 if form == "split" else 1, flat="flat" in form)
    with open_dump(vmcore) as dump:
        saved = save_to(dump, target, options)
    assert saved.summary.as_asked
    same_pages(machine, list(saved.paths))
    assert main(["verify", *saved.paths]) == 0


def test_an_elf_dump_of_level_1_leaves_zero_pages_out(vmcore: Path, machine: PageMachine, tmp_path: Path) -> None:
    with open_dump(vmcore) as dump:
        saved = save_to(dump, Destination.parse(str(tmp_path / "o")), Options(levels=(1,), container="elf"))
    assert saved.summary.pages_zero > 700
    with open_dump(tmp_path / "o") as dump:
        held = dump.memory.present(0, machine.pages)
    words = np.frombuffer(bytes(machine.memory), np.uint64).reshape(-1, 512)
    assert (held == (words != 0).any(axis=1)).all()


def test_refiltering_and_joining(vmcore: Path, machine: PageMachine, tmp_path: Path) -> None:
    parts, joined, higher = tmp_path / "p", tmp_path / "joined", tmp_path / "higher"
    assert main(["save", "-d", "1", "--split", "4", str(vmcore), str(parts)]) == 0
    names = [f"{parts}.{number}" for number in range(1, 5)]
    assert main(["convert", "-c", *names, str(joined)]) == 0
    same_pages(machine, str(joined), level=1)
    assert main(["save", "-d", "16", str(joined), str(higher)]) == 0
    same_pages(machine, str(higher), level=31)
    with open_dump(higher) as dump:
        assert dump.header["dump_level"] == 17  # what the first filter did is still true


class Full:
    """A stream on a disk of `room` bytes; keeps what was written."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.data = bytearray()
        self.end = 0

    def skip(self, size: int) -> None:
        self._grow(size)
        self.end = size

    def write(self, data: bytes | bytearray | memoryview) -> int:
        size = self.pwrite(data, self.end)
        self.end += size
        return size

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        self._grow(offset + len(data))
        self.data[offset : offset + len(data)] = data
        return len(data)

    def _grow(self, size: int) -> None:
        if size > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if size > len(self.data):
            self.data += bytes(size - len(self.data))


def check_incomplete(data: bytes, machine: PageMachine, path: Path, reached: int) -> None:
    path.write_bytes(data)
    with open_dump(path) as dump:
        assert dump.incomplete
        readable = 0
        for pfn in np.flatnonzero(dump.memory.present(0, machine.pages)).tolist():
            try:
                page = bytes(dump.memory.view(pfn * PAGE, PAGE))
            except NotPresentError:
                continue
            assert page == machine.memory[pfn * PAGE :][:PAGE]
            readable += 1
        assert readable == reached


def test_a_full_disk_tries_the_next_level(vmcore: Path, machine: PageMachine, tmp_path: Path) -> None:
    streams: list[Full] = []

    def begin() -> Full:
        streams.append(Full(room=(machine.pages - 256) * PAGE))
        return streams[-1]

    with open_dump(vmcore) as dump:
        summary = save(dump, begin, Options(levels=(0, 31), codec="none", batch=64))
    assert (summary.level, summary.incomplete, len(streams)) == (31, "", 2)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_full_disk_leaves_a_valid_incomplete_dump(
    threads: int, vmcore: Path, machine: PageMachine, tmp_path: Path
) -> None:
    stream = Full(room=2000 * PAGE)
    with open_dump(vmcore) as dump:
        summary = save(dump, lambda: stream, Options(levels=(0,), codec="none", batch=64, threads=threads))
    assert "No space" in summary.incomplete
    assert not summary.as_asked
    assert 1500 < summary.pages_written < 2000
    check_incomplete(bytes(stream.data), machine, tmp_path / "cut", summary.pages_written)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("room", "others_too"), [(300, False), (1600, False), (2100, True), (2350, True)])
def test_the_kernels_own_pages_go_first(
    room: int, others_too: bool, parts: int, vmcore: Path, machine: PageMachine, tmp_path: Path
) -> None:
    """Wherever a dump that keeps more than level 31 is cut: before all of the kernel's none of the others is there."""
    files = [tmp_path / f"cut{number}" for number in range(parts)]
    streams = [Full(room * PAGE) for _ in files]
    given = iter(streams)

    def stop() -> str:
        return "full" if sum(len(stream.data) for stream in streams) > room * PAGE else ""

    with open_dump(vmcore) as dump:
        options = Options(levels=(1,), codec="none", batch=64, parts=parts, stop=stop)
        summary = save(dump, lambda: next(given), options)
    assert summary.incomplete
    for file, stream in zip(files, streams, strict=True):
        file.write_bytes(stream.data)
    readable = np.zeros(machine.pages, np.bool_)
    with open_dump([str(file) for file in files] if parts > 1 else files[0]) as dump:
        assert dump.incomplete
        for pfn in np.flatnonzero(dump.memory.present(0, machine.pages)).tolist():
            try:
                page = bytes(dump.memory.view(pfn * PAGE, PAGE))
            except NotPresentError:
                continue
            assert page == machine.memory[pfn * PAGE :][:PAGE]
            readable[pfn] = True
    assert readable.sum() == summary.pages_written
    others = np.zeros(machine.pages, np.bool_)
    others[[*DROPPED, *range(3072, 3080)]] = True
    assert readable[others].any() == others_too
    assert readable[~others].all() == others_too


def test_unreadable_pages_leave_the_others_in_their_places(machine: PageMachine, tmp_path: Path) -> None:
    """In both passes: descriptors are found by how many pages precede them."""
    holes = [1029, 1030, 1500, DROPPED.start + 5, DROPPED.stop - 1, 3073, 4000]
    (tmp_path / "vmcore").write_bytes(machine.elf())
    with open_dump(tmp_path / "vmcore") as dump:
        memory = Holes(dump.memory, holes)
        saved = save_to(
            dump._replace(memory=memory), Destination.parse(str(tmp_path / "out")), Options(levels=(1,), batch=64)
        )
    assert saved.summary.pages_unreadable == len(holes)
    with open_dump(tmp_path / "out") as dump:
        for pfn in range(machine.pages):
            if pfn not in holes:
                assert dump.memory.view(pfn * PAGE, PAGE) == memoryview(machine.memory)[pfn * PAGE :][:PAGE]


class Holes:
    """Memory some of whose pages cannot be read."""

    def __init__(self, memory: Memory, holes: list[int]) -> None:
        self._memory = memory
        self._holes = holes
        self.page_size, self.ranges = memory.page_size, memory.ranges
        self.present, self.held, self.close = memory.present, memory.held, memory.close

    def view(self, address: int, size: int) -> memoryview:
        for hole in self._holes:
            if address < (hole + 1) * PAGE and hole * PAGE < address + size:
                raise NotPresentError(hole * PAGE)
        return self._memory.view(address, size)


def test_a_truncated_copy_is_noticed_whatever_lies_last(vmcore: Path, tmp_path: Path) -> None:
    with open_dump(vmcore) as dump:
        save_to(dump, Destination.parse(str(tmp_path / "out")), Options(levels=(1,), codec="none", batch=64))
    whole = (tmp_path / "out").read_bytes()
    for cut, incomplete in ((0, False), (1, True), (PAGE, True), (700 * PAGE, True)):
        (tmp_path / "out").write_bytes(whole[: len(whole) - cut])
        with open_dump(tmp_path / "out") as dump:
            assert dump.incomplete == incomplete


def test_a_deadline_leaves_a_valid_incomplete_dump(vmcore: Path, machine: PageMachine, tmp_path: Path) -> None:
    stream = Full(room=1 << 40)
    reached = 0

    def progress(stage: str, done: int, _total: int) -> None:
        nonlocal reached
        reached = done // PAGE if stage == "write" else 0

    def stop() -> str:
        return "the deadline passed" if reached == 5 * 64 else ""

    with open_dump(vmcore) as dump:
        summary = save(dump, lambda: stream, Options(levels=(1,), batch=64, progress=progress, stop=stop))
    assert (summary.incomplete, summary.pages_written) == ("the deadline passed", 5 * 64)
    check_incomplete(bytes(stream.data), machine, tmp_path / "cut", 5 * 64)


def test_a_stream_that_breaks_is_finished_as_far_as_it_goes(vmcore: Path, machine: PageMachine, tmp_path: Path) -> None:
    class Breaks(Full):
        def write(self, data: bytes | bytearray | memoryview) -> int:
            if self.end > 500 * PAGE:
                raise KdumpError("the target went away")
            return super().write(data)

    stream = Breaks(1 << 40)
    with open_dump(vmcore) as dump, pytest.raises(KdumpError, match="went away"):
        save(dump, lambda: stream, Options(levels=(0,), codec="none", batch=64, threads=1))
    path = tmp_path / "cut"
    path.write_bytes(stream.data)
    with open_dump(path) as dump:
        assert dump.incomplete


SLOW = """
import sys, time
from kdump.memory.elf import ElfMemory
places = ElfMemory.places
def slow(self, pfns):
    print(flush=True)
    time.sleep(0.2)
    return places(self, pfns)
ElfMemory.places = slow
from kdump.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_valid_incomplete_dump(number: int, vmcore: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "save", "-d", "1", "--threads", "1", str(vmcore), str(out)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(timeout=20) == 3
    assert "INCOMPLETE: ended by " + signal.Signals(number).name in rest
    assert not out.exists()
    with open_dump(f"{out}.incomplete") as dump:
        assert dump.incomplete
    assert manifest.read(manifest.manifest_path(f"{out}.incomplete"))["status"] == "incomplete"
    assert not manifest.manifest_path(out).exists()  # that is a whole dump's


def test_unreadable_pages_are_counted_and_left_out(vmcore: Path, machine: PageMachine, tmp_path: Path) -> None:
    bad = {1500, 1501, 3333}
    with open_dump(vmcore) as dump:

        class Damaged:
            page_size = PAGE
            ranges = dump.memory.ranges

            def view(self, address: int, size: int) -> memoryview:
                if any(address < (pfn + 1) * PAGE and pfn * PAGE < address + size for pfn in bad):
                    raise OSError(errno.EIO, "bad memory")
                return dump.memory.view(address, size)

            def present(self, first: int, count: int) -> NDArray[np.bool_]:
                return dump.memory.present(first, count)

            def held(self) -> Iterator[Range]:
                return dump.memory.held()

            def close(self) -> None:
                dump.memory.close()

        for container in ("kdump", "elf"):
            out = tmp_path / container
            broken = dump._replace(memory=Damaged())
            summary = save_to(broken, Destination.parse(str(out)), Options(levels=(0,), container=container)).summary
            assert summary.pages_unreadable == 3
            assert not summary.as_asked
            with open_dump(out) as copy:
                for pfn in range(1490, 1510):
                    page = machine.memory[pfn * PAGE :][:PAGE]
                    if pfn not in bad:
                        assert bytes(copy.memory.view(pfn * PAGE, PAGE)) == page
                    elif container == "elf":
                        assert bytes(copy.memory.view(pfn * PAGE, PAGE)) == bytes(PAGE)
                    else:
                        assert not copy.memory.present(pfn, 1)[0]


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    """Two pages in the file, and headers that claim 128 TiB of memory around them, up to the end of the addresses."""
    path = tmp_path / "claim"
    half, page = 1 << 46, b"x" * PAGE
    path.write_bytes(elf([Load(0, page, memory_size=half), Load((1 << 52) - half, page, memory_size=half)]))
    return path


def test_claimed_memory_costs_next_to_nothing(claim: Path, tmp_path: Path, capsys: Any) -> None:
    began = time.process_time()
    assert main(["verify", str(claim)]) == 0
    assert "2 pages read" in capsys.readouterr().out
    assert main(["save", str(claim), str(tmp_path / "out")]) == 1
    assert "claim [p_memsz]: claims memory up to 0x10000000000000 but holds 8.00 KiB" in capsys.readouterr().err
    assert main(["info", str(claim)]) == 0
    assert time.process_time() - began < 5


def test_a_signal_is_heard_while_pages_are_chosen(tmp_path: Path) -> None:
    """14 TiB of holes: choosing pages takes seconds, looking for pages of zeros an hour; both say how far they are."""
    sparse, size = tmp_path / "sparse", 14 << 40
    sizes = struct.pack("<QQ", PAGE, PAGE), struct.pack("<QQ", size, size)
    sparse.write_bytes(elf([Load(0, b"x" * PAGE)], note("VMCOREINFO", 0, b"OSRELEASE=6.1\n")).replace(*sizes))
    os.truncate(sparse, size + (1 << 20))
    process = subprocess.Popen(
        [sys.executable, "-m", "kdump", "save", "--elf", str(sparse), str(tmp_path / "out")],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr
    assert process.stderr.readline().split()[0] in {"filter", "zeros"}
    process.send_signal(signal.SIGTERM)
    assert "ended by SIGTERM, before any page was written" in process.stderr.read()
    assert process.wait(timeout=10) == 1
    assert not (tmp_path / "out").exists()


def test_an_existing_file_is_not_replaced_unasked(vmcore: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("precious")
    assert main(["save", str(vmcore), str(out)]) == 1
    assert out.read_text() == "precious"
    assert main(["save", "--force", str(vmcore), str(out)]) == 0


def test_verify_finds_one_flipped_byte_and_says_where(vmcore: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["save", str(vmcore), str(out)]) == 0
    whole = out.read_bytes()
    for place in (5, 4096 + 50, len(whole) // 2, len(whole) - 1):
        out.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        capsys.readouterr()
        assert main(["verify", "--json", str(out)]) == 1
        (finding,) = json.loads(capsys.readouterr().out)[0]["findings"]
        assert finding["offset"] <= place < finding["offset"] + finding["size"]
    out.write_bytes(whole[:-1])
    assert main(["verify", str(out)]) == 1
    out.write_bytes(whole)
    assert main(["verify", "--deep", str(out)]) == 0


def test_verify_without_a_manifest_reads_every_page(vmcore: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["save", "-d", "1", str(vmcore), str(out)]) == 0
    manifest.manifest_path(out).unlink()
    assert main(["verify", str(out)]) == 0
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) * 2 // 3])
    assert main(["verify", str(out)]) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry.update(name="../escape"),
        lambda entry: entry.pop("size"),
        lambda entry: entry.update(pieces=[{"offset": -1, "size": 3, "sha256": "x"}]),
        lambda entry: entry.update(pieces="x"),
    ],
)
def test_a_damaged_manifest_is_named(damage: Any, vmcore: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["save", str(vmcore), str(out)]) == 0
    path = manifest.manifest_path(out)
    content = json.loads(path.read_text())
    damage(content["files"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(KdumpError, match=r"manifest\.json"):
        manifest.read(path)
    assert main(["verify", str(out)]) == 1


def test_one_path_that_cannot_be_verified_hides_no_other(vmcore: Path, tmp_path: Path, capsys: Any) -> None:
    out, renamed = tmp_path / "out", tmp_path / "renamed"
    assert main(["save", str(vmcore), str(out)]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "nowhere"), str(tmp_path), str(out)]) == 1
    said = capsys.readouterr()
    assert "nowhere: no such file" in said.err and "has no manifest.json" in said.err
    assert said.out.startswith(f"{out}: sound (")
    assert main(["verify", "--json", str(out), str(tmp_path / "nowhere")]) == 1
    assert [each["path"] for each in json.loads(capsys.readouterr().out)] == [str(out)]
    out.rename(renamed)  # with its manifest, which still has the old name in it: nothing was compared
    manifest.manifest_path(out).rename(manifest.manifest_path(renamed))
    assert main(["verify", str(renamed)]) == 1
    assert "renamed is not in the list of renamed.manifest.json" in capsys.readouterr().out


def test_a_manifest_must_cover_the_whole_file(vmcore: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["save", str(vmcore), str(out)]) == 0
    path = manifest.manifest_path(out)
    content = json.loads(path.read_text())
    content["files"][0]["pieces"].pop(1)
    path.write_text(json.dumps(content))
    assert main(["verify", str(out)]) == 1


def test_what_does_not_go_together_is_refused(vmcore: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="flattened dump cannot be split"):
        Destination.parse("-", parts=2)
    with pytest.raises(UsageError, match="0 files"):
        Destination.parse("x", parts=0)
    assert main(["save", "-z", "--codec-level", "99", str(vmcore), str(tmp_path / "o")]) == 2
    assert main(["save", str(vmcore)]) == 2
    assert list(tmp_path.iterdir()) == [vmcore]


def test_estimate_is_near_the_truth(vmcore: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["save", "--estimate", "--json", str(vmcore)]) == 0
    levels = json.loads(capsys.readouterr().out)["levels"]
    for level in (1, 31):
        out = tmp_path / str(level)
        assert main(["save", "-d", str(level), str(vmcore), str(out)]) == 0
        assert 0.9 < levels[str(level)][1] / out.stat().st_size < 1.1


def test_pipe_and_rearranging(vmcore: Path, machine: PageMachine, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kdump"]
    flat = subprocess.run([*command, "save", str(vmcore), "-"], capture_output=True, check=True).stdout
    out = tmp_path / "out"
    arrange = [*command, "makedumpfile", "-R", str(out)]
    subprocess.run(arrange, input=flat, check=True, capture_output=True)
    same_pages(machine, str(out))
    for cut in (100, 5000, len(flat) - 16):
        result = subprocess.run([*arrange, "-f"], input=flat[:cut], check=False, capture_output=True, text=False)
        assert result.returncode == 1
        assert b"Traceback" not in result.stderr


def test_memory_stays_bounded_while_many_batches_fly() -> None:
    from kdump.dump.workers import in_order

    flying = peak = 0
    lock = threading.Lock()

    def jobs() -> Iterator[int]:
        nonlocal flying, peak
        for number in range(200):
            with lock:
                flying += 1
                peak = max(peak, flying)
            yield number

    def work(number: int) -> str:
        time.sleep(0.001 * (number % 3))
        return str(number)

    for number, text in in_order(jobs(), lambda: work, 3):
        assert text == str(number)
        with lock:
            flying -= 1
    assert peak <= 3 + 4


def test_a_worker_s_error_reaches_the_caller() -> None:
    from kdump.dump.workers import in_order

    def work(number: int) -> int:
        if number == 7:
            raise KdumpError("seven")
        return number

    with pytest.raises(KdumpError, match="seven"):
        list(in_order(iter(range(100)), lambda: work, 2))


def test_calls_aside_come_one_after_the_other_and_their_errors_reach_the_caller() -> None:
    from kdump.dump.workers import Aside

    aside, seen = Aside(), list[int]()
    for number in range(20):
        aside.start(lambda number=number: seen.append(number))  # type: ignore[misc]
    aside.wait()
    assert seen == list(range(20))
    aside.start(lambda: seen.index(99))
    with pytest.raises(ValueError, match="99"):
        aside.start(lambda: seen.append(20))
    aside.close()
    assert seen == list(range(20))


MEMBERS = st.lists(st.integers(0, 3 * CHUNK - 1), max_size=60, unique=True)


def pfn_set(members: list[int], limit: int = 3 * CHUNK) -> PfnSet:
    found = PfnSet(limit)
    for chunk in range(-(-limit // CHUNK)):
        bits = np.zeros(min(CHUNK, limit - chunk * CHUNK), np.bool_)
        bits[[pfn - chunk * CHUNK for pfn in members if pfn // CHUNK == chunk]] = True
        found.put(chunk, bits)
    return found


@given(members=MEMBERS, gone=MEMBERS)
@settings(max_examples=30)
def test_pfn_sets_hold_what_was_put(members: list[int], gone: list[int]) -> None:
    found = pfn_set(members)
    assert [pfn for chunk in found.pfns() for pfn in chunk.tolist()] == sorted(members)
    if gone:
        found.remove(np.array(gone))
    left = sorted(set(members) - set(gone))
    assert [pfn for chunk in found.pfns() for pfn in chunk.tolist()] == left
    assert found.count == len(left)
    packed = np.concatenate(list(found.bitmap()))
    assert np.flatnonzero(np.unpackbits(packed, bitorder="little")).tolist() == left


@given(members=MEMBERS, count=st.integers(1, 7))
@settings(max_examples=30)
def test_split_parts_cover_everything_once(members: list[int], count: int) -> None:
    found = pfn_set(members)
    parts = plan_parts(found, count)
    assert len(parts) == count
    assert (parts[0].first, parts[-1].end) == (0, found.limit)
    for before, part in pairwise(parts):
        assert before.end == part.first
        assert part.first % ALIGN == 0


@given(ram=st.lists(st.booleans(), min_size=1, max_size=200), kept=st.lists(st.booleans(), min_size=200, max_size=200))
@settings(max_examples=100)
def test_elf_loads_describe_ram_and_what_is_kept(ram: list[bool], kept: list[bool]) -> None:
    present = pfn_set([pfn for pfn, here in enumerate(ram) if here], limit=len(ram))
    held = pfn_set([pfn for pfn, here in enumerate(ram) if here and kept[pfn]], limit=len(ram))
    loads = list(loads_of(present, held))
    covered = [pfn for load in loads for pfn in range(load.pfn, load.pfn + load.span)]
    data = [pfn for load in loads for pfn in range(load.pfn, load.pfn + load.kept)]
    assert covered == [pfn for pfn, here in enumerate(ram) if here]
    assert data == [pfn for pfn, here in enumerate(ram) if here and kept[pfn]]


def test_zero_pages_share_one_page(vmcore: Path, tmp_path: Path) -> None:
    sizes = {}
    for level in (0, ZERO):
        out = tmp_path / str(level)
        assert main(["save", "-n", "-d", str(level), str(vmcore), str(out)]) == 0
        sizes[level] = out.stat().st_size
    assert sizes[ZERO] < sizes[0] - 700 * PAGE
