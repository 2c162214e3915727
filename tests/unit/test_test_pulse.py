"""Test pulses against the calibration in use: planted errors of scale, buffers, gain, lost pulses are found there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.again import same_again
from tests.unit.test_calibration_runs import DEADLINE_S, PulsedBoard, bench, world  # noqa: F401 - bench is a fixture

from petqc.calibrate import EventPoint
from petqc.calibration.charge import code_of_time
from petqc.channel_map import Topology
from petqc.formats.petsys_tables import BRANCH_T, TABLES, set_address
from petqc.limits import Status
from petqc.qc_input import RunContext
from petqc.results import Run
from petqc.test_pulse import PulsedPoint, PulsePlan, analyse_test_pulse

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = np.concatenate([np.arange(8), np.arange(64, 72)]).astype(np.int32)
TOPOLOGY = Topology.from_channels(CHANNELS, asics_per_module=1)
PLAN = PulsePlan(phases=6, lengths=(20, 60, 100, 140), hits_per_tac=8)
CODES = (10.0, 180.0, -2.0)
P = np.array([40.0, 3.5, -0.002, *([0.0] * 7)])
NOISE_CODES = 1.0


def tables() -> tuple[np.ndarray, np.ndarray]:
    tdc = np.zeros(4 * CHANNELS.size, TABLES["tdc"].dtype)
    set_address(tdc, np.repeat(CHANNELS, 4))
    tdc["tac"], tdc["branch"], tdc["t0"] = np.tile(np.arange(4), CHANNELS.size), BRANCH_T, 0.01
    tdc["a0"], tdc["a1"], tdc["a2"] = CODES
    qdc = np.zeros(4 * CHANNELS.size, TABLES["qdc"].dtype)
    set_address(qdc, np.repeat(CHANNELS, 4))
    qdc["tac"] = np.tile(np.arange(4), CHANNELS.size)
    for k in range(10):
        qdc[f"p{k}"] = P[k]
    return tdc, qdc


class Electronics:
    """16 channels of two ASICs that answer as their calibration says, but for what is planted."""

    def __init__(self) -> None:
        self.scale = np.ones(CHANNELS.size)
        self.tac_clk = np.zeros((CHANNELS.size, 4))
        self.gain = np.ones(CHANNELS.size)
        self.seen = np.ones(CHANNELS.size)
        self.rng = np.random.default_rng(4)

    def points(self) -> list[PulsedPoint]:
        found = []
        for pulse in PLAN.pulses():
            n = round(PLAN.frames_per_point * pulse.per_frame) // 4
            at = np.repeat(np.arange(CHANNELS.size), 4 * n)
            tac = np.tile(np.repeat(np.arange(4), n), CHANNELS.size)
            start = 8.0 + pulse.phase_clk + 0.02 * at
            t_coarse = np.floor(start + 1.5)
            q = (t_coarse - start - 0.01 - self.tac_clk[at, tac] - 1.0) * self.scale[at] + 1.0
            t_fine = CODES[0] + CODES[1] * q + CODES[2] * q**2 + self.rng.normal(0.0, NOISE_CODES, at.size)
            e_coarse = np.floor(start + pulse.length_clk + 1.5)
            integrated = e_coarse - start
            charge = integrated * self.gain[at]
            e_fine = code_of_time(charge, np.broadcast_to(P, (at.size, 10))) + self.rng.normal(0, NOISE_CODES, at.size)
            word = CHANNELS[at].astype(np.uint64) << np.uint64(42) | tac.astype(np.uint64) << np.uint64(40)
            for values, shift in ((t_coarse, 30), (e_coarse, 20)):
                word |= values.astype(np.uint64) << np.uint64(shift)
            for values, shift in ((t_fine, 10), (e_fine, 0)):
                word |= ((np.rint(values).astype(np.int64) - 27) & 1023).astype(np.uint64) << np.uint64(shift)
            word = word[self.rng.random(at.size) < self.seen[at]]
            words, counts = np.unique(word, return_counts=True)
            events = EventPoint(pulse.length_clk, pulse.phase_clk, words, counts.astype(np.int32))
            found.append(PulsedPoint(pulse, CHANNELS, PLAN.frames_per_point, events))
        return found

    def run(self) -> Run:
        return analyse_test_pulse(self.points(), *tables(), TOPOLOGY, RunContext("p"))


def value(run: Run, check: str, node: str = "module:0.0.0") -> tuple[float, float]:
    found = run.find(check, node)
    assert found is not None
    assert found.value is not None
    return found.value, found.uncertainty or 0.0


def test_good_electronics_pass_with_every_number_near_nothing() -> None:
    run = Electronics().run()
    assert run.verdict is Status.PASS, run.sentence
    assert value(run, "pulses_seen") == (100.0, pytest.approx(100.0 / (8 * 10 * 32)))
    for check, size in (("pulse_tdc_scale", 0.2), ("pulse_charge_gain", 0.2)):
        assert abs(value(run, check)[0]) < size
    assert value(run, "pulse_tdc_inl")[0] < 20.0
    assert [c.id for c in run.columns] == [
        "pulse_dead_channels", "pulse_tdc_scale", "pulse_tdc_inl", "pulse_tac_offset", "pulse_charge_gain",
    ]  # fmt: skip
    of_pulls = next(c for c in run.columns if c.id == "pulse_tdc_scale")
    assert 0.4 < float(np.std(of_pulls.value / of_pulls.uncertainty)) < 2.0


def test_a_stale_time_calibration_and_a_changed_gain_are_measured_where_they_are() -> None:
    e = Electronics()
    e.scale[:8], e.gain[8:] = 1.02, 0.96
    run = e.run()
    assert run.verdict is Status.FAIL
    scale, error = value(run, "pulse_tdc_scale")
    assert abs(scale - 2.0) < 5 * max(error, 0.05)
    gain, error = value(run, "pulse_charge_gain", "module:0.0.1")
    assert abs(gain + 4.0) < 5 * max(error, 0.05)
    assert run.find("pulse_tdc_scale", "module:0.0.1").status is Status.PASS  # type: ignore[union-attr]
    assert run.find("pulse_charge_gain", "module:0.0.0").status is Status.PASS  # type: ignore[union-attr]


def test_one_bad_buffer_a_dead_channel_and_lost_pulses() -> None:
    e = Electronics()
    e.tac_clk[3, 2] = 0.06  # 300 ps
    e.seen[5], e.seen[8:] = 0.0, 0.9
    run = e.run()
    column = next(c for c in run.columns if c.id == "pulse_tac_offset")
    assert column.value[3] == pytest.approx(300.0, abs=20.0)
    assert column.status[3] == "fail"
    dead = run.find("pulse_dead_channels", "module:0.0.0")
    assert dead is not None
    assert (dead.value, dead.status, dead.reason) == (1.0, Status.PASS, "channel 0.0.0.5")
    assert column.reason[5] == "no hits"
    assert value(run, "pulses_seen", "module:0.0.1")[0] == pytest.approx(90.0, abs=3.0)
    assert run.find("pulses_seen", "module:0.0.1").status is Status.FAIL  # type: ignore[union-attr]


def test_what_was_not_pulsed_or_not_calibrated_is_no_pass() -> None:
    tdc, qdc = tables()
    points = Electronics().points()
    half = tdc[tdc["chip"] == 0]
    run = analyse_test_pulse(points, half, qdc, TOPOLOGY, RunContext("p"))
    scale = run.find("pulse_tdc_scale", "module:0.0.1")
    assert scale is not None
    assert scale.status is Status.INVALID
    assert "no time calibration" in (scale.reason or "")
    silent = Electronics()
    silent.seen[:] = 0.0
    run = silent.run()
    assert run.verdict is Status.FAIL  # every channel is dead
    assert run.find("pulses_seen").status is Status.INVALID  # type: ignore[union-attr]


def test_the_run_takes_every_group_without_bias(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        board = PulsedBoard()
        async with world(tmp_path, bench, board) as w:
            settings = {"hits_per_tac": 4, "channels": (0, 1), "channels_at_once": 2}
            run_id = await w.runs.start("test-pulse", source="test", parameters=settings)
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            same_again(w.store.folder_of(run_id), tmp_path / "copy")
        assert board.calls[:3] == ["connect", "bias_off", "configure"]
        assert board.plan is not None
        assert board.plan.mode == "qdc"
        assert run.account["points"] == len(PulsePlan().pulses())
        seen = run.find("pulses_seen", "module:0.0.0")
        assert seen is not None
        assert seen.value == pytest.approx(100.0)

    asyncio.run(work())
