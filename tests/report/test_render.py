"""Renderings of one model: widths, escaping, JSON's form, and what two reports have in common."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kdump.cli.main import main
from kdump.report import html, logtext, text
from kdump.report import json as as_json
from kdump.report.build import build
from kdump.report.context import Context
from kdump.report.diff import compare
from kdump.report.model import (
    Column,
    Fact,
    Facts,
    Finding,
    Frame,
    Report,
    Section,
    Stack,
    Stacks,
    Table,
    Task,
    Text,
    Verdict,
)

LOGS = Path(__file__).parent / "logs" / "6.1"
NASTY = '\x1b[31m<script>alert("x")</script>\x9b\x07&' + "w" * 300


def hostile() -> Report:
    """Every string a dead kernel could choose is hostile."""
    frame = Frame(NASTY, 1, 2, NASTY, 0xFFFF, "exception")
    verdict = Verdict(
        "panic", NASTY, NASTY, "1-00", NASTY, NASTY, frame, NASTY, Task(NASTY, 1, 0, 0, NASTY, NASTY), 1.0, 1, NASTY,
        [NASTY], [frame, frame], {"ip": 1}, {"ip": NASTY}, [NASTY], [NASTY],
    )  # fmt: skip
    section = Section(
        "system",
        "System",
        [
            Facts("facts", [Fact("a", NASTY, NASTY), Fact("b", "Size", 3 << 20, "bytes")]),
            Table("table", NASTY, [Column("x", NASTY), Column("n", "Number")], [(NASTY, 1), (NASTY, 22)], 3),
            Text("text", [NASTY], NASTY),
            Stacks("stacks", [Stack(NASTY, [NASTY], [frame], NASTY)]),
        ],
        [Finding("critical", NASTY), Finding("note", "fine")],
        [NASTY],
        NASTY,
    )
    return Report(NASTY, "elf", NASTY, "00", 1, verdict, [section], [NASTY], True)


def test_text_is_clean_and_fits() -> None:
    lines = list(text.render(hostile()))
    assert not [line for line in lines if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)]
    assert max(len(line) for line in lines) <= 80
    assert any("2 times" in line for line in lines)  # equal frames take one line


def test_words_in_a_table_take_several_lines() -> None:
    row = ("0xffff8881034a1c80", "rwsem", "readers, the last systemd-udevd (pid 4711)", 3, 812.0, "a (pid 1)")
    columns = [Column(name, name) for name in ("Lock", "Kind", "Held by", "Waiting", "Longest", "By")]
    report = hostile()
    report.sections = [Section("blocked", "Blocked tasks", [Table("locks", "Locks", columns, [row])])]
    lines = list(text.render(report))
    table = lines[lines.index("  Locks") + 1 :]
    table = table[: next(number for number, line in enumerate(table) if not line.startswith("  "))]
    assert len(table) > 2 and max(len(line) for line in table) <= 80
    start = table[0].index("Held by")
    held = [line[start : table[0].index("Waiting")].strip() for line in table[1:]]
    assert " ".join(filter(None, held)) == row[2]
    assert "…" not in "".join(table)


def test_titles_of_a_table_take_several_lines_before_its_words() -> None:
    columns = [Column(name, name) for name in ("Local", "Remote", "Not acknowledged", "Sent again", "Received so far")]
    row = ("127.0.0.1:7", "[fe80::1234:5678:9abc]:56204", 1000, 0, None)
    report = hostile()
    report.sections = [Section("network", "Network", [Table("queues", "Queues", columns, [row])])]
    lines = list(text.render(report))
    table = lines[lines.index("  Queues") + 1 :][:3]
    assert "acknowledged" in table[1] and "again" in table[1] and "again" not in table[0]
    assert table[2].split() == [*row[:2], "1000", "0", "-"]
    assert max(map(len, table)) <= 80 and table[1].index("acknowledged") + 12 == table[2].index("1000") + 4


def test_colour_is_ours_alone() -> None:
    for line in text.render(hostile(), colour=True):
        inner = line.removeprefix("\x1b[").removesuffix("\x1b[0m")
        assert "\x1b" not in inner


class Collector(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]


def test_html_escapes_and_loads_nothing() -> None:
    page = "\n".join(html.render(hostile(), [logtext.Line(0.0, NASTY), logtext.Line(1.0, NASTY)]))
    found = Collector()
    found.feed(page)
    assert found.tags.count("script") == 2  # ours, and the report as data
    assert found.links == ["#system", "#system"]  # each finding leads to its section
    assert "<script>alert" not in page and "url(" not in page
    assert "default-src 'none'" in page


def test_json_is_documented_form() -> None:
    document = json.loads("".join(as_json.render(hostile())))
    assert document["schema"] == 1
    assert document["verdict"]["task"]["pid"] == 1
    assert document["sections"]["system"]["facts"]["b"] == 3 << 20
    assert document["sections"]["system"]["table"][1]["n"] == 22
    assert [finding["severity"] for finding in document["findings"]] == ["critical", "note"]


def test_sections_that_need_a_dump_say_so() -> None:
    report = build(Context(None, logtext.from_text((LOGS / "null.txt").read_text())), "null.txt")
    errors = {section.name: section.error for section in report.sections}
    assert "needs a dump" in errors["tasks"]
    assert not errors["log"] and not errors["system"]
    lines = list(text.render(report))
    assert lines.count("Not available") == 1 and "CPUs" not in lines  # one sentence for all that a log cannot have
    start = lines.index("Not available") + 1
    absent = " ".join(line.strip() for line in lines[start:])
    for section in report.sections:
        assert (section.title in absent) == bool(section.error)
    assert any("crash_divide" in line for line in disassembly())


def disassembly() -> list[str]:
    return build(Context(None, logtext.from_text((LOGS / "divide.txt").read_text())), "x", only=["log"]).verdict.code


@pytest.mark.parametrize(
    ("log", "hardware"),
    [
        ("[0.0] Machine model: linux,dummy-virt\n[0.9] DMI: not present or invalid.\n", "linux,dummy-virt"),
        (
            "[0.0] DMI: QEMU Standard PC, BIOS 1.16\n[9.0] Hardware name: QEMU Standard PC\n",
            "QEMU Standard PC, BIOS 1.16",
        ),
        ("[0.9] DMI: not present or invalid.\n", None),
    ],
)
def test_hardware_of_a_log(log: str, hardware: str | None) -> None:
    document = as_json.document(build(Context(None, logtext.from_text(log)), "x"))
    assert document["sections"]["system"]["system"].get("hardware") == hardware


def test_disassembly_of_the_bytes_in_a_log() -> None:
    assert "> crash_divide+0x12:  idivl %ecx" in disassembly()


def test_diff() -> None:
    def document(name: str) -> dict[str, object]:
        return as_json.document(build(Context(None, logtext.from_text((LOGS / f"{name}.txt").read_text())), name))

    assert compare(document("null"), document("null")) == (True, False, [])
    other = compare(document("null"), document("list"))
    assert not other.same
    assert "verdict.kind" in [item.path for item in other.differences]


def test_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    null, bug = str(LOGS / "null.txt"), str(LOGS / "bug.txt")
    assert main(["report", null]) == 0
    assert "NULL pointer dereference in crash_null" in capsys.readouterr().out.splitlines()[0]
    assert main(["report", "--signature", null]) == 0
    signature = capsys.readouterr().out.strip()
    page, document = tmp_path / "page.html", tmp_path / "report.json"
    assert main(["report", "--html", "-o", str(page), null]) == 0
    assert main(["report", "--json", "-o", str(document), null]) == 0
    assert page.stat().st_mode & 0o777 == 0o600
    assert json.loads(document.read_text())["verdict"]["signature"] == signature
    assert main(["diff", str(document), null]) == 0
    assert main(["report", str(document)]) == 1
    assert "a report or manifest that kdump wrote" in capsys.readouterr().err
    assert main(["diff", null, bug]) == 1
    assert main(["report", "--section", "nothing", null]) == 2
    assert main(["report", str(tmp_path / "missing")]) == 1
    crash = tmp_path / "crash"
    crash.mkdir()
    assert main(["report", str(crash)]) == 1
    (crash / "vmcore-dmesg.txt").write_text((LOGS / "null.txt").read_text())
    assert main(["report", "--signature", str(crash)]) == 0
    empty = tmp_path / "quiet.txt"
    empty.write_text("[    1.0] nothing happened\n")
    assert main(["report", str(empty)]) == 3
    (tmp_path / "bad.json").write_text("{no")
    assert main(["diff", str(tmp_path / "bad.json"), null]) == 1
    assert "Traceback" not in capsys.readouterr().err
