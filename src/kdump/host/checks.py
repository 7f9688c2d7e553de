"""The answers to "Is this machine ready to be dumped?", and how programs read them. Nothing here needs NumPy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from kdump.errors import KdumpError

YES: Final = "yes"  # good
NOTE: Final = "note"  # worth knowing, does not stand in the way
NO: Final = "no"  # a crash now would leave no dump, or not the one asked for


@dataclass(frozen=True)
class Check:
    """One question: its name (stable, for programs), the answer (YES, NOTE or NO), what was found, what to do."""

    name: str
    answer: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Readiness:
    """All checks, and figures for graphs (bytes, seconds, Unix times, counts)."""

    checks: tuple[Check, ...]
    figures: dict[str, float]

    @property
    def ready(self) -> bool:
        """Whether a crash now would leave the dump that the configuration asks for, as far as can be told."""
        return not any(check.answer == NO for check in self.checks)

    @property
    def verdict(self) -> str:
        """The verdict in one line."""
        reasons = [check.name for check in self.checks if check.answer == NO]
        return "ready" if not reasons else "not ready: " + ", ".join(reasons)


def refusal(name: str, error: KdumpError) -> Check:
    """A check that could not be made: NO, with the reason."""
    return Check(name, NO, error.what + (f": {error.why}" if error.why else ""), error.remedy)


def as_json(readiness: Readiness) -> dict[str, Any]:
    """The examination as plain values."""
    return {
        "ready": readiness.ready,
        "verdict": readiness.verdict,
        "checks": [asdict(check) for check in readiness.checks],
        "figures": readiness.figures,
    }


def as_prometheus(readiness: Readiness) -> str:
    """The text format for node_exporter's textfile collector."""
    lines = ["# HELP kdump_ready Whether a crash now would leave a dump.", "# TYPE kdump_ready gauge"]
    lines += [f"kdump_ready {int(readiness.ready)}", "# TYPE kdump_check gauge"]
    worst: dict[str, int] = {}
    for check in readiness.checks:
        worst[check.name] = min(worst.get(check.name, 1), int(check.answer != NO))
    lines += [f'kdump_check{{name="{name}"}} {value}' for name, value in worst.items()]
    for name, value in sorted(readiness.figures.items()):
        lines += [f"# TYPE kdump_{name} gauge", f"kdump_{name} {float(value):.17g}"]
    return "\n".join(lines) + "\n"
