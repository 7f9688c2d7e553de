"""What is known upstream, and crashes that are imported: records and directories of our own making."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.fleet.client import Client
from tests.fleet.evidence import LOGS, crash, log_text, report_of

from kdump.cli.main import main
from kdump.errors import KdumpError
from kdump.fleet import upstream
from kdump.fleet.importing import bring
from kdump.fleet.service import KNOWN
from kdump.report import known, signature
from kdump.report.model import Frame, Verdict


def record(directory: Path, identifier: str, text: str, *fixed: str) -> None:
    versions: list[dict[str, Any]] = [
        {"version": each, "lessThanOrEqual": each.rpartition(".")[0] + ".*", "status": "unaffected"} for each in fixed
    ]
    versions += [
        {"version": "5.10", "status": "affected"},
        {"version": "0", "lessThan": "5.10", "status": "unaffected"},
    ]
    found = {
        "title": f"the title of {identifier}",
        "descriptions": [{"lang": "en", "value": text}],
        "affected": [{"versions": versions, "programFiles": ["drivers/test/crasher.c"]}],
    }
    content = {"containers": {"cna": found}, "cveMetadata": {"cveID": identifier}}
    path = directory / "cve/published/2026" / f"{identifier}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    record(tmp_path, "CVE-2026-0001", "A fault:\n\n" + log_text("list"), "6.1.120", "6.12.41")
    record(tmp_path, "CVE-2026-0002", "No crash is quoted here.", "6.1.121")
    other = log_text("uaf").replace("crash_uaf", "other_function")
    record(tmp_path, "CVE-2026-0003", other, "6.6.9")
    return tmp_path


def test_a_group_says_what_it_likely_is(client: Client, records: Path) -> None:
    data = client.service.options.data
    assert known.save(data / KNOWN, upstream.entries_of_records(records), "2026-11-29") == 2
    client.service._looked = 0.0
    group = client.crash(crash("web1", 1, "list")).json()["group"]
    other = client.crash(crash("web1", 2, "softlockup")).json()["group"]
    client.sweep()
    page = client.get(f"/groups/{group}").text
    assert "CVE-2026-0001" in page
    assert "fixed in 6.1.120, 6.12.41" in page
    assert "drivers/test/crasher.c" in page
    assert "CVE-2026" not in client.get(f"/groups/{other}").text
    assert client.get("/search?q=cve-2026-0001").text.count(f'href="/groups/{group}"') == 1


def test_a_stack_alone_is_a_weaker_match() -> None:
    frames = ("a", "b", "c", "d")
    index = known.Index(
        [known.Entry("one", "t", "uaf", "1-00", frames), known.Entry("two", "t", "uaf", "", frames[:1])]
    )
    (match,) = index.find("1-11", "uaf", ["a", "b", "c", "x"])
    assert (match.entry.id, match.by, match.shared) == ("one", "stack", ("a", "b", "c"))
    assert index.find("1-11", "uaf", ["a", "x", "c"]) == []
    assert index.find("1-11", "other", list(frames)) == []
    assert index.find("1-00", "uaf", list(frames))[0].by == "signature"


def test_the_command_builds_and_looks_up(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, log = tmp_path / "index.zst", tmp_path / "log.txt"
    log.write_text(log_text("list"))
    assert main(["fleet", "known", "--data", str(tmp_path), "--build", str(records), "--index", str(index)]) == 0
    assert main(["fleet", "known", "--index", str(index), str(log)]) == 0
    assert "likely CVE-2026-0001, fixed in 6.1.120, 6.12.41" in capsys.readouterr().out
    log.write_text(log_text("softlockup"))
    assert main(["fleet", "known", "--index", str(index), str(log)]) == 3


def git(directory: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@x",
    }  # fmt: skip
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Two branches that fix one fault, whose mainline commit thanks syzbot, and a commit that fixes no crash."""
    tree = tmp_path / "linux"
    tree.mkdir()
    git(tree, "init", "-q", "-b", "master")

    def commit(text: str) -> str:
        git(tree, "commit", "-q", "--allow-empty", "-m", text)
        return git(tree, "rev-parse", "HEAD")

    commit("begin")
    git(tree, "branch", "linux-6.1.y")
    fault = "list: stop the crash\n\nIt said:\n\n" + log_text("list")
    main = commit(fault + "\nReported-by: syzbot+0123456789abcdef0123@syzkaller.appspotmail.com\n")
    git(tree, "tag", "v6.12")
    commit("docs: nothing crashed")
    git(tree, "tag", "v6.13")
    git(tree, "checkout", "-q", "linux-6.1.y")
    commit(fault.replace("list: stop the crash", f"list: stop the crash\n\n[ Upstream commit {main} ]", 1))
    git(tree, "tag", "v6.1.120")
    return tree


