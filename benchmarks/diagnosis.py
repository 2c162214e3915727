"""Does the diagnosis name the right cause at the right address? Every simulated fault at its typical size, many seeds.

    python benchmarks/diagnosis.py [--profile bench] [--seconds 15] [--seeds 5001-5010] [--faults F03 F14 …]
                                   [--sizes 0.5 1 2] [--jobs 1]
                                   [--results RESULTS.jsonl] [--table]

For each seed one healthy run of the detector makes the baselines, then every fault (at a place that the seed chooses)
and one more healthy run are measured with other events and analysed as `petqc analyse` would. Each outcome is a line of
the results file; what is there already is not done again, so that a long campaign may be interrupted. `--table` prints
the table of all results in the file; `detection_matrix.py` makes a page and a picture of it. Faults of the MR's
gradients get the run with the MR idle, under stress and idle again instead. Frames go from the simulated detector
straight to the processing.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.analysis import RunContext, analyse
from petqc.calibration import CalibrationSet
from petqc.channel_map import asic_node
from petqc.formats.petsys_config import load_config
from petqc.histograms import QcHistograms
from petqc.limits import Status
from petqc.mr_delta import analyse_mr_delta
from petqc.processing import ProcessingSettings, Processor
from petqc.qc_input import QcInput
from petqc.recorded import flat_account
from petqc.results import EnvironmentReading
from petqc_simulators.config_files import write_config_folder
from petqc_simulators.faults import KINDS, Fault
from petqc_simulators.physics.blocks import BLOCK_FRAMES, BLOCK_S
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from petqc.results import Run
    from petqc_simulators.profile import Profile

HEALTHY = "healthy"
BASELINES = frozenset(
    {
        "photopeak", "bias_peak", "energy_resolution", "window_acceptance", "ctr_fit", "timing_width", "singles_rate",
        "prompts", "block_efficiency", "temperature", "windows.coincidence", "windows.energy_low",
        "windows.energy_high",
    }
)  # fmt: skip
"""Checks whose healthy values become baselines, as a site's [baseline] would have them."""
KNOWN_TO = 0.006
"""What one run does not know to this share is no baseline: limits of a few per cent around it would make alarms."""
OF_THE_MR = frozenset({"F24"})
"""What takes minutes of a sequence: seen by the run with the MR idle, under stress and idle again."""
IN_WHOLE_NUMBERS = frozenset({"F01", "F20", "F21"})
BY_FACTOR = frozenset({"F22"})
"""Where a size of 1 is no fault."""
STRESSED_S, RESTED_S = 180.0, 540.0
_BETWEEN_SENSORS_K, _SENSOR_NOISE_K = 0.2, 0.02


@dataclass(frozen=True)
class Seen:
    """A run, and what was planted in it."""

    run: Run
    planted: list[dict[str, Any]]
    modules: int


def temperatures(profile: Profile, detector: Detector) -> tuple[EnvironmentReading, ...]:
    """One sensor at the SiPMs of each ASIC, as the boards of this kind of module have."""
    geometry = profile.geometry
    per_module = geometry.asics_per_module
    noise = np.random.default_rng(detector.frame + 1).normal(0.0, _SENSOR_NOISE_K, geometry.chips)
    first = profile.absolute_channels()[:: geometry.crystals_per_asic]
    place = (np.arange(geometry.chips) % per_module - (per_module - 1) / 2) * _BETWEEN_SENSORS_K
    warm = profile.environment.calibration_degc + np.repeat(detector.warmer_k, per_module)
    return tuple(
        EnvironmentReading("temperature_sipm", asic_node(int(c)), float(t), "degC", True, "good", 1.0)
        for c, t in zip(first, warm + place + detector.effects.sensor_k + noise, strict=True)
    )


