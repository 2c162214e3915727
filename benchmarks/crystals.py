"""How time and memory of an analysis grow with the crystals of a scanner, and with the hits of a recording.

    python benchmarks/crystals.py [--profile signa]... [--results crystals.jsonl] [--table]

For each scanner two recordings, one four times as long as the other (of the largest only one), and
`petqc analyse --json` of each as a process of its own, with its processor time and peak memory (wall time too, which
means something on an idle machine only). What the hits cost then stands beside what the scanner costs whatever the
length: start-up, tables, fits and checks of all its crystals. What is in the results file is not done again.

`total-body` is no profile of a real scanner: four Vision 600 in a row, with 243 200 crystals and the axial length of a
Quadra, made to be counted and not to be compared with anything.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from whole_process import PETQC, timed

from petqc_simulators.profile import load_profile

SECONDS = {
    "bench": (8.0, 32.0),
    "ring-small": (4.0, 16.0),
    "signa": (0.125, 0.5),
    "vision-600": (0.125, 0.5),
    "total-body": (0.0625,),
}
"""Of the recordings: some millions of hits, and four times as many; the last scanner has only one."""
TOTAL_BODY = """\
base = "vision-600"
title = "Four Vision 600 in a row, to be counted only"

[geometry]
modules = 152

[numbering]
modules_per_port = 5
"""


def measured(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="petqc-crystals-") as folder:
        work = Path(folder)
        profile = name
        if name == "total-body":
            profile = str(work / "total-body.toml")
            Path(profile).write_text(TOTAL_BODY)
        source = "na22" if name in {"bench", "ring-small"} else "ge68"
        found: dict[str, Any] = {"profile": name, "crystals": load_profile(profile).geometry.channels, "runs": []}
        config = work / "config" / "config.ini"
        found["source"] = source
        for seconds in SECONDS[name]:
            run = work / f"run{len(found['runs'])}"
            record = [sys.executable, "-c", _RECORD, str(run), profile, str(seconds), source]
            wrote = timed(record, work / "record.json")
            hits = json.loads((work / "record.json").read_text())
            analyse = [*PETQC, "analyse", f"{run}.rawf", "--config", str(config), "--json"]
            if not found["runs"] and len(SECONDS[name]) > 1:
                timed(analyse, work / "run.json", (0, 1, 4))  # compiles what is not compiled yet
            took = timed(analyse, work / "run.json", (0, 1, 4))
            document = json.loads((work / "run.json").read_text())
            file_mb = Path(f"{run}.rawf").stat().st_size / 1e6
            found["runs"].append(
                {
                    "seconds": seconds,
                    "hits": hits,
                    "file_mb": file_mb,
                    "record": wrote._asdict(),
                    "analyse": took._asdict(),
                }
                | {"verdict": document["verdict"], "checks": len(document["checks"]), "software": document["software"]}
            )
            Path(f"{run}.rawf").unlink()  # the longer one may need the room
        found["config_mb"] = sum(p.stat().st_size for p in config.parent.iterdir()) / 1e6
    return found


_RECORD = """
import json, sys
from pathlib import Path
from petqc_simulators.recording import write_recording
prefix, name, seconds, source = sys.argv[1:]
print(json.dumps(write_recording(Path(prefix), name, 21, float(seconds), source=source, truth_seconds=0)["hits"]))
"""

HEAD = (
    "| scanner | crystals | calibration tables, MB | checks | M hits | analysis, CPU s | peak MB |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def row(found: dict[str, Any]) -> str:
    def each(numbers: list[str]) -> str:
        return "; ".join(dict.fromkeys(numbers))

    runs = found["runs"]
    cells = (
        found["profile"],
        f"{found['crystals']:,}".replace(",", " "),
        f"{found['config_mb']:.1f}",
        each([f"{run['checks']:,}".replace(",", " ") for run in runs]),
        each([f"{run['hits'] / 1e6:.1f}" for run in runs]),
        each([f"{run['analyse']['cpu_s']:.1f}" for run in runs]),
        each([f"{run['analyse']['peak_mb']:.0f}" for run in runs]),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="append", choices=list(SECONDS))
    parser.add_argument("--results", type=Path, default=Path("crystals.jsonl"))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    lines = given.results.read_text().splitlines() if given.results.exists() else []
    there = {one["profile"]: one for one in map(json.loads, lines)}
    for name in [] if given.table else given.profile or SECONDS:
        if name not in there:
            sys.stderr.write(f"{name}\n")
            there[name] = measured(name)
            with given.results.open("a") as file:
                file.write(json.dumps(there[name]) + "\n")
    print(HEAD)
    for name in SECONDS:
        if name in there:
            print(row(there[name]))


if __name__ == "__main__":
    main()
