"""The demonstration: three machines crash, two of them by one cause, and report to a collector on this machine.

The first machine's dump is new and wanted; the second machine of that cause is told that its crash is known and ends
without a dump. The machines reach the collector at 10.0.2.2, which is this machine in QEMU's own network.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kdump.capture.plan import CapturePlan
from kdump.errors import KdumpError
from kdump.fleet import policy, views
from kdump.fleet.service import Options, Service
from kdump.image.kernel_tree import KernelTree
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Played, Scenario, play
from kdump.targets.protocol import Spec

HOST: Final = "10.0.2.2"
MACHINES: Final = (("web1", "sysrq"), ("web2", "sysrq"), ("db1", "init"))
_MAC = "52:54:00:12:34:56"
_TOKEN = "/etc/kdump/collector.token"  # noqa: S105 -- a path
_CA = "/etc/kdump/ca.pem"
_MEMORY = 512 << 20
_STAMP = re.compile(r"kdump: \[\s*([\d.]+)\] (.*)")


@dataclass(frozen=True)
class Ended:
    """How a machine ended: seconds of its capture kernel's clock, and what it said of the dump."""

    host: str
    dumped: bool
    asked: float  # the collector had answered
    ended: float  # the final action began
    lines: Sequence[str] = field(repr=False)


@dataclass(frozen=True)
class Running:
    """A collector as a process of its own. `certificate` makes it https."""

    port: int
    data: Path
    service: Service
    certificate: Path | None

    @property
    def page(self) -> str:
        """The address of its pages."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}/"


@contextlib.contextmanager
def collector(data: Path, certificate: Path | None = None, key: Path | None = None) -> Iterator[Running]:
    """A collector for a demonstration: everybody on this machine may look, one dump of each crash is wanted."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    service = Service(Options(data))
    service.database.run(lambda session: policy.save(session, policy.Policy(first=1, sample=0.0, new_most=1)))
    command = [sys.executable, "-m", "kdump", "fleet", "serve", "--data", str(data), "--open-to", "engineer"]
    command += ["--listen", f"127.0.0.1:{port}"]
    if certificate and key:
        command += ["--tls-cert", str(certificate), "--tls-key", str(key)]
    with (data / "collector.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait(port, process, data / "collector.log")
            yield Running(port, data, service, certificate)
        finally:
            process.terminate()
            process.wait(30)
            service.close()


def machine(
    running: Running, tree: KernelTree, host: str, cause: str, directory: Path, *, port: int = 0, **options: Any
) -> Ended:
    """Crash one machine whose first target is the collector and whose second one is its disk.

    `port` is where the machine looks for the collector, if that is not where it is.
    """
    directory.mkdir(parents=True, exist_ok=True)
    scheme = "collector+https" if running.certificate else "collector+http"
    facts = {"token": _TOKEN, "host": host, **({"ca_file": _CA} if running.certificate else {})}
    files: dict[str, bytes | Path] = {_TOKEN: running.service.keys.token(host).encode()}
    if running.certificate:
        files[_CA] = running.certificate
    targets = (Spec(f"{scheme}://{HOST}:{port or running.port}", facts), Spec(f"file:///{DUMPS}"))
    network = {"interface": [{"name": "eth0", "mac": _MAC, "dhcp": True}]}
    scenario = Scenario(
        tree,
        find_cause(cause),
        memory=_MEMORY,
        work=16 << 20,
        crashkernel="192M",
        plan=CapturePlan(hostname=host, targets=targets, network=network),
        devices=("-netdev", "user,id=net0", "-device", f"virtio-net-pci,netdev=net0,mac={_MAC}"),
        modules=("virtio_net",),
        files=files,
        **options,
    )
    return ended(host, play(scenario, directory))


def ended(host: str, played: Played) -> Ended:
    """The end of a machine's run, from its console."""
    stamped = [(float(found[1]), found[2]) for _, text in played.lines if (found := _STAMP.search(text))]
    texts = [text for _, text in stamped]
    last = next((when for when, text in stamped if text.startswith("final action")), 0.0)
    asked = next((when for when, text in stamped if "no vmcore" in text or text.startswith("report.json saved")), 0.0)
    return Ended(host, any(text.startswith("vmcore saved") for text in texts), asked, last, texts)


def run(tree: KernelTree, directory: Path, say: Callable[[str], None]) -> Mapping[str, Any]:
    """All of it; what the pages show at the end. Raises KdumpError if it is not as it should be."""
    directory.mkdir(parents=True, exist_ok=True)
    with collector(directory / "data") as running:
        say(f"the collector's pages: {running.page}")
        ends = []
        for host, cause in MACHINES:
            say(f"{host} crashes: {find_cause(cause).summary}")
            one = machine(running, tree, host, cause, directory / host)
            for image in ("guest.img", "capture.img", "disk.img"):
                (directory / host / image).unlink(missing_ok=True)
            ends.append(one)
            fate = "its dump was wanted" if one.dumped else f"no dump: the end came {one.ended - one.asked:.1f} s later"
            say(f"{host} is done: {fate}")
        found = shown(running)
    groups = [(row["title"], row["crashes"], row["hosts"]) for row in found["groups"]]
    if sorted(count for _, count, _ in groups) != [1, 2] or [each.dumped for each in ends] != [True, False, True]:
        raise KdumpError("the fleet is not as it should be", why=f"{groups}, {ends}")
    for title, count, hosts in groups:
        plural = ("es" if count != 1 else "", "s" if hosts != 1 else "")
        say(f"group: {title}: {count} crash{plural[0]} of {hosts} host{plural[1]}")
    return {"groups": groups, "machines": [(one.host, one.dumped) for one in ends], "directory": str(directory)}


def shown(running: Running, seconds: float = 20.0) -> dict[str, Any]:
    """The groups, once the worker has counted every crash."""
    end = time.monotonic() + seconds
    while True:
        with running.service.database.read() as session:
            found, left = views.group_list(session), views.totals(session)["waiting"]
        if not left or time.monotonic() > end:
            return found
        time.sleep(0.2)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text("utf-8", "replace")[-500:]
                raise KdumpError("the collector did not start", why=said) from None
            time.sleep(0.1)
        else:
            return