def counted(profile: Profile, detector: Detector, seconds: float) -> tuple[QcHistograms, dict[str, int | float]]:
    """What a detector shows from now on, as the configuration that comes with it has it processed; and the account."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(write_config_folder(Path(folder), detector.plan.configured(profile), detector.draw))
    calibration = CalibrationSet.from_config(config)
    settings = replace(ProcessingSettings.from_config(config), compacted=False)
    histograms = QcHistograms.of(calibration, settings)
    processor = Processor(calibration, settings, trigger_id=profile.hardware.trigger_id)
    last = detector.frame + _blocks(seconds) * BLOCK_FRAMES - 1
    while detector.frame < last:
        histograms.add(processor.feed(detector.advance().words))
    histograms.add(processor.finish(last))
    return histograms, flat_account([processor.account])


def _blocks(seconds: float) -> int:
    return math.ceil(seconds / BLOCK_S)


def measure(
    profile: Profile,
    seed: int,
    fault: str | None,
    seconds: float,
    *,
    events: str,
    baselines: Mapping[str, Any],
) -> Seen:
    """One run of a detector, from physics to verdict.

    Args:
        profile: the scanner.
        seed: the detector, and where a fault sits.
        fault: as `Fault.parse` reads it, or several with spaces between; None for a healthy detector.
        seconds: simulated time.
        events: other names are other decays.
        baselines: fields of the run's context, as `baselines_of` gives them.
    """
    planted = [] if fault is None else [Fault.parse(one) for one in fault.split()]
    detector = Detector(profile, seed, planted, stream_name=events)
    detector.settle()
    histograms, account = counted(profile, detector, seconds)
    context = _context(profile, detector, account, f"{profile.name}-{seed}-{events}", seconds)
    run = analyse(histograms, replace(context, **baselines))
    return Seen(run, detector.plan.describe(), profile.geometry.modules)


def measure_mr_delta(profile: Profile, seed: int, fault: str, seconds: float) -> Seen:
    """The MR run: idle, under a sequence that has run for STRESSED_S, and idle again RESTED_S after its end."""
    begin = _blocks(seconds) * BLOCK_S
    stress = begin + STRESSED_S
    end = stress + begin
    detector = Detector(profile, seed, [Fault.parse(f"{fault}@{begin}-{end}")], stream_name="today")
    detector.settle()
    phases, degc = [], []
    for from_s in (0.0, stress, end + RESTED_S):
        while detector.frame < round(from_s / BLOCK_S) * BLOCK_FRAMES:
            detector.pass_over(0)
        histograms, account = counted(profile, detector, seconds)
        context = _context(profile, detector, account, f"{profile.name}-{seed}-mr", seconds)
        phases.append(QcInput(histograms, replace(context, kind="mr-delta")))
        read = phases[-1].sipm_temperatures()
        degc.append({module: float(np.median([t for _, t in sensors])) for module, sensors in read.items()})
    run = analyse_mr_delta(phases, degc, phases[0].context)
    return Seen(run, detector.plan.describe(), profile.geometry.modules)


def _context(
    profile: Profile, detector: Detector, account: dict[str, int | float], run_id: str, seconds: float
) -> RunContext:
    return RunContext(
        run_id=run_id,
        simulated=True,
        account=account,
        elapsed_s=_blocks(seconds) * BLOCK_S,
        live_time_s=float(account["live_time_s"]),
        environment=temperatures(profile, detector),
        source="point",
        source_mm=(0.0, 0.0, 0.0),
    )


def baselines_of(run: Run) -> dict[str, Any]:
    """Values of a healthy run and their errors, by check and node."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    errors: dict[str, dict[str, float]] = defaultdict(dict)
    for c in run.checks:
        # One run does not know single pairs of modules well enough to hold others against it.
        if c.id not in BASELINES or c.value is None or " - " in c.node:
            continue
        if (c.uncertainty or 0.0) <= KNOWN_TO * abs(c.value):
            found[c.id][c.node] = c.value
            errors[c.id][c.node] = c.uncertainty or 0.0
    return {"baselines": dict(found), "baseline_errors": dict(errors)}


def is_right_place(node: str, planted: list[str], modules: int) -> bool:
    """The planted address; where two modules are all there is, the pair of them for one of the two, or for all."""
    halves = node.split(" - ")
    is_all = modules == len(halves) == 2 and planted == ["scanner"]
    return node in planted or is_all or any(half in planted for half in halves)


def outcome(seen: Seen) -> dict[str, Any]:
    """What the run said of what was planted."""
    run = seen.run
    first = run.diagnosis[0] if run.diagnosis else None
    is_detected = run.verdict in {Status.WARN, Status.FAIL, Status.INVALID} or first is not None
    found: dict[str, Any] = {
        "verdict": str(run.verdict),
        "detected": is_detected,
        "named": [[h.cause, h.node, h.score] for h in run.diagnosis[:3]],
        "sentence": run.sentence,
    }
    if seen.planted:
        planted = seen.planted[0]
        found["planted"] = planted["nodes"]
        found["size"] = planted["size"]
        found["node_right"] = first is not None and is_right_place(first.node, planted["nodes"], seen.modules)
        found["cause_right"] = first is not None and first.cause.startswith(planted["id"])
        found["cause_among_three"] = any(h.cause.startswith(planted["id"]) for h in run.diagnosis[:3])
    return found


def commit() -> str:
    """Of the sources that measure, with a + where they differ from it; empty outside a repository."""
    git, here = shutil.which("git"), Path(__file__).parent
    if git is None:
        return ""
    told = subprocess.run([git, "describe", "--always", "--dirty=+", "--exclude=*"], cwd=here, check=False,
                          capture_output=True, text=True)  # fmt: skip
    return told.stdout.strip()


