"""The smallest reservation in which a capture succeeds, searched machine by machine; `python -m tests.matrix.floors`.

What is found goes on in a file, and into docs/floors.md beside what `kdump estimate`'s formula asks for. A machine is
the lab's: Debian's kernel, the capture image that a machine with these targets has, 1 GiB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests.capture.test_lab_nfs import NETWORK as NFS_NETWORK
from tests.capture.test_lab_nfs import client as nfs_client
from tests.capture.test_lab_nfs import nfs_machine
from tests.capture.test_lab_targets import DEVICES, HOST, NETWORK
from tests.targets.servers import free_port, sshd, weed

from kdump.capture.plan import ALL, CapturePlan
from kdump.errors import KdumpError
from kdump.host import config, encryption, expected
from kdump.lab import encrypted, kernels
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.targets import target_for
from kdump.targets.protocol import Spec

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path(__file__).parent / "floors.json"
PAGE = ROOT / "docs/floors.md"
MIB = 1 << 20
RAM = 1024 * MIB
LEAST, MOST = 96, 288  # MiB
STEP = 16
PATIENCE = 240  # seconds for each phase of a machine
HEAD = """\
# The smallest reservations

`python -m tests.matrix.floors` searches, for each of these machines of 1 GiB, the smallest crashkernel= (in steps of
16 MiB) with which the capture kernel saves a complete dump and the short report. "Used" is the peak use of that
reservation. "Formula" is the proposal of `kdump estimate` for such a machine before the first measurement.

