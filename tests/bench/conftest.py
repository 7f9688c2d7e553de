"""The machines of tests/dump, which hold every page, serve here, too."""

from __future__ import annotations

from tests.dump.conftest import whole

__all__ = ["whole"]
