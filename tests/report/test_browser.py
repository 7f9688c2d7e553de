"""The HTML page in a real browser: its script runs, it is not blank, and it works without the script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kdump.cli.main import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOG = Path(__file__).parent / "logs" / "6.1" / "softlockup.txt"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert BROWSER, "these tests need Chromium: tools/bootstrap test installs it"
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", "--html", "-o", str(path), str(LOG)]) == 0
    return path


def browse(page: Path, *options: str) -> str:
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={page.parent / 'profile'}",
    ]
    found = subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return found.stdout


def test_script_runs_under_the_page_policy(page: Path) -> None:
    document = browse(page, "--dump-dom", "--virtual-time-budget=2000")
    assert 'aria-label="Search the report">' in document  # the script took `hidden` off the search box
    assert "BUG: soft lockup in crash_softlockup</h1>" in document


def test_screenshot_is_not_blank(page: Path) -> None:
    picture = page.parent / "page.png"
    browse(page, f"--screenshot={picture}", "--window-size=1000,1200")
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 40_000  # an empty page of that size is some 5 kB


def test_print(page: Path) -> None:
    paper = page.parent / "page.pdf"
    browse(page, f"--print-to-pdf={paper}")
    assert paper.read_bytes().startswith(b"%PDF") and paper.stat().st_size > 20_000
