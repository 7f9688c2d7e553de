"""What the documents refer to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "packaging/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern)
)
SOURCES = sorted(ROOT.glob("src/kdump/**/*.py"))
# Turns of phrase that a reader stumbles on: say "except", "or None", "nevertheless", "has", "is not a", "instead of" …
STILTED = re.compile(
    r"for want of|(?<!there )\bis none\b|None if there is none\b|in the place of|what is no\b|\bbe it\b|\bbut for\b"
    r"|\ball the same\b|\bbears?\b|came of it\b|\bhas it not\b|said to be\b|\bat hand\b|\band (?:its |their )?kin\b"
)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
_TEST = re.compile(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?[^`]*`")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(page: Path) -> None:
    for file, function in _TEST.findall(page.read_text()):
        found = [path for path in (ROOT / "tests").rglob(Path(file).name) if str(path).endswith(file)]
        assert found, file
        if function:
            assert any(f"def {function}(" in path.read_text() for path in found), f"{file}::{function}"


def test_documents_and_sources_are_in_plain_english() -> None:
    pages = {page: " ".join(page.read_text().replace("#", " ").split()) for page in (*PAGES, *SOURCES)}
    found = {str(page.relative_to(ROOT)): STILTED.findall(text) for page, text in pages.items()}
    assert {name: phrases for name, phrases in found.items() if phrases} == {}


def test_decisions_have_one_form_and_the_index_agrees() -> None:
    """Heading with number, then status and date; the index repeats all of them."""
    index = (ROOT / "docs/decisions/README.md").read_text()
    for path in sorted((ROOT / "docs/decisions").glob("0*.md")):
        found = re.match(
            r"# (\d{4}): (.+)\n\nStatus: (.+), (\d{4}-\d\d-\d\d)\.\n\n\*\*Context\.\*\* ", path.read_text()
        )
        assert found, f"{path.name} does not begin as the others do"
        number, title, status, date = found.groups()
        assert path.name.startswith(number)
        assert f"| [{number}]({path.name}) | {title} | {date} | {status} |" in index, path.name


def test_the_site_is_made(tmp_path: Path) -> None:
    """Every link of every page leads somewhere on the site, too; commands and keys have their references."""
    command = [sys.executable, "tools/site.py", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kdump setup" in (tmp_path / "commands.html").read_text()
    assert "min_free" in (tmp_path / "configuration.html").read_text()


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, f"{path.name} is not in docs/README.md"
