"""One machine per kernel that loads by every means, is refused what it must be, and finds a damaged segment."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import SERIES
from tests.kexec import machine as lab
from tests.kexec.machine import kdump, order

from kdump.elf import PT_NOTE
from kdump.image.kernel_tree import KernelTree
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec
from kdump.memory.protocol import Range

pytestmark = pytest.mark.lab

THEIRS = shutil.which("kexec", path="/sbin:/usr/sbin:/usr/bin")
ENTRY = "from kdump.cli.main import entry; entry()"
KERNEL, IMAGE = "--kernel=/vmlinuz", "--image=/image"


@pytest.fixture(scope="module", params=SERIES)
def running(
    request: pytest.FixtureRequest,
    kernel: Callable[[str], KernelTree],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    """A machine of 1 GiB and 2 CPUs with a kernel, an image and kexec-tools to play with."""
    scratch = tmp_path_factory.mktemp("machine")
    tree = kernel(request.param)
    small = lab.image(tree, scratch / "small.img")
    files: dict[str, bytes | Path] = {"/vmlinuz": tree.vmlinuz, "/image": small}
    if THEIRS:
        files["/sbin/kexec"] = Path(THEIRS)
    spec = Spec(
        kernel=tree.vmlinuz,
        initrd=lab.image(tree, scratch / "guest.img", files),
        cmdline="console=ttyS0,115200 loglevel=3 crashkernel=192M",
        memory=1 << 30,
        cpus=2,
        extra=lab.gdb_stub(scratch / "gdb"),
    )
    with Machine(spec, console=scratch / "console.log") as machine:
        machine.wait_for("guest is up", lab.TIMEOUT)
        yield machine


def loaded(machine: Machine) -> bool:
    return order(machine, "read", "/sys/kernel/kexec_crash_loaded").out == "1\n"


def test_core_headers_read_as_those_the_kernel_makes(running: Machine, tmp_path: Path) -> None:
    """The same program headers but for what is explained in docs/kexec.md: low memory is in ours, from its backup."""
    place = lab.reservation(running)
    heads, notes = {}, {}
    for method in ("file", "segments"):
        answer = kdump(running, "load", KERNEL, IMAGE, "--method", method)
        assert answer.status == 0, answer.err
        core = lab.core_headers(lab.physical(running, place, tmp_path))
        heads[method] = readelf(core, tmp_path)
        notes[method] = readelf_notes(core, running, tmp_path)
    assert notes["file"] == notes["segments"] and "VMCOREINFO" in notes["file"]
    kernels, ours = heads["file"], heads["segments"]
    low = [line for line in ours if line not in kernels]
    assert [line for line in kernels if line not in ours] == []
    assert len(low) == 1
    kind, offset, _, physical, *_ = low[0].split()
    assert (kind, int(physical, 16)) == ("LOAD", 0x1000) and place.start <= int(offset, 16) < place.end


def readelf(headers: bytes, scratch: Path) -> list[str]:
    """Program headers as readelf prints them."""
    (scratch / "headers").write_bytes(headers)
    text = subprocess.run(["readelf", "-lW", scratch / "headers"], check=True, capture_output=True, text=True).stdout
    return re.findall(r"^\s+((?:LOAD|NOTE) .*)$", text, re.MULTILINE)


def readelf_notes(headers: bytes, machine: Machine, scratch: Path) -> str:
    """What readelf prints of the notes, which lie in the guest's memory at the offsets that the headers give."""
    path = scratch / "core"
    path.write_bytes(headers)
    for header in lab.program_headers(headers):
        if header.type == PT_NOTE:
            note = lab.physical(machine, Range(header.offset, header.offset + header.size), scratch)
            with path.open("r+b") as file:
                file.seek(header.offset)
                file.write(note)
    return subprocess.run(["readelf", "-nW", path], check=True, capture_output=True, text=True).stdout


def test_explain_shows_what_lies_in_the_reservation(running: Machine) -> None:
    place = lab.reservation(running)
    told = json.loads(kdump(running, "load", KERNEL, IMAGE, "--method=segments", "--explain", "--json").out)
    assert told["reservation"] == [{"start": place.start, "end": place.end}]
    assert sum(segment["size"] for segment in told["segments"]) + told["free"] == place.size
    assert {"kernel, part 1", "kernel, part 2", "image", "boot parameters", "purgatory", "core headers"} <= {
        segment["name"] for segment in told["segments"]
    }
    assert all(len(line) <= 80 for line in kdump(running, "load", KERNEL, IMAGE, "--explain").out.splitlines())


def test_unchanged_is_not_loaded_again(running: Machine) -> None:
    assert kdump(running, "load", KERNEL, IMAGE, "--method=segments").status == 0
    assert "nothing changed" in kdump(running, "load", KERNEL, IMAGE, "--method=segments", "--if-changed").out
    assert "nothing changed" in kdump(running, "load", KERNEL, IMAGE, "--if-changed").out  # what auto chooses
    answer = kdump(running, "load", KERNEL, IMAGE, "--method=file", "--if-changed")
    assert "loaded /vmlinuz" in answer.out and "by the file method" in answer.out


