"""PID 1 of a virtual machine that is an NFS server: the kernel's nfsd with its usual tools, exporting a tmpfs.

When a crash is complete it prints the digest of each file. With "dies" on its command line it powers off as soon as
some of the dump has arrived.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from kdump.capture import system
from kdump.capture.network import bring_up
from kdump.files.digest import sha256

EXPORT = Path("/srv/dumps")
MAC = "52:54:00:77:00:01"
ADDRESS = "192.168.77.1/24"
SOME = 2 << 20  # bytes
MODULES = "/etc/modules.txt"


def main() -> None:
    """Serve until a crash has come, then power off."""
    try:
        start()
        serve()
    except OSError as error:
        print(f"nfs-server: FAILED {error}", flush=True)
    time.sleep(0.3)
    system.reboot(system.POWER_OFF)


def start() -> None:
    """Network, file systems, daemons."""
    for module in Path(MODULES).read_text().split():
        system.load_module(module)
    port: dict[str, object] = {"name": "eth0", "mac": MAC}
    vlan: dict[str, object] = {"name": "eth0.7", "vlan": 7, "links": ["eth0"], "addresses": [ADDRESS]}
    tagged = "vlan" in Path("/proc/cmdline").read_text().split()
    plan = {"interface": [port, vlan] if tagged else [{**port, "addresses": [ADDRESS]}]}
    bring_up(plan, 10, print, print)
    system.mount("nfsd", "/proc/fs/nfsd", "nfsd")
    for place in ("/srv", "/var/lib/nfs"):
        system.mount("tmpfs", place, "tmpfs")
    EXPORT.mkdir()
    for name in ("v4recovery", "sm", "sm.bak"):
        Path("/var/lib/nfs", name).mkdir()
    for name in ("etab", "rmtab"):
        Path("/var/lib/nfs", name).touch()
    Path("/run/rpcbind").mkdir()
    run("/usr/sbin/rpcbind", "-w")
    run("/usr/sbin/exportfs", "-ra")
    # Otherwise nfsd makes clients wait for a minute and a half, in case they had locks before it restarted.
    run("/usr/sbin/rpc.nfsd", "--grace-time", "10", "--lease-time", "10", "2")
    run("/usr/sbin/rpc.mountd")
    print("nfs-server: ready", flush=True)


def serve() -> None:
    """Watch what arrives."""
    dies = "dies" in Path("/proc/cmdline").read_text().split()
    while True:
        time.sleep(0.1)
        if dies and any(path.stat().st_size > SOME for path in EXPORT.glob("*/vmcore.incomplete")):
            print("nfs-server: dies", flush=True)
            system.reboot(system.POWER_OFF)
        for log in EXPORT.glob("*/capture.log"):
            for path in sorted(log.parent.iterdir()):
                digest = sha256()
                digest.update(path.read_bytes())
                print(f"nfs-server: saved {path.name} {digest.hexdigest()}", flush=True)
            print("nfs-server: done", flush=True)
            time.sleep(2)  # the client unmounts
            return


def run(*command: str) -> None:
    """Run a program; its failure is ours."""
    child = os.posix_spawn(command[0], list(command), os.environ)
    _, status = os.waitpid(child, 0)
    if status:
        raise OSError(0, f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
