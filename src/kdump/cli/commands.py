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
LOAD = "The capture kernel"
CAPTURE = "In the capture kernel"
DUMP = "Read, check and convert a dump"
REPORT = "Explain a crash"
FLEET = "Many machines"
OTHERS = "Commands of other tools"
SHELL = "For the shell"

COMMANDS: tuple[Command, ...] = (
    Command("demo", TRY, "kdump.cli.demo", "crash a real kernel in a virtual machine and show the report"),
    Command("status", HOST, "kdump.cli.status", "say whether this machine is ready for a crash"),
    Command("setup", HOST, "kdump.cli.setup", "make this machine ready for a crash"),
    Command("estimate", HOST, "kdump.cli.estimate", "say how much memory to reserve; explain crashkernel="),
    Command("config", HOST, "kdump.cli.config", "show, check or import the configuration"),
    Command("rehearse", HOST, "kdump.cli.rehearse", "crash a virtual twin of this machine"),
    Command("test", HOST, "kdump.cli.test", "crash the real machine and check the dump"),
    Command("list", HOST, "kdump.cli.list", "list the crashes stored on this machine"),
    Command("prune", HOST, "kdump.cli.prune", "delete stored crashes that retention does not keep"),
    Command("propagate", HOST, "kdump.cli.propagate", "put this machine's SSH key on the targets' servers"),
    Command("collect", HOST, "kdump.cli.collect", "fetch the crash from a raw partition"),
    Command("build", LOAD, "kdump.cli.build", "build the capture image for this machine"),
    Command("load", LOAD, "kdump.cli.load", "load the capture kernel and its image"),
    Command("unload", LOAD, "kdump.cli.unload", "remove the capture kernel from the reservation"),
    Command("kexec", LOAD, "kdump.cli.kexec", "load any kernel and reboot into it, with kexec(8)'s options"),
    Command("capture", CAPTURE, "kdump.cli.capture", "save the memory of the kernel that crashed"),
    Command("save", DUMP, "kdump.cli.save", "filter and compress a dump"),
    Command("info", DUMP, "kdump.cli.info", "show the contents of a dump"),
    Command("dmesg", DUMP, "kdump.cli.dmesg", "print the kernel log of a dump"),
    Command("verify", DUMP, "kdump.cli.verify", "check that a dump is complete and unchanged"),
    Command("convert", DUMP, "kdump.cli.convert", "change the format of a dump; join a split dump"),
    Command("decrypt", DUMP, "kdump.cli.decrypt", "decrypt a dump"),
    Command("makedumpfile", DUMP, "kdump.cli.makedumpfile", "filter a dump with makedumpfile's options"),
    Command("report", REPORT, "kdump.cli.report", "say what happened: verdict, stacks, state of the machine"),
    Command("diff", REPORT, "kdump.cli.diff", "compare two crashes"),
    Command("shell", REPORT, "kdump.cli.shell", "explore a dump in an interactive drgn session"),
    Command("serve", REPORT, "kdump.cli.serve", "serve a dump to GDB as a remote target"),
    Command("debuginfo", REPORT, "kdump.cli.debuginfo", "make a vmlinux for crash, gdb and drgn from a dump alone"),
    Command("export", REPORT, "kdump.cli.export", "write symbols, memory or files for Volatility and other tools"),
    Command("mcp", REPORT, "kdump.cli.mcp", "let an AI assistant read crashes (Model Context Protocol)"),
    Command("fleet", FLEET, "kdump.cli.fleet", "collect and group the crashes of many machines"),
    Command("kdumpctl", OTHERS, "kdump.cli.dropins.kdumpctl", "the verbs of Fedora's and RHEL's kdumpctl"),
    Command("kdump-config", OTHERS, "kdump.cli.dropins.kdump_config", "the verbs of Debian's kdump-config"),
    Command("vmcore-dmesg", OTHERS, "kdump.cli.dropins.vmcore_dmesg", "the options of kexec-tools' vmcore-dmesg"),
    Command("man", SHELL, "kdump.cli.man", "print or install the manual pages"),
    Command("completion", SHELL, "kdump.cli.completion", "print the completion for bash, zsh or fish"),
)
