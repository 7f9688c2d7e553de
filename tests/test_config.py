"""The configuration: defaults, faults with their lines, and the template that is made from the declarations."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.host import config, template
from kdump.host.config import Config, Interface, Network, Retention
from kdump.host.config.tables import ConfigError


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "k.toml")
    return caught.value.problems


def test_an_empty_file_is_the_defaults() -> None:
    assert config.parse("") == Config()
    assert Config().targets == ("file:///var/crash",)
    assert (Config().dump.level, Config().dump.codec, Config().action.success) == (31, "zstd", "reboot")


def test_values_are_read() -> None:
    read = config.parse(
        """
        targets = ["ssh://a@b:22/c", "s3://bucket/x"]
        [retention]
        max_age = "30d"
        min_free = "2G"
        max_size = 4096
        [deadlines]
        total = 90
        [panic]
        panic = "keep"
        panic_on_oops = true
        [[network.interface]]
        mac = "52:54:00:12:34:56"
        dhcp = true
        """
    )
    assert read.targets == ("ssh://a@b:22/c", "s3://bucket/x")
    assert read.retention == Retention(max_age=30 * 86400, min_free=2 << 30, max_size=4096)
    assert read.deadlines.total == 90
    assert (read.panic.panic, read.panic.panic_on_oops) == ("keep", 1)
    assert read.network.interface == (Interface(mac="52:54:00:12:34:56", dhcp=True),)
    assert config.from_dict(config.to_dict(read)) == read


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("targts = []", 1, "did you mean 'targets'?"),
        ("\n# x\n\nlevel = 3", 4, "belongs under [dump]"),
        ("[dump]\ntargets = []", 2, "at the top"),
        ("[dump]\nfrobnicate = 1", 2, "known here: level, codec"),
        ("[dump]\nlevel = 32", 2, "from 0 to 31"),
        ("[dump]\nlevel = true", 2, "from 0 to 31"),
        ("[dump]\nlevel = '31'", 2, "from 0 to 31"),
        ("[dump]\ncodec = 'zst'", 2, "did you mean 'zstd'?"),
        ("[dump]\nreport = 1", 2, "true or false"),
        ("[dump]\ncodec = 'zlib'\ncodec_level = 6", 3, "dump.codec_level = 6: expected 0 with codec 'zlib'"),
        ("[dump]\ncodec_level = 23", 2, "dump.codec_level = 23: expected"),
        ("[dump]\ncodec_level = 1\ncodec = 'lzo'", 2, "expected 0 with codec 'lzo'"),
        ("dump = 3", 1, "write [dump]"),
        ("[network]\ninterface = 3", 2, "write [[network.interface]]"),
        ("targets = [\n 'file:///a',\n 'fil:///b',\n]\nname = 'x'", 1, "did you mean 'file'?"),
        ("targets = 'file:///a'", 1, "a list in brackets"),
        ("targets = ['file://var/crash']", 1, "file:///var/crash"),
        ("targets = ['/var/crash']", 1, "a URL such as"),
        ("[ssh]\nidentity = 'id_rsa'", 2, "an absolute path"),
        ("[retention]\nmin_free = '1X'", 2, '"512M"'),
        ("[deadlines]\ntotal = 'soon'", 2, '"5min"'),
        ("[deadlines]\ntotal = 1.5", 2, '"5min"'),
        ("[encrypt]\nrecipients = ['AGE-SECRET-KEY-1']", 2, "age public key"),
        ("[panic]\npanic_on_oom = 3", 2, 'or "keep"'),
        ("name = 3", 1, "a string in quotes"),
        ('name = "a\\u0000b"', 1, "a string without NUL"),
        ("[[network.interface]]\nmac='x'\n[[network.interface]]\n\nvlan='a'", 5, "from 0 to 4094"),
        ("a = 'first'\nb = '''\nlong\n'''\nname = 3", 5, "a string in quotes"),
    ],
)
def test_a_fault_has_its_line_and_a_suggestion(text: str, line: int, says: str) -> None:
    found = [problem for problem in problems(text) if says in problem]
    assert len(found) == 1
    assert found[0].startswith(f"k.toml:{line}: ")


def test_all_faults_are_shown_at_once() -> None:
    assert len(problems("x = 1\n[dump]\nlevel = 99\ncodec = 1\n")) == 3


def test_broken_toml_is_a_config_error() -> None:
    assert "line 2" in problems("name = 'a'\nname = 3 4\n")[0]


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CONFIG_PATH", tmp_path / "absent.toml")
    assert config.load() == Config()
    with pytest.raises(KdumpError, match="no such file"):
        config.load(tmp_path / "asked-for.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(KdumpError, match="cannot be read"):
        config.load(tmp_path / "binary")


def test_the_template_says_the_defaults() -> None:
    text = template.render()
    assert config.parse(text) == Config()
    assert max(map(len, text.splitlines())) <= 79
    # "#key = value" is a key, "# words" a comment; with every key in force nothing changes but the example interface.
    stated = re.sub(r"(?m)^#(?=\w|\[)", "", text)
    assert stated.count(" = ") > 60
    assert config.parse(stated) == replace(Config(), network=Network(interface=(Interface(),)))


def test_the_template_carries_a_configuration() -> None:
    wanted = config.parse(
        r"""
        targets = ["file:///srv/a \"b\" \\ c", "block:///dev/disk/by-partuuid/x"]
        [retention]
        max_age = 90061
        min_free = "1536M"
        [panic]
        panic_on_oom = 2
        [[network.interface]]
        mac = "52:54:00:12:34:56"
        [[network.interface]]
        name = "b0"
        links = ["x", "y"]
        """
    )
    text = template.render(wanted)
    assert config.parse(text) == wanted
    assert 'min_free = "1536M"' in text


def test_the_configuration_imports_little() -> None:
    """Almost every command reads it first."""
    code = "import sys, kdump.host.config; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"typing_extensions", "numpy", "rich", "argparse", "asyncio", "subprocess"} & set(out)


def test_the_template_in_the_documentation_is_the_template() -> None:
    shown = Path(__file__).parent.parent / "docs/kdump.toml"
    assert shown.read_text() == template.render(), "kdump config show --template > docs/kdump.toml"
