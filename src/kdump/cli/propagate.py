"""Put this machine's SSH key on the servers of its ssh:// targets.

Uses ssh-keygen(1), ssh-keyscan(1) and ssh-copy-id(1). Makes the key that [ssh] identity names if it does not exist,
gets each server's host key, shows its fingerprint before trusting it, and lets ssh-copy-id ask for the server's
password. Options after "--" go to ssh-copy-id.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
from pathlib import Path

from kdump.cli.streams import confirmed
from kdump.errors import KdumpError, reason
from kdump.files.drafts import replace_file
from kdump.host import config, in_force


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--yes", action="store_true", help="trust the servers' host keys without asking")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")
    parser.add_argument("options", nargs="*", metavar="OPTION", help='options for ssh-copy-id, after "--"')


def run(args: argparse.Namespace) -> int:
    """Propagate; returns the exit status."""
    from kdump.host.plan import specification
    from kdump.targets import target_for

    wanted = in_force.load(args.config)
    specs = [specification(url, wanted) for url in wanted.targets if url.startswith("ssh://")]
    if not specs:
        raise KdumpError("there is no ssh target", remedy='add one to targets in kdump.toml: "ssh://user@host/path"')
    identity, known = Path(wanted.ssh.identity), Path(wanted.ssh.known_hosts)
    if not identity.exists():
        identity.parent.mkdir(parents=True, exist_ok=True)
        comment = f"kdump@{socket.gethostname()}"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(identity))
        print(f"made the key {identity}")
    for spec in specs:
        target_for(spec)  # says what is wrong with the URL
        host, port = spec.parts.hostname or "", str(spec.parts.port or 22)
        trust(host, port, known, ask=not args.yes)
        user = f"{spec.parts.username}@{host}" if spec.parts.username else host
        options = ["-p", port, "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", *args.options]
        if subprocess.run(["ssh-copy-id", "-i", f"{identity}.pub", *options, user], check=False).returncode:
            raise KdumpError(
                f"the key could not be installed on {host}", remedy="see the messages of ssh-copy-id above"
            )
        print(f"{user} takes the key {identity}")
    return 0


def trust(host: str, port: str, known: Path, *, ask: bool) -> None:
    """Add a server's host keys to the file of known ones, unless it has some. Raises KdumpError if that is declined."""
    name = host if port == "22" else f"[{host}]:{port}"
    look = ["ssh-keygen", "-F", name, "-f", str(known)]
    if known.exists() and subprocess.run(look, capture_output=True, check=False).stdout:
        return
    keys = _run("ssh-keyscan", "-T", "10", "-p", port, host)
    if not keys.strip():
        raise KdumpError(f"{host} sent no host key", remedy="is an SSH server there, on the port of the target's URL?")
    prints = subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"],
        input=keys, capture_output=True, text=True, errors="backslashreplace", check=False,
    )  # fmt: skip
    print(f"{name} has the host keys\n{prints.stdout.rstrip()}")
    if ask and not confirmed("are these the server's own?"):
        raise KdumpError(f"{host} is not trusted", remedy="compare with `ssh-keygen -lf` of its /etc/ssh/*.pub")
    known.parent.mkdir(parents=True, exist_ok=True)
    before = known.read_bytes() if known.exists() else b""
    replace_file(known, before + keys.encode(), mode=0o644)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="backslashreplace", check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KdumpError(f"{command[0]} did not run", why=reason(error), remedy="apt install openssh-client") from None
    if done.returncode:
        raise KdumpError(f"{command[0]} failed", why=done.stderr.strip())
    return done.stdout
