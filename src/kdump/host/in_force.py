"""The configuration in force: kdump.toml, or without one, the configuration of another kdump.

Another kdump's files are read as data, each time anew, so changes of them are followed. As soon as there is a
kdump.toml, they no longer count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdump.errors import KdumpError
from kdump.host import config
from kdump.host.config import Config
from kdump.host.config.tables import ConfigError
from kdump.host.importers import Draft, detect


@dataclass(frozen=True)
class InForce:
    """A configuration and where it comes from.

    `source` names the files (empty: the defaults). `origins` has the line of a foreign file behind each dotted key.
    `lost` are lines of foreign files without an equivalent here, and why.
    """

    config: Config
    source: str = ""
    origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lost: tuple[tuple[str, str], ...] = ()

    @property
    def foreign(self) -> bool:
        """Whether another kdump's files are honoured."""
        return bool(self.origins or self.lost)


def read(path: Path | None = None, root: Path = Path("/")) -> InForce:
    """The configuration in `path`; without one, in kdump.toml, in another kdump's files, or the defaults.

    Raises ConfigError and KdumpError as `config.load` does. What is wrong in a foreign file is lost, never an error.
    """
    if path is not None or config.CONFIG_PATH.exists():
        return InForce(config.load(path), str(path or config.CONFIG_PATH))
    draft, files = Draft(), detect.detect(root)
    for file in files:
        try:
            detect.read([file], draft)
        except KdumpError as error:
            draft.lose(str(file), str(error).partition("\n")[0])
    try:
        found = draft.config()
    except ConfigError as error:  # values that are good alone do not go together
        draft.lose(", ".join(map(str, files)), error.problems[0])
        return InForce(Config(), "", {}, tuple(draft.lost))
    origins: dict[str, tuple[str, ...]] = {}
    for origin, ours in draft.carried:
        key = ours.partition(" = ")[0]
        origins[key] = (*origins.get(key, ()), origin)
    return InForce(found, ", ".join(map(str, files)) if origins else "", origins, tuple(draft.lost))


def load(path: Path | None = None) -> Config:
    """The configuration in force, alone."""
    return read(path).config
