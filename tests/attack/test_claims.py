"""Claims cost nothing: with any file of a megabyte, any command ends within 5 s of CPU time and 512 MiB."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.attack import claims
from tests.attack.limited import CPU, DUMP_COMMANDS, MEMORY

from kdump.errors import FormatError, KdumpError

# Those that do most; the others of DUMP_COMMANDS share their work and run with the matrix.
TELLING = ("info --json FILE", "report --json FILE", "verify FILE", "save FILE OUT")


def judge(tmp_path: Path, commands: tuple[str, ...], files: dict[str, Callable[[], bytes]]) -> None:
    paths = []
    for name, make in files.items():
        path = tmp_path / name
        data = make()
        assert len(data) <= claims.LIMIT, name
        path.write_bytes(data)
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack.limited", ";".join(commands), *paths],
        capture_output=True, text=True, check=True, env={"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": "."},
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    results: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(commands) * len(files)
    wrong = [
        each
        for each in results
        if each["status"] not in (0, 1, 2, 3)
        or "Traceback" in each["stderr"]
        or each["seconds"] > CPU
        or each["memory"] > MEMORY
    ]
    assert wrong == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("half", [0, 1])
def test_dumps(tmp_path: Path, half: int) -> None:
    chosen = [name for name in claims.DUMPS if not name.startswith("good-")][half::2]
    judge(tmp_path, TELLING, {name: claims.DUMPS[name] for name in chosen})


@pytest.mark.product
@pytest.mark.timeout(3600)
def test_every_command_on_every_dump(tmp_path: Path) -> None:
    judge(tmp_path, DUMP_COMMANDS, claims.DUMPS)


@pytest.mark.timeout(600)
def test_logs(tmp_path: Path) -> None:
    judge(tmp_path, ("report --json FILE", "diff FILE FILE"), claims.LOGS)


@pytest.mark.timeout(600)
def test_configurations(tmp_path: Path) -> None:
    judge(tmp_path, ("config check FILE",), claims.TOMLS)
    judge(tmp_path, ("config import FILE",), claims.FOREIGN)


@pytest.mark.timeout(600)
def test_noise(tmp_path: Path) -> None:
    magics = {
        "noise": b"",
        "noise-elf": b"\x7fELF\2\1\1",
        "noise-kdump": b"KDUMP   ",
        "noise-age": b"age-encryption.org/v1\n",
    }
    files: dict[str, Callable[[], bytes]] = {
        name: partial(bytes, magic + claims.noise(1 << 19)) for name, magic in magics.items()
    }
    judge(
        tmp_path,
        ("info FILE", "report FILE", "config check FILE", "decrypt -i FILE FILE OUT", "collect --keep FILE"),
        files,
    )


def test_a_failed_search_is_remembered() -> None:
    from kdump.kernel.remembered import remembered

    class Searcher:
        searches = 0

        @remembered
        def found(self) -> int:
            self.searches += 1
            raise KdumpError("nowhere")

        @remembered
        def there(self) -> int:
            self.searches += 1
            return 7

    searcher = Searcher()
    for _ in range(3):
        with pytest.raises(KdumpError, match="nowhere"):
            searcher.found  # noqa: B018
        assert searcher.there == 7
    assert searcher.searches == 2


def test_pieces_of_a_manifest_do_not_overlap(tmp_path: Path) -> None:
    from kdump.dump import manifest

    (tmp_path / "x").write_bytes(bytes(1000))
    piece = {"offset": 0, "size": 1000, "sha256": "0" * 64}
    entry = {"name": "x", "size": 1000, "pieces": [piece] * 1000}
    found = list(manifest.check(tmp_path, entry))
    assert [each.what for each in found] == ["has been changed", "has digests that do not fit it"]


def test_pages_without_descriptors_are_not_held(tmp_path: Path) -> None:
    """The bitmaps say four million pages, the file has room for the descriptors of 83."""
    from kdump.memory import open_dump

    path = tmp_path / "dump"
    path.write_bytes(claims.all_bits(claims.LIMIT))
    with open_dump(path) as dump:
        assert dump.incomplete
        assert sum(each.size for each in dump.memory.held()) == 2000 // 24 * 4096
        assert dump.memory.present(0, 100).sum() == 2000 // 24


def test_flattened_holes_have_a_bound(tmp_path: Path) -> None:
    from tests.memory.writers import records

    from kdump.memory import open_dump

    path = tmp_path / "dump"
    path.write_bytes(records([(0, claims.SMALL), (1 << 40, b"x")]))
    with pytest.raises(FormatError, match="no dump has so many"):
        open_dump(path)
