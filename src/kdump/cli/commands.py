"""The table of commands: one line each, in the order of a dump's life. A command's module is imported only when used.

Each module defines `add_arguments(parser: argparse.ArgumentParser) -> None` and `run(args: argparse.Namespace) -> int`
(the exit status) and a module docstring whose first line is the one-line help and whose rest is the long help.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command: its name, the group it is listed under, the module that implements it, and one line of help."""

    name: str
    group: str
    module: str
    summary: str


TRY = "Try it"
HOST = "The healthy machine"
LOAD = "Put the capture kernel in place"
CAPTURE = "The second kernel"
DUMP = "Read, check and reshape a dump"
REPORT = "What happened"
FLEET = "Many machines"
OTHERS = "In other tools' places"
SHELL = "For the shell"

COMMANDS: tuple[Command, ...] = (
    Command("demo", TRY, "kdump.cli.demo", "crash a real kernel in a virtual machine and show the report"),
    Command("status", HOST, "kdump.cli.status", "is this machine ready to be dumped?"),
    Command("setup", HOST, "kdump.cli.setup", "make this machine ready to be dumped"),
    Command("estimate", HOST, "kdump.cli.estimate", "how much memory to reserve; explain crashkernel="),
    Command("config", HOST, "kdump.cli.config", "show, check or import the configuration"),
    Command("rehearse", HOST, "kdump.cli.rehearse", "crash a virtual twin of this machine"),
    Command("test", HOST, "kdump.cli.test", "crash the real machine, and check what it left"),
    Command("list", HOST, "kdump.cli.list", "the crashes stored on this machine"),
    Command("prune", HOST, "kdump.cli.prune", "delete stored crashes that retention does not keep"),
    Command("propagate", HOST, "kdump.cli.propagate", "put this machine's SSH key on the targets' servers"),
    Command("collect", HOST, "kdump.cli.collect", "fetch the crash from a raw partition"),
    Command("build", LOAD, "kdump.cli.build", "build the capture image for this machine"),
    Command("load", LOAD, "kdump.cli.load", "load the capture kernel and its image"),
    Command("unload", LOAD, "kdump.cli.unload", "take the capture kernel out of the reservation"),
    Command("kexec", LOAD, "kdump.cli.kexec", "kexec(8)'s options: load any kernel, reboot into it"),
    Command("capture", CAPTURE, "kdump.cli.capture", "save the memory of the kernel that crashed"),
    Command("save", DUMP, "kdump.cli.save", "filter and compress a dump"),
    Command("info", DUMP, "kdump.cli.info", "show what a dump holds"),
    Command("dmesg", DUMP, "kdump.cli.dmesg", "print the kernel log out of a dump"),
    Command("verify", DUMP, "kdump.cli.verify", "check that a dump is whole and unchanged"),
    Command("convert", DUMP, "kdump.cli.convert", "change a dump's format; join a split dump"),
    Command("decrypt", DUMP, "kdump.cli.decrypt", "decrypt a dump that was encrypted when it was saved"),
    Command("makedumpfile", DUMP, "kdump.cli.makedumpfile", "makedumpfile's options"),
    Command("report", REPORT, "kdump.cli.report", "say what happened: verdict, stacks, state of the machine"),
    Command("diff", REPORT, "kdump.cli.diff", "compare two crashes: the same one? what moved?"),
    Command("shell", REPORT, "kdump.cli.shell", "explore a dump in an interactive drgn session"),
    Command("serve", REPORT, "kdump.cli.serve", "let GDB look at a dump as at a remote target"),
    Command("debuginfo", REPORT, "kdump.cli.debuginfo", "a vmlinux for crash, gdb and drgn out of a dump alone"),
    Command("mcp", REPORT, "kdump.cli.mcp", "let an AI assistant read crashes, by the Model Context Protocol"),
    Command("fleet", FLEET, "kdump.cli.fleet", "collect and group the crashes of many machines"),
    Command("kdumpctl", OTHERS, "kdump.cli.dropins.kdumpctl", "Fedora's and RHEL's kdumpctl"),
    Command("kdump-config", OTHERS, "kdump.cli.dropins.kdump_config", "Debian's kdump-config"),
    Command("vmcore-dmesg", OTHERS, "kdump.cli.dropins.vmcore_dmesg", "kexec-tools' vmcore-dmesg"),
    Command("man", SHELL, "kdump.cli.man", "manual pages"),
    Command("completion", SHELL, "kdump.cli.completion", "completion for bash, zsh and fish"),
)
