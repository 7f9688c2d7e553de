"""Reaching a server of disks; the rest is shown by machines: docs/machines.md, tests/capture/test_lab_remote.py."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from kdump.capture import remote
from kdump.errors import KdumpError


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_server_is_reached_without_a_codec_for_names(family: int, address: str) -> None:
    """The image has no idna codec: that was found by a machine of the matrix."""
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen()
        code = (
            "import codecs, sys, time\n"
            "from kdump.capture import remote\n"
            "codecs.lookup = None; sys.modules['encodings.idna'] = None\n"
            f"remote._reach({address!r}, {server.getsockname()[1]}, time.monotonic() + 5)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_that_does_not_answer_is_named() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]  # nobody listens
        with pytest.raises(KdumpError, match=f"127.0.0.1 port {port} cannot be reached"):
            remote._reach("127.0.0.1", port, time.monotonic())
