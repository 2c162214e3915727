"""How long after a run's last frame its verdict is there, and what the daemon told while frames came.

    python benchmarks/live.py [--profile ring-small] [--seconds 20] [--runs 3] [--json OUT.json]
    python benchmarks/live.py --recording RUN.rawf --config config.ini [--rehearsed] [--json OUT.json]

Serves a daemon with a simulated scanner, as its own processes, starts runs with a source and listens to
`/api/v1/events` as the console does. The last frame is when the daemon begins to switch the bias off, which it does
once the readout has confirmed that it sends no more; the verdict is there when the daemon tells `finished`: analysed,
written, stored. With --recording, processor times of what is done after the last frame, in this process, for machines
that have much else to do; with --rehearsed, kernels are loaded before, as a run does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from served import cpu_s, give, machine, say, serving, simulated_bench, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from served import Daemon


def events(http_address: str, deadline_s: float) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """Monotonic time, name and data of each event."""
    host = http_address.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(host, timeout=deadline_s)
    try:
        connection.request("GET", "/api/v1/events")
        answer = connection.getresponse()
        name = ""
        while line := answer.readline():
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield time.monotonic(), name, json.loads(value)
    finally:
        connection.close()


def one(daemon: Daemon, seconds: float) -> dict[str, Any]:
    """One run, from its command to its verdict."""
    stages: dict[str, float] = {}
    told = 0
    so_far: dict[str, Any] = {}
    before = used_at_last_frame = cpu_s(daemon.process.pid)
    for at, name, data in events(daemon.http, 60 + 10 * seconds):
        if name == "state" and not stages:
            started = daemon.petqc("run", "source", "--json")
            if started.returncode:
                raise SystemExit(started.stderr)
            stages["command"] = at
        if name == "progress":
            if data["stage"] == "off" and "off" not in stages:
                used_at_last_frame = cpu_s(daemon.process.pid)
            stages.setdefault(data["stage"], at)
            told += data["stage"] == "acquire"
            so_far = data.get("so_far") or so_far
        if name in {"finished", "lost"}:
            stages["finished"] = at
            used = cpu_s(daemon.process.pid)
            if "off" not in stages:
                raise SystemExit(f"no frame was taken: {data}")
            run = json.loads((daemon.state_dir / "runs" / data["run_id"] / "run.json").read_text())
            account = run["account"]
            return {
                "verdict": data.get("verdict", name),
                "last_frame_to_verdict_s": round(at - stages["off"], 3),
                "off_s": round(stages["analyse"] - stages["off"], 3),
                "analyse_s": round(at - stages["analyse"], 3),
                "cpu_s": round(used - before, 2),
                "cpu_after_last_frame_s": round(used - used_at_last_frame, 2),
                "hits": account["hits"],
                "prompts": account["prompts"],
                "frames": account["frames_recorded"],
                "frames_dropped": account["frames_dropped"],
                "frames_not_analysed_live": account.get("frames_not_analysed_live", 0),
                "measured_s": run.get("elapsed_s"),
                "progress_told": told,
                "so_far": so_far,
            }
    raise SystemExit("the daemon ended the events before the run ended")


def recorded(recording: Path, config: Path, *, rehearsed: bool) -> dict[str, float]:
    """Processor times, in s, of counting a recording, of its checks and fits, and of files and report."""
    from petqc.analysis import RunContext, analyse
    from petqc.recorded import Asked, raw_frames
    from petqc.rehearsal import rehearse
    from petqcd.records import write_files

    times = [time.process_time()]
    if rehearsed:
        rehearse()
    times.append(time.process_time())
    filled = raw_frames([recording], Asked(config))
    times.append(time.process_time())
    run = analyse(filled.histograms, RunContext(run_id="run", **filled.context))
    times.append(time.process_time())
    with tempfile.TemporaryDirectory(prefix="petqc-live-") as folder:
        write_files(run, Path(folder))
    times.append(time.process_time())
    names = ("rehearsal", "counting", "checks and fits", "files and report")
    return {name: round(b - a, 2) for name, (a, b) in zip(names, pairwise(times), strict=True)}


def main() -> None:
    """Run it and say what was found."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--profile", default="bench", help="name or path; bench goes over UDP, ring-small through shared memory"
    )
    options.add_argument("--seconds", type=float, default=15.0, help="acquisition time of a run")
    options.add_argument("--runs", type=int, default=3, help="the first one loads what later ones have loaded")
    options.add_argument("--json", type=Path, help="also write the figures here")
    options.add_argument("--recording", type=Path, help="processor times with a recording in place of a daemon")
    options.add_argument("--config", type=Path, help="config.ini of the recording")
    options.add_argument("--rehearsed", action="store_true", help="load kernels first, as a run does before bias is on")
    given = options.parse_args()
    if given.recording is not None:
        if given.config is None:
            options.error("--recording needs --config")
        times = recorded(given.recording, given.config, rehearsed=given.rehearsed)
        give(
            {"machine": machine(), **times},
            table(("what", "CPU s"), [(k, str(v)) for k, v in times.items()]),
            given.json,
        )
        return
    with (
        tempfile.TemporaryDirectory(prefix="petqc-live-") as folder,
        serving(Path(folder), simulated_bench(f"[qc.source]\nseconds = {given.seconds}\n", given.profile)) as daemon,
    ):
        daemon.petqc("status", "--wait-ready")
        runs = []
        for number in range(given.runs):
            runs.append(one(daemon, given.seconds))
            say(f"run {number + 1}: {json.dumps(runs[-1])}")
    head = (
        "run",
        "hits",
        "last frame to verdict s",
        "of it bias off s",
        "analysis, files, store s",
        "processor s after the last frame",
        "left out live",
        "verdict",
    )
    rows = [
        (
            str(number + 1),
            f"{r['hits']:,}",
            f"{r['last_frame_to_verdict_s']:.2f}",
            f"{r['off_s']:.2f}",
            f"{r['analyse_s']:.2f}",
            f"{r['cpu_after_last_frame_s']:.2f}",
            str(r["frames_not_analysed_live"]),
            r["verdict"],
        )
        for number, r in enumerate(runs)
    ]
    found = {"machine": machine(), "profile": given.profile, "seconds": given.seconds, "runs": runs}
    give(found, table(head, rows), given.json)


if __name__ == "__main__":
    sys.exit(main())