def test_commits_say_what_they_fix_and_in_which_versions(history: Path) -> None:
    main = git(history, "rev-parse", "master~1")
    (entry,) = upstream.entries_of_fixes(upstream.fixes_of(history).values())
    assert entry.id == f"commit {main[:12]}"
    assert entry.fixed == ("6.1.120", "6.12")
    assert entry.title == "list: stop the crash"
    assert entry.signature == report_of("list")["verdict"]["signature"]
    assert not list(upstream.entries_of_fixes(upstream.fixes_of(history).values(), {main}))  # a CVE record has it
    with pytest.raises(KdumpError, match="git cannot read"):
        upstream.fixes_of(history.parent)


def test_syzbot_reports_are_fixed_where_a_commit_thanks_them(history: Path, tmp_path: Path) -> None:
    def mail(number: str, log: str) -> str:
        return (
            f"From: syzbot <syzbot+{number}@syzkaller.appspotmail.com>\nSubject: [syzbot] [mm?] a fault in {log}\n"
            f"Content-Type: text/plain; charset=utf-8\nMIME-Version: 1.0\n\nHello,\n\n{log_text(log)}\n"
        )

    box, single = tmp_path / "box", tmp_path / "mails"
    single.mkdir()
    box.write_text(f"From mboxrd@z Thu Jan  1 00:00:00 1970\n{mail('0123456789abcdef0123', 'list')}\n")
    (single / "one").write_text(mail("aaaaaaaaaaaaaaaaaaaa", "uaf"))
    (single / "other").write_text(mail("aaaaaaaaaaaaaaaaaaaa", "uaf"))  # a copy
    (single / "talk").write_text("From: someone <a@x>\nSubject: no report\n\nhello\n")
    found = list(upstream.entries_of_mails([box, single], upstream.fixes_of(history).values()))
    assert [(each.id, each.fixed) for each in found] == [
        ("syzbot 0123456789abcdef0123", ("6.1.120", "6.12")),
        ("syzbot aaaaaaaaaaaaaaaaaaaa", ()),
    ]
    assert [each.title for each in found] == ["a fault in list", "a fault in uaf"]


