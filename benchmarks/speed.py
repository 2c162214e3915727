"""How fast petqc is on this machine, as ratios taken in one run.

    python benchmarks/speed.py [--seconds 20] [--json OUT.json] [--skip-demo]

Writes a simulated recording, then times whole processes: a plain copy of the same bytes, the conversion to
coincidences, the analysis with its report, the start-up of the command and one whole demo. Each command runs several
times, in turn with the copy, and the medians are compared; on a busy machine only the ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PETQC = str(Path(sys.executable).with_name("petqc"))
COPY = """
import sys
with open(sys.argv[1], "rb", 0) as source, open(sys.argv[2], "wb", 0) as target:
    while block := source.read(1 << 20):
        target.write(block)
"""


def timed(command: list[str], accept: tuple[int, ...] = (0,)) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory in MB of one whole process."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in accept:
        sys.exit(f"exit code {child.returncode}: {' '.join(command)}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def median(rows: list[tuple[float, float, float]]) -> dict[str, float]:
    wall, cpu, memory = zip(*rows, strict=True)
    return {"wall_s": statistics.median(wall), "cpu_s": statistics.median(cpu), "peak_mb": max(memory)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=20.0, help="length of the simulated recording")
    options.add_argument("--runs", type=int, default=5, help="times each command runs after one warm-up")
    options.add_argument("--json", type=Path, help="also write the figures here")
    options.add_argument("--skip-demo", action="store_true", help="leave out the whole demo")
    given = options.parse_args()
    figures: dict[str, object] = {"python": sys.version.split()[0], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        print(f"writing {given.seconds:g} s of the simulated bench …", file=sys.stderr)
        record = [sys.executable, "-m", "petqc_simulators", "record", "--profile", "bench", "--seed", "1"]
        generate = timed([*record, "--seconds", str(given.seconds), str(work / "run")])
        raw, config = work / "run.rawf", work / "config" / "config.ini"
        hits = int(json.loads((work / "run.manifest.jsonl").read_text().splitlines()[-1])["events"])
        commands = {
            "copy": [sys.executable, "-c", COPY, str(raw), str(work / "copy")],
            "convert to coincidences": [
                *(PETQC, "convert", str(raw), "--config", str(config), "--to", "coincidences"),
                *("-o", str(work / "c.ldat")),
            ],
            "convert, vendor-compatible": [
                *(PETQC, "convert", str(raw), "--config", str(config), "--to", "coincidences"),
                *("--vendor-compatible", "-o", str(work / "v.ldat")),
            ],
            "analyse with report": [
                *(PETQC, "analyse", str(raw), "--config", str(config), "--report", str(work / "report.html")),
            ],
        }
        rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for k in range(given.runs + 1):
            for name, command in commands.items():  # in turn, so that a slow moment hits all of them
                row = timed(command, (0, 1))
                if k:
                    rows[name].append(row)
        copy = median(rows["copy"])["wall_s"]
        print(f"\n{raw.stat().st_size / 1e6:.0f} MB, {hits / 1e6:.2f} M hits, {given.seconds:g} s of data")
        print(f"{'':30}{'wall s':>9}{'CPU s':>9}{'M hit/s':>9}{'x copy time':>13}{'peak MB':>9}")
        for name in commands:
            m = median(rows[name])
            m["mhits_per_s"] = hits / m["wall_s"] / 1e6
            m["times_copy"] = m["wall_s"] / copy
            figures[name] = m
            print(
                f"{name:30}{m['wall_s']:9.2f}{m['cpu_s']:9.2f}{m['mhits_per_s']:9.2f}{m['times_copy']:13.1f}{m['peak_mb']:9.0f}"
            )
        figures["generate"] = {"wall_s": generate[0], "mhits_per_s": hits / generate[0] / 1e6}
        print(f"{'simulate into a recording':30}{generate[0]:9.2f}{generate[1]:9.2f}{hits / generate[0] / 1e6:9.2f}")
    bare = median([timed([sys.executable, "-c", "pass"]) for _ in range(7)])["wall_s"]
    for words in ("--help", "version"):
        m = median([timed([PETQC, words]) for _ in range(8)][1:])
        figures[f"petqc {words}"] = {**m, "times_bare_python": m["wall_s"] / bare}
        print(f"{'petqc ' + words:30}{m['wall_s']:9.2f}{m['cpu_s']:9.2f}{'':9}{'':13}{m['peak_mb']:9.0f}")
    if not given.skip_demo:
        with tempfile.TemporaryDirectory() as folder:
            m = median([timed([PETQC, "demo", "--once", "--state-dir", folder], (0, 1))])
        figures["petqc demo --once"] = m
        print(f"{'petqc demo --once':30}{m['wall_s']:9.2f}{m['cpu_s']:9.2f}{'':9}{'':13}{m['peak_mb']:9.0f}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
