"""Makes the documentation as a static site: the pages of docs/, and references of commands and configuration.

`python tools/site.py [DIRECTORY]` (default: site). Fails if a link leads nowhere.
"""

from __future__ import annotations

import logging
import posixpath
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config

from kdump import __version__
from kdump.cli.parsers import Page, pages
from kdump.host import template

ROOT = Path(__file__).resolve().parent.parent
# Pages outside docs/, or with another name there, and their names on the site.
BESIDE = {
    "docs/README.md": "index.md",
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "CHANGELOG.md": "changelog.md",
    "packaging/README.md": "packaging.md",
    "benchmarks/RESULTS.md": "results.md",
}
_LINK = re.compile(r"\]\(([^)#\s]+)")
NAV = [
    {"Start": ["index.md", "overview.md"]},
    {
        "Administration": [
            "administration.md",
            "targets.md",
            "reliability.md",
            "security.md",
            "fleet.md",
            "platforms.md",
            "machines.md",
            "floors.md",
        ]
    },
    {"Analysis": ["report.md", "reading.md", "analysis-tools.md", "crash-commands.md", "dumping.md"]},
    {"Reference": ["commands.md", "configuration.md", "changelog.md"]},
    {"Development": ["architecture.md", "kexec.md", "contributing.md", "packaging.md", "results.md", "reporting.md"]},
]


def main() -> int:
    """Build the site; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    output = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "docs"
        shutil.copytree(ROOT / "docs", place)
        (place / "README.md").unlink()
        sources = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")}
        for source in sources | BESIDE.keys():
            text = (ROOT / source).read_text(encoding="utf-8")
            (place / on_site(source)).write_text(moved(text, source), encoding="utf-8")
        (place / "commands.md").write_text("\n".join(commands()), encoding="utf-8")
        (place / "configuration.md").write_text(configuration(), encoding="utf-8")
        settings = {
            "site_name": f"kdump {__version__}",
            "docs_dir": str(place),
            "site_dir": str(output),
            "theme": {"name": "mkdocs", "color_mode": "auto", "user_color_mode_toggle": True},
            "use_directory_urls": False,
            "nav": [*NAV, {"Decisions": sorted(f"decisions/{path.name}" for path in (place / "decisions").iterdir())}],
            "strict": True,
            "validation": {
                "links": {"not_found": "warn", "unrecognized_links": "warn"},
                "nav": {"omitted_files": "warn"},
            },
        }
        build(load_config(config_file=str(ROOT / "tools/mkdocs.yml"), **settings))
    print(f"{output / 'index.html'}")
    return 0


def on_site(source: str) -> str:
    """The path on the site of a file of the tree; both are relative."""
    return BESIDE.get(source, source.removeprefix("docs/"))


def moved(text: str, source: str) -> str:
    """The text of the page `source`, with its links as they are on the site."""
    start = posixpath.dirname(on_site(source))

    def link(match: re.Match[str]) -> str:
        if "://" in match[1]:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return f"]({posixpath.relpath(on_site(target), start or '.')}"

    return _LINK.sub(link, text)


def commands() -> Iterator[str]:
    """The reference of commands, from the texts of --help."""
    yield "# Commands"
    yield ""
    yield "Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but not as asked (incomplete, degraded, not ready)."
    for group, members in groupby(pages(), key=lambda page: page.command.group):
        yield f"\n## {group}"
        for page in members:
            yield from command(page)


def command(page: Page) -> Iterator[str]:
    """One command."""
    yield f"\n### kdump {page.command.name}\n"
    yield f"    {page.usage}\n"
    yield escaped(page.description)
    sets = {"": page.options, **page.actions}
    for action, options in sets.items():
        if not options:
            continue
        yield f"\n`kdump {page.command.name} {action}`:\n" if action else ""
        yield "| option | meaning |\n|---|---|"
        for option in options:
            flags = ", ".join(option.flags)
            name = f"{flags} {option.value}".strip()
            yield f"| `{name}` | {escaped(option.help)} |".replace("\n", " ")


def configuration() -> str:
    """The reference of kdump.toml: the template with every key."""
    text = "# Configuration\n\n`/etc/kdump/kdump.toml`, with every key, its default and its meaning:\n\n"
    return text + "".join(f"    {line}\n" for line in template.render().splitlines())


def escaped(text: str) -> str:
    """Plain text in Markdown."""
    return re.sub(r"([<>|*_\[\]])", r"\\\1", text)


if __name__ == "__main__":
    sys.exit(main())
