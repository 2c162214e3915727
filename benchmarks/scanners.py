"""What `petqc analyse` finds of simulated real scanners, against what is published of them.

    python benchmarks/scanners.py [--profile signa]... [--seed 1] [--pairs-per-crystal 60] [--json OUT.json] [--daily]

Every recording is as long as it takes to give each crystal so many coincidences in the mean, so that a scanner of
60 000 crystals is known as well as one of 14 000. For each profile that stands for a real scanner: a recording of a
Na-22 point source, then `petqc analyse` of it, each as a process of its own with its time and peak memory. Pull:
measured minus published over the stated uncertainty, to which 0.2 % is added in quadrature: so much do two detectors of
one kind differ. A published value that was not read again in its source is marked *. With --daily also the daily source
of the scanner (annulus or cylinder), whose time width contains the source and compares with nothing. Under each row the
sentence of the run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from petqc.scanners import Scanner, load_scanner
from petqc_simulators.physics.detector import BLOCK_S
from petqc_simulators.profile import load_profile, profile_names

PETQC = [sys.executable, "-c", "from petqcd.cli import main; main()"]
DETECTORS_DIFFER = 0.002


def timed(command: list[str], output: Path, accept: tuple[int, ...] = (0,)) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of one whole process."""
    started = time.perf_counter()
    with output.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in accept:
        sys.exit(f"exit code {child.returncode}: {' '.join(command)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


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
        "seconds": seconds,
        "hits": hits,
        "file_mb": megabytes,
        "write_s": recording_s,
        "write_mhits_per_s": hits / recording_s / 1e6,
        "write_peak_mb": wrote[1],
        "analyse_s": analysed[0],
        "analyse_peak_mb": analysed[1],
        "verdict": document["verdict"],
        "sentence": document["sentence"],
        **{check: value(document, check) for check in ("photopeak", "energy_resolution", "ctr_fit", "ctr_nema")},
        **{check: value(document, check) for check in ("source_position", "prompts", "randoms_delayed")},
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


def said(found: tuple[float | None, float | None, str], digits: int) -> str:
    number, error, reason = found
    return f"{number:.{digits}f} ± {error:.{digits}f}" if number is not None and error is not None else reason[:14]


def pull(found: tuple[float | None, float | None, str], published: float | None) -> float | None:
    number, error, _ = found
    if number is None or error is None or published is None:
        return None
    return (number - published) / math.hypot(error, DETECTORS_DIFFER * published)


def line(row: dict[str, Any], scanner: Scanner) -> str:
    cells = [f"{row['profile']:17}", f"{said(row['photopeak'], 2):15}"]
    daily = row["source"] != "na22"
    for check, name, digits in (
        ("energy_resolution", "energy_resolution_percent", 2),
        ("ctr_fit", "tof_fwhm_ps", 1),
        ("ctr_nema", "tof_fwhm_ps", 1),
    ):
        quoted = scanner.number(name)
        doubt = "*" if quoted is not None and scanner.values[name].status != "read" else " "
        compared = None if daily and check != "energy_resolution" else pull(row[check], quoted)
        row[f"{check}_published"], row[f"{check}_pull"] = quoted, compared
        if check != "ctr_nema":
            cells.append(f"{'–' if quoted is None else f'{quoted:g}{doubt}':>7}")
        cells.append(f"{said(row[check], digits):>15}{'' if compared is None else f'{compared:+5.1f}':>6}")
    cells += [
        f"{row['hits'] / 1e6:7.1f}",
        f"{row['write_mhits_per_s']:6.2f}",
        f"{row['write_peak_mb']:6.0f}",
        f"{row['analyse_s']:7.0f}",
        f"{row['analyse_peak_mb']:6.0f}",
        f"  {row['verdict']}",
    ]
    return " ".join(cells)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--profile", action="append", help="only these; default: all that stand for a real scanner")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--pairs-per-crystal", type=float, default=60.0)
    options.add_argument("--daily", action="store_true", help="the daily source too")
    options.add_argument("--json", type=Path, help="also write the figures here")
    given = options.parse_args()
    names = given.profile or [n for n in profile_names() if load_profile(n).reference]
    print(
        f"{'':17} {'peak keV':15} {'E pub.':>7} {'E %':>15}{'pull':>6} {'TOF pub':>7} {'TOF fit ps':>15}{'pull':>6} "
        f"{'TOF NEMA ps':>15}{'pull':>6} {'M hits':>7} {'Mhit/s':>6} {'MB':>6} {'analyse':>7} {'MB':>6}  verdict"
    )
    rows = []
    for name in names:
        for source in ("na22", "ge68") if given.daily else ("na22",):
            row = run(name, given.seed, source, given.pairs_per_crystal)
            print(line(row, load_scanner(load_profile(name).reference)))
            print(f"{source:>17} {row['seconds']:.2f} s: {row['sentence']}", flush=True)
            rows.append(row)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
