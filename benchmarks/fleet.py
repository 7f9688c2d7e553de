"""The fleet under load: reports per second, answers' times, pages over a million crashes; `python -m benchmarks.fleet`.

ingest [--database URL]   how many reports a collector commits a second, and how soon it answers at half that load
storm                     5,000 hosts report one crash within a minute: nothing lost, nothing double
pages                     1,000,000 crashes of 100,000 hosts: the time of every page, and the collector's memory
policy                    dumps shipped against crashes that have one, over the number wanted of each, for a made year
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

REPORT_BYTES = 93_000


def report(signature: int, rng: random.Random) -> dict[str, Any]:
    """A report of the size that a capture kernel's has: mostly tables of tasks and modules."""
    functions = [f"function_{signature % 997}_{place}" for place in range(16)]
    tasks = [
        {"pid": pid, "command": f"worker/{pid}", "state": rng.choice("SDRI"), "rss": rng.randrange(1 << 30)}
        for pid in range(900)
    ]
    stacks = [
        {"title": f"CPU {cpu}", "owners": [f"task {cpu}"], "frames": [{"function": f} for f in functions]}
        for cpu in range(16)
    ]
    return {
        "schema": 1,
        "kernel": "6.1.0-40-amd64",
        "build_id": "ab" * 20,
        "crash_time": int(time.time()),
        "verdict": {
            "kind": "null",
            "title": f"NULL pointer dereference in {functions[0]}",
            "signature": f"1-{signature:016x}",
            "module": "",
            "guilty": {"function": functions[0]},
            "frames": [{"function": f, "offset": 1} for f in functions],
        },
        "findings": [],
        "sections": {"tasks": {"title": "Tasks", "tasks": tasks}, "cpus": {"title": "CPUs", "stacks": stacks}},
    }


def bodies(count: int, hosts: int, signatures: int) -> tuple[list[bytes], int, int]:
    """Envelopes as hosts send them; the mean size packed and unpacked. Signatures are Zipf-like."""
    rng = random.Random(1)
    packer = zstandard.ZstdCompressor(level=3)
    cached: dict[int, bytes] = {}
    weights = [1 / (rank + 1) for rank in range(signatures)]
    made, sizes = [], []
    for number, signature in enumerate(rng.choices(range(signatures), weights, k=count)):
        if signature not in cached:
            text = json.dumps(report(signature, rng))
            cached[signature] = (text + " " * max(0, REPORT_BYTES - len(text))).encode()
        host = f"host{number % hosts:06d}"
        manifest = {"crash": f"{host}-20261129T120000Z-{number:06x}", "host": host, "status": "complete"}
        body = b'{"manifest":' + json.dumps(manifest).encode() + b',"report":' + cached[signature] + b"}"
        sizes.append(len(body))
        made.append(packer.compress(body))
    return made, int(statistics.mean(map(len, made))), int(statistics.mean(sizes))


async def send(port: int, token: str, what: Iterator[bytes], connections: int, rate: float = 0.0) -> list[float]:
    """Send all bodies over so many connections, at most `rate` a second if given; the seconds each answer took."""
    times: list[float] = []
    due = time.perf_counter()

    async def one() -> None:
        nonlocal due
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/crashes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Encoding: zstd\r\n"
        for body in what:
            if rate:
                due += 1 / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            began = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer[9:12])
            size = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            if status not in (200, 201):
                raise SystemExit(f"the collector answered {status}")
            times.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return times


def ingest(args: argparse.Namespace) -> None:
    """Throughput, then answers at half of it."""
    with tempfile.TemporaryDirectory(prefix="kdump-bench-") as scratch, _collector(Path(scratch), args) as running:
        made, packed, plain = bodies(args.count, args.count, 2000)
        began = time.perf_counter()
        asyncio.run(send(running.port, running.token(), iter(made), args.connections))
        seconds = time.perf_counter() - began
        full = len(made) / seconds
        running.drain()
        spent = running.cpu()
        print(
            f"{running.engine}: {full:,.0f} reports/s committed ({plain:,} bytes, {packed:,} packed);"
            f" {len(made) / spent:,.0f} for a second of the collector's CPU, counting included"
        )
        more = bodies(min(args.count, int(full / 2 * 8)), args.count, 2000)[0]
        fresh = [zstandard.compress(zstandard.decompress(body).replace(b"T120000Z", b"T130000Z", 1)) for body in more]
        times = asyncio.run(send(running.port, running.token(), iter(fresh), args.connections, full / 2))
        cut = statistics.quantiles(times, n=100)
        print(f"at half load: answers p50 {cut[49] * 1000:.1f} ms, p99 {cut[98] * 1000:.1f} ms")
        seconds = running.drain()
        print(f"all counted {seconds:.1f} s later; resident {running.resident() >> 20} MiB")


