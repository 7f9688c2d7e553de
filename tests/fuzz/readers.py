"""Coverage-guided fuzzing of the dump readers: python -m tests.fuzz.readers [-max_total_time=60 …] [CORPUS ...]

Needs atheris (pip install 'linux-kdump[fuzz]'); the options are libFuzzer's. Starts from a small dump of every format.
What makes a reader raise anything but KdumpError, take over 5 seconds or over 512 MiB is written to the current
directory; copy it to tests/fuzz/corpus, where the test suite replays it for ever.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

BOUNDS = ["-max_len=40000", "-timeout=5", "-rss_limit_mb=512"]


def seeds(directory: Path) -> None:
    """Write one small dump of every format."""
    from tests.memory import test_fuzz
    from tests.memory.writers import PAGE, Load, elf, flattened, kdump, note

    notes = note("CORE", 1, b"x" * 16) + note("VMCOREINFO", 0, b"OSRELEASE=6.1\n")
    pages = {0: b"a" * PAGE, 1: bytes(PAGE), 3: b"OSRELEASE=".ljust(PAGE, b"x")}
    small = {f"codec-{codec:#x}": kdump(pages, ram=[(0, 4)], codec=codec, notes=notes) for codec in (0, 1, 2, 4, 0x20)}
    small["elf"] = elf([Load(0, b"".join(pages.values())), Load(0x1000, pages[1])], notes)
    small["xnum"] = elf([Load(0, pages[0])], notes, xnum=True)
    small |= {f"flattened-{name}": flattened(data, size=3000) for name, data in small.items()}
    for name, data in small.items():
        (directory / name).write_bytes(data)
    for name, data in test_fuzz.FILES.items():
        if len(data) < 40000:
            (directory / name.replace(" ", "-")).write_bytes(data)


def main() -> None:
    """Run libFuzzer over `tests.memory.test_fuzz.exercise`."""
    import atheris

    with atheris.instrument_imports(include=["kdump"]):
        from tests.memory.test_fuzz import exercise

        import kdump.kernel.printk
        import kdump.memory.flattened
        import kdump.memory.kdump_compressed  # noqa: F401

    with tempfile.TemporaryDirectory() as work:
        corpus, path = Path(work, "corpus"), Path(work, "dump")
        corpus.mkdir()
        seeds(corpus)

        def one(data: bytes) -> None:
            path.write_bytes(data)
            exercise(path)

        atheris.Setup([sys.argv[0], *BOUNDS, *sys.argv[1:], os.fspath(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
