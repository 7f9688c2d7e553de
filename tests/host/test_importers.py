"""Other tools' configurations: the shipped defaults (written from facts) and real-looking ones, read as data."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdump.cli.main import main
from kdump.errors import KdumpError
from kdump.host.config import Config
from kdump.host.importers import Draft, assignments
from kdump.host.importers.detect import read

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
        {"targets": ("fs://UUID=03138356-5e61-4ab3-b58e-27507ac41937/x",), "fence.nodes": ("node1", "node2")},
        1,
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
        'KDUMP_PRESCRIPT="/root/pre.sh"\nKDUMP_SMTP_PASSWORD="geheim"\n',
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


def test_nothing_is_run(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    lines = (
        f'KDUMP_COREDIR="$(touch {flag})"',
        f"touch {flag}",
        f"KDUMP_NUM_DUMPS=`touch {flag}`",
        f"A=1; touch {flag}",
    )
    text = "\n".join(("USE_KDUMP=1", *lines, ""))
    found = draft(tmp_path, text, "kdump-tools")
    assert found.config().targets == (CRASH,)
    assert len(found.lost) == 4
    assert not flag.exists()


# Every form in which a shell reads a plain value; bash is the judge.
SHELL = [
    "A=1",
    "export A=1 # x",
    "A='two words'  # 'x",
    'A="a\\"b\nc"',
    "A=",
    "A='' B=",
    "A=a\\ b",
    'A="a\\\nb"',
    "A=a'b'\"c\"d",
    "A=x#y",
    'A="x" #y',
    "B='b c'\nA=\"$B ${B}d\"",
    "B=b\nA=$B/c",
    "A='$B'",
    'A="\\$B \\x \\`"',
    "A=1\nA=2",
    "  A=1",
    'A="a\tb"',
    "A=é",
]


PIECES = (
    "A=",
    "B=",
    "\n",
    " ",
    "\t",
    "'",
    '"',
    "\\",
    "$A",
    "${B}",
    "#",
    "x",
    "é",
    "1",
    "=",
    "-",
    "export ",
    "~",
    "*",
    ":~",
    "if false; then",
    "false && {",
    "f()",
    "fi",
    "}",
    ";",
)


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=24).map("".join))
@example("A=~x")
@example("A=x:~")
@example("A=a\\\n b")
@example("A\\=x")
@example("if false; then\nA=x\nfi")
@example("false && {\nA=x\n}")
@example("f() {\nA=x\n}")
@example("case x in y)\nA=x\n;; esac")
@example("'A'=x")
def test_what_is_read_is_what_a_shell_reads(text: str) -> None:
    """Either a line of the text is given up, or dash has the same values."""
    found = list(assignments(text))
    if any(each.lost for each in found):
        return
    script = f'{text}\nprintf "\\1%s\\0%s" "$A" "$B"'
    done = subprocess.run(
        ["/bin/dash", "-c", script], capture_output=True, env={"PATH": "", "HOME": "/home"}, check=False
    )
    last = {each.name: each.value for each in found}
    assert done.stdout.decode().partition("\1")[2].split("\0") == [last.get("A", ""), last.get("B", "")], done.stderr


@pytest.mark.parametrize("text", SHELL)
def test_assignments_are_read_as_bash_reads_them(text: str) -> None:
    found = {each.name: each.value for each in assignments(text) if not each.lost}
    script = f'{text}\nprintf %s "$A"'
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8"}
    said = subprocess.check_output(["bash", "-c", script], text=True, env=environment)
    if text == "A='' B=":  # two on one line: not a form that these files have, and never half read
        assert found == {}
    else:
        assert found["A"] == said


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("E=x y", "not an assignment"),
        ("A=$(x)", "a shell would have to run it"),
        ("A=`x`", "a shell would have to run it"),
        ("A=1; B=2", "a shell would have to run it"),
        ("A=$HOME/x", "$HOME is not set in this file"),
        ("A=${B:-x}", "a shell would have to run it"),
        ("A=$((1+1))", "a shell would have to run it"),
        ("A='x", "not closed"),
        ("A=x\\", "not closed"),
        (". /etc/x", "not an assignment"),
    ],
)
def test_a_line_that_needs_a_shell_is_lost_and_the_rest_is_read(line: str, why: str) -> None:
    first, broken, last = assignments(f"X=1\n{line}\nY=2" if "\\" not in line else f"X=1\nY=2\n{line}")
    if "\\" in line:
        broken, last = last, broken
    assert (first.value, last.value) == ("1", "2")
    assert broken.value == line
    assert why in broken.lost


@pytest.mark.parametrize(
    ("text", "expected", "lost"),
    [
        # kdump.conf: blanks of any kind, the last of a directive counts, quotes around a value
        ("path\t/data\ncore_collector\t makedumpfile -l -d 17\n", {"targets": ("file:///data",), "dump.level": 17}, 0),
        ("path /a\npath /b\ndefault shell\ndefault halt\n", {"targets": ("file:///b",), "action.failure": "halt"}, 2),
        ('path "/data/x"\nextra_bins "/bin/a /bin/b"\n', {"capture.files": ("/bin/a", "/bin/b")}, 0),
        ("extra_modules a\nextra_modules b\n", {"capture.modules": ("a", "b")}, 0),
        # addresses that need brackets
        ("ssh u@2001:db8::7\n", {"targets": ("ssh://u@[2001:db8::7]/var/crash",)}, 0),
        ("ssh u@fe80::1\npath /x\n", {"targets": ("ssh://u@[fe80::1]/x",)}, 0),
        ("nfs [2001:db8::7]:/x\npath /\n", {"targets": ("nfs://[2001:db8::7]/x",)}, 0),
        ("nfs 2001:db8::7:/x\npath y\n", {"targets": ("nfs://[2001:db8::7]/x/y",)}, 0),
        # words that are no options, pipes, quotes that never end, levels that do not exist
        ("core_collector makedumpfile d 17 -z\n", {"dump.level": 31, "dump.codec": "zstd"}, 2),
        ("core_collector makedumpfile -d 17 | gzip -c\n", {"dump.level": 17}, 1),
        ('core_collector makedumpfile -d 17 "\nraw /dev/sdb1\n', {"targets": ("block:///dev/sdb1",)}, 1),
        ("core_collector makedumpfile -d 99 -z\n", {"dump.level": 31, "dump.codec": "zstd"}, 1),
        ("core_collector makedumpfile -d x\n", {"dump.level": 31}, 1),
        # a cluster's nodes
        (
            "fence_kdump_nodes a b\nfence_kdump_args -p 7411 -f auto -c 0 -i 5 -x\n",
            {"fence.nodes": ("a", "b"), "fence.port": 7411, "fence.interval": 5},
            1,
        ),
        ("fence_kdump_args --ipport=99999 --interval=7\n", {"fence.port": 7410, "fence.interval": 7}, 1),
        # hooks: ours take no arguments
        ("kdump_pre /x --arg\nkdump_post '/y arg'\n", {"hooks.pre": (), "hooks.post": (), "hooks.failed": ()}, 2),
        ("kdump_pre relative\npath /z\n", {"hooks.pre": (), "targets": ("file:///z",)}, 1),
    ],
)
def test_kdump_conf_as_its_own_parser_reads_it(tmp_path: Path, text: str, expected: dict[str, Any], lost: int) -> None:
    found = draft(tmp_path, text)
    for key, wanted in expected.items():
        assert value(found.config(), key) == wanted
    assert len(found.lost) == lost, found.lost


@pytest.mark.parametrize(
    ("text", "expected", "lost"),
    [
        (
            'KDUMP_SAVEDIR="/x"\nKDUMP_KEEP_OLD_DUMPS="-2"\nKDUMP_CPUS="0"\n',
            {"retention.keep": 0, "capture.cpus": 0},
            0,
        ),
        ('KDUMP_SAVEDIR="/x"\nKDUMP_KEEP_OLD_DUMPS="-3"\nKDUMP_CPUS="x"\n', {"targets": ("file:///x",)}, 2),
        ('KDUMP_DUMPLEVEL=""\nKDUMP_DUMPFORMAT="raw"\n', {"dump.level": 0, "dump.codec": "none"}, 0),
        ('KDUMP_DUMPLEVEL="0"\nKDUMP_DUMPFORMAT="ELF"\n', {"dump.level": 0}, 1),
        ('KDUMP_SAVEDIR="ssh://u:hunter2@[::1]:22/x"\nKDUMP_POSTSCRIPT="/p $KDUMP_SAVEDIR"\n', {"hooks.post": ()}, 2),
        ('KDUMP_SAVEDIR="nfs://[::1/x file:///y"\n', {"targets": ("file:///y",)}, 1),
    ],
)
def test_suse_values_of_every_kind(tmp_path: Path, text: str, expected: dict[str, Any], lost: int) -> None:
    found = draft(tmp_path, text, "kdump")
    for key, wanted in expected.items():
        assert value(found.config(), key) == wanted
    assert len(found.lost) == lost, found.lost
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize("number", ["²", "--3", "٣", "9" * 5000, "9" * 19, "3.5"])
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("kdump", "KDUMP_DUMPLEVEL={}"),
        ("kdump", "KDUMP_KEEP_OLD_DUMPS={}"),
        ("kdump", "KDUMP_FREE_DISK_SIZE={}"),
        ("kdump", "KDUMP_CPUS={}"),
        ("kdump-tools", "KDUMP_NUM_DUMPS={}"),
        ("kdump-tools", "KDUMP_SYSCTL=kernel.hung_task_panic={}"),
        ("kdump-tools", "MAKEDUMP_ARGS='-d {}'"),
        ("kdump.conf", "core_collector makedumpfile -l -d {}"),
        ("kdump.conf", "fence_kdump_args -i {}"),
    ],
)
def test_what_is_no_number_in_bounds_is_lost(tmp_path: Path, name: str, line: str, number: str) -> None:
    found = draft(tmp_path, line.format(number) + "\n", name)
    found.config()
    assert len(found.lost) == 1, found.lost


def test_suse_scripts_that_only_tell_the_cluster_become_messages(tmp_path: Path) -> None:
    found = draft(tmp_path, 'KDUMP_SAVEDIR=/x\nKDUMP_POSTSCRIPT="/usr/lib/fence_kdump_send -i 3 n1 n2"\n', "kdump")
    assert found.config().fence.nodes == ("n1", "n2")
    assert found.config().fence.interval == 3
    assert found.lost == []


def test_options_that_the_capture_kernel_must_not_have_are_lost(tmp_path: Path) -> None:
    text = 'USE_KDUMP=1\nA="b=1"\nKDUMP_CMDLINE_APPEND="$A mem=2G debug nmi_watchdog=panic,1 panic=5 nr_cpus=4"\n'
    found = draft(tmp_path, text, "kdump-tools")
    assert found.config().capture.cmdline_add == ("b=1", "panic=5")
    assert found.config().capture.cpus == 4
    assert [why for _origin, why in found.lost if "rejected" in why] == []
    assert len(found.lost) == 4  # mem, debug, nmi_watchdog, and A, which is no setting


def test_no_configuration_of_another_kdump() -> None:
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
