"""Whether the service answers while everything around it hangs: metrics and console, slow scrapers, many readers.

    python benchmarks/under_load.py [--devices 64] [--readings 32] [--seconds 60] [--json OUT.json]

A simulated bench, with instruments on TCP up to the number of devices in all, each polled once a second, and a daemon.
Three times the same readers for so many seconds: all well, with a run in progress; every device stopped in mid-word
(SIGSTOP to the processes behind them), with runs being tried; well again. All the while ten scrapers read one byte a
second of what they asked for. Times are a client's: connection, request, the whole answer.

With --readings, each instrument has so many: what its driver reads is read, and kept under other names as well up to
there, once a poll. So the wire has less to do than at a site with such instruments, and the daemon as much.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from served import children, cpu_s, give, machine, percentile, say, serving, simulated_bench, table, use_of

from petqc_simulators.instrument_server import InstrumentServer
from petqc_simulators.instruments import make_instrument
from petqcd.client import Client
from petqcd.errors import DaemonError
from petqcd.process_memory import LOAD_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = simulated_bench("""\
[qc.source]
seconds = 600.0
""")
SUPPLY = """\
[[device]]
name = "supply-{number}"
kind = "hamamatsu-c11204"
model = "C11204-02"
serial = "SIM{number:05d}"
address = "{address}"
simulated = true
"""
CHILLER = """\
[[device]]
name = "chiller-{number}"
kind = "julabo"
model = "FL601"
address = "{address}"
simulated = true
"""
EVERY_CHILLER = 8
"""One device of so many is a chiller, the others are bias supplies."""
SLOW, USERS, USER_S, SCRAPE_S = 10, 5, 1.0, 0.5
LOADS_S = 20.0
"""After which, even here, what runs need is loaded: what is measured is a daemon that has been up for a while."""
PAGES = ("/", "/runs", "/trends", "/devices", "/alarms", "/api/v1/status", "/api/v1/devices")


MORE_READINGS = """\
from dataclasses import replace
from petqc_drivers.instrument import Instrument

keep = Instrument._keep

def keep_more(self, readings):
    found = list(readings)
    more = range(len(found), {readings}) if found else ()
    keep(self, found + [replace(found[n % len(found)], name=f"channel_{{n:02}}") for n in more])

Instrument._keep = keep_more
from petqcd.cli import main
main()
"""
"""The daemon, whose instruments have more readings than their drivers read, where that is asked for."""
WATCHED = (
    """\
import asyncio.events, json, threading, time

run, slices = asyncio.events.Handle._run, []

def watched(handle):
    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    run(handle)
    cpu_s = time.thread_time() - cpu_s
    if cpu_s > 0.01:
        task = getattr(handle._callback, "__self__", None)
        slices.append((time.time(), cpu_s, time.perf_counter() - wall_s, repr(task or handle)[:300]))

def tell():
    while True:
        time.sleep(1)
        with open({path!r}, "a") as file:
            file.writelines(json.dumps(slices.pop(0)) + chr(10) for _ in range(len(slices)))

