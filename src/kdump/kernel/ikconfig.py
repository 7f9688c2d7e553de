"""The configuration a kernel was built with, if it carries it in its memory (CONFIG_IKCONFIG).

Source: kernel/configs.c: gzip data between kernel_config_data and kernel_config_data_end; before 5.1 between the marks
IKCFG_ST and IKCFG_ED.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from kdump.errors import FormatError, KdumpError

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel

_LARGEST = 1 << 22  # bytes of the text: ten times what an all-options kernel has
_OPTION = re.compile(r"^(CONFIG_\w+)=(.*)$", re.MULTILINE)
_GZIP = 16 + zlib.MAX_WBITS


def text(kernel: Kernel) -> str:
    """The .config; raises `KdumpError` if the kernel does not carry it, `FormatError` if it is damaged."""
    symbols = kernel.symbols
    start, end = symbols.get("kernel_config_data"), symbols.get("kernel_config_data_end")
    if start is None or end is None or not 0 < end - start <= _LARGEST:
        raise KdumpError("the kernel does not contain its configuration", why="it was built without CONFIG_IKCONFIG")
    engine = zlib.decompressobj(_GZIP)
    try:
        raw = engine.decompress(kernel.virtual.read(start, end - start), _LARGEST)
    except zlib.error as error:
        raise FormatError(
            "the kernel's configuration does not unpack", field="kernel_config_data", why=str(error)
        ) from error
    if not engine.eof:
        raise FormatError("the kernel's configuration is cut off or too long", field="kernel_config_data")
    return raw.decode("utf-8", "replace")


def options(config: str) -> dict[str, str]:
    """Options that are set, with their values as they are written ("y", "m", a number, a quoted string)."""
    return dict(_OPTION.findall(config))
