"""The HTML page in a real browser: its script runs, it is not blank, prints whole, and a keyboard reaches all of it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdump.cli.main import main
from kdump.report.html import render
from kdump.report.model import (
    Block,
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
    Text,
    Value,
    Verdict,
)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOG = Path(__file__).parent / "logs" / "6.1" / "softlockup.txt"
_KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " "), "Escape": (27, ""), "Backspace": (8, "")}


def pipe() -> list[int]:
    """A pipe's two ends, out of the way of the numbers that the browser wants."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved


class Browser:
    """Chromium with one page. Its DevTools protocol is JSON that ends in a zero byte, on file descriptors 3 and 4."""

    def __init__(self, profile: Path) -> None:
        (reads, self._orders), (self._answers, writes) = pipe(), pipe()
        command = [
            "bash", "-c", f'exec "$@" 3<&{reads} 4>&{writes}', "bash", str(BROWSER), "--headless", "--no-sandbox",
            "--disable-gpu", f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, pass_fds=(reads, writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(reads)
        os.close(writes)
        self._number = 0
        self._rest = b""
        self._session = ""
        targets = self("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self("Page.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        answer = self._until(lambda message: message.get("id") == self._number)
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def _until(self, wanted: Any) -> dict[str, Any]:
        while True:
            while b"\0" not in self._rest:
                more = os.read(self._answers, 1 << 20)
                assert more, "the browser has gone"
                self._rest += more
            line, _, self._rest = self._rest.partition(b"\0")
            message: dict[str, Any] = json.loads(line)
            if wanted(message):
                return message

    def open(self, page: Path) -> None:
        self("Page.navigate", url=page.as_uri())
        self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def js(self, expression: str, *, wait: bool = False) -> Any:
        found = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=wait)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, *keys: str, shift: bool = False) -> None:
        for key in keys:
            code, text = _KEYS.get(key, (0, key))
            parameters = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
            self("Input.dispatchKeyEvent", type="keyDown", text=text, **parameters)
            self("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def close(self) -> None:
        self._session = ""
        self("Browser.close")
        self._process.wait(30)
        os.close(self._orders)
        os.close(self._answers)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", "--html", "-o", str(path), str(LOG)]) == 0
    return path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert BROWSER, "these tests need Chromium: tools/bootstrap test installs it"
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def browser(started: Browser, page: Path) -> Browser:
    started("Emulation.setDeviceMetricsOverride", width=1000, height=1200, deviceScaleFactor=1, mobile=False)
    started.open(page)
    return started


FOCUSED = "(({tagName, innerText, id}) => [tagName, (innerText || id).trim()])(document.activeElement)"


def test_script_runs_under_the_page_policy(browser: Browser) -> None:
    assert browser.js("document.querySelector('h1').innerText") == "BUG: soft lockup in crash_softlockup"
    assert not browser.js("document.getElementById('find').hidden")  # the script took that off
    assert browser.js("document.getElementById('search').labels[0].innerText") == "Search /"


def test_screenshot_is_not_blank(browser: Browser) -> None:
    data = base64.b64decode(browser("Page.captureScreenshot")["data"])
    assert data.startswith(b"\x89PNG")
    assert len(data) > 40_000  # an empty page of that size is some 5 kB


def test_print(browser: Browser) -> None:
    folded = base64.b64decode(browser("Page.printToPDF")["data"])
    paper = folded.count(b"/Type /Page\n")
    assert folded.startswith(b"%PDF") and paper >= 3  # all that is folded on the screen is there
    assert browser.js("[...document.querySelectorAll('details')].some(part => !part.open)")  # and folded again


def test_tab_goes_through_the_page_in_its_order(browser: Browser) -> None:
    places = []
    for _ in range(200):
        browser.press("Tab")
        name = browser.js(FOCUSED)
        if name[0] == "BODY" or name in places:
            break
        places.append(name)
        ring = browser.js(
            "(style => [style.outlineStyle, style.outlineWidth])(getComputedStyle(document.activeElement))"
        )
        assert ring[0] != "none" and ring[1] != "0px", name
    shown = browser.js("[...document.querySelectorAll('main > details > summary')].map(part => part.innerText.trim())")
    assert [name for tag, name in places if tag == "SUMMARY"] == shown
    assert ["INPUT", "search"] in places
    browser.press("Tab", shift=True)
    assert browser.js(FOCUSED) in places


def test_enter_and_space_fold(browser: Browser) -> None:
    browser.js("document.querySelector('#log > summary').focus()")
    states = []
    for key in ("Enter", " ", "Enter"):
        browser.press(key)
        states.append(browser.js("document.getElementById('log').open"))
    assert states == [True, False, True]


def test_search_by_keyboard(browser: Browser) -> None:
    opened = "[...document.querySelectorAll('details')].filter(part => part.open).map(part => part.id)"
    before = browser.js(opened)
    browser.press("/")
    assert browser.js(FOCUSED) == ["INPUT", "search"]
    assert browser.js("document.getElementById('search').value") == ""
    browser.press(*"watchdog")
    seen = browser.js(
        "[...document.querySelectorAll('#log [data-item]')].filter(line => line.checkVisibility())"
        ".map(line => line.innerText)"
    )
    assert seen and all("watchdog" in line.lower() for line in seen)
    assert browser.js("document.getElementById('found').innerText").endswith(" found")
    assert not browser.js("document.getElementById('tasks').checkVisibility()")  # nothing in there
    browser.press("Tab")
    assert browser.js("document.activeElement.closest('details').id") != "tasks"
    browser.press("/", "Backspace")
    assert browser.js("document.getElementById('search').value") == ""
    assert browser.js(opened) == before and browser.js("document.getElementById('tasks').checkVisibility()")


def test_title_tells_time_and_what_happened(browser: Browser) -> None:
    assert browser.js("document.title").endswith("BUG: soft lockup in crash_softlockup")


def test_the_whole_log_is_there(browser: Browser) -> None:
    shown = browser.js("document.querySelectorAll('#whole-log [data-item]').length")
    assert shown >= len(LOG.read_text().splitlines()) - 2 > 60


def test_the_report_as_json_is_inside(browser: Browser) -> None:
    inside = browser.js("JSON.parse(document.getElementById('report').textContent)")
    assert inside["schema"] == 1 and inside["verdict"]["title"] == "BUG: soft lockup in crash_softlockup"


def test_copy_buttons(browser: Browser) -> None:
    """What a button copies is the text it stands beside; what the clipboard is told is caught on its way there."""
    browser.js("""
        window.told = [];
        if (navigator.clipboard) navigator.clipboard.writeText = async text => told.push(text);
        document.execCommand = () => told.push(document.activeElement.value);
    """)
    browser.js("document.querySelector('[data-from=stack]').click()")
    told = browser.js("new Promise(done => setTimeout(() => done(told), 200))", wait=True)
    assert len(told) == 1 and "crash_softlockup" in told[0]


def test_tables_sort_by_bare_values(browser: Browser, tmp_path: Path) -> None:
    columns = [Column("name", "Name"), Column("size", "Size", "bytes")]
    rows: list[tuple[Value, ...]] = [("b", 9 << 30), ("c", None), ("a", 10 << 20), ("d", 11)]
    report = Report("x", "kdump", "6.1", "", 1, Verdict("panic", "t", "e", ""))
    report.sections = [Section("system", "System", [Table("t", "", columns, rows)])]
    page = tmp_path / "table.html"
    page.write_text("\n".join(render(report)))
    browser.open(page)
    names = "[...document.querySelectorAll('#system tbody tr')].map(row => row.cells[0].textContent).join('')"
    seen = []
    for number in (1, 1, 0):
        browser.js(f"document.querySelectorAll('#system th button')[{number}].click()")
        seen.append(browser.js(names))
    assert [each.replace("c", "") for each in seen] == ["dab", "bad", "abd"]
    assert browser.js("document.querySelector('#system th').ariaSort") == "ascending"


def test_narrow_screens_do_not_scroll_sideways(browser: Browser) -> None:
    browser("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    browser.js("for (const part of document.querySelectorAll('details')) part.open = true")
    assert browser.js("document.documentElement.scrollWidth") <= 390
    # A button beside the log takes no room from its lines.
    assert browser.js(
        "document.querySelector('#whole-log pre').offsetWidth == document.querySelector('main').offsetWidth"
    )


def test_long_words_do_not_widen_the_page(browser: Browser, tmp_path: Path) -> None:
    """Paths, titles, names and notes come from outside, and need no blank in them."""
    long = "x" * 300
    frames = [Frame(long, 1, 2, long)]
    verdict = Verdict("panic", long, long, long, long, long, frames[0], long, frames=frames, taints=[long])
    report = Report(f"/{long}", "kdump", long, "", 1, verdict)
    stacks = Stacks("s", [Stack(long, [long], frames, long)])
    table = Table("t", long, [Column("name", long), Column("size", "Size", "bytes")], [(long, 1)])
    finding = Finding("critical", long, "system")
    blocks: list[Block] = [
        Facts("f", [Fact("k", long, long)]),
        Text("t", [long], long),
        Text("p", [long], long, prose=True),
        stacks,
        table,
    ]
    report.sections = [Section("system", long, blocks, [finding], [long], long)]
    report.problems = [long]
    page = tmp_path / "long.html"
    page.write_text("\n".join(render(report)))
    for width in (390, 1000):
        browser("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=True)
        browser.open(page)
        browser.js("for (const part of document.querySelectorAll('details')) part.open = true")
        assert browser.js("document.documentElement.scrollWidth") <= width
