"""Puts secrets into a lab machine, of every kind that a dump is scrubbed of, and says on its console which they are.

A script for the machine's Python, which has little of the standard library; it needs `wg`, `ip` and cryptsetup.
Each line "TRUTH NAME HEX" is a secret; none of them is ever in the machine's memory as hexadecimal but in this
process's and the console's. Children stay: they hold what processes hold.
"""

from __future__ import annotations

import binascii
import ctypes
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
ADD_KEY, KEYCTL = 248, 250  # arch/x86/entry/syscalls/syscall_64.tbl
USER_KEYRING = -4  # include/uapi/linux/keyctl.h: KEY_SPEC_USER_KEYRING
TCP_ULP, SOL_TLS, TLS_TX, TLS_RX = 31, 282, 1, 2  # include/uapi/linux/tcp.h, tls.h
TLS_1_2, AES_GCM_128, AES_GCM_256, CHACHA20_POLY1305 = 0x0303, 51, 52, 54
PLACE = Path("/run/secrets")
FORMAT = ("luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
SMALL = ("--luks2-metadata-size", "16k", "--luks2-keyslots-size", "256k", "--key-size", "512")
CRYPTSETUP, WG, IP = "/usr/sbin/cryptsetup", "/usr/bin/wg", "/usr/sbin/ip"
PASSWORD = "--db-password="
KEPT = "keepme"
GROUP = "kept.slice"


def tell(name: str, secret: bytes) -> bytes:
    """Say what a secret is."""
    with open("/dev/console", "w") as console:
        console.write(f"TRUTH {name} {secret.hex()}\n")
    return secret


def secret_file(name: str, content: bytes) -> str:
    path = PLACE / name
    path.write_bytes(content)
    return str(path)


def run(*command: str) -> str:
    """Run a program, which must succeed; what it says."""
    output = PLACE / "output"
    if not (child := os.fork()):
        os.dup2(os.open(output, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 1)
        os.execvpe(command[0], command, {**os.environ, "DM_DISABLE_UDEV": "1"})
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise OSError(f"{command} failed")
    return output.read_text()


def encrypted_disks() -> None:
    """A device whose key is in its table, and a LUKS2 volume, whose key came from the kernel's keyring."""
    key = secret_file("plain", tell("dm-crypt", os.urandom(64)))
    run(
        CRYPTSETUP, "open", "--type", "plain", "--cipher", "aes-xts-plain64", "--key-size", "512",
        "--hash", "plain", "--key-file", key, "/dev/ram0", "plain",
    )  # fmt: skip
    key = secret_file("volume", tell("luks2", os.urandom(64)))
    phrase = secret_file("phrase", b"correct horse")
    run(CRYPTSETUP, *FORMAT, *SMALL, "--volume-key-file", key, "--key-file", phrase, "/dev/ram1")
    run(CRYPTSETUP, "open", "--key-file", phrase, "/dev/ram1", "luks")


def keys() -> None:
    """Keys of the key retention service: of type user (short, long), logon, and encrypted."""
    for kind, name, size in (("user", "short", 32), ("user", "long", 3000), ("logon", "kdump:logon", 40)):
        payload = tell(f"keyring-{name.rpartition(':')[2]}", os.urandom(size))
        if LIBC.syscall(ADD_KEY, kind.encode(), name.encode(), payload, size, USER_KEYRING) < 0:
            raise OSError(ctypes.get_errno(), f"add_key {kind}")
    master = os.urandom(32)
    for kind, name, payload in (("user", "kmk", master), ("encrypted", "enc", b"new user:kmk 32")):
        if LIBC.syscall(ADD_KEY, kind.encode(), name.encode(), payload, len(payload), USER_KEYRING) < 0:
            raise OSError(ctypes.get_errno(), f"add_key {kind}")
    tell("keyring-master", master)


def wireguard() -> None:
    """Two ends of a tunnel in this machine, which have shaken hands."""
    shared = secret_file("shared", binascii.b2a_base64(tell("wireguard-preshared", os.urandom(32))))
    public = []
    for number in range(2):
        raw = bytearray(os.urandom(32))
        raw[0] &= 248
        raw[31] = raw[31] & 127 | 64
        key = secret_file(f"wg{number}", binascii.b2a_base64(tell(f"wireguard-private{number}", bytes(raw))))
        run(IP, "link", "add", f"wg{number}", "type", "wireguard")
        run(WG, "set", f"wg{number}", "private-key", key, "listen-port", str(51820 + number))
        public.append(run(WG, "show", f"wg{number}", "public-key").strip())
    for number in range(2):
        run(
            WG, "set", f"wg{number}", "peer", public[1 - number], "preshared-key", shared, "allowed-ips", "10.0.0.0/24",
            "endpoint", f"127.0.0.1:{51820 + 1 - number}", "persistent-keepalive", "1",
        )  # fmt: skip
        run(IP, "link", "set", f"wg{number}", "up")
    for _ in range(100):
        if run(WG, "show", "wg0", "latest-handshakes").split()[-1] != "0":
            return
        time.sleep(0.1)
    raise OSError("the WireGuard devices do not shake hands")


def tls() -> list[socket.socket]:
    """Connections whose records the kernel encrypts."""
    listener = socket.create_server(("127.0.0.1", 4433))
    sockets = [listener]
    for name, cipher, iv, size, salt in (
        ("aes128", AES_GCM_128, 8, 16, 4), ("aes256", AES_GCM_256, 8, 32, 4), ("chacha", CHACHA20_POLY1305, 12, 32, 0),
    ):  # fmt: skip
        client = socket.socket()
        client.connect(("127.0.0.1", 4433))
        server, _ = listener.accept()
        key = tell(f"tls-{name}", os.urandom(size))
        info = struct.pack("<HH", TLS_1_2, cipher) + os.urandom(iv) + key + os.urandom(salt) + bytes(8)
        for end, direction in ((client, TLS_TX), (server, TLS_RX)):
            end.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
            end.setsockopt(SOL_TLS, direction, info)
        client.sendall(b"a record")
        sockets += [client, server]
    return sockets


def stay(function: Callable[[], object]) -> None:
    """A child that does what `function` says, keeps what it returns, and then does nothing."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        if os.read(reading, 1) != b"+":
            raise OSError(f"{function.__name__} failed")
        return
    os.close(reading)
    held = function()
    os.write(writing, b"+")
    while held is not None:
        time.sleep(3600)


def kept() -> bytearray:
    """A process of a name, in a control group, with something of its own in its memory."""
    if LIBC.mount(b"none", b"/sys/fs/cgroup", b"cgroup2", 0, None):
        raise OSError(ctypes.get_errno(), "cgroup2")
    group = Path("/sys/fs/cgroup") / GROUP
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    LIBC.prctl(15, KEPT.encode(), 0, 0, 0)  # PR_SET_NAME
    return bytearray(tell("kept", os.urandom(64)) * 2048)


def other() -> bytearray:
    """Another one, of no name that anybody asks for."""
    return bytearray(tell("not-kept", os.urandom(64)) * 2048)


def main() -> None:
    PLACE.mkdir(parents=True)
    encrypted_disks()
    keys()
    run(IP, "link", "set", "lo", "up")
    wireguard()
    stay(tls)
    stay(kept)
    stay(other)
    password = tell("password", os.urandom(12).hex().encode()).decode()
    environment = {**os.environ, "API_TOKEN": tell("token", os.urandom(12).hex().encode()).decode()}
    if not os.fork():
        code = "import time; time.sleep(99999)"
        os.execve(sys.executable, [sys.executable, "-c", code, f"{PASSWORD}{password}", "--user", "plain"], environment)
    (Path("/run/disk") / "cached").write_bytes(tell("page-cache", os.urandom(64)) * 64)
    time.sleep(1)


main()
