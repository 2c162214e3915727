"""How well a run without a source finds the truth: simulated benches of several seeds, and drawn spectra and times.

    python benchmarks/lutetium.py [--seeds 8] [--seconds 60] [--json OUT.json]
    python benchmarks/lutetium.py --profile ring-small --seeds 1 --seconds 12
    python benchmarks/lutetium.py --drawn       # no simulation: variance against the Cramér-Rao bound
    python benchmarks/lutetium.py --shift       # a module that warms up, seen by lutetium and by a source

Detectors go from the simulated physics through the event processing into the estimators, without a board. A bias is
the mean deviation from the truth in stated standard deviations; pulls are deviations over stated ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from petqc.analysis import RunContext
from petqc.calibration import CalibrationSet
from petqc.fits.energy_fits import Refusal
from petqc.formats.petsys_config import PetsysConfig, load_config
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.lutetium import PROCESSING, WINDOW_PS, BetaGammaPairs, LutetiumCounts
from petqc.lutetium import spectra as continua
from petqc.lutetium.crystals import LINES_KEV, MATERIALS
from petqc.lutetium.fits import LutetiumFits, decays_per_channel
from petqc.lutetium.lines import Lines, fit_lines
from petqc.lutetium.spectra import DECAYS_ERROR
from petqc.lutetium.times import fit_flight
from petqc.processing import ProcessingSettings, Processor
from petqc.qc_input import Node, QcInput
from petqc_simulators.config_files import write_config_folder
from petqc_simulators.faults import Fault
from petqc_simulators.physics import electronics as el
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.crystal import CLOCK_PS
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from petqc.fits import PeakFit


@dataclass(frozen=True)
class Pull:
    """One number of one seed against its truth."""

    name: str
    found: float
    true: float
    stated: float


def recorded(
    profile: str, seed: int, seconds: float, *, source: str = "none", faults: tuple[str, ...] = ()
) -> tuple[Detector, QcInput, LutetiumFits]:
    """A detector that was looked at for a while, and everything counted."""
    detector = Detector(load_profile(profile, source=source), seed, [Fault.parse(f) for f in faults])
    detector.settle()
    with tempfile.TemporaryDirectory() as folder:
        config: PetsysConfig = load_config(write_config_folder(Path(folder), detector.profile, detector.draw))
    calibration = CalibrationSet.from_config(config)
    own = PROCESSING if source == "none" else {}
    settings = replace(ProcessingSettings.from_config(config), compacted=False, **own)
    processor = Processor(calibration, settings, trigger_id=detector.profile.hardware.trigger_id)
    axes = HistogramSettings.from_processing(settings, calibration.energy_unit)
    histograms = QcHistograms(calibration.topology, "kev", axes, searched=calibration.searched_pairs())
    counts = LutetiumCounts(calibration.topology)
    for _ in range(round(seconds / BLOCK_S)):
        processed = processor.feed(detector.advance().words)
        histograms.add(processed)
        counts.add(processed)
    processed = processor.finish()
    histograms.add(processed)
    counts.add(processed)
    live_s = processor.account.live_time_s
    about = {k: v for k, v in config.petqc.context().items() if k != "source"}
    context = RunContext(run_id="r", kind="lutetium", elapsed_s=live_s, live_time_s=live_s, **about)
    fits = LutetiumFits(counts)
    return detector, QcInput(histograms, context, lutetium=fits), fits


def pulls_of(profile: str, seed: int, seconds: float) -> list[Pull]:
    """What one detector's own lutetium says."""
    detector, q, lu = recorded(profile, seed, seconds)
    draw, state = detector.draw, detector.sipm()
    signal = state.fired_per_photon * state.gain / (draw.calibrated.fired_per_photon * draw.calibrated.gain)
    scale = signal * draw.light_today
    late_ps = (detector.parameters[:, el.DELAY_CLK] - detector.parameters[:, el.OFFSET_CLK]) * CLOCK_PS
    # Channels of the simulation in the order of the topology.
    order = np.argsort(detector.profile.absolute_channels())
    scale, late_ps = scale[order], late_ps[order]
    found: list[Pull] = []
    for node in q.nodes("module"):
        lines, continuum = lu.lines(q, node), lu.continuum(q, node)
        if not isinstance(lines, Refusal):
            found.append(Pull("scale of modules, lines", lines.scale, scale[node.members].mean(), lines.scale_error))
            found.append(Pull("upper over lower line", lines.ratio, 1.0, lines.ratio_error))
        if not isinstance(continuum, Refusal):
            true = scale[node.members].mean()
            found.append(Pull("scale of modules, continuum", continuum.scale, true, continuum.scale_error))
            decays = decays_per_channel(q) * node.members.size
            decays_error = float(np.hypot(continuum.decays_error, DECAYS_ERROR * continuum.decays)) / decays
            found.append(Pull("decays seen, modules", continuum.decays / decays, 1.0, decays_error))
    for node in q.nodes("asic"):
        lines = lu.lines(q, node)
        if not isinstance(lines, Refusal):
            found.append(Pull("scale of ASICs, lines", lines.scale, scale[node.members].mean(), lines.scale_error))
    each = lu.channels(q)
    known = np.isfinite(each.scale)
    found += [
        Pull("scale of channels, continuum", *row)
        for row in zip(each.scale[known], scale[known], each.scale_error[known], strict=True)
    ]
    flight, solved = lu.flight(q), lu.offsets(q)
    if isinstance(flight, Refusal) or isinstance(solved, Refusal):
        sys.stderr.write(f"seed {seed}: {flight if isinstance(flight, Refusal) else solved}\n")
        return found
    found.append(Pull("TDC scale", flight.scale, 1.0, flight.scale_error))
    found.append(Pull("walk, ps", flight.walk_ps, detector.profile.timing.walk_ps, flight.walk_error))
    of_module = np.array([late_ps[node.members].mean() for node in q.nodes("module")])
    of_module -= of_module.mean()
    found += [
        Pull("offset of modules, ps", *row)
        for row in zip(flight.module_ps, of_module, flight.module_error, strict=True)
    ]
    main = solved.component == 0
    true = late_ps - late_ps[main].mean()
    got = solved.offset_ps - solved.offset_ps[main].mean()
    found += [
        Pull("offset of channels, ps", *row) for row in zip(got[main], true[main], solved.error_ps[main], strict=True)
    ]
    return found


