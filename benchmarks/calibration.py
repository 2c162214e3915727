"""How well the fits of calibrations find what they are after: detectors whose truth is known, drawn from several seeds.

    python benchmarks/calibration.py [--kind tdc] [--seeds 3] [--json OUT.json]

Takes the points of each default plan straight from the simulated physics (no board, no link), fits them, and compares
with what was drawn. Every figure is over all channels; of several seeds the worst is shown, with the goal beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from petqc.calibrate import Calibration, CounterPoint, EventPoint, bias, charge, energy, tdc, threshold, time_offsets
from petqc.calibrate.bias_outputs import outputs_of_channels
from petqc.calibration.charge import charge_table, code_of_time, time_of_code
from petqc.calibration.energy import charge_of_kev
from petqc.channel_map import Topology
from petqc.events import Coincidences, Singles
from petqc.formats.petsys_tables import TABLES
from petqc_simulators.config_files import tables as config_tables
from petqc_simulators.physics.controls import PulseTrain
from petqc_simulators.physics.detector import BASELINE_STEPS, THRESHOLD_NOISE_STEPS, Detector
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Callable

BENCH = load_profile("bench")
N = BENCH.geometry.channels
CHANNELS = np.arange(N, dtype=np.int32)
PS = tdc.CLOCK_PS


@dataclass(frozen=True)
class Figure:
    """One number of one seed. goal: not to be exceeded; None: for information."""

    name: str
    value: float
    unit: str
    goal: float | None = None


GROUPS = 8
"""Channels are pulsed in so many turns: a frame carries 126 events."""


def pulsed(
    detector: Detector, pulse: PulseTrain, frames: int, step: tuple[float, float], **fields: object
) -> EventPoint:
    """Counted events of some frames of pulses into every channel, one group of channels after the other."""
    parts = []
    for group in range(GROUPS):
        mode = np.where(group == CHANNELS % GROUPS, 1, 3)
        detector.set(replace(detector.controls, trigger_mode=mode, test_pulse=pulse, **fields))
        detector.advance()  # what is under way still has the pulse before
        block = detector.advance()
        starts = block.starts[: frames + 1]
        is_event = np.ones(starts[-1], np.bool_)
        is_event[starts[:-1]] = is_event[starts[:-1] + 1] = False
        parts.append(block.words[: starts[-1]][is_event])
    words, counts = np.unique(np.concatenate(parts), return_counts=True)
    return EventPoint(*step, words, counts.astype(np.int32))


def dark(seed: int) -> Detector:
    """A detector without a source and without bias, as it is calibrated with test pulses."""
    detector = Detector(BENCH, seed)
    detector.set(replace(detector.controls, bias_v=np.zeros_like(detector.controls.bias_v)))
    detector.settle()
    return detector


def column(found: Calibration, name: str) -> np.ndarray:
    return np.asarray(next(c for c in found.columns if c.id == name).value)


def tdc_scan(seed: int) -> tuple[Detector, list[EventPoint]]:
    detector, plan = dark(seed), tdc.TdcPlan()
    is_charge = np.zeros(N, bool)
    return detector, [
        pulsed(
            detector,
            PulseTrain(plan.length_clk, plan.interval_clk, phase),
            plan.frames_per_point,
            (phase, 0.0),
            is_charge=is_charge,
        )
        for phase in plan.points()
    ]


def of_tdc(seed: int) -> list[Figure]:
    detector, points = tdc_scan(seed)
    began_s = time.perf_counter()
    found = tdc.fit(points, CHANNELS)
    took_s = time.perf_counter() - began_s
    table = found.tables["tdc"]
    line = table[table["branch"] == 0]
    channel = line["chip"].astype(int) * 64 + line["channel"]
    t0, a0, a1, a2 = detector.draw.tdc[4 * channel + line["tac"], :4].T[:, :, None]
    true = np.linspace(0.0, 1.0, 101)[:-1]
    at = true + ((detector.draw.delay_ps - detector.draw.offset_ps)[channel] / PS)[:, None] + t0
    q = np.ceil(at + 0.5) - at
    code = a0 + a1 * q + a2 * q * q  # not rounded: what is beyond the quantisation
    b0, b1, b2, s0 = (line[k][:, None] for k in ("a0", "a1", "a2", "t0"))
    measured = np.ceil(at + 0.5) - (-b1 + np.sqrt(b1 * b1 - 4 * (b0 - code) * b2)) / (2 * b2) - s0
    error = (measured - true) * PS
    error -= error.mean()
    rms_of_channel = np.sqrt((error**2).reshape(-1, 4 * true.size).mean(axis=1))
    stated = column(found, "tdc_error")[np.unique(channel)]
    return [
        Figure("channels without a calibration", N - rms_of_channel.size, "", 0),
        Figure("time error, rms", float(np.sqrt((error**2).mean())), "ps", 10.0),
        Figure("time error, worst channel", float(rms_of_channel.max()), "ps", 10.0),
        Figure("rms over stated error", float(np.sqrt((rms_of_channel**2 / stated**2).mean())), "", 1.2),
        Figure("quantisation, rms", float(np.mean(PS / b1) / np.sqrt(12.0)), "ps"),
        Figure("time of the fit", took_s, "s"),
    ]


def true_tdc(detector: Detector) -> np.ndarray:
    table = np.zeros(8 * N, TABLES["tdc"].dtype)
    row = np.arange(8 * N) // 2
    table["chip"], table["channel"], table["tac"] = row >> 8, row >> 2 & 63, row & 3
    table["branch"] = np.arange(8 * N) % 2
    for k, name in enumerate(("t0", "a0", "a1", "a2")):
        table[name] = detector.draw.tdc[row, k + 4 * table["branch"].astype(int)]
    return table


def of_charge(seed: int) -> list[Figure]:
    """With a time calibration that was measured, errors and all, as in an acquisition."""
    times = tdc.fit(tdc_scan(seed)[1], CHANNELS).tables["tdc"]
    detector, plan = dark(seed), charge.ChargePlan()
    points = [
        pulsed(
            detector,
            PulseTrain(length, plan.interval_clk, phase),
            plan.frames_per_point,
            (length, phase),
            integration=np.zeros(N, np.int64),
        )
        for length, phase in plan.points()
    ]
    began_s = time.perf_counter()
    found = charge.fit(points, CHANNELS, times)
    took_s = time.perf_counter() - began_s
    table = found.tables["qdc"]
    row = 4 * (table["chip"].astype(int) * 64 + table["channel"]) + table["tac"]
    inverse = charge_table(np.stack([table[f"p{k}"] for k in range(10)], axis=1).astype(np.float32))
    window, charges = 61.0, np.linspace(5.0, 150.0, 59)
    measured = np.empty((row.size, charges.size))
    for i, one in enumerate(charges):
        code = code_of_time(np.full(row.size, window + one), detector.draw.qdc[row])
        measured[:, i] = time_of_code(code.astype(np.float32), np.arange(row.size), inverse) - window
    of_time = np.linspace(10.0, 270.0, 79)  # where no integrator is saturated
    error = np.empty((row.size, of_time.size))
    for i, one in enumerate(of_time):
        code = code_of_time(np.full(row.size, one), detector.draw.qdc[row])
        error[:, i] = time_of_code(code.astype(np.float32), np.arange(row.size), inverse) - one
    rms_of_channel = np.sqrt((error**2).reshape(-1, 4 * of_time.size).mean(axis=1))
    stated = column(found, "charge_error")[np.unique(row // 4)]
    used = charges > 20.0
    relative = 100.0 * (measured / charges - 1.0)[:, used]
    return [
        Figure("channels without a calibration", N - row.size // 4, "", 0),
        Figure("charge nonlinearity, rms", float(np.sqrt((relative**2).mean())), "%", 0.5),
        Figure("charge nonlinearity, worst", float(np.abs(relative).max()), "%", 0.5),
        Figure("time from code, rms error", float(np.sqrt((error**2).mean())), "clk"),
        Figure("rms over stated error", float(np.sqrt((rms_of_channel**2 / stated**2).mean())), "", 1.2),
        Figure("charge error of small pulses, worst", float(np.abs(measured - charges)[:, ~used].max()), "clk"),
        Figure("time of the fit", took_s, "s"),
    ]


def of_threshold(seed: int) -> list[Figure]:
    detector, plan, rng = dark(seed), threshold.ThresholdPlan(), np.random.default_rng(seed)
    trims = np.stack([np.full(N, 58), np.full(N, 6)], axis=1)
    clocks = 1 << 22
    points = []
    for k in range(3):
        for code in plan.codes():
            vth = np.zeros((N, 3), np.int64)
            vth[:, k] = code
            duty = detector.comparator_duty(replace(detector.controls, vth=vth, baseline=trims))[:, k]
            points += [
                CounterPoint({"discriminator": k, "code": code}, CHANNELS, rng.binomial(clocks, duty), clocks)
                for _ in range(plan.reads)
            ]
    found = threshold.fit(points, trims[:, 0], trims[:, 1])
    moved = (trims - detector.draw.baseline)[:, [0, 0, 1]] * np.array(BASELINE_STEPS)[[0, 0, 1]]
    true = detector.draw.zero + moved
    columns = [next(c for c in found.columns if c.id == f"threshold_zero_{name}") for name in threshold.DISCRIMINATORS]
    zero = np.stack([c.value for c in columns], axis=1)
    stated = np.stack([c.uncertainty for c in columns], axis=1)
    noise = np.stack([column(found, f"threshold_noise_{name}") for name in threshold.DISCRIMINATORS], axis=1)
    is_found = np.isfinite(zero)
    inside = (true > 0.0) & (true < 62.5)
    pulls = ((zero - true) / stated)[is_found]
    return [
        Figure("zeros inside the scan that were not found", int((inside & ~is_found).sum()), "", 0),
        Figure("zero, rms error", float(np.sqrt(((zero - true)[is_found] ** 2).mean())), "DAC steps", 0.01),
        Figure("rms over stated error", float(np.sqrt((pulls**2).mean())), "", 1.2),
        Figure(
            "noise, rms error", float(np.sqrt(((noise - THRESHOLD_NOISE_STEPS)[is_found] ** 2).mean())), "DAC steps"
        ),
    ]


def of_bias(seed: int) -> list[Figure]:
    """From steps of dark counts at the voltages, thresholds and readings of the daemon's own plan."""
    detector, rng = Detector(BENCH, seed), np.random.default_rng(seed)
    draw, of = detector.draw, config_tables(BENCH, detector.draw)
    window_s = (1 << 22) * 5e-9
    points = []
    for level, share in enumerate((0.6, 0.7, 0.8, 0.9, 1.0)):
        detector.bias_v = draw.breakdown_found_v + share * BENCH.sipm.overvoltage_v
        volts = {bias.volts_name((0, 0, 0, k)): float(v) for k, v in enumerate(detector.bias_v)}
        for below in range(2, 22):
            vth = detector.controls.vth.copy()
            vth[:, 0] = np.floor(draw.zero[:, 0]).astype(np.int64) - below
            rate_hz = detector.comparator_dark_hz(replace(detector.controls, vth=vth))[:, 0]
            settings = {"level": float(level), "below": float(below), **volts}
            points += [CounterPoint(settings, CHANNELS, rng.poisson(rate_hz * window_s), 1 << 22) for _ in range(4)]
    began_s = time.perf_counter()
    outputs = outputs_of_channels(of["bias_map"])
    found = bias.fit_gain(points, of["disc_calibration"], outputs, of["bias_settings"])
    took_s = time.perf_counter() - began_s
    of_channel = draw.breakdown_v + BENCH.sipm.breakdown_v_per_k * draw.warmer_k[draw.module_of]
    true = np.array([of_channel[draw.bias_of == k].mean() for k in range(draw.breakdown_found_v.size)])
    results = [r for r in found.results if r.id == "bias_breakdown"]
    stated = np.array([np.nan if r.uncertainty is None else r.uncertainty for r in results])
    error = found.tables["bias_settings"]["breakdown"] - true
    return [
        Figure("outputs without a breakdown", int(np.isnan(stated).sum()), "", 0),
        Figure("breakdown, rms error", 1000.0 * float(np.sqrt((error**2).mean())), "mV", 20.0),
        Figure("breakdown, worst output", 1000.0 * float(np.abs(error).max()), "mV", 20.0),
        Figure("rms over stated error", float(np.sqrt(np.nanmean((error / stated) ** 2))), "", 1.5),
        Figure("time of the fit", took_s, "s"),
    ]


