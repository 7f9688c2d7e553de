"""Runs plugins of Volatility 3 on an image, in one process that reads the symbol file once.

    python -m tests.bench.volatility_plugins IMAGE SYMBOLS CACHE PLUGINS…     (test_export.py starts it; prints JSON)

`vol --offline -s SYMBOLS -f IMAGE PLUGIN` would read the symbol file four times for each, and check it against the
schema for half a minute: test_export.py does that itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from volatility3 import framework, plugins, schemas, symbols
from volatility3.framework import automagic, constants, contexts
from volatility3.framework import plugins as running

from kdump.bench import isf


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
    schemas.validate = lambda *_: True
    constants.CACHE_PATH = cache
    constants.IDENTIFIERS_PATH = str(Path(cache) / "identifiers")
    constants.OFFLINE = True
    symbols.__path__ = [directory, *constants.SYMBOL_BASEPATHS]
    plugins.__path__ = [isf.PLUGINS, *constants.PLUGINS_PATH]
    framework.import_files(plugins, ignore_errors=True)
    known = framework.list_plugins()
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = Path(image).resolve().as_uri()
    chosen = automagic.choose_automagic(automagic.available(context), known[names[0]])
    first = running.construct_plugin(context, chosen, known[names[0]], "plugins", None, None)
    answers: dict[str, Any] = {names[0]: rows(first.run())}
    for name in names[1:]:
        path = f"plugins.{known[name].__name__}"
        context.config[f"{path}.kernel"] = first.config["kernel"]
        try:
            answers[name] = rows(known[name](context, path).run())
        except Exception as error:
            answers[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
