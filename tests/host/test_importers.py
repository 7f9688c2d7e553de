"""Other tools' configurations: the shipped defaults (written from facts) and real-looking ones, read as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdump.cli.main import main
from kdump.errors import FormatError, KdumpError
from kdump.host.config import Config
from kdump.host.importers import Draft, assignments, read

DATA = Path(__file__).parent / "data/foreign"
CRASH = "file:///var/crash"


def draft(tmp_path: Path, text: str, name: str = "kdump.conf") -> Draft:
    path = tmp_path / name
    path.write_text(text)
    return read([path])


def value(config: Config, key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("names", "expected", "lost"),
    [
        (
            ["rhel9-kdump.conf", "rhel9-sysconfig-kdump"],
            {
                "targets": (CRASH,),
                "dump.codec": "lzo",
                "dump.level": 31,
                "capture.cmdline_remove": ("ignition.firstboot",),
            },
            ["auto_reset_crashkernel"],
        ),
        (
            ["rhel9-kdump.conf", "fedora-sysconfig-kdump"],
            {"targets": (CRASH,), "dump.codec": "lzo"},
            ["auto_reset_crashkernel", "VMCORE_CREATION_NOTIFICATION=yes"],
        ),
        (
            ["suse2-sysconfig-kdump"],
            {"targets": (CRASH,), "dump.codec": "zlib", "retention.keep": 0, "action.failure": "reboot"},
            [],
        ),
        (["debian12-kdump-tools"], {"targets": (CRASH,)}, []),
        (
            ["suse-sysconfig-kdump"],
            {"targets": (CRASH,), "dump.codec": "zlib", "retention.keep": 5, "retention.min_free": 64 << 20},
            [],
        ),
    ],
)
def test_shipped_defaults(names: list[str], expected: dict[str, Any], lost: list[str]) -> None:
    found = read([DATA / name for name in names])
    for key, wanted in expected.items():
        assert value(found.config(), key) == wanted
    assert [line.split(": ")[1].split(" ")[0] for line, _why in found.lost] == lost


FEDORA = [
    (
        "nfs server.example.net:/export/crash\npath /dumps\ncore_collector makedumpfile -z -d 27 --num-threads 4\n",
        {"targets": ("nfs://server.example.net/export/crash/dumps",), "dump.codec": "zstd", "dump.level": 27},
        0,
    ),
    (
        "ssh kdump@10.0.0.7\nsshkey /root/.ssh/kdump_id_rsa\n"
        "core_collector makedumpfile -F -c -d 31\nfinal_action poweroff\n",
        {
            "targets": ("ssh://kdump@10.0.0.7/var/crash",),
            "ssh.identity": "/root/.ssh/kdump_id_rsa",
            "dump.codec": "zlib",
            "action.success": "poweroff",
        },
        0,
    ),
    (
        "raw /dev/disk/by-partuuid/1234\n"
        "failure_action dump_to_rootfs\nextra_modules gfs2 dlm\nextra_bins /usr/bin/nc\n",
        {
            "targets": ("block:///dev/disk/by-partuuid/1234", CRASH),
            "capture.modules": ("gfs2", "dlm"),
            "capture.files": ("/usr/bin/nc",),
        },
        0,
    ),
    (
        "# a comment\nkdump_post /var/crash/scripts/kdump-post.sh\nkdump_pre /usr/local/bin/pre\ndefault shell\n",
        {
            "targets": (CRASH,),
            "hooks.pre": ("/usr/local/bin/pre",),
            "hooks.post": ("/var/crash/scripts/kdump-post.sh",),
            "hooks.failed": ("/var/crash/scripts/kdump-post.sh",),
            "action.failure": "shell",
        },
        0,
    ),
    (
        "ext4 UUID=03138356-5e61-4ab3-b58e-27507ac41937\npath /x\nfence_kdump_nodes node1 node2\nfrobnicate 1\n",
        {"targets": ("file:///x",)},
        3,
    ),
    ("core_collector cp --sparse=always\n", {"dump.level": 0}, 0),
]


@pytest.mark.parametrize(("text", "expected", "lost"), FEDORA)
def test_fedora(tmp_path: Path, text: str, expected: dict[str, Any], lost: int) -> None:
    found = draft(tmp_path, text)
    for key, wanted in expected.items():
        assert value(found.config(), key) == wanted
    assert len(found.lost) == lost, found.lost


DEBIAN = [
    (
        'USE_KDUMP=1\nMAKEDUMP_ARGS="-c -d 31"\nKDUMP_SYSCTL="kernel.panic_on_oops=1 kernel.hung_task_panic=1 vm.x=1"\n'
        'KDUMP_FAIL_CMD="reboot -f"\nKDUMP_NUM_DUMPS=3\n',
        {
            "dump.codec": "zlib",
            "panic.panic_on_oops": 1,
            "panic.hung_task_panic": 1,
            "action.failure": "reboot",
            "retention.keep": 3,
        },
        1,
    ),
    (
        'USE_KDUMP=0\nSSH="kdump@server"\nSSH_KEY=/root/.ssh/id\nKDUMP_COREDIR=/srv/dumps\nHOSTTAG=hostname\n',
        {"targets": ("ssh://kdump@server/srv/dumps",), "ssh.identity": "/root/.ssh/id"},
        2,
    ),
    (
        "NFS='nas:/export/kdump'\nUSE_KDUMP=1\nNFS_TIMEO=100\n"
        'KDUMP_CMDLINE_APPEND="reset_devices systemd.unit=kdump-tools-dump.service nr_cpus=2 usbcore.nousb"\n',
        {
            "targets": ("nfs://nas/export/kdump",),
            "capture.cpus": 2,
            "capture.cmdline_add": ("usbcore.nousb",),
        },
        1,
    ),
    (
        'USE_KDUMP=1\nFTP="server:/in"\nKDUMP_FAIL_CMD="echo b > /proc/sysrq-trigger"\n. /etc/x\n',
        {"targets": (CRASH,)},
        3,
    ),
]


@pytest.mark.parametrize(("text", "expected", "lost"), DEBIAN)
def test_debian(tmp_path: Path, text: str, expected: dict[str, Any], lost: int) -> None:
    found = draft(tmp_path, text, "kdump-tools")
    for key, wanted in expected.items():
        assert value(found.config(), key) == wanted
    assert len(found.lost) == lost, found.lost


SUSE = [
    (
        'KDUMP_SAVEDIR="ssh://root:secret@backup.example.net/dumps"\nKDUMP_KEEP_OLD_DUMPS="-1"\nKDUMP_CPUS="4"\n'
        'KDUMP_DUMPFORMAT="zstd"\nKDUMP_IMMEDIATE_REBOOT="no"\nKDUMP_NOTIFICATION_TO="ops@example.net"\n',
        {
            "targets": ("ssh://root@backup.example.net/dumps",),
            "retention.keep": 1,
            "capture.cpus": 4,
            "dump.codec": "zstd",
            "action.success": "shell",
            "notify.mail": "ops@example.net",
        },
        1,
    ),
    (
        'KDUMP_SAVEDIR="nfs://nas/export file:///var/crash ftp://u:p@h/x"\nKDUMP_DUMPLEVEL="0"\n'
        'KDUMP_REQUIRED_PROGRAMS="/usr/bin/lsof tar"\n'
        'KDUMP_PRESCRIPT="/root/pre.sh arg"\nKDUMP_SMTP_PASSWORD="geheim"\n',
        {
            "targets": ("nfs://nas/export", CRASH),
            "dump.level": 0,
            "capture.files": ("/usr/bin/lsof",),
            "hooks.pre": ("/root/pre.sh",),
        },
        3,
    ),
]


@pytest.mark.parametrize(("text", "expected", "lost"), SUSE)
def test_suse(tmp_path: Path, text: str, expected: dict[str, Any], lost: int) -> None:
    found = draft(tmp_path, text, "kdump")
    for key, wanted in expected.items():
        assert value(found.config(), key) == wanted
    assert len(found.lost) == lost, found.lost
    assert "secret" not in repr(found)
    assert "geheim" not in repr(found)


def test_nothing_is_run_or_expanded(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    text = f'USE_KDUMP=1\nKDUMP_COREDIR="$(touch {flag})"\ntouch {flag}\nKDUMP_NUM_DUMPS=`touch {flag}`\n'
    with pytest.raises(KdumpError):
        draft(tmp_path, text, "kdump-tools").config()
    assert not flag.exists()


def test_assignments_are_read_as_a_shell_would_quote_them() -> None:
    text = 'export A=1 # x\nB=\'two words\'\nC="a\\"b\nc"\n\nD=\nE=x y\n'
    assert list(assignments(text, "f")) == [("A", "1"), ("B", "two words"), ("C", 'a"b\nc'), ("D", ""), ("", "E=x y")]
    with pytest.raises(FormatError, match="line 2"):
        list(assignments("A=1\nB='x\n", "f"))


def test_values_that_make_no_sense_are_errors(tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match=r"dump\.level"):
        draft(tmp_path, "core_collector makedumpfile -d 99\n").config()
    with pytest.raises(KdumpError, match="no configuration of another kdump"):
        read([])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "kdump.conf"
    source.write_text("ssh a@b\ndracut_args --omit x\n")
    assert main(["config", "import", str(source)]) == 3
    shown = capsys.readouterr()
    assert 'targets = ["ssh://a@b/var/crash"]' in shown.out
    assert "dracut_args" in shown.err
    written = tmp_path / "kdump.toml"
    written.write_text(shown.out)
    assert main(["config", "check", str(written)]) == 0
