"""The pages in headless Chromium: accessible (axe-core), 390 px wide, dark, by keyboard, on paper, without scripts."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import axe_playwright_python
import pytest
from tests.fleet.evidence import crash
from tests.fleet.process import Collector

from kdump.fleet import evidence, ingest, inventory, rates
from kdump.fleet.service import Options, Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PATHS = (
    "/", "/groups/1", "/crashes", "/crashes/1", "/hosts", "/hosts?which=suspect", "/hosts/web1", "/kernels",
    "/kernels/compare?old=6.1.1&new=6.1.2", "/search?q=crash", "/alerts", "/admin", "/sign-in", "/nothing",
)  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")


AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A fleet with something on every page."""
    data = tmp_path_factory.mktemp("pages") / "data"
    service = Service(Options(data))
    now = time.time()
    for number in range(30):
        log = ("softlockup", "list", "uaf")[number % 3]
        text = json.dumps(crash(f"web{number % 7}", number, log, kernel=f"6.1.{1 + number % 2}")).encode()
        pair = (evidence.read(text), evidence.pack(text))
        service.database.run(lambda session, pair=pair: ingest.store(session, [pair], now, None))  # type: ignore[misc]
    for number in range(40):
        found = inventory.Inventory(
            f"web{number}",
            f"6.1.{1 + number % 2}",
            "Model 1",
            number % 9 > 0,
            "no reservation",
            ["module:x"] * (number < 7),
        )
        service.database.run(lambda session, found=found: inventory.store(session, found, now))  # type: ignore[misc]
    service.worker.sweep()
    rates.factors(service.database)
    service.close()
    with Collector(data) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


def test_every_page_is_accessible(browser: Browser, collector: Collector) -> None:
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme, bypass_csp=True)
        for path in PATHS if scheme == "light" else PATHS[:5]:
            page.goto(collector.url + path)
            page.evaluate(AXE)
            found: dict[str, Any] = page.evaluate("axe.run()")
            said = [(each["id"], each["nodes"][0]["html"][:150]) for each in found["violations"]]
            assert said == [], (scheme, path, said)
        page.close()


def test_every_page_fits_a_phone_and_needs_no_script(browser: Browser, collector: Collector) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=False)
    page = context.new_page()
    problems: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # One page does not exist, and the report in its sandbox may not run the script that it has.
        if message.type == "error" and not any(word in message.text for word in ("404", "is sandboxed")):
            problems.append(message.text)

    page.on("console", heard)
    for path in PATHS:
        page.goto(collector.url + path)
        assert page.locator("h1").count() == 1, path
        size = page.locator("html").bounding_box()
        main = page.locator("main").bounding_box()
        assert size is not None
        assert main is not None
        assert main["x"] + main["width"] <= 390.5, path
    assert problems == []
    context.close()
    wide = browser.new_page(viewport={"width": 390, "height": 844})
    for path in PATHS:
        wide.goto(collector.url + path)
        assert wide.evaluate("document.documentElement.scrollWidth") <= 390, path
    wide.close()


def test_a_keyboard_reaches_the_content_and_the_forms(browser: Browser, collector: Collector) -> None:
    page = browser.new_page()
    page.goto(collector.url + "/groups/1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.name || document.activeElement.tagName"))
    assert {"status", "owner", "fixed_in", "collect"} <= seen
    page.fill("#g-owner", "net team")
    page.press("#g-owner", "Enter")
    page.wait_for_load_state()
    assert page.input_value("#g-owner") == "net team"
    assert "net team" in str(page.text_content("main"))
    page.close()


def test_on_paper_there_is_the_content_only(browser: Browser, collector: Collector) -> None:
    page = browser.new_page()
    page.goto(collector.url + "/groups/1")
    page.emulate_media(media="print")
    assert not page.locator("header").is_visible()
    assert page.locator("h1").is_visible()
    assert page.get_by_text("as the policy says", exact=True).is_visible()  # the form's values, without the form
    assert len(page.pdf()) > 10_000
    page.close()


def test_the_report_cannot_reach_the_page_around_it(browser: Browser, collector: Collector) -> None:
    page: Page = browser.new_page()
    page.goto(collector.url + "/crashes/1")
    frame = page.locator("iframe")
    assert frame.get_attribute("sandbox") == ""
    answer = page.request.get(collector.url + "/crashes/1/report.html")
    assert answer.headers["content-security-policy"].startswith("sandbox")
    page.close()


def test_a_filter_needs_no_new_page(browser: Browser, collector: Collector) -> None:
    from playwright.sync_api import expect

    page = browser.new_page()
    rows = page.locator("#found tbody tr")
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(collector.url + "/")
    page.evaluate("document.body.dataset.same = 'yes'")
    everything = rows.count()
    page.locator("#text").press_sequentially("soft")
    expect(rows).to_have_count(1)
    assert everything > 1
    assert "soft lockup" in page.locator("#found").inner_text()
    assert page.evaluate("document.body.dataset.same") == "yes"
    assert page.evaluate("document.activeElement.id") == "text"  # one can go on typing
    assert "text=soft" in page.url
    page.select_option("#days", "7")
    expect(page.locator("#numbers")).to_contain_text("in 7 days")
    page.reload()  # the address holds the filter
    assert page.input_value("#text") == "soft" and rows.count() == 1
    page.go_back()
    expect(rows).not_to_have_count(0)
    assert problems == []
    page.close()
