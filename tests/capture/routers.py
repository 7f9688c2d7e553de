"""A machine that crashes among three networks, for test_lab_routers.py, which runs this in a network namespace.

Beside a static address a route leads to the first server, the route to the second comes with DHCP (option 121), that to
the third with router advertisements, its address with DHCPv6. Arguments: a pickled KernelTree, a directory.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

from tests.targets.servers import sshd

from kdump.capture.plan import ALL, CapturePlan
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.targets import target_for
from kdump.targets.protocol import Spec

SERVERS = ("203.0.113.7", "203.0.113.8", "2001:db8:9::7")
MACS = tuple(f"52:54:00:00:07:{number:02x}" for number in range(3))
ROUTERS = ("192.0.2.1/24", "198.51.100.1/24", "2001:db8:5::1/64")
INTERFACES = [
    {"name": "one", "mac": MACS[0], "addresses": ["192.0.2.10/24"], "routes": [f"{SERVERS[0]}/32 via 192.0.2.1"]},
    {"name": "two", "mac": MACS[1], "dhcp": True},
    {"name": "three", "mac": MACS[2], "dhcp6": True, "ra": True},
]
SERVED = (
    "--dhcp-range=198.51.100.50,198.51.100.60,1h", f"--dhcp-option=121,{SERVERS[1]}/32,198.51.100.1",
    "--dhcp-option=3", "--dhcp-range=2001:db8:5::50,2001:db8:5::60,64,1h", "--enable-ra",
)  # fmt: skip


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def networks() -> tuple[str, ...]:
    """Make them, and the servers' addresses behind them; gives QEMU's arguments."""
    ip("link", "set", "lo", "up")
    # What does not forward says in its neighbour advertisements that it is no router, and hosts forget the route to it.
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    for address in SERVERS:
        ip("address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
    arguments: list[str] = []
    for number, (router, mac) in enumerate(zip(ROUTERS, MACS, strict=True)):
        ip("tuntap", "add", f"tap{number}", "mode", "tap")
        ip("link", "set", f"tap{number}", "up")
        ip("address", "add", router, "dev", f"tap{number}", *(["nodad"] if ":" in router else []))
        arguments += ["-netdev", f"tap,id=net{number},ifname=tap{number},script=no,downscript=no"]
        arguments += ["-device", f"virtio-net-pci,netdev=net{number},mac={mac}"]
    return tuple(arguments)


def main() -> None:
    tree = pickle.loads(Path(sys.argv[1]).read_bytes())
    directory = Path(sys.argv[2])
    devices = networks()
    command = [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--bind-dynamic",
        "--interface=tap1", "--interface=tap2", f"--dhcp-leasefile={directory}/leases", *SERVED,
    ]  # fmt: skip
    with subprocess.Popen(command) as dnsmasq, sshd(directory / "sshd", *SERVERS) as server:
        keys = {"identity": "/etc/kdump/id", "known_hosts": "/etc/kdump/known_hosts"}
        hosts = [f"[{host}]" if ":" in host else host for host in SERVERS]
        remote = [Spec(f"ssh://root@{host}:{server.port}{directory}/{n}", keys) for n, host in enumerate(hosts)]
        files: dict[str, bytes | Path] = {
            "/etc/kdump/id": (server.directory / "id").read_bytes(),
            "/etc/kdump/known_hosts": (server.directory / "known_hosts").read_bytes(),
            **target_for(remote[0]).files(),
        }
        plan = CapturePlan(
            targets=(Spec(f"file:///{DUMPS}"), *remote), mode=ALL, network={"interface": INTERFACES, "dns": []}
        )
        scenario = Scenario(
            tree, find_cause("sysrq"), work=16 << 20, crashkernel="256M", plan=plan, devices=devices,
            modules=("virtio_net",), files=files,
        )  # fmt: skip
        (directory / "lab").mkdir()
        saved = crash(scenario, directory / "lab")
        dnsmasq.terminate()
    print(json.dumps({"manifest": dict(saved.manifest), "directory": str(saved.directory), "at": time.time()}))


if __name__ == "__main__":
    main()
