"""Twenty more files of each distribution: what is carried over, and how many lines are lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdump.host.importers.detect import read

Case = tuple[str, dict[str, Any], int]  # contents, our keys and values, number of lines that are lost

FEDORA: list[Case] = [
    ("ssh user@host\nssh user@other\n", {"targets": ("ssh://user@host/var/crash", "ssh://user@other/var/crash")}, 0),
    ("path /a b\n", {"targets": ("file:///a b",)}, 0),
    ("nfs host:/x\nraw /dev/sda1\n", {"targets": ("nfs://host/x/var/crash", "block:///dev/sda1")}, 0),
    (
        "core_collector makedumpfile -F -l --message-level 7 -d 31\nssh a@b\n",
        {"dump.codec": "lzo", "dump.level": 31, "targets": ("ssh://a@b/var/crash",)},
        0,
    ),
    ("core_collector scp\nssh a@b\n", {"dump.level": 0, "targets": ("ssh://a@b/var/crash",)}, 0),
    (
        "core_collector makedumpfile -l --message-level=7 -d31,17\n",
        {"dump.codec": "lzo", "dump.level": 31, "targets": ("file:///var/crash",)},
        1,
    ),
    (
        "core_collector makedumpfile -ld31\n",
        {"dump.codec": "lzo", "dump.level": 31, "targets": ("file:///var/crash",)},
        0,
    ),
    (
        "core_collector /usr/sbin/makedumpfile --message-level 1 -d 31 -z --num-threads=4\n",
        {"dump.level": 31, "dump.codec": "zstd", "targets": ("file:///var/crash",)},
        0,
    ),
    (
        "final_action reboot\nfailure_action reboot\n",
        {"action.success": "reboot", "action.failure": "reboot", "targets": ("file:///var/crash",)},
        0,
    ),
    ("final_action shell\n", {"action.success": "shell", "targets": ("file:///var/crash",)}, 0),
    (
        'kdump_post "/usr/bin/x"\n',
        {"hooks.post": ("/usr/bin/x",), "hooks.failed": ("/usr/bin/x",), "targets": ("file:///var/crash",)},
        0,
    ),
    (
        "extra_bins /bin/a  /bin/b\nextra_modules  'a b'\n",
        {"capture.files": ("/bin/a", "/bin/b"), "capture.modules": ("a", "b"), "targets": ("file:///var/crash",)},
        0,
    ),
    ("nfs4 host:/x\n", {"targets": ("nfs://host/x/var/crash",)}, 0),
    ("net host:/x\n", {"targets": ("nfs://host/x/var/crash",)}, 0),
    ("net user@host\n", {"targets": ("ssh://user@host/var/crash",)}, 0),
    ("xfs /dev/mapper/vg-lv\n", {"targets": ("file:///var/crash",)}, 1),
    ("ext4 LABEL=x\n", {"targets": ("fs://LABEL=x/var/crash",)}, 0),
    ("virtiofs myfs\n", {"targets": ("file:///var/crash",)}, 1),
    ("sshkey ~/.ssh/id\nssh u@h\n", {"targets": ("ssh://u@h/var/crash",)}, 1),
    ('force_rebuild 1\ndracut_args --add-drivers "a b"\n', {"targets": ("file:///var/crash",)}, 2),
    (
        "fence_kdump_args -p 7410\nfence_kdump_nodes node1  node2   # c\n",
        {"fence.port": 7410, "fence.nodes": ("node1", "node2"), "targets": ("file:///var/crash",)},
        0,
    ),
    ("path\n", {}, 1),
    ("path /var/crash/\n", {"targets": ("file:///var/crash/",)}, 0),
    ("default reboot\nfailure_action halt\n", {"action.failure": "halt", "targets": ("file:///var/crash",)}, 0),
    ("auto_reset_crashkernel yes\n", {"targets": ("file:///var/crash",)}, 1),
    ("ssh u@h\npath var/crash\n", {"targets": ("ssh://u@h/var/crash",)}, 0),
    ("NFS host:/x\n", {"targets": ("file:///var/crash",)}, 1),
    ("PATH /x\n", {"targets": ("file:///var/crash",)}, 1),
    ("\ufeffpath /x\n", {"targets": ("file:///var/crash",)}, 1),
    ("path /x\r\nssh a@b\r\n", {"targets": ("ssh://a@b/x",)}, 0),
    ('ext4 UUID="1-2"\npath /d\n', {"targets": ("fs://UUID=1-2/d",)}, 0),
    ("ext4 LABEL=a b\n", {"targets": ("fs://LABEL=a%20b/var/crash",)}, 0),
    (
        "core_collector makedumpfile -l -d 17 | gzip\n",
        {"dump.codec": "lzo", "dump.level": 17, "targets": ("file:///var/crash",)},
        1,
    ),
]

DEBIAN: list[Case] = [
    ("USE_KDUMP=1\nNFS=host:/x\nSSH=a@b\n", {"targets": ("nfs://host/x", "ssh://a@b/var/crash")}, 0),
    ("USE_KDUMP=1\nSSH=b\nKDUMP_COREDIR=/srv\n", {"targets": ("ssh://b/srv",)}, 0),
    (
        'USE_KDUMP=1\nMAKEDUMP_ARGS="-c -d 31,17 --dump-dmesg"\n',
        {"dump.codec": "zlib", "dump.level": 31, "targets": ("file:///var/crash",)},
        2,
    ),
    (
        'USE_KDUMP=1\nMAKEDUMP_ARGS="-d31 -l"\nKDUMP_FAIL_CMD="/sbin/reboot -f"\n',
        {"dump.level": 31, "dump.codec": "lzo", "action.failure": "reboot", "targets": ("file:///var/crash",)},
        0,
    ),
    (
        "USE_KDUMP=1\nKDUMP_KERNEL=/boot/vmlinuz-x\nKDUMP_INITRD=/boot/initrd.img-x\n",
        {"targets": ("file:///var/crash",)},
        2,
    ),
    ('USE_KDUMP=1\nKDUMP_CMDLINE="root=/dev/sda1 irqpoll"\n', {"targets": ("file:///var/crash",)}, 1),
    ('USE_KDUMP=1\nKDUMP_KEXEC_ARGS="--elf64-core-headers"\n', {"targets": ("file:///var/crash",)}, 1),
    ("USE_KDUMP=1\nHOSTTAG=ip\n", {"targets": ("file:///var/crash",)}, 1),
    ("USE_KDUMP=1\nKDUMP_NUM_DUMPS=0\n", {"retention.keep": 0, "targets": ("file:///var/crash",)}, 0),
    ("USE_KDUMP=1\nKDUMP_NUM_DUMPS=abc\n", {"targets": ("file:///var/crash",)}, 1),
    (
        'USE_KDUMP=1\nKDUMP_SYSCTL="kernel.panic_on_oops=1\nkernel.softlockup_panic = 1"\n',
        {"panic.panic_on_oops": 1, "targets": ("file:///var/crash",)},
        3,
    ),
    ("USE_KDUMP='1'\nKDUMP_COREDIR=\"/a dir\"\n", {"targets": ("file:///a dir",)}, 0),
    ('USE_KDUMP=1\nNFS="host:/x" # my nas\n', {"targets": ("nfs://host/x",)}, 0),
    ("USE_KDUMP=1\nNFS=10.0.0.1:/\n", {"targets": ("nfs://10.0.0.1",)}, 0),
    ("USE_KDUMP=1\nFTP=ftp.x:/y\nFTP_PORT=21\n", {"targets": ("file:///var/crash",)}, 2),
    ("USE_KDUMP=yes\n", {"targets": ("file:///var/crash",)}, 1),
    (
        'USE_KDUMP=1\nKDUMP_CMDLINE_APPEND="reset_devices nr_cpus=1 irqpoll usbcore.nousb"\n',
        {"capture.cmdline_add": ("usbcore.nousb",), "targets": ("file:///var/crash",)},
        0,
    ),
    ('USE_KDUMP=1\nKDUMP_CMDLINE_APPEND="$KDUMP_CMDLINE_APPEND x=1"\n', {"targets": ("file:///var/crash",)}, 1),
    ("USE_KDUMP=1\nif [ -x /bin/y ]; then\nKDUMP_COREDIR=/z\nfi\n", {"targets": ("file:///var/crash",)}, 3),
    ('USE_KDUMP=1\nSSH="u@h"\nSSH_KEY="~/.ssh/x"\n', {"targets": ("ssh://u@h/var/crash",)}, 1),
]

SUSE: list[Case] = [
    ('KDUMP_SAVEDIR="file:///a file:///b"\n', {"targets": ("file:///a", "file:///b")}, 0),
    ('KDUMP_SAVEDIR="/var/crash"\nKDUMP_DUMPLEVEL=31\n', {"targets": ("file:///var/crash",), "dump.level": 31}, 0),
    ('KDUMP_SAVEDIR="nfs://server/export/path"\n', {"targets": ("nfs://server/export/path",)}, 0),
    ('KDUMP_SAVEDIR="cifs://u:p@h/share/dir"\n', {"targets": ("file:///var/crash",)}, 1),
    ('KDUMP_SAVEDIR="sftp://u@h:2222/x"\n', {"targets": ("ssh://u@h:2222/x",)}, 0),
    ('KDUMP_SAVEDIR="ssh://u@h"\n', {"targets": ("ssh://u@h",)}, 0),
    ('KDUMP_SAVEDIR="nfs://h:/x"\n', {"targets": ("nfs://h:/x",)}, 0),
    ('KDUMP_SAVEDIR=""\nKDUMP_DUMPLEVEL="15"\n', {"dump.level": 15, "targets": ("file:///var/crash",)}, 0),
    (
        'KDUMP_SAVEDIR=/x\nKDUMP_DUMPFORMAT="lzo"\nMAKEDUMPFILE_OPTIONS="--num-threads 2"\n',
        {"targets": ("file:///x",), "dump.codec": "lzo"},
        0,
    ),
    ('KDUMP_SAVEDIR=/x\nKDUMP_NETCONFIG="eth0:static:192.168.1.2/24"\n', {"targets": ("file:///x",)}, 1),
    ('KDUMP_SAVEDIR=/x\nKDUMP_NETCONFIG="eth0:dhcp"\n', {"targets": ("file:///x",)}, 1),
    ("KDUMP_SAVEDIR=/x\nKDUMP_CPUS=32\n", {"targets": ("file:///x",), "capture.cpus": 32}, 0),
    (
        'KDUMP_SAVEDIR=/x\nKDUMP_SSH_IDENTITY="/root/.ssh/a /root/.ssh/b"\n',
        {"targets": ("file:///x",), "ssh.identity": "/root/.ssh/a"},
        1,
    ),
    ('KDUMP_SAVEDIR=/x\nKDUMP_NOTIFICATION_TO="a@b c@d"\n', {"targets": ("file:///x",), "notify.mail": "a@b, c@d"}, 0),
    ('KDUMP_SAVEDIR=/x\nKDUMP_PRESCRIPT="/a /b"\n', {"targets": ("file:///x",)}, 1),
    (
        'KDUMP_SAVEDIR=/x\nKDUMP_REQUIRED_PROGRAMS=" /bin/a   /bin/b "\n',
        {"targets": ("file:///x",), "capture.files": ("/bin/a", "/bin/b")},
        0,
    ),
    (
        'KDUMP_SAVEDIR=/x\nKDUMP_COMMANDLINE_APPEND="disable_cpu_apicid=0 panic=1"\n',
        {"targets": ("file:///x",), "capture.cmdline_add": ("disable_cpu_apicid=0", "panic=1")},
        0,
    ),
    ('KDUMP_SAVEDIR=/x\nKDUMP_FREE_DISK_SIZE="64M"\n', {"targets": ("file:///x",), "retention.min_free": "64M"}, 0),
    (
        'KDUMP_SAVEDIR=/x\nKDUMP_IMMEDIATE_REBOOT="TRUE"\nKDUMP_CONTINUE_ON_ERROR="false"\n',
        {"targets": ("file:///x",), "action.success": "reboot", "action.failure": "shell"},
        0,
    ),
    ('KDUMP_SAVEDIR=/x\nKDUMP_FADUMP="yes"\n', {"targets": ("file:///x",)}, 1),
    ('KDUMP_SAVEDIR=/x\nKDUMP_SSH_IDENTITY=" "\nKDUMP_PRESCRIPT=" "\n', {"targets": ("file:///x",)}, 0),
]


def values(tables: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; lists as tuples."""
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("name", "case"),
    [
        *(("kdump.conf", case) for case in FEDORA),
        *(("kdump-tools", case) for case in DEBIAN),
        *(("kdump", case) for case in SUSE),
    ],
)
def test_a_file_of_another_kdump(name: str, case: Case, tmp_path: Path) -> None:
    text, expected, lost = case
    path = tmp_path / name
    path.write_text(text, newline="")
    found = read([path])
    assert dict(values(found.values)) == expected
    assert len(found.lost) == lost, found.lost
    found.config()
