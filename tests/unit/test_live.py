"""The analysis that follows the recorder: what it counts, what it leaves out when it lags, what it says meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.unit.test_checks import Toy
from tests.unit.test_daemon_runs import FakeBoard, bench, world

from petqc.analysis import RunContext, analyse
from petqc.formats.petsys_config import load_config
from petqc.lutetium import LutetiumCounts
from petqc.recorded import Asked, raw_frames
from petqc.rehearsal import go_through
from petqc.so_far import so_far
from petqc_drivers.petsys.frames import scan_frames
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile
from petqcd.live import Counting, Live
from petqcd.measurement import Measurement
from petqcd.readout.board import TimeReference

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["bench"]
BLOCKS = 30
GENEROUS_S = 200.0
"""For a machine that has much else to do."""
LOST = slice(1500, 1620)
"""Frames that never came."""
ARRAYS = (
    "energy_counts", "energy_outside", "singles", "hits", "singles_in_window", "tof_prompt", "tof_delayed", "prompts",
    "delayed",
)  # fmt: skip


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the end of a run waits for the analysis is not what is tested here."""
    monkeypatch.setattr("petqcd.measurement.STOP_DEADLINE_S", GENEROUS_S)


@pytest.fixture(scope="module")
def stream() -> list[NDArray[np.uint64]]:
    """Frames of 0.16 s as they come, empty ones too, in chunks of any size, with a gap."""
    detector = Detector(load_profile("bench"), 3)
    detector.settle()
    words = np.concatenate([detector.advance().words.copy() for _ in range(BLOCKS)])
    starts = np.append(scan_frames(words).starts, words.size)
    frames = [words[a:b] for a, b in pairwise(starts)]
    del frames[LOST]
    cuts = np.sort(np.random.default_rng(1).choice(len(frames), 60, replace=False))
    return [
        np.concatenate(part) for part in (frames[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)) if part
    ]


def measured(folder: Path, config: Path, stream: list[NDArray[np.uint64]], **given: Any) -> Measurement:
    """A measurement to which a stream was recorded and given."""
    folder.mkdir()
    m = Measurement(folder, load_config(config), **given)
    m.open_recording(TimeReference(200_000_000, 0, 0.0, None), {})
    for words in stream:
        m.write(words)
        m.process(words)
    m.close_recording(truncated=None)
    return m


def contents(m: Measurement) -> dict[str, Any]:
    h = m.histograms
    found = {name: getattr(h, name) for name in ARRAYS}
    found |= {f"times.{k}": v for k, v in vars(h.times).items()} | {"pairs": np.stack(h.pairs())}
    found |= {"pair_energies": np.stack((h.pair_energies.prompt, h.pair_energies.delayed))}
    return found | {"rest": np.array([h.same_module, h.unknown, h.pairs_seen, h.pairs_stride])}


def test_counted_live_or_from_the_recording_every_bit_is_the_same(
    tmp_path: Path,
    bench: Path,
    stream: list[NDArray[np.uint64]],
) -> None:
    counts: list[LutetiumCounts] = []

    def look(topology: Any) -> Any:
        counts.append(LutetiumCounts(topology))
        return counts[-1].add

    live = measured(tmp_path / "live", bench, stream, look=look)
    live.finish()
    counted_live = counts[-1]
    assert live.frames_not_analysed_live == 0
    assert live.account()["frames_lost"] == LOST.stop - LOST.start
    assert live.account()["prompts"] > 100

    late = measured(tmp_path / "late", bench, stream, look=look, live_queue_mib=0)
    assert late.frames_not_analysed_live == late.frames_recorded > 0
    left_out = late.frames_not_analysed_live
    assert late.account() == {"frames_not_analysed_live": left_out}  # nothing is said of what was not looked at
    assert late.live_time_s is None
    late.finish()
    assert str(left_out) in late.remark(is_cut=False)
    assert counts[-1] is not counted_live
    assert counts[-1].beta_pairs.tobytes() == counted_live.beta_pairs.tobytes()

    again = raw_frames([tmp_path / "live" / "recording.rawf"], Asked(bench))
    ours, theirs = contents(live), contents(late)
    for name, array in ours.items():
        assert np.asarray(array).tobytes() == np.asarray(theirs[name]).tobytes(), name
        if name in ARRAYS:
            assert np.asarray(array).tobytes() == getattr(again.histograms, name).tobytes(), name
    assert live.account() | {"frames_not_analysed_live": left_out} == late.account()
    assert live.live_time_s == late.live_time_s == again.context["live_time_s"]


