"""From configuration and machine to the plan: what follows from the configuration, what is refused, what is carried."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kdump.capture.plan import PLAN_PATH, CapturePlan
from kdump.errors import KdumpError
from kdump.host import built, config, plan
from kdump.host.config import Config, Retention
from kdump.image import closure
from kdump.image.kernel_tree import KernelTree
from kdump.targets.protocol import Spec


def test_the_plan_says_what_the_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    wanted = config.parse(
        """
        save_to = "all"
        name = "db1"
        [dump]
        level = 17
        codec = "zstd"
        codec_level = 3
        report = false
        [action]
        success = "poweroff"
        failure = "halt"
        [hooks]
        pre = ["/bin/a"]
        timeout = "5s"
        [deadlines]
        total = "1h"
        stall = "1min"
        [retention]
        keep = 2
        min_free = "2G"
        [capture]
        cpus = 4
        """
    )
    made = plan.plan_of(wanted)
    assert (made.mode, made.hostname, made.level, made.codec, made.codec_level) == ("all", "db1", 17, "zstd", 3)
    assert (made.on_success, made.on_failure, made.report, made.cpus) == ("poweroff", "halt", False, 4)
    assert (made.hooks.pre, made.hooks.seconds) == (("/bin/a",), 5)
    assert (made.deadlines.total, made.deadlines.stall) == (3600, 60)
    assert (made.keep, made.min_free) == (0, 2 << 30)
    assert CapturePlan.from_json(made.to_json()) == made


def test_specifications_carry_what_their_table_says() -> None:
    wanted = config.parse('[s3]\nendpoint = "https://s3.example.net"\n[nfs]\noptions = "nfsvers=3"\n')
    assert plan.specification("ssh://a@b/c", wanted).facts == {
        "identity": "/etc/kdump/id_ed25519",
        "known_hosts": "/etc/kdump/known_hosts",
    }
    assert plan.specification("nfs://s/e", wanted).facts == {"options": "nfsvers=3"}
    assert plan.server(Spec("s3://bucket/x"), wanted) == "s3.example.net"
    assert plan.server(Spec("s3://bucket/x"), Config()) == "s3.us-east-1.amazonaws.com"
    assert plan.server(Spec("ssh://a@b:22/c"), Config()) == "b"


def test_what_the_image_carries(tmp_path: Path) -> None:
    (tmp_path / "tools/sub").mkdir(parents=True)
    (tmp_path / "tools/a").touch()
    (tmp_path / "tools/sub/b").touch()
    (tmp_path / "key").touch()
    wanted = replace(
        Config(targets=("ssh://a@b/c",)),
        capture=config.Capture(files=(f"{tmp_path}/tools",)),
        ssh=config.Ssh(identity=f"{tmp_path}/key", known_hosts=f"{tmp_path}/key"),
    )
    names = [f"{tmp_path}/tools/a", f"{tmp_path}/tools/sub/b", f"{tmp_path}/key"]
    assert plan.carried(wanted) == {name: Path(name) for name in names}
    with pytest.raises(KdumpError, match="does not exist"):
        plan.carried(config.parse('[hooks]\npost = ["/nonexistent/hook"]'))


def prepared(tmp_path: Path, *, level: int = 31, extra: bytes = b"x") -> plan.Prepared:
    vmlinuz = tmp_path / "vmlinuz"
    if not vmlinuz.exists():
        vmlinuz.write_bytes(b"kernel")
    made = CapturePlan(level=level, targets=(Spec("file:///var/crash"),))
    files: dict[str, bytes | Path] = {PLAN_PATH: made.to_json().encode(), "/etc/extra": extra}
    return plan.Prepared(KernelTree("6.1", vmlinuz, None), made, (), files, ())


def test_an_image_is_stale_when_what_goes_in_changes_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdump.image.closure.find", functools.cache(closure.find))  # a second each time
    first = prepared(tmp_path)
    record = built.Record("i", "6.1", str(tmp_path / "vmlinuz"), 1, 0.0, built.fingerprint(first))
    assert built.stale(record, built.fingerprint(first)) == []
    (tmp_path / "vmlinuz").touch()
    assert built.stale(record, built.fingerprint(first)) == []  # a time stamp is nothing
    assert built.stale(None, {}) == ["no image is built"]
    assert built.stale(record, built.fingerprint(prepared(tmp_path, level=1))) == [
        "the configuration or the machine it was resolved on changed"
    ]
    assert built.stale(record, built.fingerprint(prepared(tmp_path, extra=b"y"))) == [
        "files that the configuration adds changed"
    ]
    (tmp_path / "vmlinuz").write_bytes(b"other")
    assert built.stale(record, built.fingerprint(first)) == ["the kernel changed"]


def test_records_are_private_and_broken_ones_do_not_count(tmp_path: Path) -> None:
    record = built.Record(str(tmp_path / "img"), "6.1", "/boot/vmlinuz", 1, 2.0, {"plan": "x"})
    record.write(tmp_path / "6.1/image.json")
    assert (tmp_path / "6.1/image.json").stat().st_mode & 0o777 == 0o600
    assert built.recorded("6.1", tmp_path) is None  # there is no image
    (tmp_path / "img").touch()
    assert built.recorded("6.1", tmp_path) == record
    (tmp_path / "6.1/image.json").write_text("{")
    assert built.recorded("6.1", tmp_path) is None


def test_the_command_line_is_the_running_ones_with_the_configurations_changes(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("console=ttyS0 foo.bar=1 quiet\n")
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\ninitial apicid\t: 4\n")
    wanted = config.parse('[capture]\ncmdline_remove = ["foo.bar"]\ncmdline_add = ["panic=20"]\ncpus = 2\n')
    words = built.command_line(wanted, tmp_path).text.split()
    assert "foo.bar=1" not in words
    assert {"console=ttyS0", "nr_cpus=2", "disable_cpu_apicid=4", "panic=20"} <= set(words)
    assert "panic=10" not in words


def test_the_count_of_crashes_is_left_to_the_machine_where_it_can_see_them() -> None:
    """The oldest crash may be the only one of its kind, which the capture kernel cannot know."""
    rules = Retention(keep=3, min_free=1 << 30)
    assert (plan.plan_of(Config(retention=rules)).keep, plan.plan_of(Config(retention=rules)).min_free) == (0, 1 << 30)
    assert plan.plan_of(Config(targets=("file:///var/crash", "ssh://h/crash"), retention=rules)).keep == 3
