"""Whether the service grows: a simulated scanner and the daemon, with runs, backups, scrapes and readers, for an hour.

    python benchmarks/soak.py [--minutes 60] [--json OUT.json]

One run follows the other (housekeeping and test pulses, every tenth a daily run), with a backup after every daily one;
the metrics are scraped every second and every page of the console is read in turn. Memory, descriptors, threads and
tasks are sampled every five seconds; each gets a slope by least squares. Samples of a process are not independent: the
uncertainty is the scatter of the slopes of ten equal parts of the deviations, by jackknife.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from served import children, cpu_s, give, machine, percentile, say, serving, simulated_bench, table, use_of

from petqcd.client import Client
from petqcd.errors import DaemonError

CONFIG = simulated_bench("""\
[qc.source]
seconds = 4.0
[qc.housekeeping]
seconds = 0.5
""")
SAMPLE_S, SCRAPE_S, PAGE_S = 5.0, 1.0, 2.0
PAGES = ("/", "/runs", "/trends", "/devices", "/alarms", "/calibrations", "/api/v1/status", "/api/v1/runs?limit=50")
KINDS = ["housekeeping", "test-pulse"] * 5 + ["daily"]
BETWEEN_RUNS_S = 3.0
WARM_SHARE = 0.2
"""Of the time, at the beginning: imports, caches and the first daily run are no leak."""
PARTS = 10
QUANTITIES = {"rss_mb": "MiB", "simulator_rss_mb": "MiB", "files": "", "threads": "", "tasks": ""}


@dataclass(slots=True)
class Soak:
    """What goes on, and what was seen of it."""

    http: str
    client: Client
    pid: int
    ended: threading.Event = field(default_factory=threading.Event)
    runs: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    scrapes_s: list[float] = field(default_factory=list)
    pages_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    tasks: float = 0.0
    samples: list[dict[str, float]] = field(default_factory=list)

    def ask(self, path: str, into: list[float]) -> str:
        """One request of a reader."""
        began_s = time.monotonic()
        try:
            with urllib.request.urlopen(self.http + path, timeout=30) as answer:  # noqa: S310 - the daemon's own
                text = answer.read().decode()
        except (OSError, urllib.error.HTTPError) as error:
            self.errors.append(f"{path}: {error}")
            return ""
        into.append(time.monotonic() - began_s)
        return str(text)

    def scrape(self) -> None:
        """As Prometheus does, only more often."""
        while not self.ended.wait(SCRAPE_S):
            for line in self.ask("/metrics", self.scrapes_s).splitlines():
                if line.startswith("petqc_tasks{"):
                    self.tasks = float(line.rpartition(" ")[2])

    def read(self) -> None:
        """As people do, who look at everything again and again."""
        number = 0
        while not self.ended.wait(PAGE_S):
            self.ask(PAGES[number % len(PAGES)], self.pages_s)
            number += 1

    def measure(self) -> None:
        """Run after run."""
        number = 0
        while not self.ended.wait(BETWEEN_RUNS_S):
            kind = KINDS[number % len(KINDS)]
            number += 1
            try:
                run_id = self.client.post("/api/v1/runs", {"kind": kind, "parameters": {}})["run_id"]
                while self.client.get("/api/v1/status")["run"] is not None and not self.ended.wait(0.5):
                    pass
                verdict = self.client.get(f"/api/v1/runs/{run_id}").get("verdict", "")
                if kind == "daily":
                    self.client.post("/api/v1/backups", {}, deadline_s=60)
            except DaemonError as error:
                self.refused += 1
                self.errors.append(f"{kind}: {error}")
                continue
            self.ask(f"/runs/{run_id}", self.pages_s)
            self.runs[kind] = self.runs.get(kind, 0) + 1
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1

    def sample(self, began_s: float) -> None:
        """What both processes use now."""
        own = use_of(self.pid)
        simulators = []
        for child in children(self.pid):
            with contextlib.suppress(KeyError, OSError):  # it has just ended
                simulators.append(use_of(child).rss_mb)
        self.samples.append(
            {
                "at_s": time.monotonic() - began_s,
                "rss_mb": own.rss_mb,
                "simulator_rss_mb": max(simulators, default=0.0),
                "files": own.files,
                "threads": own.threads,
                "tasks": self.tasks,
                "runs": sum(self.runs.values()),
            }
        )


def slope(at_h: np.ndarray, value: np.ndarray) -> tuple[float, float]:
    """Per hour, with its standard uncertainty by a jackknife of contiguous parts."""
    whole = float(np.polyfit(at_h, value, 1)[0])
    part = np.minimum(PARTS * np.arange(at_h.size) // at_h.size, PARTS - 1)
    without = np.array([np.polyfit(at_h[part != p], value[part != p], 1)[0] for p in range(PARTS)])
    return whole, float(np.sqrt((PARTS - 1) / PARTS * ((without - without.mean()) ** 2).sum()))


def soak(folder: Path, minutes: float) -> dict[str, Any]:
    """What was found, in numbers."""
    with serving(folder, CONFIG) as daemon:
        found = Soak(daemon.http, Client(daemon.state_dir), daemon.process.pid)
        threads = [threading.Thread(target=work) for work in (found.scrape, found.read, found.measure)]
        for thread in threads:
            thread.start()
        began_s, began_cpu_s = time.monotonic(), cpu_s(found.pid)
        told_s = 0.0
        try:
            while (passed_s := time.monotonic() - began_s) < 60 * minutes:
                time.sleep(SAMPLE_S)
                if daemon.process.poll() is not None:
                    told = "".join(daemon.log[-40:])
                    raise SystemExit(f"the daemon ended by itself ({daemon.process.returncode}):\n{told}")
                found.sample(began_s)
                if passed_s >= told_s:
                    told_s += 60.0
                    last = found.samples[-1]
                    used = f"{last['rss_mb']:.1f} MiB, {last['files']:.0f} files"
                    say(f"{passed_s / 60:.0f} min: {last['runs']:.0f} runs, {used}")
        finally:
            found.ended.set()
            for thread in threads:
                thread.join()
        cpu_share = (cpu_s(found.pid) - began_cpu_s) / (time.monotonic() - began_s)
    columns = {name: np.array([s[name] for s in found.samples]) for name in found.samples[0]}
    settled = columns["at_s"] > WARM_SHARE * 60 * minutes
    at_h = columns["at_s"][settled] / 3600
    quantities = {}
    for name in QUANTITIES:
        value = columns[name][settled]
        per_hour, uncertainty = slope(at_h, value)
        quantities[name] = {
            "mean": float(value.mean()),
            "max": float(value.max()),
            "per_hour": per_hour,
            "uncertainty": uncertainty,
        }
    return {
        "machine": machine(),
        "minutes": minutes,
        "samples": int(settled.sum()),
        "quantities": quantities,
        "runs": found.runs,
        "verdicts": found.verdicts,
        "scrapes": len(found.scrapes_s),
        "scrape_p99_ms": 1e3 * percentile(found.scrapes_s, 0.99),
        "pages": len(found.pages_s),
        "page_p99_ms": 1e3 * percentile(found.pages_s, 0.99),
        "errors": found.errors[:20],
        "n_errors": len(found.errors),
        "warnings": [line.strip() for line in daemon.log][-20:],
        "n_warnings": len(daemon.log),
        "cpu_share": cpu_share,
        "series": [
            {k: round(v, 2) for k, v in one.items()} for one in found.samples[:: max(1, len(found.samples) // 240)]
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="petqc-soak-") as folder:
        found = soak(Path(folder), given.minutes)
    rows = [
        (name, f"{q['mean']:.1f} {unit}", f"{q['max']:.1f}", f"{q['per_hour']:+.2f} ± {q['uncertainty']:.2f} {unit}/h")
        for (name, unit), q in zip(QUANTITIES.items(), found["quantities"].values(), strict=True)
    ]
    said = json.dumps({k: found[k] for k in ("runs", "verdicts", "scrapes", "scrape_p99_ms", "pages", "page_p99_ms")})
    give(found, f"{table(('what', 'mean', 'most', 'slope'), rows)}\n\n{said}, {found['n_errors']} errors", given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
