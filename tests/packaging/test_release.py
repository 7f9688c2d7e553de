"""A release is later than the last one, and says what is in it."""

import pytest
from tools import release

LOG = "# Changelog\n\n## [Unreleased]\n\n### Fixed\n\n- A fault.\n\n## [0.1.0] - 2026-11-27\n\n- All.\n"


def test_the_version_moves_forward() -> None:
    text = '"""kdump."""\n\n__version__ = "0.1.0"\n'
    assert release.with_version(text, "0.2.0") == text.replace("0.1.0", "0.2.0")
    for version in ("0.1.0", "0.0.9"):
        with pytest.raises(ValueError, match=r"is not later than 0\.1\.0"):
            release.with_version(text, version)
    with pytest.raises(ValueError, match=r"MAJOR\.MINOR\.PATCH"):
        release.with_version(text, "0.2")


def test_the_change_log_is_dated_and_starts_anew() -> None:
    dated = release.dated(LOG, "0.2.0", "2026-12-01")
    assert dated.startswith("# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Fixed\n\n- A fault.\n")
    with pytest.raises(ValueError, match="has nothing under"):
        release.dated(dated, "0.3.0", "2026-12-02")
    with pytest.raises(ValueError, match="has no"):
        release.dated("# Changelog\n", "0.2.0", "2026-12-01")


def test_the_change_log_of_this_tree_can_be_released() -> None:
    log = (release.ROOT / "CHANGELOG.md").read_text()
    changed = log.replace("## [Unreleased]\n", "## [Unreleased]\n\n- A change.\n", 1)  # nothing follows a release
    assert "## [0.1.0] - " in release.dated(changed, "99.0.0", "2026-12-01")
