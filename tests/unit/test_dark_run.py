"""Scans of dark counts, of a board whose counters see the simulated detector: the dark run, the bias calibration."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.again import same_again
from tests.unit.test_calibration_runs import DEADLINE_S, WINDOW_CLK, PulsedBoard, World, interrupted, number, world

from petqc.calibrate.bias_outputs import outputs_of_channels
from petqc.calibrate.sets import list_sets
from petqc.compare import compare
from petqc.formats.petsys_config import load_config
from petqc.limits import Status
from petqc.reanalyse import reanalyse
from petqc.results import Run
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile
from petqc_simulators.recording import write_recording
from petqcd.errors import RefusedError
from petqcd.interlocks.bias_limits import BiasLimits
from petqcd.readout.board import ChannelCounts

if TYPE_CHECKING:
    from pathlib import Path

BENCH = load_profile("bench")
LIMITS = BiasLimits(v_min=0.0, v_max=50.0, max_step_v=5.0, slew_v_per_s=50.0)
CHIPS = 4
"""One module."""
QUICK = {"settle_s": 0.0, "settle_windows": 0, "reads": 1}
VOLTS = (0.7, 0.85, 1.0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dark-bench")
    return folder / write_recording(folder / "r", "bench", 1, 0.05, truth_seconds=0)["config"]


class DarkBoard(PulsedBoard):
    """One module; counters count what the detector's comparators expect, without noise."""

    refused_share = 9.0
    n_readings = 0

    def __init__(self, *, stop_after: int = 10**9) -> None:
        super().__init__(stop_after=stop_after)
        self.detector = Detector(BENCH, 1)
        self.detector.bias_v = np.zeros_like(self.detector.bias_v)
        self.shares: list[float] = []

    @property
    def channels(self) -> range:
        return range(0 if "aclose" in self.calls else 64 * CHIPS)

    async def bias_on(self, overvoltage_share: float = 1.0) -> None:
        self.calls.append("bias_on")
        if overvoltage_share >= self.refused_share:
            raise RefusedError("47.1 V is above the hard limit")
        self.shares.append(overvoltage_share)
        d = self.detector
        d.bias_v = d.draw.breakdown_found_v + overvoltage_share * BENCH.sipm.overvoltage_v

    async def bias_off(self) -> object:
        self.detector.bias_v = np.zeros_like(self.detector.bias_v)
        return await super().bias_off()

    async def read_environment(self) -> list[object]:
        volts = [
            _Reading("bias_commanded", f"bias:0.0.0.{k}", float(v), "V", measured=False)
            for k, v in enumerate(self.detector.bias_v)
            if v > 0.0
        ]
        return [*volts, *(_Reading("temperature_sipm", f"asic:0.0.{k}", 29.0, "degC") for k in range(CHIPS))]

    async def read_channel_counters(self) -> ChannelCounts:
        self.n_readings += 1
        if self.n_readings > self.stop_after:
            self.reached.set()
            await asyncio.Event().wait()
        vth = self.detector.controls.vth.copy()
        for channel, fields in self.fields.items():
            vth[channel, 0] = fields["vth_t1"]
        hz = self.detector.comparator_dark_hz(replace(self.detector.controls, vth=vth), np.arange(64 * CHIPS))[:, 0]
        return ChannelCounts({c: round(float(hz[c]) * WINDOW_CLK * 5e-9) for c in range(64 * CHIPS)}, WINDOW_CLK)


class _Reading:
    def __init__(self, name: str, node: str, value: float, unit: str, *, measured: bool = True) -> None:
        self.name, self.node, self.value, self.unit, self.measured = name, node, value, unit, measured
        self.quality, self.at_monotonic_s, self.reason = "good", 0.0, None


async def run(w: World, kind: str, **settings: object) -> Run:
    run_id = await w.runs.start(kind, source="test", parameters={**QUICK, **settings})
    async with asyncio.timeout(DEADLINE_S):
        await w.runs.wait()
    return Run.load(w.store.folder_of(run_id))


