"""Load the capture kernel and its image into the reservation.

By default this is the image that `kdump build` made, with its kernel and a command line made from the running
kernel's and kdump.toml. The kernel may be a bzImage, a vmlinux (also .gz, .zst) or a unified kernel image. --explain
shows what would be loaded, where and why, and loads nothing. --if-changed does nothing if kernel, image, command
line and memory map are those that are loaded.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from kdump.cli import values
from kdump.errors import KdumpError, UsageError
from kdump.kexec.cmdline import CommandLine, Decision, capture_command_line, running_command_line, split
from kdump.kexec.load import check_ready, load
from kdump.kexec.sources import METHODS, check_sources, read_sources
from kdump.units import duration_text, size_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `kdump load`."""
    parser.add_argument(
        "--kernel", type=Path, help="kernel to load (default: that of the built image, or else the running one)"
    )
    parser.add_argument("--image", type=Path, help="capture image, an initramfs (default: the one `kdump build` made)")
    parser.add_argument("--command-line", metavar="TEXT", help="complete command line, instead of the default")
    parser.add_argument("--append", default="", metavar="OPTIONS", help="options to add to the command line")
    parser.add_argument(
        "--cpus",
        type=values.number(1, values.MOST_CPUS),
        help="CPUs of the capture kernel (default: 1, or as configured)",
    )
    parser.add_argument("--method", choices=METHODS, default="auto", help="system call to load with (default: auto)")
    parser.add_argument("--if-changed", action="store_true", help="do nothing if the same is already loaded")
    parser.add_argument("--explain", action="store_true", help="show what would be loaded and why; load nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Load, or explain."""
    if args.explain and args.if_changed:
        raise UsageError("--explain loads nothing: --if-changed does not go with it")
    if args.command_line is not None and (args.append or args.cpus is not None):
        raise UsageError(
            "--command-line is the whole command line: --append and --cpus do not go with it",
            remedy="put what they add into it, or leave it out",
        )
    kernel, image = _sources(args)
    line = _command_line(args)
    if args.explain:
        return _explain(kernel, image, line, args)
    result = load(kernel, image, line.text, method=args.method, if_changed=args.if_changed)
    if args.json:
        print(json.dumps(result._asdict(), indent=1))
    elif not result.changed and args.if_changed:
        print("nothing changed: what is loaded stays")
    else:
        image_text = f" and {image} ({size_text(result.initrd_size)})" if image else ""
        print(f"loaded {kernel} ({size_text(result.kernel_size)}){image_text}")
        print(f"by the {result.method} method in {duration_text(result.seconds)}")
    return 0


def _sources(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """Kernel and image asked for, or those that were built for the running kernel."""
    release = os.uname().release
    if args.image:
        return args.kernel or Path(f"/boot/vmlinuz-{release}"), args.image
    if args.kernel and read_sources(args.kernel, None).initrd is not None:
        return args.kernel, None
    from kdump.host import built

    record = built.recorded(release)
    if record is None:
        raise KdumpError(
            f"no capture image is built for {release}", remedy="run `kdump build`, or name an image with --image"
        )
    if not args.kernel:
        built.check(record)
    return args.kernel or Path(record.vmlinuz), Path(record.image)


def _command_line(args: argparse.Namespace) -> CommandLine:
    if args.command_line is not None:
        return CommandLine(args.command_line, (Decision(args.command_line, "appended", "given whole"),))
    if args.image:
        return capture_command_line(running_command_line(), append=args.append, cpus=args.cpus or 1)
    from dataclasses import replace

    from kdump.host import built, in_force

    wanted = in_force.load()
    added = (*wanted.capture.cmdline_add, *split(args.append))
    capture = replace(wanted.capture, cmdline_add=added, cpus=args.cpus or wanted.capture.cpus)
    return built.command_line(replace(wanted, capture=capture))


def _explain(kernel: Path, image: Path | None, line: CommandLine, args: argparse.Namespace) -> int:
    from kdump.kexec import explain

    state = check_ready()
    sources = read_sources(kernel, image)
    check_sources(sources, line.text)
    explanation = explain.explain(sources, line, wanted=args.method, state=state)
    print(json.dumps(explain.to_json(explanation), indent=1) if args.json else explain.to_text(explanation))
    return 0
