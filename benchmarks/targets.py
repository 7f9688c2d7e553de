"""Each kind of target alone: panic to dump saved, what it takes beyond a file, the smallest reservation that works.

`python -m benchmarks.targets` (root, and the servers of the tests). A machine of 2 GiB crashes once for each target and
reservation; a reservation counts as working if the capture kernel says that the crash is complete. The time to get
ready is what passes between the capture's first line and the crash's name: drivers, network, mount or connection.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.capture.test_lab_nfs import MAC as WIRE_MAC
from tests.capture.test_lab_nfs import NETWORK as WIRE_NETWORK
from tests.capture.test_lab_nfs import nfs_machine, wire
from tests.capture.test_lab_targets import DEVICES, HOST, MAC
from tests.targets.servers import free_port, sshd, weed

from kdump.capture.plan import CapturePlan
from kdump.errors import KdumpError
from kdump.image.kernel_tree import KernelTree
from kdump.lab import kernels
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, play
from kdump.targets import target_for
from kdump.targets.protocol import Spec
from kdump.units import parse_size

TARGETS = ("file", "nfs", "ssh", "s3")
USER_NETWORK = {"interface": [{"name": "eth0", "mac": MAC, "dhcp": True}]}
_LINE = re.compile(r"kdump: \[\s*[\d.]+\] (.*)")


@dataclass(frozen=True)
class Timing:
    """Seconds after the panic of the dump's end, and seconds of them spent on getting the target ready."""

    saved: float
    ready: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.targets", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kernel", default=kernels.default())
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--only", default=",".join(TARGETS), help="targets (default: %(default)s)")
    parser.add_argument("--crashkernel", default="256M,160M,144M,128M,112M", metavar="SIZES",
                        help="from large to small, until one fails (default: %(default)s)")  # fmt: skip
    args = parser.parse_args()
    tree, memory = kernels.find(args.kernel), parse_size(args.memory)
    print(f"{'target':<8}{'crashkernel=':>14}{'dump saved':>12}{'getting ready':>15}{'without it, by file':>21}")
    reference: dict[str, Timing] = {}
    for name in args.only.split(","):
        for crashkernel in args.crashkernel.split(","):
            timing = measure(name, tree, memory, crashkernel)
            if not timing:
                print(f"{name:<8}{crashkernel:>14}  does not work", flush=True)
                break
            first = reference.setdefault(crashkernel, timing)
            ratio = (timing.saved - timing.ready) / (first.saved - first.ready)
            print(f"{name:<8}{crashkernel:>14}{timing.saved:>11.1f}s{timing.ready:>14.1f}s{ratio:>21.2f}", flush=True)


def measure(name: str, tree: KernelTree, memory: int, crashkernel: str) -> Timing | None:
    """One crash; None if it did not come to a complete one."""
    with tempfile.TemporaryDirectory(prefix="kdump-bench-") as scratch, prepared(name, tree, Path(scratch)) as scenario:
        directory = Path(scratch) / "lab"
        directory.mkdir()
        try:
            played = play(replace(scenario, memory=memory, crashkernel=crashkernel), directory)
        except KdumpError:
            return None
        return timing(played.lines)


def timing(lines: Sequence[tuple[float, str]]) -> Timing | None:
    """The console since the panic as a timing; None if the crash is not complete."""
    said = [(when, found[1]) for when, text in lines if (found := _LINE.search(text))]
    if not any(text.startswith("complete: ") for _when, text in said):
        return None
    begun = next(when for when, text in said if text.startswith("saving to "))
    saved = next(when for when, text in said if text.startswith("vmcore saved"))
    return Timing(saved - lines[0][0], begun - said[0][0])


@contextlib.contextmanager
def prepared(name: str, tree: KernelTree, scratch: Path) -> Iterator[Scenario]:
    """A scenario whose one target is of that kind, and its server."""
    bare = Scenario(tree, find_cause("sysrq"))
    if name == "file":
        yield replace(bare, plan=CapturePlan(targets=(Spec(f"file:///{DUMPS}"),)))
    elif name == "nfs":
        port = free_port()
        plan = CapturePlan(targets=(Spec("nfs://192.168.77.1/dumps", {"version": "4.2"}),), network=WIRE_NETWORK)
        devices = wire("connect", port, WIRE_MAC)
        with nfs_machine(tree, scratch, port):
            yield replace(bare, plan=plan, devices=devices, modules=("virtio_net", "nfsv4"))
    elif name == "ssh":
        with sshd(scratch / "sshd", HOST) as server:
            keys = {"identity": "/etc/kdump/id", "known_hosts": "/etc/kdump/known_hosts"}
            spec = Spec(f"ssh://root@{HOST}:{server.port}{scratch}/received", keys)
            yield across(bare, spec, {"id": server.directory / "id", "known_hosts": server.directory / "known_hosts"})
    elif name == "s3":
        with weed(scratch / "weed") as bucket:
            facts = {
                "endpoint": bucket.endpoint.replace(bucket.address, HOST),
                "credentials": "/etc/kdump/s3.toml",
            }
            yield across(bare, Spec("s3://dumps/bench", facts), {"s3.toml": bucket.directory / "s3.toml"})
    else:
        raise KdumpError(f"no target {name!r} is measured", remedy=f"take some of {', '.join(TARGETS)}")


def across(bare: Scenario, spec: Spec, secrets: dict[str, Path]) -> Scenario:
    """The scenario with a target across QEMU's own network; `secrets` go to /etc/kdump."""
    files: dict[str, bytes | Path] = {f"/etc/kdump/{name}": path.read_bytes() for name, path in secrets.items()}
    files |= target_for(spec).files()
    plan = CapturePlan(targets=(spec,), network=USER_NETWORK)
    return replace(bare, plan=plan, devices=DEVICES, modules=("virtio_net",), files=files)


if __name__ == "__main__":
    main()