def test_what_is_refused_leaves_the_former_in_place(running: Machine) -> None:
    assert kdump(running, "load", KERNEL, IMAGE).status == 0
    order(running, "write", "/tmp/text", "no kernel")
    too_long = "--append=" + "x" * 2000
    for words in (
        ("--kernel=/tmp/text", IMAGE),
        (KERNEL, "--image=/absent"),
        (KERNEL, IMAGE, too_long),
    ):
        answer = kdump(running, "load", *words)
        assert answer.status == 1 and "Traceback" not in answer.err
        assert loaded(running)


def test_not_root(running: Machine) -> None:
    """The kernel hides addresses and takes no load; both are said, and what is loaded stays."""
    assert kdump(running, "load", KERNEL, IMAGE).status == 0
    order(running, "damage", "/image", "/tmp/image", "0", "")  # a copy that everybody may read
    nobody = f"import os; os.setuid(65534); {ENTRY}"
    image = "--image=/tmp/image"
    for words, named in (
        (("load", KERNEL, image), "run it as root"),
        (("load", KERNEL, image, "--method=segments", "--explain"), "hides physical addresses"),
        (("kexec", "-l", "/vmlinuz"), "CAP_SYS_BOOT"),
    ):
        answer = order(running, "python", "-c", nobody, *words)
        assert answer.status == 1 and named in answer.err and "Traceback" not in answer.err, answer
    assert loaded(running)


def test_drop_in_takes_the_calls_of_kdump_tools(running: Machine) -> None:
    call = ("kexec", "-p", "--command-line=console=ttyS0 nr_cpus=1", "--initrd=/image", "/vmlinuz")
    assert kdump(running, *call).status == 0
    assert kdump(running, "kexec", "-S").status == 1
    assert kdump(running, "kexec", "-l", "-S").status == 0
    assert kdump(running, "kexec", "-p", "-u").status == 0
    assert kdump(running, "kexec", "-S").status == 0
    assert kdump(running, "kexec", "-p", "-c", "-d", "--reuse-cmdline", "--initrd=/image", "/vmlinuz").status == 0
    assert kdump(running, "kexec", "-s", "-p", "-u").status == 0


@pytest.mark.skipif(THEIRS is None, reason="compares with kexec-tools")
def test_kexec_tools_makes_the_same_headers(running: Machine, tmp_path: Path) -> None:
    """And says how long both take: a figure for the log, not a test."""
    place = lab.reservation(running)
    theirs = order(running, "run", "/sbin/kexec", "-p", "-c", "/vmlinuz", "--initrd=/image", "--append=x")
    assert theirs.status == 0, theirs.err
    their_heads = readelf(lab.core_headers(lab.physical(running, place, tmp_path)), tmp_path)
    kdump(running, "load", KERNEL, IMAGE, "--method=segments")
    our_heads = readelf(lab.core_headers(lab.physical(running, place, tmp_path)), tmp_path)
    for method, flag in (("segments", "-c"), ("file", "-s")):
        load = order(running, "python", "-c", ENTRY, "load", KERNEL, IMAGE, "--method", method)
        call = order(running, "run", "/sbin/kexec", "-p", flag, "/vmlinuz", "--initrd=/image", "--append=x")
        again = kdump(running, "load", KERNEL, IMAGE, "--method", method)
        assert load.status == call.status == again.status == 0
        print(
            f"\n{running.spec.kernel}: load by {method}: kexec-tools {call.seconds:.2f} s, "
            f"kdump {load.seconds:.2f} s, of it starting Python {load.seconds - again.seconds:.2f} s"
        )
    # Offsets differ: each puts its backup of low memory elsewhere.
    assert {tuple(line.split()[2:6]) for line in our_heads} >= {tuple(line.split()[2:6]) for line in their_heads}


def test_a_damaged_segment_is_refused_and_the_machine_resets(running: Machine) -> None:
    """The last test of the module: it crashes the machine. Before that, lockdown, which cannot be undone."""
    place = lab.reservation(running)
    assert kdump(running, "load", KERNEL, IMAGE, "--method=segments", "--append=panic=1").status == 0
    told = json.loads(kdump(running, "load", KERNEL, IMAGE, "--method=segments", "--explain", "--json").out)
    order(running, "mount", "securityfs", "/sys/kernel/security", "securityfs")
    order(running, "write", "/sys/kernel/security/lockdown", "integrity")
    for method, named in (("segments", "locked down"), ("file", "EPERM")):
        answer = kdump(running, "load", KERNEL, IMAGE, "--method", method)
        assert answer.status == 1 and named in answer.err and loaded(running)
    segment = next(each for each in told["segments"] if each["name"] == "image")
    stub = Path(running.spec.extra[1].removeprefix("unix:").partition(",")[0])
    assert place.start <= segment["address"] < place.end
    lab.poke(stub, segment["address"] + 12345, b"\xde\xad\xbe\xef")
    running.type(json.dumps(["write", "/proc/sysrq-trigger", "c"]) + "\n")
    found = running.wait_for(r"the segment at 0x([0-9a-f]{16}) is damaged; not booting it", lab.TIMEOUT)
    assert int(found[1], 16) == segment["address"]
    running.run_to_exit(60)