LINE_COUNTS = (6000, 700)
LINE_CHANNELS = 256
LINE_WIDTH = 0.042
"""Standard deviation of the line at 511 keV, relative."""
FLAT_KEV, LOW_KEV = (340.0, 1062.0), (30.0, 340.0)
FLAT_PER_SECOND_LINE = 4
"""Counts of the Compton continuum between the lines, over those of the second line."""
LINE_RANGES = ((0.79, 1.125), (0.90, 1.12))
"""What the calibration fits, relative to the line."""


def line_bound_kev(line: float, n: int, span_kev: np.ndarray) -> float:
    """Cramér-Rao bound of a line's position where area, width, flat background and step are not known."""
    sigma = LINE_WIDTH * np.sqrt(511.0 * line)
    kev = np.linspace(*span_kev, 4001)
    z = (kev - line) / sigma
    peak = np.exp(-0.5 * z * z) / (sigma * np.sqrt(2.0 * np.pi))
    flat = FLAT_PER_SECOND_LINE * LINE_COUNTS[1] / (FLAT_KEV[1] - FLAT_KEV[0])
    expected = n * peak + np.where(kev < FLAT_KEV[1], flat, 0.0)
    slopes = (n * peak * z / sigma, n * peak * (z * z - 1.0) / sigma, peak, np.ones_like(kev), ndtr(-z))
    information = [[np.trapezoid(a * b / np.maximum(expected, 1e-6), kev) for b in slopes] for a in slopes]
    return float(np.sqrt(np.linalg.inv(np.array(information))[0, 0]))


