"""The fleet's unit, container file, Kubernetes example and dashboard agree with the commands and figures there are."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from kdump.cli import fleet
from kdump.fleet.metrics import Metrics
from kdump.fleet.service import Options, Service

FILES = Path(__file__).parent.parent.parent / "packaging/fleet"


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    fleet.add_arguments(parser)
    return parser.parse_args(words)


def test_the_unit_starts_what_there_is() -> None:
    text = (FILES / "kdump-fleet.service").read_text()
    start = re.search(r"^ExecStart=(.*?[^\\])$", text, re.M | re.S)
    assert start
    words = shlex.split(start[1].replace("\\\n", " ").replace("$KDUMP_FLEET_OPTIONS", ""))
    assert words[1:3] == ["fleet", "serve"]
    assert parsed(words[2:]).listen == ("0.0.0.0", 8765)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "kdump-fleet.service"
    unit.write_text((FILES / unit.name).read_text().replace("/opt/kdump-fleet/bin/kdump", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert said == []


def test_the_container_runs_what_there_is() -> None:
    text = (FILES / "Containerfile").read_text()
    words = {name: json.loads(value) for name, value in re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text, re.M)}
    assert words["ENTRYPOINT"] == ["kdump", "fleet"]
    assert parsed(words["CMD"]).data == Path("/data")


def test_the_example_for_kubernetes_runs_what_there_is() -> None:
    content = {
        (each["kind"], each["metadata"]["name"]): each
        for each in yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())
    }
    for name in ("collector", "worker"):
        pod = content["Deployment", name]["spec"]["template"]
        assert content["Deployment", name]["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
        (container,) = pod["spec"]["containers"]
        assert parsed(container["args"]).database == "$(DATABASE)"
        volumes = {each["name"] for each in pod["spec"]["volumes"]}
        assert {each["name"] for each in container["volumeMounts"]} == volumes
    labels = content["Deployment", "collector"]["spec"]["template"]["metadata"]["labels"]
    assert content["Service", "collector"]["spec"]["selector"] == labels


def test_the_dashboard_asks_for_figures_that_there_are(tmp_path: Path) -> None:
    from kdump.fleet.api import Api
    from kdump.fleet.ingest import Writer

    service = Service(Options(tmp_path / "data"))
    writer = Writer(service.database)
    api = Api(service, writer)
    api.refused = {401: 1}
    said = Metrics(service, writer, api).text().decode()
    service.close()
    known = set(re.findall(r"^# TYPE (\S+)", said, re.M))
    board = json.loads((FILES / "grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for each in panel["targets"]
        for name in re.findall(r"kdump_\w+", each["expr"])
    }
    assert asked <= known, asked - known
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) == 8
