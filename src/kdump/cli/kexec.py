"""Load a kernel and reboot into it, with the options of kexec(8).

Without -l, -p, -e, -u, -f or -S the command loads the kernel and shuts the system down into it (systemctl kexec
under systemd, otherwise shutdown -r now). -e starts the loaded kernel at once, without a shutdown. The command line
is that of --append or --command-line, after the running kernel's with --reuse-cmdline. For a capture kernel use
`kdump load`, which makes a suitable command line.

Exit status: 0 done, 1 failed, 2 wrong usage. -S exits with 1 if a kernel of the kind (-l: for a reboot, otherwise
for a panic) is loaded and with 0 if not, like kexec(8). In kexec(8) a failed load exits with 255, wrong usage with
1.

Other differences from kexec(8): Options cannot be abbreviated. The default is -a (Debian 12: -c): the segment method
for a panic, the file method for a reboot, and the other method if the kernel or the machine requires it. -u and -p
may come in any order. kdump finds the format of the kernel by its content; -t only checks it. It refuses multiboot,
16-bit and 32-bit entry points, jumping back, Xen's live update, device trees and 32-bit core headers. --mem-min and
--mem-max choose the segment method. --hotplug is always on if the kernel supports it. With the segment method,
purgatory checks every segment unless -i is given; a damaged segment resets the machine after the seconds in panic=.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kdump.cli import values
from kdump.errors import UsageError
from kdump.kexec import load as loading
from kdump.kexec.sources import AUTO, FILE, SEGMENTS, Sources, read_sources
from kdump.kexec.state import read_state
from kdump.kexec.wishes import Wishes

REFUSED = (
    "--reuseinitrd", "--load-preserve-context", "--load-jump-back-helper", "--load-live-update", "--exec-live-update",
    "--real-mode", "--entry-32bit", "--args-elf", "--args-none", "--pass-memmap-cmdline", "--elf32-core-headers",
)  # fmt: skip
ANYWAY = ("--console-vga", "--reset-vga", "--reuse-video-type", "--args-linux", "--hotplug", "--elf64-core-headers")
REFUSED_WITH_VALUE = ("--entry", "--module", "--dtb")
ACTIONS = (
    ("-l", "--load", "load a kernel for a reboot"),
    ("-e", "--exec", "reboot into the loaded kernel now"),
    ("-f", "--force", "load, and reboot into the kernel now"),
    ("-u", "--unload", "unload the kernel for a reboot (with -p: for a panic)"),
    ("", "--print-ckr-size", "print the size of the reservation in bytes"),
    ("-v", "--version", "print the version"),
)
TYPES = {
    "bzImage": "bzImage",
    "bzImage64": "bzImage",
    "elf-x86_64": "vmlinux",
    "elf-x86": "vmlinux",
}
STRIPPED = {True: ("crashkernel", "BOOT_IMAGE"), False: ("BOOT_IMAGE",)}  # by --reuse-cmdline, for panic or reboot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """kexec(8)'s options."""
    action = parser.add_argument_group("actions (the last one counts)")
    for short, name, told in ACTIONS:
        action.add_argument(*filter(None, (short, name)), action="store_const", dest="action", const=name, help=told)
    action.add_argument("-S", "--status", action="store_true", help="exit with 1 if a kernel is loaded, 0 if not")
    add = parser.add_argument
    add("kernel", nargs="?", type=Path, help="bzImage, vmlinux or unified kernel image")
    add("-p", "--load-panic", action="store_true", help="load the kernel for the next panic; also with -u and -S")
    add("--initrd", "--ramdisk", type=Path, metavar="FILE", help="initial RAM disk")
    add("--append", "--command-line", dest="append", default="", metavar="TEXT", help="kernel command line")
    add("--reuse-cmdline", action="store_true", help="put the running kernel's command line before it")
    add(
        "-s",
        "--kexec-file-syscall",
        action="store_const",
        dest="method",
        const="file",
        help="use only kexec_file_load(2)",
    )
    add("-c", "--kexec-syscall", action="store_const", dest="method", const="segments", help="use only kexec_load(2)")
    add(
        "-a",
        "--kexec-syscall-auto",
        action="store_const",
        dest="method",
        const="auto",
        help="choose the system call (default)",
    )
    add("--mem-min", type=values.address, metavar="ADDRESS", help="lowest address to load to")
    add("--mem-max", type=values.address, metavar="ADDRESS", help="highest address to load to")
    add("-t", "--type", choices=TYPES, help="required format of the kernel")
    add("-i", "--no-checks", action="store_true", help="do not check the segments before the start")
    add("-x", "--no-ifdown", action="store_true", help="leave network interfaces up")
    add("-y", "--no-sync", action="store_true", help="do not sync file systems")
    add("-d", "--debug", action="store_true", help="print the segments")
    add("--console-serial", action="store_true", help="report damaged segments on the serial port")
    add("--serial", default="ttyS0", metavar="PORT", help="ttyS0 to ttyS3, or an I/O port (default: ttyS0)")
    for name in ANYWAY:
        add(name, action="store_true", help=argparse.SUPPRESS)
    add("--serial-baud", help=argparse.SUPPRESS)  # the rate stays what the running kernel set
    add("--noefi", action="store_true", help="start the new kernel without EFI")
    for name in REFUSED:
        add(name, action="append_const", dest="refused", const=name, help=argparse.SUPPRESS)
    for name in REFUSED_WITH_VALUE:
        add(name, action=_Refused, dest="refused", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Do what the options say."""
    if args.refused:
        raise UsageError(f"{args.refused[0]} is not supported")
    panic: bool = args.load_panic
    if args.status:
        state = read_state()
        return int(state.loaded if args.action == "--load" and not panic else state.crash_loaded)
    if args.action == "--version":
        from kdump import __version__

        print(f"kexec (kdump {__version__})")
    elif args.action == "--print-ckr-size":
        print(read_state().reserved)
    elif args.action == "--unload":
        if panic:
            loading.unload()
        else:
            loading.remove(panic=False)
    else:
        if args.action != "--exec":
            _load(args, panic)
        if args.action in ("--exec", "--force"):
            from kdump.kexec import reboot

            reboot.reboot_now(sync=not args.no_sync, ifdown=not args.no_ifdown)
        if args.action is None and not panic:
            from kdump.kexec import reboot

            reboot.shut_down_and_reboot()
    return 0


def _load(args: argparse.Namespace, panic: bool) -> None:
    if args.kernel is None:
        raise UsageError("no kernel is named", remedy="kdump kexec -l KERNEL")
    bounded = args.mem_min is not None or args.mem_max is not None
    method = args.method or (SEGMENTS if bounded else AUTO)
    if bounded and method == FILE:
        raise UsageError("--mem-min and --mem-max need the segment method", remedy="leave -s out, or use -c")
    wishes = Wishes(
        low=args.mem_min,
        high=None if args.mem_max is None else args.mem_max + 1,
        check=not args.no_checks,
        serial_port=_serial(args.serial) if args.console_serial else None,
    )
    sources = read_sources(args.kernel, args.initrd)
    if args.type and TYPES[args.type] not in sources.kernel.kind:
        raise UsageError(f"{args.kernel} is a {sources.kernel.kind}, not a {args.type}")
    cmdline = _command_line(args, panic) or (sources.kernel.cmdline or "")
    if args.debug:
        _debug(sources, cmdline, method, panic)
    if panic:
        loading.load(args.kernel, args.initrd, cmdline, method=method, wishes=wishes)
    else:
        loading.load_for_reboot(args.kernel, args.initrd, cmdline, method=method, wishes=wishes)


def _command_line(args: argparse.Namespace, panic: bool) -> str:
    options = []
    if args.reuse_cmdline:
        from kdump.kexec.cmdline import option_name, running_command_line, split

        options += [each for each in split(running_command_line()) if option_name(each) not in STRIPPED[panic]]
    options += [args.append] if args.append else []
    options += ["noefi"] if args.noefi else []
    return " ".join(options)


def _debug(sources: Sources, cmdline: str, method: str, panic: bool) -> None:
    from kdump.kexec import explain
    from kdump.kexec.cmdline import CommandLine

    kernel = sources.kernel
    print(f"{kernel.kind} {kernel.release}, {kernel.span:#x} bytes at a multiple of {kernel.align:#x}", file=sys.stderr)
    if panic:
        told = explain.explain(sources, CommandLine(cmdline, ()), wanted=method, state=read_state())
        print(explain.to_text(told), file=sys.stderr)


def _serial(text: str) -> int:
    from kdump.kexec.purgatory import SERIAL_PORTS

    if text in SERIAL_PORTS:
        return SERIAL_PORTS[text]
    try:
        port = int(text, 0) if len(text) <= 8 else -1
    except ValueError:
        port = -1
    if not 0 < port <= 0xFFFF:
        raise UsageError(f"--serial={text}: not a serial port", remedy="ttyS0 to ttyS3, or an I/O port up to 0xffff")
    return port


class _Refused(argparse.Action):
    """An option with a value that is refused by name."""

    def __call__(self, *arguments: object) -> None:
        namespace, name = arguments[1], arguments[3]
        setattr(namespace, self.dest, [name])
