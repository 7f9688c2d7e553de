"""Stored crashes: what is read of them, and which ones retention lets go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdump.host import stored
from kdump.host.config import Config, Retention
from kdump.host.stored import Crash, judged, prune, scan, victims

GIB = 1 << 30
BASE = 1_700_000_000  # a date that a clock may well show
LOG = """\
[   12.0] BUG: kernel NULL pointer dereference, address: 0000000000000040
[   12.0] Oops: 0000 [#1] PREEMPT SMP NOPTI
[   12.0] CPU: 0 PID: 412 Comm: worker Not tainted 6.1.0-56-cloud-amd64 #1
[   12.0] RIP: 0010:fuse_get_req+0x1f/0x90 [fuse]
[   12.1] Kernel panic - not syncing: Fatal exception
"""


def write(place: Path, name: str, *, status: str = "complete", when: float = 0, log: str = LOG, size: int = 0) -> Path:
    path = place / name
    path.mkdir(parents=True)
    (path / "vmcore-dmesg.txt").write_text(log)
    if status == "incomplete":
        (path / "vmcore.incomplete").write_bytes(b"x" * size)
    else:
        (path / "vmcore").write_bytes(b"x" * size)
    content = {"status": status, "host": "h", "panic_time": BASE + when, "kernel": {"release": "6.1"}}
    if status != "killed":
        (path / "manifest.json").write_text(json.dumps(content))
    return path


def crash(name: str, when: float, signature: str = "a", size: int = 1, status: str = "complete") -> Crash:
    return Crash(Path("/var/crash") / name, status, when, size, "h", "6.1", "t", signature)


def names(gone: list[stored.Victim]) -> list[str]:
    return [victim.crash.name for victim in gone]


def test_crashes_are_found_newest_first(tmp_path: Path) -> None:
    write(tmp_path, "old", when=1000, size=5000)
    write(tmp_path, "new", when=2000, status="degraded")
    write(tmp_path, "cut", when=1500, status="incomplete")
    (tmp_path / "notes").mkdir()
    (tmp_path / ".deleting-x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "old")
    found = scan([tmp_path, tmp_path / "absent"])
    assert [(each.name, each.status) for each in found] == [
        ("new", "degraded"),
        ("cut", "incomplete"),
        ("old", "complete"),
    ]
    assert found[2].size >= 5000
    assert "fuse_get_req" in found[0].title
    assert len({each.signature for each in found}) == 1


def test_a_capture_that_was_cut_off_is_incomplete_and_another_tools_crash_is_foreign(tmp_path: Path) -> None:
    write(tmp_path, "power-cut", status="killed")
    (tmp_path / "power-cut/vmcore").unlink()
    debian = tmp_path / "202611231200"
    debian.mkdir()
    (debian / "vmcore").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/manifest.json").write_text("{")
    (tmp_path / "broken/vmcore.incomplete").touch()
    assert {each.name: each.status for each in scan([tmp_path])} == {
        "power-cut": "incomplete",
        "202611231200": "no manifest",
        "broken": "incomplete",
    }


def test_titles_and_signatures() -> None:
    title, signature = judged(LOG)
    assert "fuse_get_req" in title
    assert judged(LOG.replace("000040", "0000f8"))[1] == signature
    assert judged(LOG.replace("fuse_get_req", "fuse_put_req"))[1] != signature
    assert judged("all is well") == ("", "")


def test_the_report_knows_better_than_the_log(tmp_path: Path) -> None:
    path = write(tmp_path, "c")
    (path / "report.json").write_text(json.dumps({"verdict": {"title": "T", "signature": "2-5"}}))
    assert (stored.read(path).title, stored.read(path).signature) == ("T", "2-5")


def test_a_signature_of_an_earlier_version_is_made_again_from_the_log(tmp_path: Path) -> None:
    path = write(tmp_path, "c")
    (path / "report.json").write_text(json.dumps({"verdict": {"title": "T", "signature": "1-5"}}))
    assert (stored.read(path).title, stored.read(path).signature) == ("T", judged(LOG)[1])
    (path / "vmcore-dmesg.txt").unlink()
    assert stored.read(path).signature == "1-5"


def test_crashes_without_a_signature_are_no_copies() -> None:
    crashes = [crash("new", 9, ""), crash("old", 3, ""), crash("older-b", 2, "b"), crash("newer-b", 8, "b")]
    assert names(victims(crashes, Retention(keep=3, min_free=0), 0)) == ["older-b"]


def test_copies_go_before_the_only_one_of_a_kind() -> None:
    crashes = [crash("new", 9, "a"), crash("mid", 5, "b"), crash("old-a", 3, "a"), crash("only-c", 1, "c")]
    assert names(victims(crashes, Retention(keep=3, min_free=0), 0)) == ["old-a"]
    assert names(victims(crashes, Retention(keep=2, min_free=0), 0)) == ["old-a", "only-c"]
    assert names(victims(crashes, Retention(keep=1, min_free=0), 0)) == ["old-a", "only-c", "mid"]


def test_an_incomplete_copy_goes_before_a_complete_one() -> None:
    crashes = [crash("new", 9, "b"), crash("cut", 5, "a", status="incomplete"), crash("whole", 3, "a")]
    assert names(victims(crashes, Retention(keep=2, min_free=0), 0)) == ["cut"]


def test_the_newest_always_stays_and_others_crashes_are_not_ours() -> None:
    crashes = [crash("new", 9), crash("rhel", 3, status="no manifest"), crash("old", 1)]
    gone = victims(crashes, Retention(keep=1, max_age=1, max_size=1, min_free=1 << 60), 0, now=1e9)
    assert names(gone) == ["old"]


def test_age_size_and_room() -> None:
    crashes = [crash("n", 1000, "a", GIB), crash("m", 500, "b", GIB), crash("o", 100, "b", GIB)]
    none = Retention(keep=0, min_free=0)
    assert victims(crashes, none, 0) == []
    assert names(victims(crashes, Retention(keep=0, min_free=0, max_age=600), 0, now=1100)) == ["o"]
    assert names(victims(crashes, Retention(keep=0, min_free=0, max_size=2 * GIB), 0)) == ["o"]
    assert names(victims(crashes, Retention(keep=0, min_free=2 * GIB), GIB // 2)) == ["o", "m"]
    assert "less than 2.00 GiB free" in victims(crashes, Retention(keep=0, min_free=2 * GIB), 0)[0].reason


def test_pruning_deletes_and_a_dry_run_does_not(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path, f"c{number}", when=1000 + number)
    config = Config(targets=(f"file://{tmp_path}", "ssh://a@b/c"), retention=Retention(keep=2, min_free=0))
    assert [victim.crash.name for victim in prune(config, dry_run=True)] == ["c0", "c1"]
    assert len(scan([tmp_path])) == 4
    assert [victim.crash.name for victim in prune(config)] == ["c0", "c1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c2", "c3"]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kdump.cli.main import main

    crashes = tmp_path / "crash"
    write(crashes, "h-1", when=1000)
    write(crashes, "h-2", when=2000)
    toml = tmp_path / "kdump.toml"
    toml.write_text(f'targets = ["file://{crashes}"]\n[retention]\nkeep = 1\nmin_free = 0\n')
    assert main(["list", "--config", str(toml)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("2023-11-14 22:46:40 UTC  complete")
    assert max(map(len, out.splitlines())) <= 120
    assert main(["list", "--json", str(crashes)]) == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)] == ["complete", "complete"]
    assert main(["list", str(crashes / "h-1")]) == 0
    assert capsys.readouterr().out.endswith(f"{crashes}/h-1\n")
    assert main(["list", str(crashes), str(tmp_path / "nosuch")]) == 1
    said = capsys.readouterr()
    assert f"{tmp_path}/nosuch: no such directory" in said.err and f"{crashes}/h-2" in said.out
    assert main(["prune", "--config", str(toml), "--json"]) == 0
    assert [row["deleted"] for row in json.loads(capsys.readouterr().out)] == [True]
    assert [path.name for path in crashes.iterdir()] == ["h-2"]
    assert main(["prune", "--config", str(toml)]) == 0
    assert capsys.readouterr().out == "nothing to delete\n"
