"""Runs plugins of Volatility 3 on an image, in one process that reads the symbol file once.

    python -m tests.bench.volatility_plugins IMAGE SYMBOLS CACHE PLUGINS…     (test_export.py starts it; prints JSON)

What `vol --offline -s SYMBOLS -f IMAGE PLUGIN` does, but for the check against the schema, which takes half a minute.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.modules["jsonschema"] = None  # type: ignore[assignment]

from volatility3 import framework, plugins, symbols  # noqa: E402
from volatility3.framework import automagic, constants, contexts  # noqa: E402
from volatility3.framework import plugins as running  # noqa: E402

from kdump.bench import isf  # noqa: E402


def rows(grid: Any) -> list[dict[str, Any]]:
    """A plugin's table."""
    names = [column.name for column in grid.columns]
    found: list[dict[str, Any]] = []

    def visit(node: Any, _: Any) -> None:
        found.append(
            {
                name: value if isinstance(value, int) else str(value)
                for name, value in zip(names, node.values, strict=True)
            }
        )

    grid.populate(visit, None)
    return found


def main(image: str, directory: str, cache: str, *names: str) -> None:
    """Every plugin in turn; the first finds the kernel, the others are told what it found."""
    constants.CACHE_PATH = cache
    constants.IDENTIFIERS_PATH = str(Path(cache) / "identifiers")
    constants.OFFLINE = True
    symbols.__path__ = [directory, *constants.SYMBOL_BASEPATHS]
    plugins.__path__ = [isf.PLUGINS, *constants.PLUGINS_PATH]
    framework.import_files(plugins, ignore_errors=True)
    known = framework.list_plugins()
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = Path(image).resolve().as_uri()
    magics = automagic.available(context)
    answers: dict[str, Any] = {}
    for name in names:
        plugin = known[name]
        try:
            chosen = automagic.choose_automagic(magics, plugin)
            made = running.construct_plugin(context, chosen, plugin, "plugins", None, None)
            answers[name] = rows(made.run())
        except Exception as error:
            answers[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
