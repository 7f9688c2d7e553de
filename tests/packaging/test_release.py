"""A release is later than the last one, and says what is in it."""

import sys
from pathlib import Path

import pytest
from tools import release

LOG = "# Changelog\n\n## [Unreleased]\n\n### Fixed\n\n- A fault.\n\n## [0.1.0] - 2026-11-27\n\n- All.\n"


def test_the_version_moves_forward() -> None:
    text = '"""kdump."""\n\n__version__ = "0.1.0"\n'
    assert release.with_version(text, "0.2.0") == text.replace("0.1.0", "0.2.0")
    for version in ("0.1.0", "0.0.9"):
        with pytest.raises(ValueError, match=r"is not later than 0\.1\.0"):
            release.with_version(text, version)
    for version in ("0.2", "00.2.0", "0.02.0", "0.2.0\n", "v0.2.0", "0.2.0rc1", "0.٢.0"):
        with pytest.raises(ValueError, match=r"MAJOR\.MINOR\.PATCH"):
            release.with_version(text, version)


def test_the_change_log_is_dated_and_starts_anew() -> None:
    dated = release.dated(LOG, "0.2.0", "2026-12-01")
    assert dated.startswith("# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Fixed\n\n- A fault.\n")
    with pytest.raises(ValueError, match="has nothing under"):
        release.dated(dated, "0.3.0", "2026-12-02")
    with pytest.raises(ValueError, match="has nothing under"):
        release.dated(LOG.replace("- A fault.\n", ""), "0.2.0", "2026-12-01")
    with pytest.raises(ValueError, match="has no"):
        release.dated("# Changelog\n", "0.2.0", "2026-12-01")


def test_the_change_log_of_this_tree_can_be_released() -> None:
    log = (release.ROOT / "CHANGELOG.md").read_text()
    changed = log.replace("## [Unreleased]\n", "## [Unreleased]\n\n- A change.\n", 1)  # nothing follows a release
    assert "## [0.1.0] - " in release.dated(changed, "99.0.0", "2026-12-01")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with what a release changes, whose packages are one empty file."""
    files = {release.INIT: '__version__ = "0.1.0"\n', release.LOG: LOG, Path(".gitignore"): "dist\n"}
    files[Path("tools/dist.py")] = "import pathlib; pathlib.Path('dist').mkdir(); open('dist/kdump-0.2.0.deb', 'w')"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["release", "0.2.0"])
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "x")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "x@example.net")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        release.run("git", *command)
    return tmp_path


def test_a_release_is_committed_and_tagged(tree: Path) -> None:
    assert release.main() == 0
    assert release.run("git", "log", "--format=%s %D").splitlines()[0].startswith("kdump 0.2.0 ")
    assert release.run("git", "tag") == "v0.2.0\n"
    assert (tree / release.INIT).read_text() == '__version__ = "0.2.0"\n'


@pytest.mark.parametrize("fault", ["the tag exists", "the commit is refused", "no package"])
def test_a_release_that_fails_changes_nothing(fault: str, tree: Path) -> None:
    if fault == "the tag exists":
        release.run("git", "tag", "v0.2.0")
    elif fault == "no package":
        (tree / "tools/dist.py").write_text("raise SystemExit(1)")
        release.run("git", "commit", "-qam", "second")
    else:
        hook = tree / ".git/hooks/pre-commit"
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    before = release.run("git", "log", "--format=%H")
    with pytest.raises(SystemExit, match="release: "):
        release.main()
    assert release.run("git", "log", "--format=%H") == before
    assert release.run("git", "status", "--porcelain") == ""
