"""Coverage-guided fuzzing with atheris: python -m tests.fuzz TARGET [-max_total_time=60 …]

The options are libFuzzer's. An input that makes a target raise, or take too long or too much memory, is written to
tests/fuzz/corpus/TARGET: mend the defect, and the test suite replays it for ever.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris
from tests.fuzz.targets import TARGETS, once

BOUNDS = ["-max_len=40000", "-timeout=5", "-rss_limit_mb=1024"]  # of the process, which holds libraries too
CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Fuzz one target from its seeds and its corpus until the time given is over."""
    if sys.argv[1:] == ["--list"]:
        print(" ".join(TARGETS))
        return
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz TARGET [OPTION ...]\ntargets: {' '.join(TARGETS)}")
    name = sys.argv[1]
    target = TARGETS[name]
    found = CORPUS / name
    found.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        with atheris.instrument_imports(include=list(target.modules)):
            for seed, data in target.seeds().items():  # the seeds and their use import what is instrumented
                Path(work, seed).write_bytes(data)
                once(target, data)
        options = [*BOUNDS, f"-artifact_prefix={found}/", *sys.argv[2:], work, os.fspath(found)]
        atheris.Setup([sys.argv[0], *options], lambda data: once(target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