def test_a_report_says_offline_what_is_known(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, log = tmp_path / "index.zst", tmp_path / "log.txt"
    known.save(index, upstream.entries_of_records(records), "2026-11-29")
    log.write_text(log_text("list"))
    main(["report", "--known", str(index), str(log)])
    said = " ".join(capsys.readouterr().out.split())
    assert "Upstream likely CVE-2026-0001, fixed in 6.1.120, 6.12.41" in said
    assert "the same signature" in said
    main(["report", "--json", "--known", str(index), str(log)])
    (match,) = json.loads(capsys.readouterr().out)["known"]
    assert (match["id"], match["by"], match["fixed"]) == ("CVE-2026-0001", "signature", ["6.1.120", "6.12.41"])
    main(["report", "--html", "--known", str(index), str(log)])
    assert "Upstream: likely CVE-2026-0001" in capsys.readouterr().out
    assert main(["report", "--known", str(tmp_path / "none"), str(log)]) == 1


def test_a_kernel_that_has_the_fix_is_said_to_have_it() -> None:
    match = known.Match(known.Entry("one", "t", fixed=("6.1.120", "6.12.41")), "stack", ("a", "b"))
    assert match.line("6.1.119") == "likely one, fixed in 6.1.120, 6.12.41"
    assert "6.1.121 should have this fix" in match.line("6.1.121")


def test_kdumps_own_index_knows_faults_and_none_of_the_laboratory() -> None:
    own = known.load(known.PLACES[1])
    assert len(own.entries) > 3000
    assert all(entry.signature.startswith(f"{signature.VERSION}-") for entry in own.entries if entry.signature)
    for log in LOGS.iterdir():  # our own modules and causes crash there: no one can know them
        assert known.of_text(own, log.read_text()) == [], log.name
    (entry,) = (each for each in own.entries if each.id == "CVE-2021-46915")
    assert own.find(entry.signature, entry.kind, entry.frames)[0].entry == entry


def test_a_signature_without_a_guilty_function_is_no_evidence() -> None:
    """Found in a demo: init died of a page fault, and was said to be likely a fault of powerpc's firmware calls."""
    own = known.load(known.PLACES[1])
    killed = [entry for entry in own.entries if entry.kind == "init-killed" and entry.signature]
    assert killed
    for entry in killed:
        assert own.find(entry.signature, entry.kind, ()) == []
        verdict = Verdict(entry.kind, "", "", entry.signature, frames=[Frame("do_exit", 1, 2)])
        assert own.of(verdict) == []


def test_what_is_near_a_crash_is_all_that_may_be_it() -> None:
    path = known.PLACES[1]
    own = known.load(path)
    found = 0
    for entry in [each for each in own.entries if each.frames][::100]:
        frames = [Frame(name, 1, 2) for name in entry.frames]
        for mark in ("", entry.signature):
            verdict = Verdict(entry.kind, "", "", mark, frames=frames, guilty=frames[0])
            assert known.load(path, verdict).of(verdict) == own.of(verdict)
            found += bool(own.of(verdict))
    assert found > 10
    assert known.load(path, Verdict("null-dereference", "", "", "")).entries == []


def test_a_damaged_index_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "index"
    for content in (b"", b"x" * 100, zstandard.compress(b"[]"), zstandard.compress(b'{"format": "other"}')):
        path.write_bytes(content)
        with pytest.raises(KdumpError):
            known.load(path)


def test_crashes_of_other_kdumps_are_imported_once(client: Client, tmp_path: Path) -> None:
    root = tmp_path / "crash"
    fedora = root / "127.0.0.1-2026-11-29-12:00:00"
    debian = root / "202611291200"
    ours = root / "web1-20261129T120000Z-abcd"
    for directory, name, log in ((fedora, "vmcore-dmesg.txt", "list"), (debian, "dmesg.202611291200", "uaf")):
        directory.mkdir(parents=True)
        (directory / name).write_text(log_text(log))
    ours.mkdir()
    (ours / "manifest.json").write_text(json.dumps({"crash": ours.name, "host": "web1", "status": "complete"}))
    (ours / "report.json").write_text(json.dumps(report_of("softlockup")))
    (root / "empty").mkdir()
    serial = tmp_path / "serial.log"
    serial.write_text(log_text("list"))
    done = bring(client.service, [root, serial, tmp_path / "nowhere"], "")
    assert (done.new, done.known) == (4, 0)
    assert [path.name for path, _ in done.left] == ["nowhere"]
    again = bring(client.service, [root, serial])
    assert (again.new, again.known) == (0, 4)
    client.sweep()
    with client.service.database.read() as session:
        rows = session.all("SELECT host, kind, signature, grp FROM crashes ORDER BY id")
        assert session.value("SELECT COUNT(*) AS n FROM groups") == 3
    assert {row["host"] for row in rows} == {"127.0.0.1", "imported", "web1"}
    (made,) = {client.get(f"/crashes/{number}/report.json").json()["source"] for number in (1, 2)}
    assert made == "vmcore-dmesg.txt"  # no path of the collector
    assert all(row["signature"] for row in rows)


def test_an_import_says_what_it_did_not_read(client: Client, tmp_path: Path) -> None:
    dumped, logs = tmp_path / "dumped/127.0.0.1-2026-11-29", tmp_path / "logs"
    dumped.mkdir(parents=True)
    (dumped / "vmcore").write_bytes(b"KDUMP   ")
    (tmp_path / "nothing").mkdir()
    logs.mkdir()
    large = logs / "messages"
    large.write_text(("x" * 1023 + "\n") * 9000 + log_text("list"))
    done = bring(client.service, [Path("n" * 300), tmp_path / "dumped", logs, tmp_path / "nothing", large])
    assert done.new == 1
    assert done.empty == [logs]
    why = {path.name[:8]: said for path, said in done.left}
    assert why["n" * 8] == "File name too long"
    assert "no report and no log" in why["127.0.0."]
    assert "only its last 8.00 MiB were read" in why["messages"]
    with large.open("rb") as file:  # as `… | kdump fleet import /dev/stdin`
        piped = subprocess.Popen(["/bin/cat"], stdin=file, stdout=subprocess.PIPE)
    with piped:
        assert piped.stdout
        done = bring(client.service, [Path(f"/proc/self/fd/{piped.stdout.fileno()}")])
    assert done.known == 1
    assert "only its last" in done.left[0][1]


def test_an_index_of_nothing_replaces_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mails = tmp_path / "mails"
    mails.write_text("no mail")
    index = tmp_path / "known.json.zst"
    index.write_bytes(b"as it was")
    assert main(["fleet", "known", "--reports", str(mails), "--index", str(index)]) == 1
    assert "nothing in these sources quotes a crash" in capsys.readouterr().err
    assert index.read_bytes() == b"as it was"


def test_an_import_follows_no_link_and_believes_no_other_user(client: Client, tmp_path: Path) -> None:
    root = tmp_path / "crash"
    (tmp_path / "shadow").write_text("root:secret")
    for name in ("linked", "bomb", "pipe", "foreign", "good"):
        (root / name).mkdir(parents=True)
        (root / name / "dmesg.txt").write_text(log_text("list"))
    (root / "linked/dmesg.txt").unlink()
    (root / "linked/dmesg.txt").symlink_to(tmp_path / "shadow")
    (root / "bomb/manifest.json").write_text('{"a":' + "[" * 200_000)
    (root / "pipe/dmesg.txt").unlink()
    os.mkfifo(root / "pipe/dmesg.txt")
    (root / "foreign").chmod(0o777)
    (root / "elsewhere").symlink_to(tmp_path)
    done = bring(client.service, [root])
    assert done.new == 1
    assert [path.name for path, _ in done.left] == ["bomb", "foreign", "linked", "pipe"]
    assert "others may write" in dict(done.left)[root / "foreign"]


def test_a_syslog_of_many_hosts_is_divided_by_host_and_boot(client: Client, tmp_path: Path) -> None:
    """As a loghost has it: two hosts talk at the same time, one of them dies twice."""

    def said(host: str, log: str) -> list[str]:
        return [f"Nov 29 12:00:00 {host} kernel: {line}" for line in log_text(log).splitlines()]

    one, other = said("web1", "list"), said("web2", "uaf")
    mixed = [line for pair in zip(one, other, strict=False) for line in pair]
    mixed += one[len(other) :] + other[len(one) :]
    mixed += [
        "Nov 29 12:01:00 web1 kernel: [    0.000000] Linux version 6.1.0 (x) #1 SMP",
        *said("web1", "softlockup"),
        "Nov 29 12:02:00 web3 kernel: [    0.000000] Linux version 6.1.0 (x) #1 SMP",
        "Nov 29 12:02:00 web3 kernel: [   99.000000] nothing happened here",
    ]
    log = tmp_path / "messages"
    log.write_text("\n".join(mixed))
    done = bring(client.service, [log])
    assert ((done.new, done.known), done.left) == ((3, 0), [])
    log.write_text("\n".join([*mixed, "Nov 29 12:03:00 web3 kernel: [  100.000000] and more"]))
    assert bring(client.service, [log]).known == 3
    client.sweep()
    with client.service.database.read() as session:
        rows = session.all("SELECT host, signature FROM crashes ORDER BY host, signature")
    wanted = [("web1", "list"), ("web1", "softlockup"), ("web2", "uaf")]
    assert sorted((row["host"], row["signature"]) for row in rows) == sorted(
        (host, report_of(name)["verdict"]["signature"]) for host, name in wanted
    )
    log.write_text("nothing\n")
    assert [why for _, why in bring(client.service, [log]).left] == ["no kernel died in this log"]
    log.write_bytes(b"KDUMP   " + bytes(10_000))
    assert [why.partition(":")[0] for _, why in bring(client.service, [log]).left] == ["it is a dump, not a log"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=("\n".join(mixed),), daemon=True).start()
    assert bring(client.service, [pipe]).known == 3


def test_the_parts_of_pstore_are_put_together(client: Client, tmp_path: Path) -> None:
    """Parts as the kernel's efi-pstore names and heads them: the first has the log's end."""
    store = tmp_path / "pstore"
    store.mkdir()
    lines = log_text("list").splitlines(keepends=True)
    third = -(-len(lines) // 3)
    for part in (1, 2, 3):
        piece = "".join(lines[third * (3 - part) : third * (4 - part)])
        (store / f"dmesg-efi-17643{part:05}01").write_text(f"Panic#2 Part{part}\n{piece}")
    (store / "dmesg-efi-176430000901").write_text("Oops#1 Part1\n<6>[    1.000000] before it\n")
    done = bring(client.service, [store], "web7")
    assert ((done.new, done.known), done.left) == ((1, 0), [])
    client.sweep()
    with client.service.database.read() as session:
        (row,) = session.all("SELECT host, signature FROM crashes")
    assert (row["host"], row["signature"]) == ("web7", report_of("list")["verdict"]["signature"])