def table(pulls: list[Pull], title: str) -> dict[str, dict[str, float]]:
    """Print and return the figures by name."""
    print(f"{title}\n\n| number | values | rms stated | mean deviation | in stated sigma | spread of pulls |")
    print("| --- | --- | --- | --- | --- | --- |")
    out = {}
    for name in dict.fromkeys(p.name for p in pulls):
        mine = [p for p in pulls if p.name == name]
        off = np.array([p.found - p.true for p in mine])
        stated = np.array([p.stated for p in mine])
        rms = float(np.sqrt((stated**2).mean()))
        row = {
            "n": len(mine), "stated": rms, "bias": float(off.mean()), "bias_sigmas": float((off / stated).mean()),
            "pulls": float((off / stated).std()),
        }  # fmt: skip
        out[name] = row
        unit, factor = ("", 1.0) if name.endswith("ps") else (" %", 100.0)
        print(
            f"| {name} | {row['n']} | {factor * rms:.3g}{unit} | {factor * row['bias']:+.3g}{unit} | "
            f"{row['bias_sigmas']:+.2f} | {row['pulls']:.2f} |"
        )
    print()
    return out


def drawn(repeats: int) -> dict[str, float]:
    """Variance of estimators over the Cramér-Rao bound, on data drawn from what they fit."""
    rng = np.random.default_rng(1)
    out: dict[str, float] = {}

    start = _line_fit(rng)
    noiseless = np.zeros(100)
    noiseless[42:93] = start.model
    bound = np.sqrt(np.diag(fit_lines(noiseless).fit.covariance))
    mu = np.array([fit_lines(rng.poisson(noiseless).astype(float)).fit.parameters[[1, 4]] for _ in range(repeats)])
    out["position of the 307 keV line"] = float(mu[:, 0].var() / bound[1] ** 2)
    out["position of the 202 keV line"] = float(mu[:, 1].var() / bound[4] ** 2)

    edges = np.arange(401) * 4.0
    parts = np.array([0.01, 0.2, 0.06, 0.64, 0.05, 0.025, 0.0, 0.015])
    shape = continua.in_bins(11.0, edges, 1.0) @ parts
    module = continua.fit_continuum(edges, rng.poisson(800_000 * shape).astype(float))
    perfect = continua.fit_channels(edges, np.rint(3000 * shape * 1e4).astype(np.uint32)[None], module)
    found = continua.fit_channels(edges, rng.poisson(3000 * shape, (8 * repeats, 400)).astype(np.uint32), module)
    out["scale of a channel, 3 000 decays"] = float(np.nanvar(found.scale) / (perfect.scale_error[0] ** 2 * 1e4))

    _, q, lu = recorded("bench", 1, 10.0)
    topology = q.histograms.topology
    pairs = lu.counts.pairs()
    size = q.context.crystal_mm
    length_mm = size[2] if size is not None else 0.0

    def fitted(dt_ps: np.ndarray) -> tuple[float, float, float, float]:
        moved = BetaGammaPairs(
            pairs.beta, pairs.gamma, dt_ps.astype(np.float32), pairs.beta_kev, pairs.gamma_kev, pairs.alone
        )
        fit = fit_flight(moved, topology, window_ps=WINDOW_PS, material=MATERIALS["lyso"], length_mm=length_mm)
        return fit.scale, fit.scale_noise, float(fit.module_ps[0]), float(fit.module_error[0])

    real = fit_flight(pairs, topology, window_ps=WINDOW_PS, material=MATERIALS["lyso"], length_mm=length_mm)
    line = (pairs.gamma_kev > 252.5).astype(int)
    mean = np.asarray(pairs.dt_ps, np.float64) - real.left_ps
    rows = np.array([fitted(mean + rng.normal(0.0, real.sigma_ps[line])) for _ in range(repeats)])
    out["offset of a module"] = float(rows[:, 2].var() / np.mean(rows[:, 3] ** 2))
    print(f"Variance over the Cramér-Rao bound, {repeats} draws:\n\n| estimator | variance / bound |\n| --- | --- |")
    for name, value in out.items():
        print(f"| {name} | {value:.2f} |")
    print()
    return out