def test_the_dark_run_judges_rate_crosstalk_and_single_channels(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        healthy, broken = DarkBoard(), DarkBoard()
        broken.detector.effects.extra_hz[7] = 20_000.0
        broken.detector.effects.dead[[8, 70, 71]] = True
        broken.detector.effects.threshold_steps[100] = 2.0
        async with world(tmp_path, bench, healthy, broken, limits=LIMITS) as w:
            done = await run(w, "dark")
            assert done.verdict is Status.PASS, done.sentence
            assert done.sentence.startswith("Dark counts as they should be: dark count rate ")
            assert healthy.shares == [1.0]
            assert healthy.calls.index("bias_off") > healthy.calls.index("bias_on")
            healthy.detector.bias_v = healthy.detector.draw.breakdown_found_v + BENCH.sipm.overvoltage_v
            truth = healthy.detector.sipm()
            rate = done.find("dark_count_rate", "module:0.0.0")
            assert rate is not None
            assert rate.value is not None
            assert rate.uncertainty is not None
            at_20 = float(np.median(truth.dark_hz[: 64 * CHIPS])) / 2000.0  # 29 degC: one doubling
            assert rate.value == pytest.approx(at_20, rel=0.002)
            assert rate.uncertainty > 0.02 * rate.value, "what is not known about the doubling"
            column = next(c for c in done.columns if c.id == "dark_count_rate")
            assert np.allclose(column.value, truth.dark_hz[: 64 * CHIPS] / 2000.0, rtol=0.01)
            crosstalk = done.find("dark_crosstalk", "module:0.0.0")
            assert crosstalk is not None
            chain = truth.crosstalk / (1.0 + truth.crosstalk)
            assert crosstalk.value == pytest.approx(100.0 * float(np.median(chain[: 64 * CHIPS])), rel=0.01)
            noise = done.find("t1_noise", "module:0.0.0")
            assert noise is not None
            assert noise.value == pytest.approx(0.5, abs=0.03)
            assert {s.id for s in done.spectra} == {"dark_staircase"}
            assert number(w.metrics, 'petqc_qc_run_verdict{kind="dark"') == 0
            assert number(w.metrics, "petqc_run_verdict{") == -1, "no daily run was made"
            assert number(w.metrics, 'petqc_dark_count_rate_hertz{module="0.0.0"') == pytest.approx(1000 * rate.value)

            done = await run(w, "dark")
            assert done.verdict is Status.WARN
            found = {c.id: (c.value, c.reason) for c in done.checks if c.node == "module:0.0.0"}
            hot, why = found["dark_hot_channels"]
            assert hot == 1
            assert why is not None
            assert why.startswith("channel 0.0.0.7: 1.0 times the module's median")
            assert found["dark_silent_channels"] == (3.0, "channel 0.0.0.8, channel 0.0.1.6, channel 0.0.1.7")
            shifted = next(c for c in done.columns if c.id == "t1_baseline")
            assert shifted.value[100] == pytest.approx(-2.0, abs=0.1)
            assert shifted.status[100] == "warn"
            again = reanalyse(w.store.folder_of(done.run_id))
            found_again = compare(done, again)
            assert found_again.n_same == len(found_again.differences) > 5
            assert found_again.remarks == ["the second is a re-analysis of the first"]
            assert again.environment == done.environment

    asyncio.run(work())


def test_a_stopped_dark_run_is_not_continued_and_a_refused_voltage_measures_nothing(
    tmp_path: Path, bench: Path
) -> None:
    async def work() -> None:
        stopped, refused = DarkBoard(stop_after=7), DarkBoard()
        refused.refused_share = 1.0
        async with world(tmp_path, bench, stopped, refused, limits=LIMITS) as w:
            run_id = await w.runs.start("dark", source="test", parameters=QUICK)
            await asyncio.wait_for(stopped.reached.wait(), DEADLINE_S)
            w.runs.abort("the test says so")
            await asyncio.wait_for(w.runs.wait(), DEADLINE_S)
            record = Run.load(w.store.folder_of(run_id))
            assert record.verdict is Status.INVALID
            assert not any("continue with" in note for note in record.notes)
            assert not stopped.detector.bias_v.any()
            record = await run(w, "dark")
            assert record.verdict is Status.INVALID
            assert "above the hard limit" in record.sentence
            assert refused.calls[-2:] == ["bias_off", "aclose"]

    asyncio.run(work())


def test_breakdown_is_found_also_in_two_goes(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        board, again, beyond = DarkBoard(stop_after=40), DarkBoard(), DarkBoard()
        beyond.refused_share = 1.1
        async with world(tmp_path, bench, board, again, beyond, limits=LIMITS) as w:
            settings = {**QUICK, "overvoltage_shares": VOLTS}
            record = await interrupted(w, board, "calibrate-bias", **settings)
            assert not board.detector.bias_v.any()
            assert board.shares == [0.7, 0.85]
            done = await run(w, "calibrate-bias", overvoltage_shares=VOLTS, resume=record.run_id)
            assert again.shares == [0.85, 1.0], "the voltage that it was at comes first"
            assert done.account["points"] + done.account["points_continued"] == 3 * 20
            same_again(w.store.folder_of(done.run_id), tmp_path / "copy")
            (made,) = list_sets(w.store.sets).sets
            config = load_config(bench)
            table = load_config(w.store.sets / made.id).require("bias_settings")
            output_of = outputs_of_channels(config.require("bias_map"))
            mine = sorted({output_of[c][3] for c in range(64 * CHIPS)})
            draw = again.detector.draw
            true = draw.breakdown_v + BENCH.sipm.breakdown_v_per_k * draw.warmer_k[draw.module_of]
            error = [table["breakdown"][k] - true[draw.bias_of == k].mean() for k in mine]
            assert np.abs(error).max() < 0.020
            beyond_it = await run(w, "calibrate-bias", overvoltage_shares=(0.8, 1.0, 1.1))
            assert beyond_it.verdict is Status.INVALID
            assert "above the hard limit" in beyond_it.sentence
            assert not beyond.detector.bias_v.any()
            assert len(list_sets(w.store.sets).sets) == 1

    asyncio.run(work())
