"""The capture kernel's network against the host's, both real, in network namespaces: each takes the same ways.

A namespace is configured with ip(8); `resolve` reads it; a second one, with ports of the same hardware addresses, is
brought up from the plan. ip(8) says which way the kernel takes to each target in both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HOST = """
import json, sys
from pathlib import Path
from kdump.host.config import Network
from kdump.host import network
asked = json.load(sys.stdin)
network.name_servers = lambda: asked.get("dns", [])
network.addresses = lambda host: asked["names"].get(host, [host])
print(json.dumps(network.resolve(Network(), asked["targets"], sysfs=Path(asked["sysfs"])).plan))
"""
CAPTURE = """
import json, sys
from kdump.capture.network import bring_up
failed = []
bring_up(json.load(sys.stdin), 20, lambda text: None, failed.append)
print(json.dumps(failed))
"""
PORTS = ("a0", "b0")
Ways = dict[str, tuple[str, str, str]]


class Namespace:
    """A network namespace that lives as long as its holder, a sleeping process."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(["unshare", "-n", "sleep", "120"])
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self.holder.pid}/ns/net").readlink() == own:
            if self.holder.poll() is not None:
                pytest.skip("network namespaces cannot be made here")

    def run(self, *command: str, text: str = "") -> str:
        enter = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *command]
        environment = {**os.environ, "PYTHONPATH": "src"}
        done = subprocess.run(enter, input=text, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def python(self, program: str, asked: Any) -> Any:
        return json.loads(self.run(sys.executable, "-c", program, text=json.dumps(asked)))

    def ports(self) -> None:
        """Ports a0 and b0 with fixed hardware addresses; what they lead to is another veth."""
        for number, name in enumerate(PORTS):
            self.run(
                "ip", "link", "add", name, "address", f"52:54:00:00:00:1{number}", "type", "veth", "peer", name + "p"
            )
            self.run("ip", "link", "set", name + "p", "up")

    def ways(self, targets: list[str]) -> Ways:
        """(interface, gateway, source) to each."""
        found = {}
        for target in targets:
            (route,) = json.loads(self.run("ip", "-json", "route", "get", target))
            gateway = route.get("gateway") or route.get("via", {}).get("host", "")
            found[target] = (route["dev"], gateway, route.get("prefsrc", ""))
        return found

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()


def both(tmp_path: Path, commands: list[str], targets: list[str], names: dict[str, list[str]] | None = None) -> Ways:
    """Configure a host, carry its network over, and see that each target is reached in the same way."""
    for name in PORTS:
        device = tmp_path / "class/net" / name / "device"
        device.mkdir(parents=True, exist_ok=True)
    host, capture = Namespace(), Namespace()
    try:
        host.ports()
        for command in commands:
            host.run("ip", *command.split())
        every = [address for target in targets for address in (names or {}).get(target, [target])]
        plan = host.python(HOST, {"targets": targets, "sysfs": str(tmp_path), "names": names or {}})
        capture.ports()
        assert capture.python(CAPTURE, plan) == []
        ways = host.ways(every)
        assert capture.ways(every) == ways
        return ways
    finally:
        host.close()
        capture.close()


UP = ["link set a0 up", "link set b0 up"]


def test_two_targets_behind_two_routers_on_one_interface(tmp_path: Path) -> None:
    commands = [
        *UP,
        "addr add 192.0.2.7/24 dev a0",
        "route add 198.51.100.0/24 via 192.0.2.1",
        "route add 203.0.113.0/24 via 192.0.2.2",
    ]
    ways = both(tmp_path, commands, ["198.51.100.5", "203.0.113.5"])
    assert [way[1] for way in ways.values()] == ["192.0.2.1", "192.0.2.2"]


def test_a_second_target_keeps_its_gateway(tmp_path: Path) -> None:
    commands = [*UP, "addr add 192.0.2.7/24 dev a0", "route add default via 192.0.2.1"]
    assert len(both(tmp_path, commands, ["192.0.2.9", "203.0.113.5"])) == 2


def test_dual_stack(tmp_path: Path) -> None:
    commands = [
        *UP,
        "addr add 192.0.2.7/24 dev a0",
        "addr add 2001:db8::7/64 dev a0 nodad",
        "route add default via 192.0.2.1",
        "-6 route add default via 2001:db8::1 dev a0",
    ]
    ways = both(tmp_path, commands, ["dual"], {"dual": ["203.0.113.5", "2001:db8:1::5"]})
    assert [way[1] for way in ways.values()] == ["192.0.2.1", "2001:db8::1"]


def test_two_interfaces_with_default_routes_of_different_metrics(tmp_path: Path) -> None:
    commands = [
        *UP,
        "addr add 192.0.2.7/24 dev a0",
        "addr add 10.1.0.7/16 dev b0",
        "route add default via 192.0.2.1 metric 200",
        "route add default via 10.1.0.1 metric 100",
        "route add 198.51.100.0/24 via 192.0.2.3 src 192.0.2.7",
    ]
    ways = both(tmp_path, commands, ["203.0.113.5", "198.51.100.5"])
    assert ways["203.0.113.5"][:2] == ("b0", "10.1.0.1")


def test_a_gateway_outside_of_the_prefix_and_one_of_the_other_family(tmp_path: Path) -> None:
    commands = [
        *UP,
        "addr add 192.0.2.7/32 dev a0",
        "route add 172.31.1.1 dev a0",
        "route add default via 172.31.1.1 dev a0",
        "addr add 10.1.0.7/24 dev b0",
        "addr add fe80::7/64 dev b0 nodad",
        "route add 198.51.100.0/24 via inet6 fe80::1 dev b0",
    ]
    ways = both(tmp_path, commands, ["203.0.113.5", "198.51.100.5"])
    assert ways["198.51.100.5"][1] == "fe80::1"


def test_a_peer_on_the_other_end(tmp_path: Path) -> None:
    commands = [*UP, "addr add 192.0.2.7 peer 192.0.2.1/32 dev a0", "route add default via 192.0.2.1 dev a0"]
    both(tmp_path, commands, ["203.0.113.5"])


def test_a_name_with_an_address_that_leads_nowhere(tmp_path: Path) -> None:
    """A host without IPv6, and a name that has an IPv6 address too."""
    commands = [
        *UP,
        "addr add 192.0.2.7/24 dev a0",
        "route add default via 192.0.2.1",
        "-6 route add unreachable 2001:db8:9::/48",
    ]
    for port in PORTS:
        commands.append(f"-6 addr flush dev {port}")
    plan_names = {"dual": ["203.0.113.5", "2001:db8:9::5"]}
    host = Namespace()
    try:
        host.ports()
        (tmp_path / "class/net/a0/device").mkdir(parents=True)
        for command in commands:
            host.run("ip", *command.split())
        plan = host.python(HOST, {"targets": ["dual"], "sysfs": str(tmp_path), "names": plan_names})
    finally:
        host.close()
    assert [each["name"] for each in plan["interface"]] == ["a0"]
    assert plan["interface"][0]["gateways"] == ["192.0.2.1"]


def test_a_bridge(tmp_path: Path) -> None:
    commands = [
        "link add br9 type bridge",
        "link set a0 master br9",
        *UP,
        "link set br9 up",
        "addr add 192.0.2.7/24 dev br9",
        "route add default via 192.0.2.1",
    ]
    ways = both(tmp_path, commands, ["203.0.113.5"])
    assert ways["203.0.113.5"][0] == "br9"
