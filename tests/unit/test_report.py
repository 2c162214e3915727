"""The report of a run, from a Run that looks like a bench's morning: numbers drawn from a seed, marked simulated."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc.channel_map import absolute_channel, asic_node, channel_node
from petqc.limits import Limits, Status, worst
from petqc.report import content_security_policy, render_html, write_html
from petqc.results import (
    ChannelColumn,
    CheckResult,
    EnvironmentReading,
    Hypothesis,
    RawFile,
    Run,
    Spectrum,
)

if TYPE_CHECKING:
    from pathlib import Path

MODULES = ("module:0.0.0", "module:0.0.1")
PAIR = "module:0.0.1 - module:0.0.0"
PEAK = Limits(495.7, 505.9, 516.1, 526.3)
SOFT_PEAK = Limits(470.1, 495.7, 526.3, 551.9)
RESOLUTION = Limits(None, None, 12.5, 14.0)
OFFSET = Limits(-75.0, -20.0, 20.0, 75.0)
DEAD, HOT, FEW = (37, 300), (190,), (411, 412)


def make_run(seed: int = 1, modules: int = 2) -> Run:
    """A bench of facing modules of 16 x 16 channels with two dead channels, a hot one and two with few counts."""
    rng = np.random.default_rng(seed)
    n = 256 * modules
    absolute = np.array([absolute_channel(0, 0, i // 64, i % 64) for i in range(n)], np.int32)
    inside = np.arange(n) % 256
    run = Run(
        run_id="2026-03-02T060000Z-bench-0001",
        kind="daily",
        started_at="2026-03-02T06:00:00Z",
        finished_at="2026-03-02T06:05:12.400Z",
        simulated=True,
        verdict=Status.WARN,
        sentence="Scan, but look at Dead channels of module 0.0.0: 1, above the warn limit of 0.",
        software={"petqcd": "0.1.0", "numpy": "2.2.6", "method": "1"},
        config_hash="sha256:" + "3f" * 32,
        calibration_ids={"tdc": "tdc-2026-02-27", "energy": "energy-2026-02-27", "time_offset": "offset-2026-02-28"},
        raw_files=[RawFile("daily-0001.rawf", "ab" * 32)],
        environment=[
            EnvironmentReading("board_temperature", "module:0.0.0", 24.31, "°C", True, "ok", 1.2),
            EnvironmentReading("board_temperature", "module:0.0.1", 24.84, "°C", True, "ok", 1.2),
            EnvironmentReading("bias_voltage", "bias:0.0.0.3", 29.05, "V", False, "ok", 305.0),
            EnvironmentReading("humidity", "scanner", None, "%", True, "stale", 4000.0),
        ],
        account={
            "frames": 30_517_578,
            "frames_lost": 122,
            "frames_partly_lost": 4,
            "hits": 9_412_377,
            "dropped_energy": 812,
            "out_of_order": 17,
            "live_time_s": 312.4,
        },
        diagnosis=[
            Hypothesis(
                "open bond or broken SiPM",
                "channel:0.0.0.37",
                0.82,
                ("rate 0", "neighbours 2 % low"),
                "measure the current of bias channel 3 with the channel masked and unmasked",
            )
        ],
        notes=["Source: Na-22 point, 0.37 MBq on 2026-01-01."],
        scanner="bench",
    )
    run.channels = {
        "channel": absolute,
        "module": np.array([MODULES[i // 256] if i < 512 else f"module:0.0.{i // 256}" for i in range(n)], object),
        "asic": np.array([asic_node(int(a)) for a in absolute], object),
        "column": (inside % 16).astype(np.int16),
        "row": (inside // 16).astype(np.int16),
    }
    run.columns = _columns(rng, n)
    run.spectra = [_energy(rng, "scanner", 260_000), *(_energy(rng, m, 130_000) for m in MODULES)]
    run.spectra += [_timing(rng, "scanner", 48_000), _timing(rng, PAIR, 48_000)]
    run.checks = _checks()
    run.verdict = worst([c.status for c in run.checks])
    return run


def _columns(rng: np.random.Generator, n: int) -> list[ChannelColumn]:
    counts = rng.poisson(1800 * (1 + 0.12 * np.sin(np.arange(n) / 9.0)))
    counts[[d for d in DEAD if d < n]] = 0
    counts[[h for h in HOT if h < n]] *= 7
    few = [f for f in FEW if f < n]
    counts[few] = 60
    silent = counts < 200

    def column(id_: str, unit: str, value: np.ndarray, sigma: np.ndarray, limits: Limits, why: str) -> ChannelColumn:
        value, sigma = value.astype(float), sigma.astype(float)
        value[silent], sigma[silent] = np.nan, np.nan
        status = np.array([str(limits.judge(v)) for v in value], object)
        reason = np.array([why.format(c) if s else "" for c, s in zip(counts, silent, strict=True)], object)
        return ChannelColumn(id_, unit, value, sigma, counts.astype(np.int64), status, reason)

    peak = rng.normal(511, 4.5, n) + 3 * np.sin(np.arange(n) / 40)
    peak[100 % n] = 463.0
    few_counts = "too few counts: {} of 200"
    columns = [
        column("photopeak", "keV", peak, 22.8 / np.sqrt(counts + 1), SOFT_PEAK, few_counts),
        column("energy_resolution", "%", rng.normal(10.5, 0.5, n), 7.4 / np.sqrt(counts + 1), RESOLUTION, few_counts),
        column("module_time_offset", "ps", rng.normal(0, 14, n), 90 / np.sqrt(counts + 1), OFFSET, few_counts),
    ]
    rate = counts / 312.4
    flat = np.array(["no-limits"] * n, object)
    nothing = np.array([""] * n, object)
    columns.append(ChannelColumn("singles_rate", "1/s", rate, np.sqrt(counts) / 312.4, counts, flat, nothing))
    for id_, which in (("dead_channels", DEAD), ("hot_channels", HOT)):
        flag = np.isin(np.arange(n), which)
        columns.append(
            ChannelColumn(
                id_, "", flag.astype(float), np.zeros(n), counts,
                np.where(flag, "fail", "pass").astype(object), nothing,
            )
        )  # fmt: skip
    return columns


def _energy(rng: np.random.Generator, node: str, n: int) -> Spectrum:
    edges = np.arange(0.0, 1401.0, 4.0)
    centre = (edges[:-1] + edges[1:]) / 2
    sigma = 22.8
    peak = np.exp(-0.5 * ((centre - 511) / sigma) ** 2)
    erfc = np.array([math.erfc((c - 511) / (math.sqrt(2) * sigma)) for c in centre])
    under = 0.055 * erfc + 0.004
    shape = (
        peak + under + 0.16 * np.exp(-centre / 260) * (centre > 60) + 0.05 * np.exp(-0.5 * ((centre - 300) / 70) ** 2)
    )
    shape += 0.045 * np.exp(-0.5 * ((centre - 1275) / 48) ** 2)
    scale = n / shape.sum()
    inside = (centre > 400) & (centre < 650)
    expected = shape * scale
    fit = np.where(inside, expected, np.nan)
    background = np.where(inside, (shape - peak) * scale, np.nan)
    return Spectrum(
        "photopeak", node, "energy", "keV", edges, rng.poisson(expected).astype(float), fit, background, None,
        (425.0, 650.0), "Gaussian on an erfc step and a constant, Poisson likelihood.",
    )  # fmt: skip


def _timing(rng: np.random.Generator, node: str, n: int) -> Spectrum:
    edges = np.arange(-5000.5, 5000.0, 10.0)
    centre = (edges[:-1] + edges[1:]) / 2
    sigma = 214.0 / 2.3548
    shape = np.exp(-0.5 * ((centre - 6) / sigma) ** 2)
    peak = 0.94 * n * shape / shape.sum()
    flat = np.full(centre.size, 0.06 * n / centre.size)
    return Spectrum(
        "ctr_fit", node, "time difference", "ps", edges, rng.poisson(peak + flat).astype(float), peak + flat, flat,
        rng.poisson(flat).astype(float), None, "Gaussian on a flat background, Poisson likelihood.",
    )  # fmt: skip


def _checks() -> list[CheckResult]:
    got = CheckResult.measured
    none = Limits()
    checks = []
    for node, shift in (("scanner", 0.0), (MODULES[0], 0.4), (MODULES[1], -0.5)):
        checks.append(got("photopeak", node, 510.83 + shift, "keV", 0.12, 260_000, PEAK, method="erfc-step/1"))
    for chip in range(8):
        checks.append(got("photopeak", f"asic:0.0.{chip}", 508.9 + 0.6 * chip, "keV", 0.3, 32_000, PEAK))
    for node, shift in (("scanner", 0.0), (MODULES[0], -0.3), (MODULES[1], 2.4)):
        checks.append(got("energy_resolution", node, 10.52 + shift, "%", 0.06, 260_000, RESOLUTION))
    checks += [
        got("window_acceptance", "scanner", 99.71, "%", 0.02, 260_000, Limits(97.5, 99.0)),
        got("ctr_fit", "scanner", 213.9, "ps", 1.1, 45_000, Limits(None, None, 230.0, 245.0), method="gauss-flat/1"),
        got("ctr_nema", "scanner", 216.2, "ps", 3.9, 45_000, none, method="nema-style/1"),
        got("module_time_offset", MODULES[0], -3.1, "ps", 0.6, 45_000, OFFSET),
        got("module_time_offset", MODULES[1], 3.1, "ps", 0.6, 45_000, OFFSET),
        got("singles_rate", "scanner", 30128.6, "1/s", 9.8, 9_412_377, Limits(27000.0, 29000.0, 32000.0, 34000.0)),
        got("prompts", "scanner", 154.1, "1/s", 0.7, 48_144, none),
        got("randoms_delayed", "scanner", 9.2, "1/s", 0.17, 2_880, none),
        got("dead_channels", "scanner", 2, "", 0.0, 512, Limits(None, None, 1.0, 5.0)),
        got("dead_channels", MODULES[0], 1, "", 0.0, 256, Limits(None, None, 2.0, 64.0)),
        got("dead_channels", MODULES[1], 1, "", 0.0, 256, Limits(None, None, 2.0, 64.0)),
        got("hot_channels", "scanner", 1, "", 0.0, 512, Limits(None, None, 2.0, 5.0)),
        got("lost_frames", "scanner", 0.0004, "%", 0.00004, 30_517_578, Limits(None, None, 1.0, 5.0)),
        got("live_time", "scanner", 99.9996, "%", 0.0001, 30_517_578, Limits(95.0, 99.0)),
    ]
    return checks