def of_energy(seed: int) -> list[Figure]:
    """Channels with both lines of Na-22 over a continuum, their gain and saturation drawn."""
    rng = np.random.default_rng(seed)
    k = 7.2 * (1.0 + rng.normal(0.0, 0.05, LINE_CHANNELS))
    a = 2100.0 * (1.0 + rng.normal(0.0, 0.06, LINE_CHANNELS))
    lines = energy.LINES["na22"]
    spectra = energy.ChargeSpectra(np.arange(LINE_CHANNELS, dtype=np.int32))
    flat = FLAT_PER_SECOND_LINE * LINE_COUNTS[1]
    for i in range(LINE_CHANNELS):
        peaks = [
            line * (1.0 + LINE_WIDTH * np.sqrt(lines[0] / line) * rng.standard_normal(n))
            for line, n in zip(lines, LINE_COUNTS, strict=True)
        ]
        parts = [rng.uniform(*LOW_KEV, 2 * LINE_COUNTS[0]), rng.uniform(*FLAT_KEV, flat), *peaks]
        kev = np.concatenate(parts).astype(np.float32)
        ones = np.ones(kev.size, np.float32)
        charges = charge_of_kev(kev, np.float32(k[i]) * ones, np.float32(a[i] / k[i]) * ones)
        channel, hits = np.full(kev.size, i, np.int32), np.ones(kev.size, np.uint8)
        spectra.add(Singles(np.arange(kev.size), charges, channel, hits, "clock"))
    began_s = time.perf_counter()
    found = energy.fit(spectra, "na22").tables["energy_kev"]
    took_s = time.perf_counter() - began_s
    at = 64 * found["chip"].astype(int) + found["channel"]
    figures = [Figure("channels without a calibration", LINE_CHANNELS - at.size, "", 0)]
    for line, n, span, goal in zip(lines, LINE_COUNTS, LINE_RANGES, (1.05, None), strict=True):
        # The charge of the line, by the truth; its energy, by what was found: -k s ln(1 - charge / s).
        charge_of_line = a[at] / k[at] * -np.expm1(-line / a[at])
        unit, saturation = found["kev_per_unit"], found["saturation_unit"]
        error = -unit * saturation * np.log1p(-charge_of_line / saturation) - line
        rms_kev = float(np.sqrt((error**2).mean()))
        bound_kev = line_bound_kev(line, n, np.array(span) * line)
        name = f"energy at {line:.0f} keV"
        chance = 3.0 / np.sqrt(2 * at.size)
        figures += [
            Figure(f"{name}, mean error", float(error.mean()), "keV"),
            Figure(f"{name}, rms error", rms_kev, "keV"),
            Figure("  over the Cramér-Rao bound", rms_kev / bound_kev, "", None if goal is None else goal + chance),
        ]
    return [*figures, Figure("time of the fit", took_s, "s")]