| kernel | target | CPUs of the machine | CPUs of the capture | floor, MiB | used, MiB | formula, MiB |
|---|---|---|---|---|---|---|
"""


class Floor(NamedTuple):
    """One machine."""

    kernel: str
    target: str  # file, ssh, s3 (TLS), nfs, luks; plain: a file, by a kernel that cannot mount a squashfs
    cpus: int = 2
    capture_cpus: int = 1
    machine: str = ""  # its architecture, if not this one's

    def __str__(self) -> str:
        return " ".join(map(str, filter(None, self)))


KERNELS = ("6.1", "6.1-generic", "6.12", "6.12-generic", "newest", "newest-generic")
FLOORS = (
    *(Floor(kernel, "file") for kernel in KERNELS),
    *(Floor(kernel, "ssh") for kernel in ("6.1", "newest-generic", "6.12-generic")),
    *(Floor(kernel, "s3") for kernel in ("newest-generic", "6.1")),
    *(Floor(kernel, "nfs") for kernel in ("newest-generic", "6.1")),
    *(Floor(kernel, "luks") for kernel in ("newest-generic", "6.1")),
    *(Floor(kernel, "plain") for kernel in ("newest-generic", "6.1")),
    Floor("newest-generic", "file", 8, 1),
    Floor("newest-generic", "file", 8, 8),
    Floor("6.1", "file", 8, 8),
    Floor("newest-generic", "s3", 8, 8),
    *(Floor(kernel, "file", machine="aarch64") for kernel in ("6.12", "6.12-16k", "6.1")),
)
URLS = {"ssh": "ssh://root@h/p", "s3": "s3://b/p", "nfs": "nfs://h/p"}  # others are local


def main() -> int:
    """Search what has not been searched."""
    parser = argparse.ArgumentParser(prog="floors", description=__doc__)
    parser.add_argument("--limit", type=int, default=len(FLOORS), metavar="N", help="stop after N machines")
    parser.add_argument("--only", default="", metavar="TEXT", help="machines that this names, as in floors.json")
    args = parser.parse_args()
    known = _known()
    for floor in [each for each in FLOORS if each not in known and args.only in str(each)][: args.limit]:
        known[floor] = search(floor)
        print(floor, known[floor], flush=True)
        RESULTS.write_text(json.dumps({str(each): found for each, found in known.items()}, indent=1) + "\n")
        PAGE.write_text(page(known))
    PAGE.write_text(page(known))
    return 0


def _known() -> dict[Floor, dict[str, Any]]:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    split = {tuple(name.split(" ")): value for name, value in found.items()}
    return {
        Floor(kernel, target, int(cpus), int(capture), *machine): value
        for (kernel, target, cpus, capture, *machine), value in split.items()
    }


def page(known: dict[Floor, dict[str, Any]]) -> str:
    """docs/floors.md."""
    lines = [
        f"| {found['release']} | {floor.target} | {floor.cpus} | {floor.capture_cpus} | {found['floor']} "
        f"| {found['used']} | {formula(floor)} |"
        for floor, found in known.items()
    ]
    return HEAD + "\n".join(lines) + "\n"


def formula(floor: Floor) -> int:
    """What `kdump estimate` asks for, in MiB, for a machine whose targets and CPUs are these."""
    text = f'targets = ["{URLS.get(floor.target, "file:///var/crash")}"]\n[capture]\ncpus = {floor.capture_cpus}\n'
    with tempfile.TemporaryDirectory() as name, mock.patch.object(os, "cpu_count", lambda: floor.cpus):
        root = Path(name)
        (root / "proc").mkdir()
        (root / "proc/meminfo").write_text(f"MemTotal: {RAM >> 10} kB\n")
        (root / "proc/iomem").write_text("")
        return expected.by_formula(config.parse(text), root).size // MIB


def search(floor: Floor) -> dict[str, Any]:
    """Halve the range of sizes until the smallest that works is known."""
    least, most = LEAST, MOST  # the former is taken to fail, the latter to work
    found: dict[str, Any] = {"release": kernels.find(floor.kernel, floor.machine).release, "floor": 0, "used": 0}
    while most - least > STEP:
        size = (least + most) // 2 // STEP * STEP
        if used := attempt(floor, size):
            most, found = size, found | {"floor": size, "used": used}
        else:
            least = size
    return found


def attempt(floor: Floor, size: int) -> int:
    """MiB used if a capture in `size` MiB leaves everything, else 0."""
    with tempfile.TemporaryDirectory(prefix="floor-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        scenario = stack.enter_context(_scenario(floor, directory))
        scenario = replace(scenario, crashkernel=f"{size}M", cpus=floor.cpus, memory=RAM, timeout=PATIENCE)
        plan = replace(scenario.plan, cpus=floor.capture_cpus, mode=ALL)
        append = f"{scenario.append} nr_cpus={floor.capture_cpus} panic=1"
        place = directory / "lab"
        place.mkdir()
        try:
            saved = crash(replace(scenario, plan=plan, append=append), place)
        except KdumpError as error:
            print(f"  {floor} {size}M: {error.what[:100]}", flush=True)
            return 0
        memory, status = saved.manifest["memory"], saved.manifest["status"]
        whole = status == "complete" and (saved.directory / "report.txt").exists()
        stages = "" if whole else [f"{s['name']}: {s['error']}" for s in saved.manifest["stages"] if s["error"]]
        print(f"  {floor} {size}M: {status} {stages}", flush=True)
        return (memory["ram"] - memory["lowest_available"]) // MIB if whole else 0


@contextlib.contextmanager
def _scenario(floor: Floor, directory: Path) -> Iterator[Scenario]:
    """The machine, but for its size; with its server."""
    plain = Scenario(kernels.find(floor.kernel, floor.machine), find_cause("sysrq"), work=64 * MIB)
    local = Spec(f"file:///{DUMPS}")
    match floor.target:
        case "ssh":
            with sshd(directory / "sshd", HOST) as ssh:
                keys = {"identity": "/etc/kdump/id", "known_hosts": "/etc/kdump/known_hosts"}
                target = Spec(f"ssh://root@{HOST}:{ssh.port}{directory}/received", keys)
                files: dict[str, bytes | Path] = {
                    "/etc/kdump/id": (ssh.directory / "id").read_bytes(),
                    "/etc/kdump/known_hosts": (ssh.directory / "known_hosts").read_bytes(),
                    **target_for(target).files(),
                }
                yield _networked(plain, (target, local), files)
        case "s3":
            with weed(directory / "weed", tls_for=HOST) as bucket:
                facts = {"endpoint": bucket.endpoint.replace(bucket.address, HOST), "ca_file": "/etc/kdump/ca.pem"}
                target = Spec("s3://dumps/lab", facts | {"credentials": "/etc/kdump/s3.toml"})
                files = {
                    **target_for(target).files(),
                    "/etc/kdump/s3.toml": (bucket.directory / "s3.toml").read_bytes(),
                    "/etc/kdump/ca.pem": Path(bucket.certificate),
                }
                yield _networked(plain, (target, local), files)
        case "nfs":
            port = free_port()
            with nfs_machine(kernels.find("6.1"), directory, port):
                made = nfs_client(plain.tree, port, "4.2", ALL)
                yield replace(made, plan=replace(made.plan, network=NFS_NETWORK))
        case "luks":
            crypt = "aes-xts-plain64 :64:logon:x 0 8:0 32768"
            real = {"name": "root", "uuid": f"CRYPT-LUKS2-{uuid.uuid4().hex}-root", "table": [[0, 1, "crypt", crypt]]}
            plan = CapturePlan(storage=(volume := encrypted.stand_in(real),))
            modules = ("dm_mod", *encryption.modules_of(volume, plain.tree))
            yield replace(plain, plan=plan, encrypted=(volume,), modules=modules, guest_modules=modules)
        case "plain":
            with mock.patch("kdump.image.build._can_mount", lambda _tree: False):
                yield plain
        case _:
            yield plain


def _networked(plain: Scenario, targets: tuple[Spec, ...], files: dict[str, bytes | Path]) -> Scenario:
    plan = CapturePlan(targets=targets, network=NETWORK)
    modules = ("virtio_net", "bonding", "bridge")
    return replace(plain, plan=plan, devices=DEVICES, modules=modules, files=files)


if __name__ == "__main__":
    raise SystemExit(main())