def campaign(profile_name: str, seconds: float, seeds: Iterable[int], faults: Sequence[str], results: Path) -> None:
    """Run what the results file does not have yet; one line each, written at once."""
    profile, software = load_profile(profile_name), commit()
    done = {(r["profile"], r["seconds"], r["seed"], r["fault"]) for r in read(results)}
    todo = [(s, f) for s in seeds for f in (HEALTHY, *faults) if (profile_name, seconds, s, f) not in done]
    baselines: dict[int, dict[str, Any]] = {}
    began_s = time.monotonic()
    for number, (seed, fault) in enumerate(todo, 1):
        if seed not in baselines:
            healthy = measure(profile, seed, None, seconds, events="baseline", baselines={})
            baselines = {seed: baselines_of(healthy.run)}
        planted = None if fault == HEALTHY else fault
        if fault.partition("=")[0] in OF_THE_MR:
            seen = measure_mr_delta(profile, seed, fault, seconds)
        else:
            seen = measure(profile, seed, planted, seconds, events="today", baselines=baselines[seed])
        line = {"profile": profile_name, "seconds": seconds, "seed": seed, "fault": fault, "commit": software}
        line |= outcome(seen)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        named = line["named"][0][:2] if line["named"] else "nothing"
        left_s = (time.monotonic() - began_s) / number * (len(todo) - number)
        sys.stderr.write(f"{number}/{len(todo)} seed {seed} {fault}: {line['verdict']}, {named}; {left_s:.0f} s left\n")


def read(results: Path) -> list[dict[str, Any]]:
    """Lines of a results file; none if there is no file yet."""
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: one row a fault and profile."""
    rows = ["| profile | fault | size | runs | noticed | right place first | right cause first | among three |"]
    rows.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["profile"], line["fault"]].append(line)
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (profile, fault), members in sorted(groups.items()):
        if fault == HEALTHY:
            continue
        kind = KINDS[fault[:3]]
        seen = [m for m in members if m["detected"]]
        counts = [len(members), len(seen), *(sum(m[k] for m in seen) for k in ("node_right", "cause_right"))]
        totals[profile] = [a + b for a, b in zip(totals[profile], counts, strict=True)]
        among = sum(m["cause_among_three"] for m in seen)
        size = f"{members[0]['size']:g} {kind.size_means}"
        rows.append(
            f"| {profile} | {fault} {kind.title} | {size} | {counts[0]} | {counts[1]} | {counts[2]} | {counts[3]} "
            f"| {among} |"
        )
    for profile, (runs, seen_, node, cause) in totals.items():
        rows.append(
            f"| {profile} | **all** |  | {runs} | {seen_} ({100 * seen_ / max(runs, 1):.0f} %) "
            f"| {node} ({100 * node / max(seen_, 1):.1f} %) | {cause} ({100 * cause / max(seen_, 1):.1f} %) |  |"
        )
    for (profile, fault), members in sorted(groups.items()):
        if fault == HEALTHY:
            alarms = sum(m["detected"] for m in members)
            rows.append(f"| {profile} | none: healthy runs |  | {len(members)} | {alarms} false alarms |  |  |  |")
    return "\n".join(rows)


def at_size(fault: str, times: float) -> str | None:
    """A fault at a multiple of its typical size, as `Fault.parse` reads it; None where there is no such size."""
    kind = KINDS[fault[:3]]
    if times == 1.0 or "=" in fault:
        return fault
    size = times * kind.default_size
    if kind.id in BY_FACTOR:
        size = 1.0 + times * (kind.default_size - 1.0)
    if size > kind.largest_size or (kind.id in IN_WHOLE_NUMBERS and size != round(size)):
        return None
    return f"{kind.id}={size:g}"


def main() -> int:
    """Run a campaign, or print what one has found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="bench")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--seeds", default="5001-5010", help="FIRST-LAST")
    parser.add_argument("--faults", nargs="*", default=list(KINDS), metavar="ID[=size]")
    parser.add_argument("--sizes", nargs="*", type=float, default=[1.0], help="multiples of the typical size")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, each in a process of its own")
    parser.add_argument("--results", "--out", type=Path, default=Path("diagnosis.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of what is in the results file, and end")
    given = parser.parse_args()
    if not given.table:
        first, _, last = given.seeds.partition("-")
        faults = [sized for times in given.sizes for fault in given.faults if (sized := at_size(fault, times))]
        seeds = range(int(first), int(last or first) + 1)
        if given.jobs == 1:
            campaign(given.profile, given.seconds, seeds, faults, given.results)
        else:
            with ProcessPoolExecutor(given.jobs) as pool:
                told = [
                    pool.submit(campaign, given.profile, given.seconds, [seed], faults, given.results) for seed in seeds
                ]
                for one in told:
                    one.result()
    sys.stdout.write(table(read(given.results)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
