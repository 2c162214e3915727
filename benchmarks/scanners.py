"""What `petqc analyse` finds of simulated real scanners, against what is published of them.

    python benchmarks/scanners.py [--profile signa]... [--seeds 31-33] [--pairs-per-crystal 60] [--daily]
                                  [--results scanners.jsonl] [--table]

Every recording is as long as it takes to give each crystal so many coincidences in the mean, so that a scanner of
60 000 crystals is known as well as one of 14 000. For each profile that stands for a real scanner: a recording of a
Na-22 point source, then `petqc analyse` of it, each as a process of its own with its time and peak memory; with --daily
also of the daily source of the scanner (annulus or cylinder), whose time width contains the source and compares with
nothing. Each run is a line of the results file, with the sentence of the run; what is there already is not done again,
so that a long campaign may be interrupted. At the end, or at once with --table: one table of all results in the file.

Pull: measured minus published over the stated uncertainty, to which 0.2 % is added in quadrature: so much do two
detectors of one kind differ. A published value that was not read again in its source is marked *. A healthy scanner
that is not passed is a false alarm.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from whole_process import PETQC, timed

from petqc.scanners import load_scanner
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.profile import load_profile, profile_names

DETECTORS_DIFFER = 0.002
COMPARED = {"energy_resolution": "energy_resolution_percent", "ctr_fit": "tof_fwhm_ps", "ctr_nema": "tof_fwhm_ps"}
"""Checks of the scanner, and what is published under which name."""
SOURCES = ("na22", "ge68")


def value(document: dict[str, Any], check: str) -> tuple[float | None, float | None, str]:
    found = next((c for c in document["checks"] if c["id"] == check and c["node"] == "scanner"), None)
    return (None, None, "absent") if found is None else (found["value"], found["uncertainty"], found["reason"] or "")


def prompts_hz(name: str, seed: int, source: str) -> float:
    """Rate of coincidences, from a very short run, so that every scanner gives about as many."""
    from petqc.calibration import CalibrationSet
    from petqc.formats.petsys_config import load_config
    from petqc.processing import ProcessingSettings, Processor
    from petqc_simulators.config_files import write_config_folder
    from petqc_simulators.physics.detector import Detector

    profile = load_profile(name, source=source)
    detector = Detector(profile, seed, stream_name="rate")
    detector.settle()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(write_config_folder(Path(folder), profile, detector.draw))
    processor = Processor(CalibrationSet.from_config(config), ProcessingSettings.from_config(config))
    blocks = 8 if profile.geometry.channels > 2000 else 200
    for _ in range(blocks):
        processor.feed(detector.advance().words)
    processor.finish()
    return max(processor.account.prompts, 1) / (blocks * BLOCK_S)


def run(name: str, seed: int, source: str, pairs_per_crystal: float) -> dict[str, Any]:
    coincidences = pairs_per_crystal * load_profile(name).geometry.channels / 2.0
    seconds = max(coincidences / prompts_hz(name, seed, source), BLOCK_S)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        record = [sys.executable, "-c", _RECORD, str(work / "run"), name, str(seed), str(seconds), source]
        wrote = timed(record, work / "record.json")
        hits, recording_s = json.loads((work / "record.json").read_text())
        analyse = [*PETQC, "analyse", str(work / "run.rawf"), "--config", str(work / "config/config.ini"), "--json"]
        analysed = timed(analyse, work / "run.json", (0, 1, 4))
        document = json.loads((work / "run.json").read_text())
        megabytes = (work / "run.rawf").stat().st_size / 1e6
    return {
        "profile": name,
        "source": source,
        "seed": seed,
        "pairs_per_crystal": pairs_per_crystal,
        "software": document["software"],
        "seconds": seconds,
        "hits": hits,
        "file_mb": megabytes,
        "write_s": recording_s,
        "write_mhits_per_s": hits / recording_s / 1e6,
        "write_peak_mb": wrote.peak_mb,
        "analyse_s": analysed.wall_s,
        "analyse_cpu_s": analysed.cpu_s,
        "analyse_peak_mb": analysed.peak_mb,
        "verdict": document["verdict"],
        "sentence": document["sentence"],
        "not_passed": [
            [c["id"], c["node"], c["value"], c["uncertainty"], c["status"], c["reason"]]
            for c in document["checks"]
            if c["status"] in {"warn", "fail", "invalid"}
        ],
        **{check: value(document, check) for check in ("photopeak", "source_position", "prompts", "randoms_delayed")},
        **{check: value(document, check) for check in COMPARED},
    }


_RECORD = """
import json, sys, time
from pathlib import Path
from petqc_simulators.recording import write_recording
prefix, name, seed, seconds, source = sys.argv[1:]
write_recording(Path(prefix + "-warm"), name, int(seed), 0.001, source=source, truth_seconds=0)
began = time.perf_counter()
wrote = write_recording(Path(prefix), name, int(seed), float(seconds), source=source, truth_seconds=0)
print(json.dumps([wrote["hits"], time.perf_counter() - began]))
"""


def pull(found: list[Any], published: float | None) -> float | None:
    number, error, _ = found
    if number is None or error is None or published is None:
        return None
    return (number - published) / math.hypot(error, DETECTORS_DIFFER * published)


def said(rows: list[dict[str, Any]], check: str, published: float | None, digits: int) -> tuple[str, str]:
    """Mean over the seeds with the error of one run, and the pull of each; the reason where there is no number."""
    known = [row[check] for row in rows if row[check][0] is not None]
    if not known:
        reason = rows[0][check][2]
        return ("not applicable" if reason.startswith("not applicable") else "–"), "–"
    mean, error = (float(np.mean([found[k] for found in known])) for k in (0, 1))
    pulls = [p for p in (pull(found, published) for found in known) if p is not None]
    return f"{mean:.{digits}f} ± {error:.{digits}f}", " ".join(f"{p:+.1f}" for p in pulls) or "–"


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: one row a profile and source, all seeds; then every run that did not pass, and the rate of those."""
    head = ["profile", "source, s", "seeds", "energy resolution, %", "published", "pulls", "TOF fit, ps", "published"]
    head += ["pulls", "TOF NEMA, ps", "pulls", "M hits", "analysis: CPU s, MB", "verdicts"]
    rows = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["profile"], line["source"]].append(line)
    for (name, source), members in groups.items():
        scanner = load_scanner(load_profile(name).reference)
        cells = [f"`{name}`", f"{source}, {np.mean([m['seconds'] for m in members]):.2g}", seeds_of(members)]
        for check, digits in (("energy_resolution", 2), ("ctr_fit", 1), ("ctr_nema", 1)):
            key = COMPARED[check]
            published = scanner.number(key)
            is_width = key == "tof_fwhm_ps" and source != "na22"
            mean, pulls = ("–", "–") if is_width else said(members, check, published, digits)
            doubt = "*" if published is not None and scanner.values[key].status != "read" else ""
            cells += (
                [mean, pulls]
                if check == "ctr_nema"
                else [mean, "–" if published is None else f"{published:g}{doubt}", pulls]
            )
        cells.append(f"{np.mean([m['hits'] for m in members]) / 1e6:.1f}")
        cpu_s, peak_mb = (max(m[k] for m in members) for k in ("analyse_cpu_s", "analyse_peak_mb"))
        cells.append(f"{cpu_s:.0f}, {peak_mb:.0f}")
        verdicts = [m["verdict"] for m in members]
        cells.append(", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts))))
        rows.append(f"| {' | '.join(cells)} |")
    alarms = [line for line in lines if line["verdict"] != "pass"]
    rows.append("")
    rows.append(f"Healthy runs that were not passed: {len(alarms)} of {len(lines)}.")
    rows += [f"* `{a['profile']}` {a['source']}, seed {a['seed']}: {a['verdict']}. {a['sentence']}" for a in alarms]
    found = [(line, check) for line in lines for check in COMPARED]
    pulls_of = [
        pull(line[check], load_scanner(load_profile(line["profile"]).reference).number(COMPARED[check]))
        for line, check in found
        if line["source"] == "na22" or check == "energy_resolution"
    ]
    pulls_known = np.array([p for p in pulls_of if p is not None])
    if pulls_known.size > 1:
        rows.append(
            f"Pulls of all {pulls_known.size} numbers: mean {pulls_known.mean():+.2f}, spread {pulls_known.std():.2f}, "
            f"largest {np.abs(pulls_known).max():.1f}."
        )
    return "\n".join(rows)


def seeds_of(members: list[dict[str, Any]]) -> str:
    return ", ".join(str(s) for s in sorted(m["seed"] for m in members))


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--profile", action="append", help="only these; default: all that stand for a real scanner")
    options.add_argument("--seeds", default="1", help="FIRST-LAST")
    options.add_argument("--pairs-per-crystal", type=float, default=60.0)
    options.add_argument("--daily", action="store_true", help="the daily source too")
    options.add_argument("--results", type=Path, default=Path("scanners.jsonl"), help="one line a run")
    options.add_argument("--table", action="store_true", help="print the table of what is in the file, and end")
    given = options.parse_args()
    names = given.profile or [n for n in profile_names() if load_profile(n).reference]
    first, _, last = given.seeds.partition("-")
    done = {(r["profile"], r["source"], r["seed"], r["pairs_per_crystal"]) for r in read(given.results)}
    for seed in [] if given.table else range(int(first), int(last or first) + 1):
        for name in names:
            for source in SOURCES if given.daily else SOURCES[:1]:
                if (name, source, seed, given.pairs_per_crystal) in done:
                    continue
                row = run(name, seed, source, given.pairs_per_crystal)
                with given.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                sys.stderr.write(f"{name} {source} seed {seed}, {row['seconds']:.2f} s: {row['sentence']}\n")
    print(table(read(given.results)))


if __name__ == "__main__":
    main()