PAIR_SIGMA_PS = 95.0
PAIRS = 40_000


def of_time_offsets(seed: int) -> list[Figure]:
    """Two facing modules of 64 thin crystals, offsets of 150 ps, without and with 30 % of randoms."""
    half = (np.arange(8) - 3.5) * 3.2
    x, y = (g.ravel() for g in np.meshgrid(half, half))
    xyz = np.concatenate([np.stack([x, y, np.full(64, z)], axis=1) for z in (-60.0, 60.0)])
    topology = Topology.from_channels(np.arange(128, dtype=np.int32), asics_per_module=1, xyz_mm=xyz.astype(np.float32))
    flight_ps = np.linalg.norm(xyz, axis=1) / time_offsets.C_MM_PER_PS
    figures = []
    for randoms, goal in ((0.0, 1.05), (0.3, 1.25)):
        rng = np.random.default_rng([seed, int(100 * randoms)])
        offset = rng.normal(0.0, 150.0, 128)
        a, b = rng.integers(0, 64, PAIRS), rng.integers(64, 128, PAIRS)
        dt = (offset + flight_ps)[a] - (offset + flight_ps)[b] + rng.normal(0.0, PAIR_SIGMA_PS, PAIRS)
        is_random = rng.random(PAIRS) < randoms
        dt[is_random] = rng.uniform(-5000.0, 5000.0, int(is_random.sum()))
        pairs = time_offsets.PairList(topology)
        pairs.add(coincidences(a, b, dt))
        table = time_offsets.fit(pairs, None, window_ps=10_000.0, crystal_mm=0.1).tables["time_offset"]
        found = np.full(128, np.nan)
        found[64 * table["chip"].astype(int) + table["channel"]] = table["t0_ps"]
        error = found - found.mean() - (offset - offset.mean())
        # Cramér-Rao: the inverse of the information of the true pairs, the common shift taken out.
        information = np.zeros((128, 128))
        for one, other, weight in ((a, a, 1.0), (b, b, 1.0), (a, b, -1.0), (b, a, -1.0)):
            np.add.at(information, (one[~is_random], other[~is_random]), weight / PAIR_SIGMA_PS**2)
        bound_ps = float(np.sqrt(np.trace(np.linalg.pinv(information, rcond=1e-9, hermitian=True)) / 128))
        rms_ps = float(np.sqrt((error**2).mean()))
        figures += [
            Figure(f"offset, rms error, {100 * randoms:.0f} % randoms", rms_ps, "ps"),
            Figure("  over the Cramér-Rao bound", rms_ps / bound_ps, "", goal + 3.0 / np.sqrt(2 * 128)),
        ]
    return figures


