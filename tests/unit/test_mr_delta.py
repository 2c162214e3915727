"""Idle, stress, idle: the change is that of the stress, a drift is none, and nobody waits for ever with bias on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.again import same_again
from tests.unit.test_checks import SECONDS, Toy
from tests.unit.test_daemon_runs import DEADLINE_S, FakeBoard, World, bench, world  # noqa: F401 - bench is a fixture

from petqc.limits import Status
from petqc.mr_delta import analyse_mr_delta, delta
from petqc.qc_input import QcInput, RunContext
from petqc.results import Run
from petqcd.config import MrDeltaConfig
from petqcd.errors import RefusedError

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = RunContext("mr", "mr-delta", live_time_s=SECONDS, elapsed_s=SECONDS, account={"frames": 10, "frames_lost": 0})
DEGC = {"module:0.0.0": 22.0, "module:0.0.1": 22.0}


def test_a_drift_in_a_line_is_no_change_and_widens_the_error() -> None:
    steady = delta((100.0, 102.0, 100.0), (0.1, 0.1, 0.1))
    assert steady.value == pytest.approx(2.0)
    assert steady.error == pytest.approx(0.1 * np.sqrt(1.5))
    drifting = delta((100.0, 101.0, 102.0), (0.1, 0.1, 0.1))
    assert drifting.value == pytest.approx(0.0)
    assert drifting.idles == pytest.approx(2.0)
    assert drifting.error == pytest.approx(np.sqrt(0.015 + (4.0 - 0.02) / 12.0))


def test_errors_of_changes_are_what_they_say() -> None:
    rng = np.random.default_rng(3)
    found = [delta(rng.normal(100.0, (0.2, 0.3, 0.1)), (0.2, 0.3, 0.1)) for _ in range(400)]
    pulls = [d.value / d.error for d in found]
    assert abs(np.mean(pulls)) < 0.2
    assert 0.75 < np.std(pulls) < 1.05


def phase(rate: float = 1.0, gain: float = 1.0) -> QcInput:
    """rate and gain of the second module, against the first one's."""
    toy = Toy()
    toy.rate[256:] *= rate
    toy.n_singles = round(toy.n_singles * (1.0 + rate) / 2.0)
    toy.gain[256:] *= gain
    return QcInput(toy.histograms(), CONTEXT)


def test_rates_and_photopeaks_under_stress_are_found_in_their_module() -> None:
    idle = phase()
    warm = {**DEGC, "module:0.0.1": 24.0}
    run = analyse_mr_delta((idle, phase(rate=0.9, gain=0.985), idle), (DEGC, warm, DEGC), CONTEXT)
    assert run.verdict is Status.FAIL
    assert run.sentence.startswith("The MR disturbs the detector: rate change under MR stress of module 0.0.1")
    rate, peak = (run.find(check, "module:0.0.1") for check in ("mr_rate", "mr_peak"))
    assert rate is not None
    assert rate.value == pytest.approx(-10.0, abs=0.6)
    assert peak is not None
    assert peak.value == pytest.approx(-1.5, abs=0.2)
    assert peak.status is Status.WARN
    for check in ("mr_rate", "mr_peak"):
        other = run.find(check, "module:0.0.0")
        assert other is not None
        assert other.status is Status.PASS
    kelvin = run.find("mr_temperature", "module:0.0.1")
    assert kelvin is not None
    assert (kelvin.value, kelvin.status) == (2.0, Status.NO_LIMITS)


def test_what_was_not_measured_in_every_phase_is_no_pass() -> None:
    idle, dark = phase(), phase()
    dark.histograms.singles[:] = 0
    run = analyse_mr_delta((idle, idle, dark), (DEGC, DEGC, {}), CONTEXT)
    assert run.verdict is Status.INVALID
    rate = run.find("mr_rate")
    assert rate is not None
    assert rate.reason == "idle again: no singles"
    same = analyse_mr_delta((idle, idle, idle), (DEGC, DEGC, DEGC), CONTEXT)
    assert same.verdict is Status.PASS, same.sentence
    unknown = [QcInput(idle.histograms, replace(CONTEXT, live_time_s=None))] * 3
    assert analyse_mr_delta(unknown, (DEGC,) * 3, CONTEXT).verdict is Status.INVALID


