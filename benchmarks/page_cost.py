"""What the daemon spends, in processor time: a second of readings, each page, a scrape; all well, and all devices hung.

    python benchmarks/page_cost.py [--devices 64] [--readings 32] [--seconds 12] [--asks 15] [--json OUT.json]

The devices and readings of under_load.py, without a run and with no other clients: what is asked comes after a pause,
one after the other, and what the daemon spends at rest meanwhile is taken off. Processor time of all its threads,
which others on the machine lengthen less than the time on the clock: compare what was measured in turn.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from served import children, cpu_s, give, machine, say, serving, table
from under_load import CONFIG, MORE_READINGS, PAGES, all_answer, instruments

from petqcd.client import Client

PAUSE_S = 0.12
OLD_S = 15.0
"""After so long, hung devices are told as such, and their readings are old."""


def spent(pid: int, seconds: float) -> float:
    """Seconds of processor time a second, at rest."""
    began_s, began_cpu_s = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    return float(cpu_s(pid) - began_cpu_s) / (time.monotonic() - began_s)


def cost(http: str, path: str, pid: int, asks: int) -> tuple[float, float, int]:
    """Seconds on the clock and of processor time for so many answers, and the bytes of one."""
    began_s, began_cpu_s, n_bytes = time.monotonic(), cpu_s(pid), 0
    for _ in range(asks):
        with urllib.request.urlopen(http + path, timeout=60) as answer:  # noqa: S310 - the daemon's own
            n_bytes = len(answer.read())
        time.sleep(PAUSE_S)
    return time.monotonic() - began_s, cpu_s(pid) - began_cpu_s, n_bytes


def state(http: str, pid: int, seconds: float, asks: int) -> dict[str, Any]:
    """Milliseconds of processor time for a second at rest and for each answer, and the bytes of each."""
    found, paths = {}, (*PAGES, "/metrics")
    before = spent(pid, seconds)
    for path in paths:
        cost(http, path, pid, 1)  # the first one reads its template
        found[path] = cost(http, path, pid, asks)
    rest = (before + spent(pid, seconds)) / 2
    return {
        "rest_ms_per_s": round(1e3 * rest, 1),
        "ms": {path: round(1e3 * (cpu - rest * wall) / asks, 1) for path, (wall, cpu, _) in found.items()},
        "bytes": {path: n_bytes for path, (_, _, n_bytes) in found.items()},
    }


def measure(folder: Path, devices: int, readings: int, seconds: float, asks: int) -> dict[str, Any]:
    program = [sys.executable, "-c", MORE_READINGS.format(readings=readings)]
    with instruments(devices - 1) as (instruments_pid, tables), serving(folder, CONFIG + tables, program) as daemon:
        pid = daemon.process.pid
        say("waiting until every device answers")
        known = all_answer(Client(daemon.state_dir))
        found: dict[str, Any] = {
            "machine": machine(),
            "readings": sum(len(one["readings"]) for one in known["instruments"]),
        }
        say("well")
        found["well"] = state(daemon.http, pid, seconds, asks)
        behind = [instruments_pid, *children(pid)]
        try:
            for one in behind:
                os.kill(one, signal.SIGSTOP)
            say("hung")
            time.sleep(OLD_S)
            found["hung"] = state(daemon.http, pid, seconds, asks)
        finally:
            for one in behind:
                os.kill(one, signal.SIGCONT)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=64, help="the readout and instruments around it")
    parser.add_argument("--readings", type=int, default=32, help="of each instrument; 0: what its driver reads")
    parser.add_argument("--seconds", type=float, default=12.0, help="at rest, before and after the pages")
    parser.add_argument("--asks", type=int, default=15, help="of each page")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="petqc-cost-") as folder:
        found = measure(Path(folder), given.devices, given.readings, given.seconds, given.asks)
    states = ("well", "hung")
    rows = [("a second at rest", *(f"{found[one]['rest_ms_per_s']:.0f}" for one in states))]
    rows += [(path, *(f"{found[one]['ms'][path]:.1f}" for one in states)) for path in found["well"]["ms"]]
    give(
        found, table(("processor time (ms)", *states), rows) + f"\n\n{found['readings']} readings a second", given.json
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