def coincidences(a: np.ndarray, b: np.ndarray, dt_ps: np.ndarray) -> Coincidences:
    one, kev = np.ones(a.size, np.uint8), np.full(a.size, 511.0, np.float32)
    dt = np.rint(dt_ps).astype(np.int64)
    return Coincidences(dt, np.zeros_like(dt), kev, kev, a.astype(np.int32), b.astype(np.int32), one, one, "kev")


KINDS: dict[str, Callable[[int], list[Figure]]] = {
    "threshold": of_threshold,
    "tdc": of_tdc,
    "charge": of_charge,
    "bias": of_bias,
    "energy": of_energy,
    "time-offsets": of_time_offsets,
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kind", choices=[*KINDS], action="append", help="only these; may be repeated")
    options.add_argument("--seeds", type=int, default=3, help="detectors to draw")
    options.add_argument("--json", type=Path, help="also write every figure of every seed here")
    given = options.parse_args()
    written: dict[str, list[dict[str, object]]] = {}
    missed = 0
    print(f"{'':42}{'worst':>10}{'mean':>10}  {'unit':10}{'goal':>6}")
    for kind in given.kind or KINDS:
        of_seed = []
        for seed in range(1, given.seeds + 1):
            print(f"{kind}, detector {seed} of {given.seeds} …", file=sys.stderr)
            of_seed.append(KINDS[kind](seed))
        written[kind] = [{f.name: f.value for f in figures} for figures in of_seed]
        print(kind)
        for same in zip(*of_seed, strict=True):
            values = [f.value for f in same]
            goal = same[0].goal
            is_missed = goal is not None and max(values) > goal
            missed += is_missed
            told = "" if goal is None else f"{goal:g}"
            print(
                f"  {same[0].name:40}{max(values):10.4g}{np.mean(values):10.4g}  {same[0].unit:10}{told:>6}"
                + ("  MISSED" if is_missed else "")
            )
    if given.json:
        given.json.write_text(json.dumps(written, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
