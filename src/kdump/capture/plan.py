"""The capture plan: everything the second kernel must know, resolved on the healthy host, as JSON in the image.

The user's configuration says what is wanted; the plan says what follows from it on this machine. It holds no secrets:
keys and credentials are files of the image (mode 0600) that it names.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from kdump.errors import FormatError
from kdump.foreign import read_text
from kdump.memory.codecs import DEFAULT
from kdump.targets import NETWORKED, SCHEMES
from kdump.targets.protocol import Spec

PLAN_PATH = "/etc/kdump/plan.json"
ACTIONS = ("reboot", "poweroff", "halt", "shell")  # that a configuration may name
FIRST, ALL = "first", "all"
ENCRYPTION = "kdump.targets.encrypted"
DECRYPTION = "kdump.capture.crypt"
NETWORK = "kdump.capture.network"
SCRUB = "kdump.dump.scrub.look"
KEEP = "kdump.dump.keep"
FENCE = "kdump.capture.fence"
REMOTE = "kdump.capture.remote"
_LONGEST = 30 * 86400  # seconds that anything in a plan may last
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True)
class Hooks:
    """Executables of the image, run as `PATH` with the environment that docs/reliability.md lists; empty: none."""

    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    seconds: float = 60  # bound of each
    network: bool = False  # it comes up before the first of them


@dataclass(frozen=True)
class Fence:
    """Cluster nodes (addresses) that are told every `interval` seconds that a dump is being saved; none: nobody is."""

    nodes: tuple[str, ...] = ()
    port: int = 7410
    interval: float = 10


@dataclass(frozen=True)
class Deadlines:
    """Seconds. What does not end in time is given up and the next thing happens; after `total`, the final action."""

    network: float = 60
    target: float = 180  # each target: its device is there, or its server answers
    dmesg: float = 60
    report: float = 60
    stall: float = 300  # the dump makes no progress
    total: float = 7200
    action: float = 20  # a reboot that hangs is forced


@dataclass(frozen=True)
class CapturePlan:
    """The tasks of the capture kernel, in the order in which it needs them.

    `modules` are absolute paths in the image in load order, or "PATH PARAMETERS". `mode` is "first" (targets in order
    until one has everything) or "all".
    `inject` makes stages fail on purpose, for tests: stage name, or "seal FILE", -> "raise", "hang", "stuck", "kill",
    "oom", "panic" or "full" (no space left). Each happens once.
    """

    hostname: str = "localhost"
    modules: tuple[str, ...] = ()
    targets: tuple[Spec, ...] = ()
    mode: str = FIRST
    level: int = 31
    codec: str = DEFAULT
    codec_level: int = 0  # 0: the codec's own choice
    scrub: tuple[str, ...] = ()  # kinds of secrets (kdump.dump.scrub.kinds) that the dump is without
    processes: tuple[str, ...] = ()  # whose memory is kept, by name, or by control group ("/PATH")
    cpus: int = 1
    deadlines: Deadlines = field(default_factory=Deadlines)
    on_success: str = "reboot"
    on_failure: str = "reboot"
    hooks: Hooks = field(default_factory=Hooks)
    fence: Fence = field(default_factory=Fence)
    report: bool = True
    recipients: tuple[str, ...] = ()
    network: Mapping[str, typing.Any] = field(default_factory=dict)
    storage: tuple[Mapping[str, typing.Any], ...] = ()
    keep: int = 0  # crashes kept on a target, the new one included; 0: all
    min_free: int = 0  # bytes that must stay free after the dump
    watchdog: bool = True
    inject: Mapping[str, str] = field(default_factory=dict)

    @property
    def online_first(self) -> bool:
        """Whether the network comes up before anything else, not when the first target needs it."""
        return self.hooks.network or bool(self.fence.nodes) or self._connects

    @property
    def _connects(self) -> bool:
        return any("connect" in volume for volume in self.storage)

    def imports(self) -> tuple[str, ...]:
        """The modules that this plan needs in its image beyond those that every plan needs."""
        schemes = dict.fromkeys(spec.parts.scheme for spec in self.targets)
        found = [SCHEMES[scheme].partition(":")[0] for scheme in schemes if scheme in SCHEMES]
        found += [NETWORK] if self.online_first or any(scheme in NETWORKED for scheme in schemes) else []
        found += [FENCE] if self.fence.nodes else []
        found += [REMOTE] if self._connects else []
        found += ["ssl"] if any(map(uses_tls, self.targets)) else []
        found += [SCRUB] if self.scrub else []
        found += [KEEP] if self.processes else []
        found += [DECRYPTION] if any("holds" in volume for volume in self.storage) else []
        return (*found, *([ENCRYPTION] if self.recipients else []))

    def to_json(self) -> str:
        """The plan as the image carries it."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, path: str = PLAN_PATH) -> CapturePlan:
        """Read a plan. Raises `FormatError` naming the field that is wrong; unknown fields are errors too."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError("is not JSON", path=path, why=str(error)) from None
        plan: CapturePlan = _build(cls, raw, path, "plan")
        return plan


def uses_tls(spec: Spec) -> bool:
    """Whether a target is reached by https: Amazon's own endpoint, which is what no endpoint means, is."""
    if spec.parts.scheme == "collector+https":
        return True
    return spec.parts.scheme == "s3" and not spec.facts.get("endpoint", "").startswith("http:")


def load_plan(path: str = PLAN_PATH) -> CapturePlan:
    """The plan of this image. Raises `FormatError` or OSError."""
    return CapturePlan.from_json(read_text(path), path)


def _build(cls: typing.Any, raw: object, path: str, where: str) -> typing.Any:
    """An instance of dataclass `cls` from parsed JSON, checked against its type hints."""
    if not isinstance(raw, dict):
        raise FormatError("must be an object", path=path, field=where)
    hints = typing.get_type_hints(cls)
    known = {item.name for item in fields(cls)}
    if unknown := sorted(set(raw) - known):
        raise FormatError(f"unknown fields {', '.join(unknown)}", path=path, field=where)
    values = {name: _convert(hints[name], value, path, f"{where}.{name}") for name, value in raw.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise FormatError("is incomplete", path=path, field=where, why=str(error)) from None


def _convert(hint: typing.Any, value: object, path: str, where: str) -> object:
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise FormatError("must be a list", path=path, field=where)
        inner = typing.get_args(hint)[0]
        return tuple(_convert(inner, item, path, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is not None and not isinstance(origin, types.UnionType):
        if not isinstance(value, dict):
            raise FormatError("must be an object", path=path, field=where)
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= _LONGEST:  # also NaN and Infinity, which Python's JSON has
            raise FormatError(f"must be seconds from 0 to {_LONGEST}, is {value!r}", path=path, field=where)
        return float(value)
    if hint is int and isinstance(value, int) and not 0 <= value <= _LARGEST:
        raise FormatError(f"must be a number from 0 to {_LARGEST}, is {value!r}", path=path, field=where)
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        return _build(hint, value, path, where)
    if hint is not typing.Any and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise FormatError(f"must be {hint.__name__}, is {value!r}", path=path, field=where)
    return value
