"""fuser: who uses a file; net -s, foreach net: the sockets of tasks."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from drgn import FaultError, Object
from drgn.commands import CommandError, argument
from drgn.commands._crash.common import print_task_header
from drgn.helpers.common.format import CellFormat, double_quote_ascii_string, print_table
from drgn.helpers.linux.fs import for_each_file, path_lookup
from drgn.helpers.linux.mm import for_each_vma
from drgn.helpers.linux.net import SOCKET_I
from drgn.helpers.linux.pid import for_each_task

from kdump.bench.commands.base import Session, add, each, extend

if TYPE_CHECKING:
    import argparse

_TYPE_MASK: Final = 0o170000
_SOCKET: Final = 0o140000
# include/linux/socket.h, include/linux/net.h
_FAMILIES: Final = {
    1: "UNIX", 2: "INET", 10: "INET6", 15: "KEY", 16: "NETLINK", 17: "PACKET", 29: "CAN", 31: "BLUETOOTH", 38: "ALG",
    40: "VSOCK", 44: "XDP",
}  # fmt: skip
_TYPES: Final = {1: "STREAM", 2: "DGRAM", 3: "RAW", 4: "RDM", 5: "SEQPACKET", 6: "DCCP", 10: "PACKET"}


@add(
    "fuser",
    "who uses a file",
    argument("file", help="a path, or the hexadecimal address of a struct inode"),
    long="Tasks that have a file as a root, working directory, open file, program or mapping.",
)
def _fuser(session: Session, args: argparse.Namespace) -> None:
    program = session.program
    if args.file.startswith("/"):
        try:
            inode = path_lookup(program, args.file).dentry.d_inode.read_()
        except Exception as error:  # what drgn raises has no kind of its own
            raise CommandError(f"{args.file}: not in the dump's cache of names ({error})") from error
    else:
        inode = Object(program, "struct inode *", session.address(args.file))
    rows: list[tuple[Any, ...]] = [(CellFormat("PID", "^"), CellFormat("TASK", "^"), "COMM", "USAGE")]
    for task in for_each_task(program, idle=True):
        try:
            usage = list(dict.fromkeys(_uses(task, inode)))
        except FaultError as error:
            usage = [f"(not known: {error})"]
        if usage:
            rows.append((CellFormat(task.pid.value_(), ">"), CellFormat(task.value_(), "x"),
                         double_quote_ascii_string(task.comm.string_()), " ".join(usage)))  # fmt: skip
    if len(rows) == 1:
        raise CommandError(f"{args.file}: no task uses it")
    print_table(rows)


def _uses(task: Object, inode: Object) -> Iterator[str]:
    places = task.fs.read_()
    if places:
        if places.root.dentry.d_inode == inode:
            yield "root"
        if places.pwd.dentry.d_inode == inode:
            yield "cwd"
    if task.files:
        for _, file in for_each_file(task):
            if file.f_inode == inode:
                yield "fd"
    mm = task.mm.read_()
    if mm:
        if mm.exe_file and mm.exe_file.f_inode == inode:
            yield "exe"
        for vma in for_each_vma(mm):
            if vma.vm_file and vma.vm_file.f_inode == inode:
                yield "mmap"


@extend(
    "net",
    argument("-s", dest="sockets", action="store_true", help="sockets of a task (of the current context without one)"),
    argument("tasks", metavar="pid|task", nargs="*", type="pid_or_task", help="with -s: whose sockets"),
)
def _net(session: Session, args: argparse.Namespace, theirs: Callable[[], Any]) -> Any:
    return _sockets(session.tasks(args.tasks)) if args.sockets else theirs()


@each("net", argument("-s", dest="sockets", action="store_true", help="sockets, which are shown without it, too"))
def _net_of_each(tasks: Iterable[Object], _: argparse.Namespace) -> None:
    _sockets(tasks)


def _sockets(tasks: Iterable[Object]) -> None:
    for number, task in enumerate(tasks):
        if number:
            print()
        print_task_header(task)
        rows: list[tuple[Any, ...]] = [
            (CellFormat("FD", ">"), CellFormat("SOCKET", "^"), CellFormat("SOCK", "^"), "FAMILY:TYPE", "SOURCE-PORT",
             "DESTINATION-PORT")
        ]  # fmt: skip
        for descriptor, file in for_each_file(task) if task.files else ():
            inode = file.f_inode
            if inode.i_mode & _TYPE_MASK == _SOCKET:
                rows.append((CellFormat(descriptor, ">"), *_socket(SOCKET_I(inode))))
        if len(rows) > 1:
            print_table(rows)
        else:
            print("No open sockets.")


def _socket(socket: Object) -> tuple[Any, ...]:
    sock = socket.sk.read_()
    if not sock:
        return CellFormat(socket.value_(), "x"), CellFormat(0, "x"), "", "", ""
    common = getattr(sock, "__sk_common")
    family, kind = common.skc_family.value_(), socket.type.value_()
    source = target = ""
    if family == 2:
        source = _end(common.skc_rcv_saddr.value_().to_bytes(4, "little"), common.skc_num.value_())
        target = _end(common.skc_daddr.value_().to_bytes(4, "little"), _port(common))
    elif family == 10:
        program = socket.prog_
        source = _end(program.read(common.skc_v6_rcv_saddr.address_of_(), 16), common.skc_num.value_())
        target = _end(program.read(common.skc_v6_daddr.address_of_(), 16), _port(common))
    name = f"{_FAMILIES.get(family, family)}:{_TYPES.get(kind, kind)}"
    return CellFormat(socket.value_(), "x"), CellFormat(sock.value_(), "x"), name, source, target


def _port(common: Object) -> int:
    return int.from_bytes(common.skc_dport.value_().to_bytes(2, "little"), "big")


def _end(address: bytes, port: int) -> str:
    return f"{ipaddress.ip_address(address)}-{port}"
