"""The configuration in a kernel's memory."""

from __future__ import annotations

import gzip
from types import SimpleNamespace
from typing import Any

import pytest

from kdump.errors import FormatError, KdumpError
from kdump.kernel import ikconfig


def kernel(data: bytes, symbols: dict[str, int] | None = None) -> Any:
    start = 0x1000
    table = {"kernel_config_data": start, "kernel_config_data_end": start + len(data)} if symbols is None else symbols
    virtual = SimpleNamespace(read=lambda address, size: data[address - start : address - start + size])
    return SimpleNamespace(symbols=table, virtual=virtual)


def test_text_and_options() -> None:
    config = '# comment\nCONFIG_SMP=y\n# CONFIG_KASAN is not set\nCONFIG_HZ=250\nCONFIG_NAME="a b"\n'
    text = ikconfig.text(kernel(gzip.compress(config.encode())))
    assert text == config
    assert ikconfig.options(text) == {"CONFIG_SMP": "y", "CONFIG_HZ": "250", "CONFIG_NAME": '"a b"'}


def test_absent_damaged_and_bombs() -> None:
    with pytest.raises(KdumpError, match="CONFIG_IKCONFIG"):
        ikconfig.text(kernel(b"", {}))
    with pytest.raises(FormatError, match="does not unpack"):
        ikconfig.text(kernel(b"no gzip at all"))
    with pytest.raises(FormatError, match="cut off or too long"):
        ikconfig.text(kernel(gzip.compress(b"A" * (1 << 24))))
    with pytest.raises(FormatError, match="cut off or too long"):
        ikconfig.text(kernel(gzip.compress(b"CONFIG_SMP=y\n" * 100)[:-12]))
