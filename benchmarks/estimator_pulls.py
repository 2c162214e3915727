"""Pulls of the daily checks over simulated benches, and the bias of the NEMA rule; part of estimators.py.

Detectors go through events, frames, a recording, its reader and all checks, and are compared with the truth that the
simulator calculates from its parameters.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from petqc.analysis import analyse_file
from petqc.errors import QcError
from petqc.fits.peaks import nema_width
from petqc.fits.time_peaks import fit_time_peak
from petqc.statistics import FWHM_OF_SIGMA
from petqc_simulators.recording import write_recording

if TYPE_CHECKING:
    from petqc.results import Run

TRUTH_KEYS = {
    "photopeak": "photopeak_kev",
    "energy_resolution": "energy_resolution_percent",
    "ctr_fit": "ctr_fwhm_ps",
    "ctr_nema": "ctr_fwhm_ps",
    "module_time_offset": "time_offset_ps",
}
_BLIND_CLK = 34 * 1.8 + 4.0
"""Integration of a hit and rearming, as the bench is set up and its profile says."""


def _module_of(asic: str) -> str:
    port, slave, chip = asic.removeprefix("asic:").split(".")
    return f"module:{port}.{slave}.{int(chip) // 4}"


def of_seed(seed: int, seconds: float) -> dict[str, list[float | None]]:
    """Pulls of one bench by check and level; None where a check gave no number."""
    with tempfile.TemporaryDirectory() as folder:
        truth = write_recording(Path(folder) / "run", "bench", seed, seconds)
        run = analyse_file(truth["recording"], config=truth["config"])
    found: dict[str, list[float | None]] = {}

    def add(name: str, value: float | None, error: float | None, true: float) -> None:
        known = value is not None and error is not None and error > 0.0
        found.setdefault(name, []).append((value - true) / error if known else None)  # type: ignore[operator]

    levels = {"scanner": {"scanner": truth["scanner"]}, "module": truth["modules"], "ASIC": truth["asics"]}
    for check, key in TRUTH_KEYS.items():
        for level, nodes in levels.items():
            for node, values in nodes.items():
                result = run.find(check, node)
                if result is None or key not in values:
                    continue
                true = values[key]
                if check == "module_time_offset" and level == "ASIC":
                    true -= truth["modules"][_module_of(node)][key]
                add(f"{check}, {level}", result.value, result.uncertainty, true)
    _channels(run, truth, add)
    randoms = run.find("randoms_delayed")
    if randoms is not None:
        add("randoms_delayed, scanner", randoms.value, randoms.uncertainty, 1.0)
    for module in truth["modules"]:
        blind = run.find("dead_time.after_hit", module)
        if blind is not None:
            add("dead_time.after_hit, module", blind.value, blind.uncertainty, 5.0 * _BLIND_CLK)
    return found


def _channels(run: Run, truth: dict, add: object) -> None:
    columns = {c.id: c for c in run.columns}
    places = list(truth["channels"].values())
    of_module = run.channels["module"]
    for check in ("photopeak", "energy_resolution", "module_time_offset"):
        column = columns[check]
        true = np.array([p.get(TRUTH_KEYS[check], np.nan) for p in places])
        if check == "module_time_offset":
            for module in np.unique(of_module):
                true[of_module == module] -= true[of_module == module].mean()
        for value, error, one in zip(column.value, column.uncertainty, true, strict=True):
            if np.isfinite(one):
                add(f"{check}, channel", float(value) if np.isfinite(value) else None, float(error), float(one))  # type: ignore[operator]


def simulated(seeds: int, seconds: float, keep: Path | None) -> list[dict[str, float | str]]:
    """Pulls of many benches; with `keep`, each seed's are written there and not made again."""
    every: dict[str, list[float | None]] = {}
    for seed in range(1, seeds + 1):
        file = None if keep is None else keep / f"pulls-{seconds:g}s-{seed}.json"
        if file is not None and file.exists():
            one = json.loads(file.read_text("utf-8"))
        else:
            one = of_seed(seed, seconds)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(one), "utf-8")
        sys.stderr.write(f"bench {seed} of {seeds}\n")
        for name, pulls in one.items():
            every.setdefault(name, []).extend(pulls)
    print("| number | values | pulls, mean | spread | no number |\n| --- | --- | --- | --- | --- |")
    rows: list[dict[str, float | str]] = []
    for name, pulls in every.items():
        known = np.array([p for p in pulls if p is not None])
        if not known.size:
            continue
        none = 100.0 * (1.0 - known.size / len(pulls))
        rows.append({"name": name, "n": known.size, "mean": known.mean(), "spread": known.std(), "none": none})
        print(f"| {name} | {known.size} | {known.mean():+.2f} | {known.std():.2f} | {none:.1f} % |")
    return rows


def nema(repeats: int) -> list[dict[str, float]]:
    """FWHM by parabola and interpolation, and by the fit, of histograms of a Gaussian of 390 ps without background."""
    rng = np.random.default_rng(2018)
    rows = []
    print("| events | bins of 13 ps | bins of 39 ps | fit | bound |\n| --- | --- | --- | --- | --- |")
    for n in (3_000, 10_000, 100_000, 1_000_000):
        row: dict[str, float] = {"n": n}
        for width in (13.0, 39.0):
            edges = np.arange(-60, 61) * width * (3 if width == 13.0 else 1)
            edges = np.arange(edges[0], edges[-1] + 1.0, width)
            found = [_nema(edges, rng.normal(0.0, 390.0 / FWHM_OF_SIGMA, n)) for _ in range(repeats)]
            row[f"nema_{width:.0f}"], row[f"nema_{width:.0f}_spread"] = np.nanmean(found), np.nanstd(found)
        edges = np.arange(-150, 151) * 13.0
        fits = [_fit(edges, rng.normal(0.0, 390.0 / FWHM_OF_SIGMA, n)) for _ in range(repeats)]
        row["fit"], row["fit_spread"] = np.nanmean(fits), np.nanstd(fits)
        rows.append(row)
        told = [f"{row[k]:.1f} ± {row[k + '_spread']:.1f}" for k in ("nema_13", "nema_39", "fit")]
        print(f"| {n} | {' | '.join(told)} | ± {390.0 / np.sqrt(2.0 * n):.2f} |")
    return rows


def _nema(edges: np.ndarray, dt: np.ndarray) -> float:
    try:
        return nema_width(edges, np.histogram(dt, edges)[0].astype(float)).width
    except QcError:
        return np.nan


def _fit(edges: np.ndarray, dt: np.ndarray) -> float:
    try:
        return fit_time_peak(edges, np.histogram(dt, edges)[0].astype(float)).fwhm
    except QcError:
        return np.nan
