"""Makes what kdump is installed from: sdist, manylinux wheel, .deb, rpm. See packaging/README.md.

`python tools/dist.py [sdist] [wheel] [deb] [rpm] [--release 12] [--arch aarch64] [--output dist]`: without a kind, all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kdump import arch
from kdump.arch import Architecture
from kdump.host.home import STATE

ROOT = Path(__file__).resolve().parent.parent
MACHINES = ("x86_64", "aarch64")
KINDS = ("sdist", "wheel", "deb", "rpm")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_17", "manylinux2014")
HOME = "usr/lib/kdump"
LAUNCHER = """\
#!/usr/lib/kdump/bin/python3
import sys

from kdump.cli.main import entry

sys.exit(entry())
"""
VENV = "home = /usr/bin\ninclude-system-site-packages = false\nversion = {}\n"


@dataclass(frozen=True)
class Release:
    """A distribution's release: the tag in package names, and its Python."""

    tag: str
    python: str


DEBIAN = {"12": Release("deb12", "3.11"), "13": Release("deb13", "3.13")}
FEDORA_PYTHON = "3.13"


def main() -> int:
    """Make the kinds that are asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--release", choices=sorted(DEBIAN), help="Debian release of the .deb (default: all)")
    machines = {each.name: each for each in arch.known() if each.name in MACHINES}
    parser.add_argument(
        "--arch", choices=sorted(machines), default=os.uname().machine, help="architecture (this one's)"
    )
    parser.add_argument("--compression", default="xz", choices=("xz", "none"), help="of the .deb (xz)")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="directory to write to (default: dist)")
    args = parser.parse_args()
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(KINDS)}")
    machine = machines[args.arch]
    args.output.mkdir(parents=True, exist_ok=True)
    for kind in args.kinds or KINDS:
        if kind == "sdist":
            show(sdist(args.output))
        elif kind == "wheel":
            show(wheel(args.output, machine))
        elif kind == "deb":
            for name in [args.release] if args.release else DEBIAN:
                show(deb(args.output, DEBIAN[name], machine, args.compression))
        else:
            show(rpm(args.output, machine))
    return 0


def show(path: Path) -> None:
    """Say what was made."""
    print(f"{path} ({path.stat().st_size / (1 << 20):.1f} MiB)")


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command; its output ends the program if it fails."""
    environment = {**os.environ, **variables, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def made(directory: Path, output: Path, pattern: str) -> Path:
    """Move the one file of a name pattern from a scratch directory to the output."""
    (found,) = directory.glob(pattern)
    return Path(shutil.move(found, output / found.name))


def sdist(output: Path) -> Path:
    """The source distribution."""
    with tempfile.TemporaryDirectory() as scratch:
        run(sys.executable, "-m", "build", "--sdist", "-o", scratch)
        return made(Path(scratch), output, "*.tar.gz")


def wheel(output: Path, machine: Architecture) -> Path:
    """The wheel, with the tag of the oldest C library that it runs on (auditwheel finds it)."""
    foreign = {} if machine is arch.native() else {"KDUMP_MACHINE": machine.name}
    with tempfile.TemporaryDirectory() as scratch:
        run(sys.executable, "-m", "build", "--wheel", "-o", scratch, **foreign)
        (built,) = Path(scratch).glob("*.whl")
        run("auditwheel", "repair", "-w", f"{scratch}/repaired", built)
        return made(Path(scratch) / "repaired", output, "*.whl")


def tree(place: Path, python: str, machine: Architecture) -> str:
    """Lay out the files as they are installed, for a version of Python ("3.11"); returns kdump's version."""
    # There are no wheels of drgn for other architectures; kdump shell says how to get it.
    extra = "[shell]" if machine.name == "x86_64" else ""
    site = place / HOME / f"lib/python{python}/site-packages"
    with tempfile.TemporaryDirectory() as scratch:
        own = wheel(Path(scratch), machine)
        # Without ".post1" and the like: what the wheel's file name has.
        version = own.name.split("-")[1]
        wanted = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
        wanted += [word for each in PLATFORMS for word in ("--platform", f"{each}_{machine.name}")]
        run(sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", site, *wanted, f"{own}{extra}")
    shutil.rmtree(site / "bin", ignore_errors=True)
    for name in ("share/man", "share/bash-completion", "share/zsh", "share/fish"):
        shutil.copytree(site / name, place / "usr" / name)
    shutil.rmtree(site / "share")
    for tests in [each for each in site.rglob("tests") if each.is_dir() and "numpy" in each.parts]:
        shutil.rmtree(tests)
    (place / HOME / "bin").mkdir(parents=True)
    (place / HOME / "bin/python3").symlink_to(f"/usr/bin/python{python}")
    (place / HOME / "pyvenv.cfg").write_text(VENV.format(python))
    launcher = place / "usr/sbin/kdump"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    copyright_file = place / "usr/share/doc/linux-kdump/copyright"
    copyright_file.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "LICENSE", copyright_file)
    return version


def deb(output: Path, release: Release, machine: Architecture, compression: str) -> Path:
    """A binary package for a release of Debian; `compression` as of `dpkg-deb -Z`."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "root"
        version = f"{tree(place, release.python, machine)}-1~{release.tag}"
        major, minor = release.python.split(".")
        after = f"{major}.{int(minor) + 1}"
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) >> 10
        control = place / "DEBIAN"
        control.mkdir()
        (control / "control").write_text(
            "Package: linux-kdump\n"
            f"Version: {version}\n"
            f"Architecture: {machine.debian}\n"
            "Maintainer: kdump maintainers <maintainers@users.noreply.example>\n"
            f"Installed-Size: {size}\n"
            f"Depends: python3 (>= {release.python}~), python3 (<< {after}~), libc6, iproute2, kmod, e2fsprogs\n"
            "Recommends: openssh-client, ca-certificates\n"
            f"Suggests: nfs-common, {machine.emulated.package}, lvm2\n"
            "Section: admin\n"
            "Priority: optional\n"
            "Description: Linux crash dumps end to end\n"
            " kdump reserves the memory, preloads a second kernel, survives the panic, captures\n"
            " the dead kernel's memory, filters and compresses it, stores it, and says what\n"
            " happened with no debug information needed.\n"
            " .\n"
            " Installing it changes nothing: `kdump setup` shows what it would change, and asks.\n"
        )
        for script in sorted((ROOT / "packaging/deb").iterdir()):
            (control / script.name).write_text(script.read_text().replace("@STATE@", str(STATE)))
            (control / script.name).chmod(0o755)
        path = output / f"linux-kdump_{version}_{machine.debian}.deb"
        run("dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", place, path)
        return path


def rpm(output: Path, machine: Architecture) -> Path:
    """A binary package for Fedora and its kin; needs rpmbuild(8), which Debian has in the package rpm."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "root"
        version = tree(place, FEDORA_PYTHON, machine)
        macros = {
            "_topdir": f"{scratch}/rpm",
            "payload": str(place),
            "kdump_version": version,
            "python_version": FEDORA_PYTHON,
            "state": str(STATE),
        }
        defines = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
        run("rpmbuild", "-bb", "--target", machine.name, *defines, ROOT / "packaging/rpm/kdump.spec")
        return made(Path(scratch) / "rpm/RPMS" / machine.name, output, "*.rpm")


if __name__ == "__main__":
    sys.exit(main())
