"""kdump build --arch: an image for a machine that is not this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdump.capture.plan import CapturePlan
from kdump.cli.main import main


def test_an_image_of_another_architecture_is_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, image = tmp_path / "plan.json", tmp_path / "capture.img"
    plan.write_text(CapturePlan(modules=("/usr/lib/modules/virtio_blk.ko",)).to_json())
    arguments = ["build", "--arch=arm64", f"--plan={plan}", f"--output={image}", "--kernel=6.12", "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["release"].endswith("-cloud-arm64") and told["size"] == image.stat().st_size < 12 << 20
    assert image.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--arch=vax"], "vax"),
        (["--arch=aarch64"], "needs --plan"),
        (["--arch=aarch64", "--load", "--plan=x", "--output=y"], "this machine's own"),
        (["--output=y"], "need --arch"),
        (["--arch=aarch64", "--plan=/none", "--output=y"], "/none cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main(["build", *arguments]) in (1, 2)
    except SystemExit as error:
        assert error.code == 2
    assert named in capsys.readouterr().err