def storm(args: argparse.Namespace) -> None:
    """5,000 hosts, one signature, one minute, each host sending twice."""
    with tempfile.TemporaryDirectory(prefix="kdump-bench-") as scratch, _collector(Path(scratch), args) as running:
        made = bodies(5000, 5000, 1)[0]
        both = [body for body in made for _ in range(2)]
        times = asyncio.run(send(running.port, running.token(), iter(both), 64, 10_000 / 60))
        running.drain()
        rows = running.value("SELECT COUNT(*) AS n FROM crashes")
        counted = running.value("SELECT crashes FROM groups")
        wanted = running.value("SELECT SUM(asked) AS n FROM asks")
        print(
            f"{running.engine}: 5,000 crashes sent twice: {rows:,} rows, {counted:,} counted, {wanted} dumps asked for,"
            f" slowest answer {max(times) * 1000:.0f} ms"
        )


def pages(args: argparse.Namespace) -> None:
    """A million crashes, written straight into the tables as workers would leave them."""
    with (
        tempfile.TemporaryDirectory(prefix="kdump-bench-") as scratch,
        _collector(Path(scratch), args, fill=args.crashes) as running,
    ):
        import httpx

        with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=60) as client:
            for path in (
                "/",
                "/?days=365&status=",
                "/?kernel=6.1.0-40-amd64",
                "/groups/1",
                "/groups/500",
                "/crashes",
                "/crashes?unsigned=1",
                "/crashes/1000",
                "/hosts",
                "/hosts?which=unarmed",
                "/hosts?which=suspect",
                "/hosts/host000001",
                "/kernels",
                "/kernels/compare?old=6.1.0-40-amd64&new=6.1.0-41-amd64",
                "/search?q=function_5",
                "/alerts",
                "/metrics",
            ):
                times, spent = [], running.cpu()
                for _ in range(5):
                    began = time.perf_counter()
                    status = client.get(path).status_code
                    times.append(time.perf_counter() - began)
                each = (running.cpu() - spent) / len(times)
                print(
                    f"{path:60} {status} first {times[0] * 1000:6.1f} ms, then {min(times[1:]) * 1000:6.1f} ms,"
                    f" {each * 1000:.0f} ms of CPU each",
                    flush=True,
                )
        print(f"resident {running.resident() >> 20} MiB")


def policy(_args: argparse.Namespace) -> None:
    """A year of 100,000 hosts: 3,000 faults with Zipf-like frequencies, 100,000 crashes."""
    rng = np.random.default_rng(1)
    faults, crashes = 3000, 100_000
    weights = 1 / np.arange(1, faults + 1) ** 1.1
    drawn = rng.choice(faults, crashes, p=weights / weights.sum())
    seen = np.bincount(drawn, minlength=faults)
    print("first K | dumps shipped | share of crashes | faults with a dump | with all K")
    for first in (1, 2, 3, 5, 10, 50):
        shipped = int(np.minimum(seen, first).sum())
        print(
            f"{first:7} | {shipped:13,} | {shipped / crashes:15.1%} | {int((seen > 0).sum()):18,} |"
            f" {int((seen >= first).sum()):10,}"
        )


