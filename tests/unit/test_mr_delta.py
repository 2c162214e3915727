"""Idle, stress, idle: the change is that of the stress, a drift is none, and nobody waits for ever with bias on."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import time
from time import sleep
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import ValidationError
from tests.unit.again import same_again
from tests.unit.test_checks import SECONDS, Toy
from tests.unit.test_daemon_runs import (
    DEADLINE_S,
    FakeBoard,
    World,
    bench,  # noqa: F401 - a fixture
    stopped_while,
    world,
)
from tests.unit.test_schedule import Clocks

from petqc.errors import FitFailedError, TooFewCountsError
from petqc.fits.moved_spectra import stretch
from petqc.limits import Status
from petqc.mr_delta import analyse_mr_delta, delta
from petqc.qc_input import QcInput, RunContext
from petqc.results import Run
from petqcd.acquisition import Pipeline
from petqcd.config import DailyConfig, JobConfig, MrDeltaConfig, PetqcConfig, ScheduleConfig
from petqcd.errors import RefusedError
from petqcd.measurement import Measurement
from petqcd.scheduler import Scheduler

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.events import Singles

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


def smeared(gain: float, spread: float) -> QcInput:
    """The gain of the second module is another one for every event: it moved while it was measured."""
    toy = Toy(seed=5)
    plain = toy.singles

    def moving() -> Singles:
        one = plain()
        mine = one.channel >= 256
        one.energy[mine] *= (gain * (1.0 + spread * (toy.rng.random(int(mine.sum())) - 0.5))).astype(np.float32)
        return one

    toy.singles = moving  # type: ignore[method-assign]
    return QcInput(toy.histograms(), CONTEXT)


def test_a_photopeak_that_moved_while_it_was_measured_has_a_fallback_that_says_so() -> None:
    idle, again = phase(), smeared(1.0, 0.0)
    run = analyse_mr_delta((idle, smeared(0.97, 0.16), again), (DEGC,) * 3, CONTEXT)
    still, moved = (run.find("mr_peak", f"module:0.0.{k}") for k in (0, 1))
    assert still is not None
    assert still.method == "stress minus the mean of both idles, of the idle value"
    assert moved is not None
    assert moved.value is not None, moved.reason
    assert moved.method is not None
    assert moved.method.startswith("fallback: spectra compared with each other, for there is no fit (stress: ")
    assert moved.uncertainty is not None
    assert abs(moved.value + 3.0) < 4.0 * moved.uncertainty
    assert moved.uncertainty < 0.3
    gone = analyse_mr_delta((idle, smeared(0.97, 0.6), again), (DEGC,) * 3, CONTEXT)
    nothing = gone.find("mr_peak", "module:0.0.1")
    assert nothing is not None
    assert nothing.value is None
    assert nothing.reason is not None
    assert "; nor without a fit: " in nothing.reason


def test_spectra_that_moved_are_found_without_bias_and_with_true_errors() -> None:
    rng, edges = np.random.default_rng(11), np.arange(401) * 4.0

    def spectrum(gain: float, spread: float) -> NDArray[np.float64]:
        peak = rng.random(15_000) < 0.45
        energy = np.where(peak, rng.normal(511.0, 22.8, peak.size), rng.uniform(32.0, 1200.0, peak.size))
        energy *= gain * (1.0 + spread * (rng.random(peak.size) - 0.5))
        return np.histogram(energy, edges)[0].astype(float)

    for gain, spread in ((1.0, 0.0), (0.97, 0.1)):
        found = [stretch(edges, spectrum(1.0, 0.0), spectrum(gain, spread), 400.0, 620.0) for _ in range(25)]
        pulls = np.array([(one.value - gain) / one.error for one in found])
        assert abs(pulls.mean()) < 0.7
        assert 0.6 < pulls.std() < 1.5
    with pytest.raises(FitFailedError, match="differ by more than"):
        stretch(edges, spectrum(1.0, 0.0), spectrum(0.9, 0.0), 400.0, 620.0)
    with pytest.raises(TooFewCountsError, match="counts around the photopeak"):
        stretch(edges, spectrum(1.0, 0.0), 0.1 * spectrum(1.0, 0.0), 400.0, 620.0)
    flat = rng.poisson(np.full(400, 50.0)).astype(float)
    with pytest.raises(FitFailedError):
        stretch(edges, flat, rng.poisson(np.full(400, 50.0)).astype(float), 400.0, 620.0)


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


async def idle_again(w: World, run_id: str) -> Run:
    """Tell that the sequence has ended, and let the run come to its end."""
    await until_it_waits(w, "has ended and the MR is idle: petqc confirm")
    w.runs.confirm("")
    async with asyncio.timeout(DEADLINE_S):
        await w.runs.wait()
    return Run.load(w.store.folder_of(run_id))


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
            run = await idle_again(w, run_id)
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


def test_an_abort_while_a_phase_empties_its_queue_counts_and_finalises_it_all_the_same(
    tmp_path: Path,
    bench: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emptying, off, done = threading.Event(), threading.Event(), threading.Event()
    original, close = Pipeline.finish, Measurement.close_recording

    def slow(self: Pipeline, *deadline_s: float) -> bool:
        if not deadline_s:  # the recorder's; that of the analysis has a deadline of its own
            emptying.set()
            assert off.wait(DEADLINE_S)
            sleep(0.2)
            done.set()
        return original(self, *deadline_s)

    def closed(self: Measurement, *, truncated: str | None) -> None:
        assert done.is_set(), "finalised while its queue was not empty"
        close(self, truncated=truncated)

    async def work() -> None:
        async with world(tmp_path, bench, **_aliased()) as w:
            run_id = await w.runs.start("mr-delta", source="test")
            await until_it_waits(w, "petqc confirm")
            monkeypatch.setattr(Pipeline, "finish", slow)
            monkeypatch.setattr(Measurement, "close_recording", closed)
            w.runs.confirm("")
            await stopped_while(w, emptying, off)
            run = Run.load(w.store.folder_of(run_id))
            assert "stopped by command" in run.sentence
            assert run.account["frames_received"] == run.account["frames_recorded"] + run.account["frames_dropped"] > 0
            assert not any("do not add up" in note for note in run.notes)

    asyncio.run(work())


def test_timed_phases_say_that_nobody_looked_and_a_sequence_needs_a_name(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        async with world(tmp_path, bench, **_aliased(phases="timed", gap_s=0.0)) as w:
            with pytest.raises(RefusedError, match=r"^mr-delta: name the sequence"):
                await w.runs.start("mr-delta", source="test", parameters={"sequence": " "})
            run_id = await w.runs.start("mr-delta", source="test")
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert len(run.raw_files) == 3
            assert sum("nobody looked" in note for note in run.notes) == 2

    asyncio.run(work())


async def by_the_schedule(w: World) -> str:
    """Start it as the schedule does on its day; the id of the run."""
    clocks = Clocks("2031-03-02T04:59:59")
    jobs = ScheduleConfig(timezone="Europe/Amsterdam", job=(JobConfig(kind="mr-delta", at=time(6)),))
    s = Scheduler(jobs, w.runs, unix_s=lambda: clocks.unix, monotonic_s=lambda: clocks.monotonic)
    await s.begin()
    clocks.passes(2)
    await s.tick()
    (line,) = w.store.history(5, "mr-delta")
    return line.run_id


def test_by_the_schedule_nothing_is_switched_on_until_somebody_is_at_the_mr(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        async with world(tmp_path, bench, **_aliased(begin_within_s=600.0)) as w:
            run_id = await by_the_schedule(w)
            await until_it_waits(w, "tell when the source is in its place and the MR is idle: petqc confirm")
            assert w.boards == []
            w.runs.services.permits.forget()  # as they are after two minutes of waiting
            assert w.runs.confirm("Ge-68")[0] == run_id
            await until_it_waits(w, "the sequence EPI runs: petqc confirm")
            assert "bias_on" in w.boards[0].calls
            w.runs.confirm("")
            run = await idle_again(w, run_id)
            assert len(run.raw_files) == 3
            assert any("the source is in its place and the MR is idle (Ge-68)." in note for note in run.notes)

    asyncio.run(work())


def test_a_day_on_which_nobody_came_to_the_mr_is_missed(tmp_path: Path, bench: Path) -> None:  # noqa: F811
    async def work() -> None:
        async with world(tmp_path / "a", bench, **_aliased(begin_within_s=0.05)) as w:
            run_id = await by_the_schedule(w)
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert run.verdict is Status.MISSED
            assert run.sentence == (
                "Missed: nobody told within 0.05 s that the source is in its place and the MR is idle; "
                "nothing was switched on."
            )
            assert w.boards == []
            assert 'petqc_qc_run_verdict{kind="mr-delta",scanner="bench"} 4.0' in w.metrics.text().decode()
        day = {"daily": DailyConfig(runs=("mr-delta", "source")), **_aliased(begin_within_s=0.05)}
        async with world(tmp_path / "b", bench, **day) as w:
            run_id = await w.runs.start("daily", source="test")
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert (run.parts[0].kind, run.parts[0].verdict) == ("mr-delta", Status.MISSED)
            assert run.verdict in {Status.INVALID, Status.FAIL}  # what is missing is no pass
            assert len(w.boards) == 1  # the next part went on
        async with world(tmp_path / "c", bench, **_aliased(begin_within_s=600.0)) as w:
            run_id = await by_the_schedule(w)
            await until_it_waits(w, "petqc confirm")
            w.runs.abort()
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            assert Run.load(w.store.folder_of(run_id)).verdict is Status.INVALID
            assert w.boards == []

    asyncio.run(work())


def test_what_runs_by_itself_names_its_sequence() -> None:
    for by_itself in (
        {"qc": {"daily": {"runs": ["source", "mr-delta"]}}},
        {"schedule": {"job": [{"kind": "mr-delta", "at": "06:00:00"}]}},
    ):
        with pytest.raises(ValidationError, match="name its sequence"):
            PetqcConfig.model_validate(by_itself)
