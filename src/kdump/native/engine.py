"""The engine that all of kdump calls, chosen once: compiled where libkdump.so was built, else plain."""

from __future__ import annotations

from kdump.native.interface import Engine
from kdump.native.library import library

engine: Engine
if library():
    from kdump.native import compiled

    engine = compiled
else:
    from kdump.native import plain

    engine = plain
