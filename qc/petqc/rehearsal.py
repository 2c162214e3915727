"""The analysis once through with drawn events, so that a run's own does not wait for compiled code to be loaded."""

from __future__ import annotations

import threading

import numpy as np

from petqc.channel_map import Topology
from petqc.events import Coincidences, Singles
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.qc_input import RunContext

_SIDE = 8
_PITCH_MM, _APART_MM = 6.4, 100.0
_N_SINGLES, _N_PAIRS = 30_000, 8_000
_SIGMA_KEV, _SIGMA_PS, _WINDOW_PS, _SECONDS = 23.0, 95.0, 10_000, 1.0

_once = threading.Lock()
_done = threading.Event()


def rehearse() -> None:
    """Go once through the analysis, in this process; whoever else asks meanwhile waits for it.

    It takes a second or so where kernels are cached.
    """
    with _once:
        if not _done.is_set():
            go_through()
            _done.set()


def go_through() -> None:
    """Fill histograms of two small modules that face each other, fit them and write their report to nowhere.

    What comes of it is thrown away.
    """
    from petqc.analysis import analyse
    from petqc.report import render_html
    from petqc.so_far import so_far

    histograms = _drawn(np.random.default_rng(1))
    context = RunContext(
        "rehearsal", account={"frames": 1, "frames_lost": 0}, elapsed_s=_SECONDS, live_time_s=_SECONDS, simulated=True
    )
    so_far(histograms.summed(), context)
    render_html(analyse(histograms, context))


def _drawn(random: np.random.Generator) -> QcHistograms:
    n = _SIDE * _SIDE
    column, row = (np.tile(a, 2).astype(np.int16) for a in np.divmod(np.arange(n), _SIDE))
    middle = (_SIDE - 1) / 2.0
    x, y = ((a - middle) * _PITCH_MM for a in (column, row))
    z = np.repeat([-_APART_MM / 2.0, _APART_MM / 2.0], n)
    channels = np.concatenate((np.arange(n), 256 + np.arange(n))).astype(np.int32)
    topology = Topology.from_channels(
        channels, column=column, row=row, xyz_mm=np.stack([x, y, z], axis=1).astype(np.float32)
    )
    settings = HistogramSettings(energy_window=(425.0, 650.0), coincidence_window_ps=_WINDOW_PS)
    histograms = QcHistograms(topology, "kev", settings)
    is_peak = random.random(_N_SINGLES) < 0.5
    energy = np.where(
        is_peak, random.normal(511.0, _SIGMA_KEV, _N_SINGLES), random.uniform(40.0, 1200.0, _N_SINGLES)
    ).astype(np.float32)
    time = np.sort(random.integers(0, int(_SECONDS * 1e12), _N_SINGLES))
    singles = Singles(time, energy, random.choice(channels, _N_SINGLES), np.ones(_N_SINGLES, np.uint8), "kev")
    a = random.integers(n, 2 * n, _N_PAIRS)
    b = (2 * n - 1 - a + random.integers(-1, 2, _N_PAIRS)).clip(0, n - 1)
    at = np.sort(random.integers(0, int(_SECONDS * 1e12), _N_PAIRS))
    dt = np.rint(random.normal(0.0, _SIGMA_PS, _N_PAIRS)).astype(np.int64)
    wide = random.random(_N_PAIRS) < 0.1
    dt[wide] = random.integers(-_WINDOW_PS // 2, _WINDOW_PS // 2, int(wide.sum()))
    one = np.ones(_N_PAIRS, np.uint8)
    e = random.normal(511.0, _SIGMA_KEV, (2, _N_PAIRS)).astype(np.float32)
    pairs = Coincidences(at + dt, at, e[0], e[1], channels[a], channels[b], one, one, "kev")
    histograms.add(_Drawn(singles, pairs, pairs))
    return histograms


class _Drawn:
    """As a processor gives them."""

    def __init__(self, singles: Singles, prompts: Coincidences, delayed: Coincidences) -> None:
        self.singles, self.prompts, self.delayed = singles, prompts, delayed
