"""A fleet: scanners with a daemon each, one PostgreSQL, the Prometheus of their site, and one at the centre.

`python -m tests.system.fleet --scanners 10` starts all of it for real, has every scanner measure at the same time, and
says what it took; the test does the same with fewer. What is shown, or it stops: every run is in its own scanner's
history and nowhere else, one question to the server has all of them, the centre sees every scanner with its verdict,
the fleet's dashboard shows it, and when one daemon dies, the others measure on and the centre knows which it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from tests.system.conftest import Serving, serving
from tests.system.prometheus import centre_of_a_fleet, panels_with_values, query, wait_for, watching
from tests.unit.postgres_server import postgres_server

STORE = """
[scanner]
name = "{name}"
[store]
url = "{url}"
schema = "{name}"
"""
RUN = "housekeeping"
DEADLINE_S = 240.0
TRIES = 6
AT_ONCE = 4
"""Commands at the same time: more would only be late together."""
PROCESSOR = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Found:
    """What a fleet took: seconds until all were ready, of all runs at once; processor seconds; MB; sessions."""

    scanners: int
    ready_s: float
    runs_s: float
    cpu_s_daemons: float
    daemon_mb: float
    simulator_mb: float
    sessions: int
    series_at_the_centre: int


def names(scanners: int) -> list[str]:
    return [f"scanner_{number}" for number in range(1, scanners + 1)]


def used(pid: int) -> tuple[float, float]:
    """Processor seconds and resident MB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return (int(fields[11]) + int(fields[12])) / PROCESSOR, resident / 1e6


def finished(daemon: Serving) -> list[dict[str, Any]]:
    """Runs until one has measured: on a busy machine a simulated board may be late, which is a record of its own."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["verdict"] == "invalid":
        assert len(found) < TRIES, found[-1]["sentence"]
        done = daemon.petqc("run", RUN, "--wait", "--json", timeout_s=DEADLINE_S)
        assert done.out, done.err
        found.append(done.json())
    assert found[-1]["verdict"] == "pass", found[-1]["sentence"]
    return found


def rows(url: str, scanners: list[str]) -> list[tuple[str, str, str]]:
    """Scanner by schema, scanner by its own word, and run, of all histories in one question."""
    union = " UNION ALL ".join(f"SELECT '{one}', scanner, run_id FROM {one}.runs" for one in scanners)  # noqa: S608
    with psycopg.connect(url) as connection:
        return connection.execute(union.encode()).fetchall()


def fleet(folder: Path, scanners: int) -> Found:
    """Start a fleet, have it measure, let one daemon die, and end it."""
    every = names(scanners)
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server())
        url = server.url.replace("+psycopg", "")
        began_s = time.monotonic()
        begun: list[ExitStack] = []
        stack.callback(lambda: [own.close() for own in begun])

        def start(numbered: tuple[int, str]) -> Serving:
            seed, name = numbered
            own = ExitStack()
            begun.append(own)
            extra = STORE.format(name=name, url=server.url)
            found: Serving = own.enter_context(serving(folder / name, seconds=1, seed=seed, extra=extra))
            return found

        with ThreadPoolExecutor(AT_ONCE) as starters:
            daemons = dict(zip(every, starters.map(start, enumerate(every, 1)), strict=True))
        ready_s = time.monotonic() - began_s
        site = stack.enter_context(watching(folder / "site", [d.http for d in daemons.values()], "http://127.0.0.1:9/"))
        centre = stack.enter_context(centre_of_a_fleet(folder / "centre", site))

        began_s = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as askers:
            documents = list(itertools.chain.from_iterable(askers.map(finished, daemons.values())))
        runs_s = time.monotonic() - began_s
        assert list(dict.fromkeys(document["scanner"] for document in documents)) == every
        assert sorted(rows(url, every)) == sorted((d["scanner"], d["scanner"], d["run_id"]) for d in documents)

        wait_for(centre, f"petqc:scanners == {scanners}", DEADLINE_S)
        wait_for(centre, f'count(up{{job="petqc"}} == 1) == {scanners}', DEADLINE_S)
        wait_for(
            centre, f'count(petqc_qc_run_last_finished_timestamp_seconds{{kind="{RUN}"}} > 0) == {scanners}', DEADLINE_S
        )
        exported = {row["metric"]["__name__"] for row in query(centre, 'group by (__name__) ({__name__=~"petqc.+"})')}
        shown = panels_with_values(centre, exported, "petqc-fleet")
        assert [panel.name for panel in shown if {row["metric"].get("scanner") for row in panel.rows} == set(every)]
        (series,) = query(centre, 'count({__name__=~"petqc[_:].+"})')
        took = [used(daemon.process.pid) for daemon in daemons.values()]
        simulators = [used(daemon.simulator_pid()) for daemon in daemons.values()]
        with psycopg.connect(url) as connection:
            (sessions,) = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'petqcd'"
            ).fetchone() or (0,)

        gone, *others = every
        os.kill(daemons[gone].simulator_pid(), 9)
        daemons[gone].process.kill()
        (down,) = wait_for(centre, 'up{job="petqc"} == 0', DEADLINE_S)
        assert down["metric"]["instance"] == daemons[gone].http.removeprefix("http://")
        wait_for(centre, f"petqc:scanners == {scanners - 1}", DEADLINE_S)
        documents += finished(daemons[others[0]])
        assert sorted(rows(url, every)) == sorted((d["scanner"], d["scanner"], d["run_id"]) for d in documents)
        return Found(
            scanners, ready_s, runs_s, sum(cpu for cpu, _ in took), max(mb for _, mb in took),
            max(mb for _, mb in simulators), int(sessions), int(series["value"][1]),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scanners", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="petqc-fleet-") as folder:
        found = fleet(Path(folder), given.scanners)
    print(json.dumps({name: getattr(found, name) for name in found.__slots__}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