asyncio.events.Handle._run = watched
threading.Thread(target=tell, daemon=True).start()
"""
    + MORE_READINGS
)
"""The same, and it tells the processor time of every piece of work that its event loop does at once for more than 10
ms."""


def serve_instruments(number: int) -> None:
    """The process behind the instruments: one line of addresses, then served until it is ended."""
    servers = []
    for n in range(number):
        chiller = n % EVERY_CHILLER == 0
        made = make_instrument("julabo") if chiller else make_instrument("hamamatsu-c11204", serial=f"SIM{n:05d}")
        servers.append(InstrumentServer(made, "tcp://127.0.0.1:0"))
    for server in servers:
        threading.Thread(target=server.run, daemon=True).start()
    print(json.dumps([server.address for server in servers]), flush=True)
    sys.stdin.read()


@contextlib.contextmanager
def instruments(number: int) -> Iterator[tuple[int, str]]:
    """Process id, and the tables of petqc.toml for them."""
    command = [sys.executable, __file__, "--serve-instruments", str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe; for the type checker
        assert process.stdin is not None  # noqa: S101
        addresses = json.loads(process.stdout.readline())
        tables = [
            (CHILLER if n % EVERY_CHILLER == 0 else SUPPLY).format(number=n, address=address)
            for n, address in enumerate(addresses)
        ]
        try:
            yield process.pid, "".join(tables)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.stdin.close()


@dataclass(slots=True)
class Readers:
    """Everybody who reads, and how long each answer took."""

    http: str
    ended: threading.Event = field(default_factory=threading.Event)
    metrics_s: list[float] = field(default_factory=list)
    pages_s: list[float] = field(default_factory=list)
    of_page_s: dict[str, list[float]] = field(default_factory=dict)
    lag_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    n_bytes: int = 0
    n_series: int = 0
    slow_let_go: int = 0

    def ask(self, path: str, into: list[float]) -> str:
        began_s = time.monotonic()
        try:
            with urllib.request.urlopen(self.http + path, timeout=30) as answer:  # noqa: S310 - the daemon's own
                text = answer.read().decode()
        except OSError as error:
            self.errors.append(f"{path}: {error}")
            return ""
        into.append(time.monotonic() - began_s)
        return str(text)

    def scrape(self) -> None:
        while not self.ended.wait(SCRAPE_S):
            text = self.ask("/metrics", self.metrics_s)
            self.n_bytes = len(text)
            lines = [line for line in text.splitlines() if line and not line.startswith("#")]
            self.n_series = len(lines)
            self.lag_s += [float(line.rpartition(" ")[2]) for line in lines if line.startswith("petqc_loop_lag_max")]

    def use(self, number: int) -> None:
        """One person at the console."""
        turn = number
        while not self.ended.wait(USER_S):
            page = PAGES[turn % len(PAGES)]
            answered_s: list[float] = []
            self.ask(page, answered_s)
            self.pages_s += answered_s
            self.of_page_s.setdefault(page, []).extend(answered_s)
            turn += 1

    def read_slowly(self) -> None:
        """One byte a second of the metrics, again as soon as it is let go."""
        host, _, port = self.http.removeprefix("http://").rpartition(":")
        while not self.ended.is_set():
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                connection.settimeout(1.0)
                with contextlib.suppress(OSError):
                    connection.connect((host, int(port)))
                    connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                    while not self.ended.wait(1.0):
                        if not connection.recv(1):
                            break
                self.slow_let_go += 1

    def threads(self) -> list[threading.Thread]:
        work: list[Any] = [self.scrape, *([self.read_slowly] * SLOW)]
        found = [threading.Thread(target=one) for one in work]
        return found + [threading.Thread(target=self.use, args=(number,)) for number in range(USERS)]


def phase(http: str, pid: int, seconds: float, keep_running: Client) -> dict[str, Any]:
    """So many seconds of readers, with a run in progress or tried again and again."""
    readers = Readers(http)
    threads = readers.threads()
    began_cpu_s, began_s, runs, in_progress, looks = cpu_s(pid), time.monotonic(), 0, 0, 0
    for thread in threads:
        thread.start()
    while time.monotonic() - began_s < seconds:
        with contextlib.suppress(DaemonError):
            is_running = keep_running.get("/api/v1/status")["run"] is not None
            looks, in_progress = looks + 1, in_progress + is_running
            if not is_running:
                keep_running.post("/api/v1/runs", {"kind": "source", "parameters": {}})
                runs += 1
        time.sleep(0.5)
    wall_s = time.monotonic() - began_s
    cpu_share = (cpu_s(pid) - began_cpu_s) / wall_s
    use = use_of(pid)
    readers.ended.set()
    for thread in threads:
        thread.join()
    told = {
        name: {
            "n": len(values),
            "p50_ms": round(1e3 * percentile(values, 0.5), 1),
            "p99_ms": round(1e3 * percentile(values, 0.99), 1),
            "max_ms": round(1e3 * max(values), 1),
        }
        for name, values in (("metrics", readers.metrics_s or [math.inf]), ("console", readers.pages_s or [math.inf]))
    }
    return {
        **told,
        "pages_p50_max_ms": {
            page: [round(1e3 * percentile(values, 0.5), 1), round(1e3 * max(values), 1)]
            for page, values in sorted(readers.of_page_s.items())
            if values
        },
        "loop_lag_max_ms": round(1e3 * max(readers.lag_s, default=0.0), 1),
        "metrics_bytes": readers.n_bytes,
        "series": readers.n_series,
        "errors": len(readers.errors),
        "first_errors": readers.errors[:5],
        "slow_let_go": readers.slow_let_go,
        "runs_started": runs,
        "run_in_progress_share": round(in_progress / max(looks, 1), 2),
        "cpu_share": round(cpu_share, 2),
        "rss_mb": round(use.rss_mb, 1),
        "threads": use.threads,
        "files": use.files,
    }


def at_once(path: Path, begin_unix_s: float, end_unix_s: float) -> dict[str, Any]:
    """How long the event loop worked on one thing, in processor time, which others on the machine do not lengthen."""
    time.sleep(2)  # it tells them every second
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    inside = sorted((one for one in lines if begin_unix_s <= one[0] < end_unix_s), key=lambda one: -one[1])
    over = {f"over_{ms}_ms": sum(one[1] > 1e-3 * ms for one in inside) for ms in (25, 50, 100)}
    longest = [{"cpu_ms": round(1e3 * cpu_s, 1), "what": what} for _, cpu_s, _, what in inside[:5]]
    return {"longest_cpu_ms": longest[0]["cpu_ms"] if longest else 0.0, **over, "longest": longest}


def all_answer(client: Client) -> dict[str, Any]:
    """Wait until every device answers, two minutes at most; what is known of them then."""
    end_s = time.monotonic() + 120
    known: dict[str, Any] = {"instruments": []}
    while time.monotonic() < end_s:
        known = client.get("/api/v1/devices")
        ready = not client.get("/api/v1/status")["missing"]
        if ready and all(one["answers"] for one in known["instruments"]):
            break
        time.sleep(0.5)
    return known


def measure(folder: Path, devices: int, seconds: float, readings: int) -> dict[str, Any]:
    slices = folder / "slices"
    program = [sys.executable, "-c", WATCHED.format(path=str(slices), readings=readings)]
    with instruments(devices - 1) as (instruments_pid, tables), serving(folder, CONFIG + tables, program) as daemon:
        pid, client = daemon.process.pid, Client(daemon.state_dir)
        say("waiting until every device answers")
        known = all_answer(client)
        say("waiting until what runs need is loaded")
        time.sleep(LOAD_AFTER_S + LOADS_S)
        hung = [instruments_pid, *children(pid)]
        found: dict[str, Any] = {
            "machine": machine(),
            "devices": devices,
            "answering": sum(one["answers"] for one in known["instruments"]) + 1,
            "readings": sum(len(one["readings"]) for one in known["instruments"]),
            "seconds": seconds,
            "phases": {},
        }
        for name in ("well", "hung", "well again"):
            say(name)
            for one in hung:
                os.kill(one, signal.SIGSTOP if name == "hung" else signal.SIGCONT)
            began_unix_s = time.time()
            found["phases"][name] = phase(daemon.http, pid, seconds, client) | {
                "loop": at_once(slices, began_unix_s, began_unix_s + seconds)
            }
        known = client.get("/api/v1/devices")
        found["answering_at_the_end"] = sum(one["answers"] for one in known["instruments"]) + 1
        for one in hung:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)
        found["load_average_at_the_end"] = round(os.getloadavg()[0], 1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=64, help="the readout and instruments around it")
    parser.add_argument("--readings", type=int, default=0, help="of each instrument; 0: what its driver reads")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the three phases")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--serve-instruments", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve_instruments is not None:
        serve_instruments(given.serve_instruments)
        return 0
    with tempfile.TemporaryDirectory(prefix="petqc-load-") as folder:
        found = measure(Path(folder), given.devices, given.seconds, given.readings)
    rows = []
    for name, one in found["phases"].items():
        answers = [f"{one[who][q]:.0f}" for who in ("metrics", "console") for q in ("p50_ms", "p99_ms", "max_ms")]
        late, longest = one["loop_lag_max_ms"], one["loop"]["longest_cpu_ms"]
        rows.append(
            (name, *answers, f"{late:.0f}", f"{longest:.0f}", f"{one['cpu_share']:.2f}", f"{one['rss_mb']:.0f}")
        )
    head = ["devices are", *(f"{who} {q} (ms)" for who in ("/metrics", "console") for q in ("p50", "p99", "max"))]
    told = f"{found['answering']} of {found['devices']} devices answered, with {found['readings']} readings a second"
    give(
        found,
        table((*head, "loop late (ms)", "longest work (CPU ms)", "CPU", "RSS (MiB)"), rows) + f"\n\n{told}",
        given.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
