"""Disk images and the files in them, without root and without mounting: e2fsprogs works on plain files."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kdump.errors import KdumpError


def create(path: Path, size: int) -> Path:
    """A raw disk of `size` bytes, all hole."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def create_ext4(path: Path, size: int, *, uuid: str, label: str = "", content: Path | None = None) -> Path:
    """A raw, sparse disk holding an ext4 file system with the given UUID and, if given, a directory's content."""
    create(path, size)
    command = ["mkfs.ext4", "-q", "-F", "-U", uuid, "-E", "lazy_itable_init=1,root_owner=0:0", "-m", "0"]
    command += ["-L", label] if label else []
    command += ["-d", str(content)] if content else []
    _run(*command, str(path))
    return path


def check(path: Path) -> None:
    """Replay the journal and repair what a power cut leaves, as a boot would. KdumpError if damage remains."""
    result = subprocess.run(["e2fsck", "-fy", path], check=False, capture_output=True, text=True)
    if result.returncode & ~3:  # 1: corrected; 2: reboot if it had been mounted
        raise KdumpError(f"the file system on {path} is damaged", why=result.stdout.strip()[-500:])


def is_clean(path: Path) -> bool:
    """Is the file system consistent as it lies, with nothing to repair (e2fsck -n)?"""
    return subprocess.run(["e2fsck", "-fn", path], check=False, capture_output=True).returncode == 0


def listing(path: Path, directory: str = "/") -> dict[str, int]:
    """Names in a directory of the file system, with size in bytes (0 for directories); empty if it is not there."""
    output = _run("debugfs", "-R", f'ls -p "{directory}"', str(path))
    found = {}
    for line in output.splitlines():
        # /inode/mode/uid/gid/name/size/
        fields = line.split("/")
        if len(fields) >= 8 and fields[5] not in (".", "..") and fields[1] != "0":
            found[fields[5]] = int(fields[6] or 0)
    return found


def read(path: Path, name: str) -> bytes:
    """A small file's bytes."""
    result = subprocess.run(["debugfs", "-R", f'cat "{name}"', path], check=False, capture_output=True)
    errors = [line for line in result.stderr.decode().splitlines() if not line.startswith("debugfs ")]
    if errors:
        raise KdumpError(f"{name} cannot be read from {path}", why=errors[0])
    return result.stdout


def fetch(path: Path, name: str, target: Path) -> Path:
    """Copy the file or directory `name` out of the file system into the directory `target`; returns its new path."""
    target.mkdir(parents=True, exist_ok=True)
    _run("debugfs", "-R", f'rdump "{name}" "{target}"', str(path))
    result = target / name.rstrip("/").rsplit("/", 1)[-1]
    if not result.exists():
        raise KdumpError(f"{name} is not in the file system on {path}")
    return result


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise KdumpError(f"{command[0]} is not installed", remedy="install e2fsprogs") from None
    except subprocess.CalledProcessError as error:
        raise KdumpError(f"{command[0]} failed", why=error.stderr.strip()) from error
