"""Messages to a cluster, heard by the fence_kdump that Debian ships."""

from __future__ import annotations

import socket
import subprocess

import pytest

from kdump.capture import fence
from kdump.capture.plan import FENCE, NETWORK, CapturePlan, Fence
from kdump.lab import kernels


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_fence_kdump_hears_us() -> None:
    port = free_port()
    program = str(kernels.package("fence-agents") / "usr/sbin/fence_kdump")
    listener = [program, "-n", "127.0.0.1", "-p", str(port), "-o", "off", "-t", "30", "-f", "ipv4", "-v"]
    hears = subprocess.Popen(listener, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stop = fence.start(["127.0.0.1"], port, 0.2, lambda text: None)
    try:
        output, _ = hears.communicate(timeout=40)
    finally:
        stop.set()
        hears.kill()
    assert hears.returncode == 0, output
    assert "received valid message from '127.0.0.1'" in output


def test_a_node_that_cannot_be_reached_is_said_once_and_the_others_are_told() -> None:
    said: list[str] = []
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        sock.settimeout(10)
        stop = fence.start(["255.255.255.255", "::1"], sock.getsockname()[1], 0.05, said.append)
        heard = [sock.recv(64) for _ in range(3)]
        stop.set()
    assert heard == [fence.MESSAGE] * 3
    assert [line.partition(":")[0] for line in said] == ["fence_kdump"]
    assert "255.255.255.255" in said[0]


def test_the_messages_end_when_they_are_told_to() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        stop = fence.start(["127.0.0.1"], sock.getsockname()[1], 0.01, print)
        sock.recv(64)
        stop.set()
        sock.settimeout(1)
        with pytest.raises(TimeoutError, match="timed out"):  # a second of silence comes, however busy the machine is
            for _ in range(1000):
                sock.recv(64)


def test_the_image_gets_what_the_messages_need() -> None:
    assert {FENCE, NETWORK} <= set(CapturePlan(fence=Fence(("192.0.2.1",))).imports())
    assert not {FENCE, NETWORK} & set(CapturePlan().imports())