def test_a_failure_of_the_live_analysis_costs_the_recording_nothing(
    tmp_path: Path,
    bench: Path,
    stream: list[NDArray[np.uint64]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(_self: Counting, _words: NDArray[np.uint64]) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Counting, "feed", breaks)
    m = measured(tmp_path / "run", bench, stream)
    assert m.frames_recorded == m.frames_not_analysed_live > 0
    m.finish()
    assert m.account()["prompts"] > 100


def test_a_run_whose_analysis_lags_records_every_frame_and_says_what_was_left_out(
    tmp_path: Path,
    bench: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, lives = threading.Event(), []
    write = Live.write

    def waits(self: Live, words: NDArray[np.uint64]) -> None:
        lives.append(self)
        gate.wait(GENEROUS_S)
        write(self, words)

    monkeypatch.setattr(Live, "write", waits)
    board = FakeBoard()

    async def time_tag() -> int:
        """The readout has measured long enough once something was left out."""
        if not (lives and lives[0].frames_left_out):
            return 0
        gate.set()
        return 600 * 200_000_000

    monkeypatch.setattr(board, "time_tag", time_tag)
    monkeypatch.setattr("tests.unit.test_daemon_runs.N_FRAMES", 30_000)  # 0.5 MiB a chunk against a queue of 1 MiB

    async def work() -> None:
        async with world(tmp_path, bench, board, live_queue_mib=1) as w:
            run_id = await w.runs.start("source", source="test", parameters={"seconds": 600})
            async with asyncio.timeout(GENEROUS_S):
                await w.runs.wait()
            document = w.store.document(run_id)
            account = document["account"]
            assert account["frames_not_analysed_live"] > 0
            assert account["frames_dropped"] == 0
            assert account["frames_recorded"] == account["frames_received"] == account["frames"] == board.delivered
            assert account["frames_lost"] == 0
            assert w.number("petqc_frames_not_analysed_live_total") == account["frames_not_analysed_live"]
            assert any("not analysed while they came" in note for note in document["notes"])

    asyncio.run(work())


def test_figures_are_told_while_the_run_goes_on_and_are_no_verdict(
    tmp_path: Path,
    bench: Path,
) -> None:
    async def work() -> None:
        async with world(tmp_path, bench) as w:
            with w.bus.listen() as events:
                await w.runs.start("source", source="test", parameters={"seconds": 600})
                async with asyncio.timeout(GENEROUS_S):
                    while True:
                        event = await events.get()
                        assert event is not None
                        if event.data.get("so_far"):
                            break
                w.runs.abort()
                await w.runs.wait()
            found = event.data["so_far"]
            assert json.loads(json.dumps(found, allow_nan=False)) == found
            assert (event.data["stage"], found["remark"], found["simulated"]) == (
                "acquire",
                "so far, not a verdict",
                True,
            )
            of = {figure["id"]: figure for figure in found["figures"]}
            assert list(of) == ["singles_rate", "prompts_seen", "prompts", "photopeak", "energy_resolution", "ctr_fit"]
            assert of["photopeak"]["value"] is None  # frames of this board are empty
            assert of["photopeak"]["reason"] == "no counts at all"
            assert of["prompts_seen"]["text"] == "0"

    asyncio.run(work())


def test_figures_so_far_are_those_that_the_checks_will_give() -> None:
    h = Toy(n_pairs=8000, n_singles=100_000).histograms()
    context = RunContext("toy", live_time_s=10.0)
    shown = so_far(h.summed(), context)
    found = {figure.id: figure for figure in shown.figures}
    run = analyse(h, context)
    of = {check.id: check for check in run.checks if check.node == "scanner" and check.unit != "channels"}
    for id_ in ("singles_rate", "prompts", "ctr_fit"):
        assert (found[id_].value, found[id_].uncertainty) == (of[id_].value, of[id_].uncertainty), id_
    for id_ in ("photopeak", "energy_resolution"):
        value, sigma = found[id_].value, found[id_].uncertainty
        assert value is not None
        assert sigma is not None
        assert abs(value - of[id_].value) < 3.0 * sigma, id_
    assert found["prompts_seen"].value == h.prompts.sum()
    kept = {(s.id, s.node): s for s in run.spectra}
    for spectrum in shown.spectra:
        np.testing.assert_array_equal(spectrum.counts, kept[spectrum.id, "scanner"].counts)
        assert spectrum.fit is not None
    without = so_far(h.summed(), RunContext("toy", source="none")).figures
    assert [figure.value for figure in without] == [None, float(h.prompts.sum()), None]


def test_the_rehearsal_judges_peaks_and_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would load nothing of what a run waits for."""
    judged = []

    def kept(histograms: Any, context: RunContext) -> Any:
        judged.append(analyse(histograms, context))
        return judged[-1]

    monkeypatch.setattr("petqc.analysis.analyse", kept)
    go_through()
    (run,) = judged
    numbers = {check.id for check in run.checks if check.value is not None}
    assert {"photopeak", "ctr_fit", "ctr_nema", "timing_width", "module_time_offset", "randoms_delayed"} <= numbers