def _line_fit(rng: np.random.Generator) -> PeakFit:
    low, high = rng.normal(LINES_KEV[0], 13.0, 12_000), rng.normal(LINES_KEV[1], 17.5, 28_000)
    energy = np.concatenate([low, high, rng.uniform(100.0, 380.0, 2_000)])
    return fit_lines(np.histogram(energy, np.arange(101) * 4.0)[0].astype(float)).fit


def _scale(q: QcInput, lu: LutetiumFits, node: Node, source: str) -> float:
    fit = lu.lines(q, node) if source == "none" else q.energy_fit(node)
    if isinstance(fit, Refusal):
        return np.nan
    return fit.scale if isinstance(fit, Lines) else fit.mu / 510.999


def shift(seconds: float) -> dict[str, float]:
    """A module 3 K warmer: how much its lines and its 511 keV peak move."""
    found: dict[str, dict[str, list[float]]] = {}
    for source, how_long in (("none", seconds), ("ge68", 15.0)):
        for fault in ((), ("F06=3",)):
            _, q, lu = recorded("bench", 2, how_long, source=source, faults=fault)
            fits = [_scale(q, lu, node, source) for node in q.nodes("module")]
            found.setdefault(source, {})["warm" if fault else "cool"] = fits
    moved = {s: np.array(f["warm"]) / np.array(f["cool"]) - 1.0 for s, f in found.items()}
    module = int(np.argmax(np.abs(moved["ge68"])))
    lutetium, source = (100.0 * float(moved[s][module]) for s in ("none", "ge68"))
    print(f"A module 3 K warmer: lines of lutetium {lutetium:+.2f} %, 511 keV peak {source:+.2f} %")
    return {"lutetium_percent": lutetium, "source_percent": source}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="bench")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--shift", action="store_true")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began_s = time.perf_counter()
    if given.drawn:
        result: object = drawn(given.repeats)
    elif given.shift:
        result = shift(given.seconds)
    else:
        pulls = [p for seed in range(1, given.seeds + 1) for p in pulls_of(given.profile, seed, given.seconds)]
        result = table(pulls, f"{given.profile}, {given.seeds} detectors, {given.seconds:g} s each, no source")
    print(f"{time.perf_counter() - began_s:.0f} s")
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
