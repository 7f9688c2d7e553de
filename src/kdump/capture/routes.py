"""Routes as the plan and kdump.toml write them: a destination and what ip-route(8) would say after it.

"default via 192.0.2.1", "10.0.0.0/8 via 192.0.2.2 src 192.0.2.7 metric 100", "198.51.100.0/24" (on the link).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network
METRIC_MAX = (1 << 32) - 1


@dataclass(frozen=True)
class Route:
    """A way to `destination`: through `gateway`, or on the link (None). `metric` 0: the kernel's own."""

    destination: Subnet
    gateway: Address | None = None
    source: Address | None = None
    metric: int = 0

    def __str__(self) -> str:
        default = self.destination.prefixlen == 0 and getattr(self.gateway, "version", 0) == self.destination.version
        words = ["default" if default else str(self.destination)]
        words += ["via", str(self.gateway)] if self.gateway else []
        words += ["src", str(self.source)] if self.source else []
        words += ["metric", str(self.metric)] if self.metric else []
        return " ".join(words)


def parse_route(text: str) -> Route:
    """Read a route. Raises ValueError that says what is wrong."""
    destination, *words = text.split() or [""]
    values = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2 or len(values) * 2 != len(words) or not values.keys() <= {"via", "src", "metric"}:
        raise ValueError(f'{text!r} is not "DESTINATION [via GATEWAY] [src ADDRESS] [metric NUMBER]"')
    gateway = ip_address(values["via"]) if "via" in values else None
    source = ip_address(values["src"]) if "src" in values else None
    metric = values.get("metric", "0")
    if not metric.isdecimal() or int(metric) > METRIC_MAX:
        raise ValueError(f"the metric of {text!r} is not a number from 0 to {METRIC_MAX}")
    if destination == "default":
        if gateway is None:
            raise ValueError(f"{text!r} has no gateway: write 0.0.0.0/0 or ::/0 for a default route on the link")
        destination = "0.0.0.0/0" if gateway.version == 4 else "::/0"
    subnet = ip_network(destination)
    if (source and source.version != subnet.version) or (gateway and gateway.version < subnet.version):
        raise ValueError(f"{text!r} mixes IPv4 and IPv6")
    return Route(subnet, gateway, source, int(metric))