class _Collector:
    """`kdump fleet serve` as a process, with what the load needs to know of it."""

    def __init__(self, directory: Path, args: argparse.Namespace, fill: int) -> None:
        from tests.fleet.process import Collector

        from kdump.fleet.service import Options, Service

        self.service = Service(Options(directory / "data", args.database))
        self.engine = "PostgreSQL" if args.database else "SQLite"
        if fill:
            began = time.perf_counter()
            fill_tables(self.service, fill)
            print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
        self._process = Collector(directory / "data", database=args.database)
        self.port = self._process.port
        self._began = 0.0

    def __enter__(self) -> _Collector:
        self._process.start()
        self._began = self.cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self.service.close()

    def token(self) -> str:
        return self.service.keys.token("*")

    def value(self, sql: str) -> Any:
        with self.service.database.read() as session:
            return session.value(sql)

    def drain(self) -> float:
        """Seconds until every crash is counted."""
        began = time.perf_counter()
        while self.value("SELECT COUNT(*) AS n FROM crashes WHERE state = 0"):
            time.sleep(0.1)
        return time.perf_counter() - began

    def cpu(self) -> float:
        """Seconds of CPU that the collector has used since it started."""
        assert self._process.process
        words = Path(f"/proc/{self._process.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK") - self._began

    def resident(self) -> int:
        assert self._process.process
        lines = Path(f"/proc/{self._process.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def _collector(directory: Path, args: argparse.Namespace, fill: int = 0) -> _Collector:
    return _Collector(directory, args, fill)


def fill_tables(service: Any, crashes: int, hosts: int = 100_000, groups: int = 5000) -> None:
    """A year of crashes and inventories, as ingest and workers leave them, but without bodies."""
    rng = np.random.default_rng(2)
    today = int(time.time()) // 86400
    weights = 1 / np.arange(1, groups + 1) ** 1.05
    drawn = rng.choice(groups, crashes, p=weights / weights.sum()) + 1
    owners = rng.integers(0, hosts, crashes)
    days = today - np.sort(rng.integers(0, 365, crashes))[::-1]
    kernels = np.array([f"6.1.0-{number}-amd64" for number in range(30, 42)])
    kernel = kernels[np.minimum(11, ((days - today + 365) // 32 + rng.integers(0, 2, crashes)).astype(int))]

    def insert(session: Any, head: str, rows: list[tuple[Any, ...]]) -> None:
        step = max(1, 4000 // max(1, len(rows[0])))
        marks = "(" + ",".join("?" * len(rows[0])) + ")"
        for at in range(0, len(rows), step):
            some = rows[at : at + step]
            session.execute(f"{head} VALUES {','.join([marks] * len(some))}", *(value for row in some for value in row))

    seen = np.bincount(drawn, minlength=groups + 1)
    titles = [f"NULL pointer dereference in function_{number}" for number in range(groups + 1)]
    with service.database.write() as session:
        insert(
            session,
            "INSERT INTO groups (origin, title, kind, guilty, module, frames, coarse, first_seen, last_seen, crashes,"
            " hosts, first_kernel)",
            [
                (
                    f"1-{g:016x}",
                    titles[g],
                    "null",
                    f"function_{g}",
                    "",
                    f"function_{g}\ncommon_a\ncommon_b",
                    "",
                    (today - 365) * 86400.0,
                    today * 86400.0,
                    int(seen[g]),
                    int(min(seen[g], hosts)),
                    "6.1.0-30-amd64",
                )
                for g in range(1, groups + 1)
            ],
        )
        insert(session, "INSERT INTO signatures (signature, grp)", [(f"1-{g:016x}", g) for g in range(1, groups + 1)])
        count = np.bincount(owners, minlength=hosts)
        insert(
            session,
            "INSERT INTO hosts (host, first_seen, last_seen, crashes, kernel, hardware, ready, problem, inventory_at,"
            " inventory)",
            [
                (
                    f"host{h:06d}",
                    0.0,
                    today * 86400.0,
                    int(count[h]),
                    str(kernels[-1]),
                    f"Model {h % 7}",
                    "no" if h % 50 == 0 else "yes",
                    "the reservation is too small" if h % 50 == 0 else "",
                    today * 86400.0,
                    "[]",
                )
                for h in range(hosts)
            ],
        )
    for at in range(0, crashes, 50_000):
        some = slice(at, at + 50_000)
        with service.database.write() as session:
            insert(
                session,
                "INSERT INTO crashes (host, name, received, crashed, kernel, build_id, signature, grp, kind, title,"
                " guilty, module, frames, status, state)",
                [
                    (
                        f"host{h:06d}",
                        f"host{h:06d}-{at + n:07x}",
                        float(d) * 86400,
                        float(d) * 86400,
                        str(k),
                        "",
                        f"1-{g:016x}",
                        int(g),
                        "null",
                        titles[g],
                        f"function_{g}",
                        "",
                        f"function_{g}\ncommon_a\ncommon_b",
                        "complete",
                        1,
                    )
                    for n, (h, d, k, g) in enumerate(
                        zip(owners[some], days[some], kernel[some], drawn[some], strict=True)
                    )
                ],
            )
    with service.database.write() as session:
        session.execute(
            "INSERT INTO group_hosts SELECT grp, host, COUNT(*), MAX(received) FROM crashes GROUP BY grp, host"
        )
        session.execute(
            "INSERT INTO days SELECT grp, CAST(FLOOR(received / 86400) AS INTEGER), kernel, COUNT(*) FROM crashes"
            " GROUP BY 1, 2, 3"
        )
        session.execute("INSERT INTO months SELECT grp, day / 30, kernel, SUM(crashes) FROM days GROUP BY 1, 2, 3")
        session.execute(
            "UPDATE hosts SET groups = (SELECT COUNT(*) FROM group_hosts WHERE group_hosts.host = hosts.host)"
        )
        insert(
            session,
            "INSERT INTO kernel_days (day, kernel, hosts)",
            [(int(today - d), str(k), hosts // 12) for d in range(365) for k in kernels],
        )
        session.execute("ANALYZE")


def main() -> None:
    """One of the four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ingest", "storm", "pages", "policy"))
    parser.add_argument("--database", default="")
    parser.add_argument("--postgres", action="store_true", help="start Debian's PostgreSQL for this run")
    parser.add_argument("--count", type=int, default=15_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--crashes", type=int, default=1_000_000)
    args = parser.parse_args()
    run = {"ingest": ingest, "storm": storm, "pages": pages, "policy": policy}[args.what]
    if not args.postgres:
        run(args)
        return
    from tests.fleet.postgres import postgres

    with postgres(Path(tempfile.gettempdir())) as server:
        args.database = server.new_database()
        run(args)


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main()
