"""`kdump build` says why it built. What it takes to build one is replaced here: an image is built in tests/image."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdump.cli.main import main
from kdump.host import built, config, plan


@pytest.mark.parametrize(
    ("before", "options", "why"),
    [
        (None, ["--if-stale"], ["no image is built"]),
        ("old", ["--if-stale"], ["the kernel changed"]),
        ("old", [], ["the kernel changed"]),
        ("new", [], []),
        ("new", ["--if-stale"], None),
    ],
)
def test_reasons(
    before: str | None, options: list[str], why: list[str] | None, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def record(kernel: str) -> built.Record:
        return built.Record(
            str(tmp_path / "i"), "6.1", "v", 1, 0.0, dict.fromkeys(built.PARTS, "") | {"kernel": kernel}
        )

    def build_image(_prepared: Any, _parts: Any, _state: Any) -> tuple[built.Record, Any]:
        return record("new"), SimpleNamespace(seconds=1.0, modules=())

    monkeypatch.setattr(config, "load", lambda _path: None)
    monkeypatch.setattr(plan, "capture_kernel", lambda _config: SimpleNamespace(release="6.1"))
    monkeypatch.setattr(plan, "prepare", lambda *_: SimpleNamespace(notes=()))
    monkeypatch.setattr(built, "recorded", lambda *_: record(before) if before else None)
    monkeypatch.setattr(built, "fingerprint", lambda _prepared: record("new").parts)
    monkeypatch.setattr(built, "build_image", build_image)
    monkeypatch.setattr(built, "damage", lambda _record: "")
    assert main(["build", "--json", "--state", str(tmp_path), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["built"] == (why is not None)
    assert said.get("reasons") == why
