"""Collect the crashes of many machines: reports, groups, dumps on demand.

`kdump fleet serve` runs a collector, its pages and a worker in one process. By default all data is in the directory
--data. `kdump fleet worker` adds workers if the database is PostgreSQL. `kdump fleet token` makes the token of a
host, `kdump fleet user` the account of a person. docs/fleet.md describes the rest.

Needs an extra: pip install 'linux-kdump[fleet]'.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdump.cli import values
from kdump.display import shown
from kdump.errors import KdumpError
from kdump.extras import extra

if TYPE_CHECKING:
    from kdump.fleet.service import Options, Service

PORT = 8765
DAYS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = actions.add_parser("serve", help="run a collector, its pages and a worker on one port")
    _place(serve)
    serve.add_argument(
        "--listen", type=values.place("127.0.0.1"), default=("127.0.0.1", PORT), metavar="HOST:PORT",
        help=f"default: 127.0.0.1:{PORT}",
    )  # fmt: skip
    serve.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate, PEM; with --tls-key: https")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    serve.add_argument(
        "--client-ca", type=Path, metavar="FILE", help="accept only hosts with a certificate that this CA signed"
    )
    serve.add_argument(
        "--watch", action="append", default=[], metavar="URL",
        help="take crashes from a bucket that is the s3:// target of hosts: s3://bucket/prefix?endpoint=… (repeatable)",
    )  # fmt: skip
    serve.add_argument(
        "--oidc", type=Path, metavar="FILE", help="let people sign in at the OpenID provider that this file describes"
    )
    serve.add_argument(
        "--page", type=values.web_address, metavar="URL",
        help="address of the pages for people, used in alerts",
    )  # fmt: skip
    serve.add_argument(
        "--no-worker", action="store_true", help="run no worker here; `kdump fleet worker` does the work"
    )
    serve.add_argument(
        "--open-to", default="none", choices=("none", "metadata", "report", "dump", "engineer", "admin"),
        help="role of people who are not signed in (default: %(default)s)",
    )  # fmt: skip
    worker = actions.add_parser("worker", help="run a worker for a fleet with a PostgreSQL database")
    _place(worker)
    demo = actions.add_parser("demo", help="crash three virtual machines, which report to a collector here")
    demo.add_argument("--kernel", default="6.1", metavar="WHICH", help="as for `kdump demo` (default: %(default)s)")
    demo.add_argument(
        "--output", type=Path, default=Path("kdump-fleet-demo"), metavar="DIR", help="default: %(default)s"
    )
    demo.add_argument("--look", action="store_true", help="then serve the pages until interrupted")
    known = actions.add_parser("known", help="build the index of known upstream faults, or look a crash up")
    _place(known)
    known.add_argument(
        "--build",
        type=Path,
        metavar="DIR",
        help="build the index from a checkout of the kernel's CVE records (vulns.git)",
    )
    known.add_argument(
        "--commits", type=Path, metavar="DIR", help="also take commit messages of a kernel's git tree (linux-stable)"
    )
    known.add_argument(
        "--reports", type=Path, action="append", default=[], metavar="PATH",
        help="also take syzbot's mails: a mailbox, a mail or a directory of these (repeatable)",
    )  # fmt: skip
    known.add_argument(
        "--index",
        type=Path,
        metavar="FILE",
        help="the index (default: known.json.zst in --data, or else the index of `kdump report`)",
    )
    known.add_argument("log", nargs="?", type=Path, help="a kernel log, to look its crash up")
    bring = actions.add_parser("import", help="import crashes from directories, of any kdump, and kernel logs")
    _place(bring)
    bring.add_argument("paths", nargs="+", type=Path, help="directories of crashes, or files with kernel logs")
    bring.add_argument("--host", default="", help="host of the crashes that name none")
    inventory = actions.add_parser(
        "inventory", help="send the inventory of this machine to the collector; for a daily timer"
    )
    inventory.add_argument("--config", type=Path, metavar="FILE", help="kdump.toml to read")
    inventory.add_argument("--print", action="store_true", help="print the inventory instead of sending it")
    token = actions.add_parser("token", help="print a token, for a host to write or for a program to read")
    _place(token)
    token.add_argument("host", nargs="?", default="*", help="host name (default: a token for any host)")
    token.add_argument(
        "--reader", choices=("metadata", "report", "dump"), metavar="ROLE",
        help="make a token for a program that may read what ROLE may: metadata, report or dump; HOST is its name",
    )  # fmt: skip
    token.add_argument(
        "--days", type=values.number(1, 366), metavar="N",
        help=f"days for which a reader's token is valid (default: {DAYS})",
    )  # fmt: skip
    token.add_argument("--revoke", metavar="TOKEN", help="revoke this token")
    user = actions.add_parser("user", help="make or change the account of a person; asks for the password")
    _place(user)
    user.add_argument("name", help="name of the person")
    user.add_argument(
        "--role", default="engineer", help="none, metadata, report, dump, engineer, admin (default: %(default)s)"
    )
    user.add_argument("--password-file", type=Path, metavar="FILE", help="read the password from a file")


def _place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=Path("/var/lib/kdump-fleet"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--database", default="", metavar="URL", help="postgresql://… (default: SQLite in --data)")
    parser.add_argument(
        "--store", default="", metavar="URL", help="s3://bucket/prefix?endpoint=… (default: files in --data)"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    if args.action == "inventory":  # on a host, which does not need the extra
        return inventory(args)
    with extra("fleet", "kdump fleet"):
        import httptools  # noqa: F401
        import jinja2  # noqa: F401
        import msgspec  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    actions: dict[str, Any] = {
        "serve": serve,
        "worker": worker,
        "demo": demo,
        "known": known,
        "import": bring,
        "token": token,
        "user": user,
    }
    from kdump.fleet.database import failure

    try:
        status: int = actions[args.action](args)
    except Exception as error:
        if not (said := failure(error)):
            raise
        place = "PostgreSQL" if args.database else str(args.data)
        raise KdumpError(f"the database cannot be used: {place}", why=said) from None
    return status


def options(args: argparse.Namespace) -> Options:
    """The options of a process from the command line."""
    from kdump.fleet.service import Options

    return Options(args.data, args.database, args.store)


def opened(args: argparse.Namespace, **more: Any) -> Service:
    """The fleet that the command line names."""
    from dataclasses import replace

    from kdump.fleet.service import Service

    return Service(replace(options(args), **more))


def serve(args: argparse.Namespace) -> int:
    """Until SIGTERM or SIGINT."""
    from kdump.errors import UsageError
    from kdump.fleet import oidc, serving

    if args.client_ca and not args.tls_cert:
        raise UsageError("--client-ca needs --tls-cert", why="hosts show certificates only over TLS")
    if args.tls_key and not args.tls_cert:
        raise UsageError("--tls-key needs --tls-cert", why="a key without its certificate encrypts nothing")
    service = opened(
        args,
        page=args.page or "",
        open_to=args.open_to,
        oidc=oidc.load(args.oidc) if args.oidc else None,
        certificates=bool(args.client_ca),
        watch=tuple(args.watch),
    )
    tls = serving.Tls(args.tls_cert, args.tls_key, args.client_ca)
    return serving.serve(service, args.listen, tls, working=not args.no_worker)


def worker(args: argparse.Namespace) -> int:
    """Until SIGTERM or SIGINT."""
    from kdump.fleet import serving

    return serving.work(opened(args))


def demo(args: argparse.Namespace) -> int:
    """Crash three machines."""
    import time

    from kdump.fleet import demo as showing
    from kdump.fleet import serving
    from kdump.fleet.service import Options, Service
    from kdump.lab import kernels

    def say(text: str) -> None:
        print(f"kdump fleet demo: {text}", flush=True)

    tree = kernels.find(args.kernel)
    directory = args.output / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    showing.run(tree, directory, say)
    say(f"everything is in {directory}; `kdump fleet serve --data {directory}/data --open-to engineer` shows the pages")
    if args.look:
        return serving.serve(
            Service(Options(directory / "data", open_to="engineer")), ("127.0.0.1", PORT), serving.Tls()
        )
    return 0


def known(args: argparse.Namespace) -> int:
    """Build the index, or look a log up; exit status 3 if nothing is known of it."""
    import time

    from kdump.fleet import upstream
    from kdump.foreign import read_file
    from kdump.report import known as index
    from kdump.report.logtext import LONGEST_LOG

    own = args.data / index.NAME
    if args.build or args.commits or args.reports:
        path = args.index or own
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        entries = upstream.build(args.build, args.commits, args.reports)
        number = index.save(path, entries, time.strftime("%Y-%m-%d", time.gmtime()))
        print(f"{number} faults with a crash, in {path}")
        return 0
    path = index.find_index(args.index or (own if own.is_file() else None))
    if path is None:
        raise KdumpError("there is no index of known faults", remedy="`kdump fleet known --build` makes one")
    if args.log is None:
        loaded = index.load(path)
        print(f"{len(loaded.entries)} faults, made {loaded.made}, in {path}")
        return 0
    found = index.of_text(index.load(path), read_file(args.log, LONGEST_LOG).decode("utf-8", "replace"))
    for match in found:
        print(f"{match.line()}: {match.entry.title}\n  {match.evidence()}")
    if not found:
        print("nothing is known of it")
    return 0 if found else 3


def bring(args: argparse.Namespace) -> int:
    """Import; exit status 3 if something was left out."""
    from kdump.fleet import importing

    service = opened(args)
    try:
        done = importing.bring(service, args.paths, args.host)
        service.worker.sweep()
    finally:
        service.close()
    for path, why in done.left:
        print(f"left out: {shown(path)}: {shown(why)}", file=sys.stderr)
    for path in done.empty:
        print(
            f"{shown(path)}: no directory in it is a crash (with manifest.json, a log or records of pstore);"
            " to import files with kernel logs, name the files",
            file=sys.stderr,
        )
    print(f"crashes: {done.new} new, {done.known} known before")
    return 3 if done.left else 0


def inventory(args: argparse.Namespace) -> int:
    """Send or print what this machine is."""
    import json

    from kdump.host import in_force
    from kdump.host import inventory as own

    wanted = in_force.load(args.config)
    found = own.gather(wanted)
    if args.print:
        print(json.dumps(found, indent=1))
        return 0
    own.send(wanted, found)
    return 0


def token(args: argparse.Namespace) -> int:
    """Print or revoke."""
    from kdump.errors import UsageError
    from kdump.fleet import auth, evidence

    if args.revoke and (args.reader or args.days or args.host != auth.ANY):
        raise UsageError("--revoke takes a token and nothing else")
    if args.days and not args.reader:
        raise UsageError("--days goes with --reader", why="a host's token has no end; --revoke revokes it")
    if args.reader and args.host == auth.ANY:
        raise UsageError("a reader's token needs a name", remedy="kdump fleet token --reader ROLE NAME")
    if args.host != auth.ANY and not evidence.is_host(args.host):
        remedy = "letters, digits, dots, hyphens and underscores; no name for a token of any host"
        raise UsageError(f"{args.host!r} is not a valid host name", remedy=remedy)
    service = opened(args)
    try:
        if args.revoke is not None:
            if not service.keys.is_ours(args.revoke):
                raise KdumpError(
                    "this is no token of this fleet; nothing was revoked",
                    remedy="give it whole, and the fleet's --data",
                )
            service.database.run(lambda session: auth.revoke(session, args.revoke))
            return 0
        if args.reader:
            reader = auth.Person(args.host, args.reader)
            print(service.keys.cookie(reader, time.time(), (args.days or DAYS) * 86400))
        else:
            print(service.keys.token(args.host))
        return 0
    finally:
        service.close()


def user(args: argparse.Namespace) -> int:
    """Make or change an account."""
    from getpass import getpass

    from kdump.fleet import auth
    from kdump.foreign import read_text

    if args.password_file:
        password = read_text(args.password_file, 1 << 16).rstrip("\r\n")
    elif sys.stdin.isatty():
        password = getpass(f"password of {args.name}: ")
    else:
        password = sys.stdin.buffer.readline(1 << 16).decode("utf-8", "surrogateescape").rstrip("\r\n")
    service = opened(args)
    try:
        service.database.run(lambda session: auth.set_person(session, args.name, password, args.role))
    finally:
        service.close()
    return 0