QC = {"mr_delta": MrDeltaConfig(seconds=0.1, settle_s=0, queue_mib=64, sequence="EPI", duty_percent=80)}


async def until_it_waits(w: World, for_what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while w.runs.progress is None or for_what not in w.runs.progress.detail:  # noqa: ASYNC110 - as a person looks
            await asyncio.sleep(0.005)


def test_the_run_waits_for_the_word_with_bias_on_and_keeps_three_recordings(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        async with world(tmp_path, bench, **_aliased()) as w:
            with pytest.raises(RefusedError, match="no run is going on"):
                w.runs.confirm("")
            run_id = await w.runs.start("mr-delta", source="test")
            await until_it_waits(w, "the sequence EPI runs: petqc confirm")
            (board,) = w.boards
            assert "bias_off" not in board.calls
            assert w.runs.confirm("noisy") == (run_id, "the sequence EPI runs")
            with pytest.raises(RefusedError, match="does not wait"):
                w.runs.confirm("")
            await until_it_waits(w, "has ended and the MR is idle: petqc confirm")
            w.runs.confirm("")
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert [f.name for f in run.raw_files] == ["idle.rawf", "stress.rawf", "idle-again.rawf"]
            assert run.account["frames_received"] == run.account["frames_recorded"] + run.account["frames_dropped"]
            assert run.account["frames_recorded"] == run.account["frames"]
            assert not any("do not add up" in note for note in run.notes)
            assert "MR sequence: EPI, duty 80 %." in run.notes
            assert any(note.endswith("the sequence EPI runs (noisy).") for note in run.notes)
            calls = [c for c in board.calls if c in ("bias_on", "start", "stop", "bias_off")]
            assert calls == ["bias_on", *["start", "stop"] * 3, "bias_off"]
            assert run.verdict is Status.INVALID  # nothing was in front of the detector
            same_again(w.store.folder_of(run_id), tmp_path / "copy")

    asyncio.run(work())


def _aliased(**changed: object) -> dict[str, MrDeltaConfig]:
    return {"mr-delta": QC["mr_delta"].model_copy(update=changed)}


@pytest.mark.parametrize("way", ["nobody", "dead link", "abort"])
def test_nobody_waits_for_ever_with_bias_on(tmp_path: Path, bench: Path, way: str) -> None:  # noqa: F811
    async def work() -> None:
        board = FakeBoard()
        async with world(tmp_path, bench, board, **_aliased(confirm_within_s=0.1 if way == "nobody" else 60.0)) as w:
            run_id = await w.runs.start("mr-delta", source="test")
            await until_it_waits(w, "petqc confirm")
            if way == "dead link":
                board.fail["read_environment"] = ConnectionError("nobody there")
            elif way == "abort":
                w.runs.abort()
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert run.verdict is Status.INVALID
            said = {"nobody": "nobody told within", "dead link": "nobody there", "abort": "stopped by command"}[way]
            assert said in run.sentence
            assert "bias_off" in board.calls

    asyncio.run(work())


def test_timed_phases_say_that_nobody_looked_and_a_sequence_needs_a_name(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        async with world(tmp_path, bench, **_aliased(phases="timed", gap_s=0.0)) as w:
            with pytest.raises(RefusedError, match="name the sequence"):
                await w.runs.start("mr-delta", source="test", parameters={"sequence": " "})
            run_id = await w.runs.start("mr-delta", source="test")
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert len(run.raw_files) == 3
            assert sum("nobody looked" in note for note in run.notes) == 2

    asyncio.run(work())
