"""Calibration runs against a board that pulses on demand: points, bias off, interruption, continuation, and the set."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from tests.unit.again import same_again

from petqc.calibrate.accepted import accepted
from petqc.calibrate.sets import list_sets, verify_set
from petqc.errors import BadInputError
from petqc.formats.petsys_calibration_raw import CalibrationReader
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_frames import pack_frame
from petqc.reanalyse import reanalyse
from petqc.results import Run
from petqc_simulators.recording import write_recording
from petqcd import resume
from petqcd.calibrations import Calibrations
from petqcd.config import ApiConfig, DeviceConfig, PetqcConfig
from petqcd.errors import RefusedError
from petqcd.metrics import Metrics
from petqcd.progress import Bus
from petqcd.pulse_scan import channel_groups
from petqcd.readout.board import AsicPlan, ChannelCounts, Received, TimeReference
from petqcd.readout.configuration import configuration_in_use
from petqcd.readout.supervisor import BiasState, DeviceSupervisor
from petqcd.runs import RunManager
from petqcd.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from petqcd.interlocks.bias_limits import BiasLimits
    from petqcd.readout.board import Pulses, ReadingLike

DEADLINE_S = 60
CHANNELS = (0, 1)
SETTINGS = {"channels": CHANNELS, "hits_per_tac": 8}
THRESHOLDS = {"channels": CHANNELS, "settle_windows": 0}
BLOCK = 64
BLOCK_S = 0.001
"""Between two blocks. A board that sends as fast as it can fills the queue, and every point waits for all before it."""
WINDOW_CLK = 1 << 22


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    return folder / write_recording(folder / "r", "bench", 1, 0.05, truth_seconds=0)["config"]


class PulsedBoard:
    """One ASIC whose channels answer each pulse without noise, with the code 10 + 180 q - 2 q²."""

    def __init__(self, *, stop_after: int = 10**9, identity: str = "a pulsed board") -> None:
        self.calls: list[str] = []
        self.plan: AsicPlan | None = None
        self.pulses: Pulses | None = None
        self.fields: dict[int, dict[str, int]] = {}
        self.stop_after = stop_after
        self.reached = asyncio.Event()
        self.identity = identity
        self.n_pulses = 0
        self._frame = 0
        self._sink: Callable[[NDArray[np.uint64]], None] | None = None
        self._flow: asyncio.Task[None] | None = None
        self._tac: dict[int, int] = {}

    async def connect(self) -> str:
        self.calls.append("connect")
        return self.identity

    async def configure(self, plan: AsicPlan | None = None) -> None:
        self.calls.append("configure")
        assert plan is not None
        self.plan = plan
        self.fields = {c: dict(plan.channel_fields) for c in self.channels}

    @property
    def channels(self) -> Sequence[int]:
        return range(64)

    async def set_channels(self, fields: Mapping[int, Mapping[str, int]]) -> None:
        for channel, changed in fields.items():
            self.fields[channel].update(changed)

    async def set_test_pulse(self, pulses: Pulses | None) -> None:
        self.pulses = pulses
        if pulses is None:
            self.calls.append("pulses_off")
            return
        self.n_pulses += 1
        if self.n_pulses > self.stop_after:
            self.reached.set()
            await asyncio.Event().wait()

    async def time_tag(self) -> int:
        return self._frame * 1024 + 5

    async def bias_on(self, overvoltage_share: float = 1.0) -> None:
        raise AssertionError(f"a scan of test pulses must not touch the bias: {overvoltage_share}")

    async def bias_off(self) -> BiasState:
        self.calls.append("bias_off")
        return BiasState.OFF_CONFIRMED

    async def read_environment(self) -> list[Any]:
        return []

    async def time_reference(self) -> TimeReference:
        return TimeReference(200_000_000, 0, 0.0, 1)

    async def start(self, sink: Callable[[NDArray[np.uint64]], None]) -> None:
        self._sink = sink
        self._flow = asyncio.create_task(self._stream(), name="frames")

    async def _stream(self) -> None:
        assert self._sink is not None
        while True:
            frames = [pack_frame(self._frame + k, self._events()) for k in range(BLOCK)]
            self._frame += BLOCK
            self._sink(np.concatenate(frames))
            await asyncio.sleep(BLOCK_S)

    def _events(self) -> list[int]:
        if self.pulses is None:
            return []
        on = [c for c in CHANNELS if self.fields[c]["trigger_mode_1"] == 1]
        return [self._event(c, self.pulses) for c in on]

    def _event(self, channel: int, pulses: Pulses) -> int:
        tac = self._tac[channel] = (self._tac.get(channel, -1) + 1) % 4
        start = 8 + pulses.phase_clk + 0.02 * channel
        word = channel << 42 | tac << 40
        for time_clk, coarse_at, fine_at in ((start, 30, 10), (start + pulses.length_clk, 20, 0)):
            coarse = int(np.floor(time_clk + 1.5))
            q = coarse - time_clk
            fine = round(10 + 180 * q - 2 * q * q)
            word |= coarse << coarse_at | ((fine - 27) & 1023) << fine_at
        return word

    async def stop(self) -> Received:
        if self._flow is not None:
            self._flow.cancel()
            await asyncio.wait({self._flow})
            self._flow = None
        return Received(frames=self._frame)

    async def wait_failed(self) -> None:
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.calls.append("aclose")
        await self.stop()


class CountedBoard(PulsedBoard):
    """The same ASIC, as its channel counters see it: baselines that move with their trims, noise of 0.5 steps."""

    ZERO_AT_START = (63.0, 58.0, 64.0)
    STEPS: ClassVar = {"baseline_t": 1.2, "baseline_e": 3.0}
    START: ClassVar = {"baseline_t": 61, "baseline_e": 7}
    n_readings = 0

    def zero(self, channel: int, discriminator: int) -> float:
        trim = "baseline_e" if discriminator == 2 else "baseline_t"
        moved = self.STEPS[trim] * (self.fields[channel][trim] - self.START[trim])
        return self.ZERO_AT_START[discriminator] + 0.3 * channel + moved

    async def read_channel_counters(self) -> ChannelCounts:
        self.n_readings += 1
        if self.n_readings > self.stop_after:
            self.reached.set()
            await asyncio.Event().wait()
        return ChannelCounts({c: self._count(c) if c in CHANNELS else 0 for c in self.channels}, WINDOW_CLK)

    def _count(self, channel: int) -> int:
        f = self.fields[channel]
        if f["counter_mode"] != 0xF or f["trigger_mode_1"] != 0:
            return 0
        k = f["trigger_mode_2_b"]
        over = (f[("vth_t1", "vth_t2", "vth_e")[k]] - self.zero(channel, k)) / 0.5
        return round(WINDOW_CLK * NormalDist().cdf(over))


@dataclass(slots=True)
class World:
    store: Store
    bus: Bus
    metrics: Metrics
    runs: RunManager
    calibrations: Calibrations

    async def run(self, kind: str = "calibrate-tdc", **settings: object) -> Run:
        usual = SETTINGS if kind == "calibrate-tdc" else THRESHOLDS
        run_id = await self.runs.start(kind, source="test", parameters={**usual, **settings})
        async with asyncio.timeout(DEADLINE_S):
            await self.runs.wait()
        return Run.load(self.store.folder_of(run_id))


@asynccontextmanager
async def world(
    state_dir: Path,
    bench: Path,
    *boards: PulsedBoard,
    limits: BiasLimits | None = None,
    instruments: Callable[[], Sequence[ReadingLike]] = tuple,
) -> AsyncIterator[World]:
    """limits: most calibrations need none."""
    device = DeviceConfig(address="udp://127.0.0.1:9", configuration=bench, simulated=True, bias=limits)
    config = PetqcConfig(device=(device,), api=ApiConfig(listen="127.0.0.1:0"))
    store, bus, metrics = Store(state_dir), Bus(), Metrics("bench", "board", simulated=True)
    supervisor = DeviceSupervisor(device, state_dir, bus, metrics)
    left = list(boards)
    runs = RunManager(config, store, bus, metrics, supervisor, lambda *_: left.pop(0), instruments)
    try:
        yield World(store, bus, metrics, runs, Calibrations(config, store, metrics, supervisor))
    finally:
        await runs.aclose()
        store.close()


def number(metrics: Metrics, start: str) -> float:
    (line,) = [line for line in metrics.text().decode().splitlines() if line.startswith(start)]
    return float(line.rsplit(" ", 1)[1])


def test_a_calibration_is_a_run_that_makes_a_set(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        board = PulsedBoard()
        async with world(tmp_path, bench, board) as w:
            with w.bus.listen() as events:
                run = await w.run()
                seen = [e.data for _ in range(events.qsize()) if (e := events.get_nowait()) and e.name == "progress"]
            assert board.calls[:3] == ["connect", "bias_off", "configure"]
            assert board.calls[3:] == ["bias_off", "pulses_off", "aclose"]
            assert board.plan is not None
            assert board.plan.mode == "tot"
            assert board.plan.channel_fields["trigger_mode_1"] == 3
            assert any(d["counts"].get("points_total") == 102 for d in seen)
            assert run.account["points"] == 102
            assert run.account["frames_missing_in_points"] == 0
            assert run.account["frames_in_points"] == 102 * 32
            assert run.verdict == "fail"  # 62 of 64 channels are not in the plan
            assert "62 channels left out" in run.sentence
            residual = run.find("tdc_residual")
            assert residual is not None
            assert residual.value is not None
            assert residual.value < 12.0
            assert [c.value.size for c in run.columns] == [64] * 6
            (made,) = list_sets(w.store.sets).sets
            folder = w.store.sets / made.id
            assert verify_set(folder) == []
            assert made.run_id == run.run_id
            assert made.parent_set is None
            assert made.simulated
            assert run.calibration_set is not None
            assert run.calibration_set["id"] == made.id
            again = same_again(w.store.folder_of(run.run_id), tmp_path / "copy")
            assert again.calibration_set is None
            assert "A re-analysis makes no calibration set." in again.notes
            table = load_config(folder).require("tdc")
            assert table.size == 2 * 4 * 2
            np.testing.assert_allclose(table["a1"], 180.0, atol=3.0)
            assert number(w.metrics, 'petqc_calibration_run_verdict{device="board",kind="tdc"') == 2
            assert number(w.metrics, "petqc_run_verdict{") == -1
            page = (w.store.folder_of(run.run_id) / "report.html").read_text()
            assert made.id in page
            assert "What changed" in page
            assert 'id="energy"' not in page

            with pytest.raises(Exception, match="verdict of its run is fail"):
                await w.calibrations.accept(made.id, who="ana", reason="")
            await w.calibrations.accept(made.id, who="ana", reason="two channels are all there are")
            act = accepted(w.store.sets, "board")
            assert act is not None
            assert act.who == "ana"
            in_use = configuration_in_use(bench, w.store.sets, "board")
            assert in_use.set_id == made.id
            assert number(w.metrics, 'petqc_calibration_made_timestamp_seconds{device="board",kind="tdc"') > 1e9
            (folder / "tdc.tsv").chmod(0o644)
            (folder / "tdc.tsv").write_text("")
            with pytest.raises(Exception, match=r"tdc\.tsv was changed"):
                configuration_in_use(bench, w.store.sets, "board")

    asyncio.run(work())


async def interrupted(w: World, board: PulsedBoard, kind: str = "calibrate-tdc", **settings: object) -> Run:
    """Abort a run once the board has been told to pulse, or was read, so often."""
    usual = SETTINGS if kind == "calibrate-tdc" else THRESHOLDS
    run_id = await w.runs.start(kind, source="test", parameters=settings or usual)
    async with asyncio.timeout(DEADLINE_S):
        await board.reached.wait()
        w.runs.abort()
        await w.runs.wait()
    return Run.load(w.store.folder_of(run_id))


def test_an_aborted_one_can_be_continued_and_gives_the_same(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        first, second, whole = PulsedBoard(stop_after=70), PulsedBoard(), PulsedBoard()
        async with world(tmp_path, bench, first, second, whole) as w:
            stopped = await interrupted(w, first)
            assert stopped.verdict == "invalid"
            assert "stopped by command" in stopped.sentence
            told = f"70 of 102 points were taken; continue with: petqc calibrate tdc --resume {stopped.run_id}"
            assert any(told in note for note in stopped.notes)  # a busy machine is told there, too
            assert list_sets(w.store.sets).sets == ()
            before = {p.name: p.read_bytes() for p in w.store.folder_of(stopped.run_id).iterdir() if p.is_file()}
            run = await w.run(resume="last")
            assert second.n_pulses == 32
            assert run.account["points_continued"] == 70
            assert any(stopped.run_id in note for note in run.notes)
            again = await w.run()
            assert again.account["points_continued"] == 0
            points = [
                [(p.step1, p.words.tolist()) for p in CalibrationReader(w.store.folder_of(r) / "points.rawf").points()]
                for r in (run.run_id, again.run_id)
            ]
            assert [p[0] for p in points[0]] == [p[0] for p in points[1]]
            assert [len(p) for p in points] == [102, 102]
            one, other = (load_config(w.store.sets / s.id).require("tdc") for s in list_sets(w.store.sets).sets)
            for name in ("t0", "a0", "a1", "a2"):
                np.testing.assert_allclose(one[name], other[name], atol=0.2)
            assert {n: (w.store.folder_of(stopped.run_id) / n).read_bytes() for n in before} == before
            with pytest.raises(RefusedError, match="no interrupted calibrate-tdc run"):
                await w.runs.start("calibrate-tdc", source="test", parameters={**SETTINGS, "resume": again.run_id})

    asyncio.run(work())


def test_what_is_not_the_same_is_not_continued(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        first, other = PulsedBoard(stop_after=60), PulsedBoard(identity="another board")
        async with world(tmp_path, bench, first, other) as w:
            stopped = await interrupted(w, first)
            run = await w.run(resume=stopped.run_id)
            assert run.verdict == "invalid"
            assert "the board is another board now and was a pulsed board" in run.sentence
            before = len(w.store.history())
            with pytest.raises(RefusedError, match="the plan has other channels; the plan has other frames per point"):
                await w.run(resume=stopped.run_id, channels=(0, 2), hits_per_tac=16)
            table = load_config(bench).paths["bias_settings"]
            text = table.read_text()
            try:
                table.write_text(text + "# changed\n")
                with pytest.raises(RefusedError, match="configuration's hash"):
                    await w.run(resume=stopped.run_id)
            finally:
                table.write_text(text)
            with pytest.raises(RefusedError, match="no interrupted"):
                await w.run(resume="../../etc")
            with pytest.raises(RefusedError, match="calibrate-tdc: plan 'huge'"):
                await w.run(plan="huge")
            assert len(w.store.history()) == before  # refused before anything was claimed
            assert w.runs.progress is None

    asyncio.run(work())


def test_a_daemon_that_died_leaves_points_that_can_be_continued(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        first = PulsedBoard(stop_after=60)
        async with world(tmp_path, bench, first) as w:
            stopped = await interrupted(w, first)
            folder = w.store.folder_of(stopped.run_id)
        (folder / "run.json").unlink()
        assert any("60 of 102 points were taken" in note for note in resume.left_behind(folder))
        plan = json.loads((folder / "plan.json").read_text())
        assert plan["planned"] == 102
        with (folder / "points.idxf").open("a") as index:
            index.write("64\t9999999999\t0\t0\t0.")  # a line that was being written
        second = PulsedBoard()
        async with world(tmp_path, bench, second) as w:
            run = await w.run(resume="last")
            assert run.account["points_continued"] == 60
            assert run.account["points"] == 42

    asyncio.run(work())


def test_thresholds_are_found_and_an_interrupted_scan_goes_on_with_its_baselines(tmp_path: Path, bench: Path) -> None:
    async def work() -> None:
        first, second = CountedBoard(stop_after=100), CountedBoard()
        async with world(tmp_path, bench, first, second) as w:
            stopped = await interrupted(w, first, "calibrate-threshold")
            assert stopped.verdict == "invalid"
            taken = stopped.account["points"]
            assert 60 < taken < 100
            assert any(f"{taken} of 192 points were taken" in note for note in stopped.notes)
            with pytest.raises(BadInputError, match=r"has no inputs\.json.*: the run was cut"):
                reanalyse(w.store.folder_of(stopped.run_id))
            assert first.plan is not None
            assert not first.plan.needs_thresholds
            assert first.calls[-2:] == ["bias_off", "aclose"]
            assert first.fields[0]["trigger_mode_1"] == 3

            run = await w.run("calibrate-threshold", resume="last")
            assert run.account["points_continued"] == taken
            assert run.account["points"] == 192 - taken
            assert run.account["baseline_rounds"] == 0  # those of the run before stand
            assert second.n_readings == 192 - taken + 1
            assert run.verdict == "fail"  # 62 of 64 channels are not in the plan
            assert run.calibration_set is not None
            same_again(w.store.folder_of(run.run_id), tmp_path / "copy")
            table = load_config(w.store.sets / run.calibration_set["id"]).require("disc_calibration")
            assert table["channel"].tolist() == list(CHANNELS)
            for line in table:
                trims = {name: int(line[name]) for name in ("baseline_t", "baseline_e")}
                second.fields[int(line["channel"])].update(trims)
                zeros = [second.zero(int(line["channel"]), k) for k in range(3)]
                np.testing.assert_allclose([line["zero_t1"], line["zero_t2"], line["zero_e"]], zeros, atol=1e-3)
                assert max(zeros) < 60.5  # 95 % of the window over the threshold at code 61
                np.testing.assert_allclose([line["noise_t1"], line["noise_t2"], line["noise_e"]], 0.5, atol=1e-3)

    asyncio.run(work())


def test_a_discriminator_that_no_trim_brings_into_the_scan_is_marked(tmp_path: Path, bench: Path) -> None:
    class StuckBoard(CountedBoard):
        def zero(self, channel: int, discriminator: int) -> float:
            return 70.0 if (channel, discriminator) == (1, 2) else super().zero(channel, discriminator)

    async def work() -> None:
        async with world(tmp_path, bench, StuckBoard()) as w:
            run = await w.run("calibrate-threshold")
            assert run.account["baselines_not_reached"] == 1
            assert run.calibration_set is not None
            table = load_config(w.store.sets / run.calibration_set["id"]).require("disc_calibration")
            assert table["zero_e"].tolist()[1] == -1.0
            assert (table["zero_t1"] > 0).all()
            zero_e = next(c for c in run.columns if c.id == "threshold_zero_e")
            assert "never over the threshold" in str(zero_e.reason[1])
            refused = run.find("threshold_channels_refused")
            assert refused is not None
            assert refused.value == 1

    asyncio.run(work())


def test_channels_are_pulsed_far_from_each_other_and_each_once() -> None:
    assert channel_groups((0, 3), 1) == [[0], [1], [2], [3]]
    assert channel_groups((0, 63), 4)[0] == [0, 16, 32, 48]
    for at_once in (1, 3, 5, 12):
        assert sorted(c for group in channel_groups((2, 61), at_once) for c in group) == list(range(2, 62))
        assert max(len(group) for group in channel_groups((2, 61), at_once)) <= at_once


def test_curves_of_a_source_meter_make_a_set_without_touching_the_board(tmp_path: Path, bench: Path) -> None:
    volts = np.arange(26.0, 36.0, 0.025)
    # In the dark: a straight leakage, and above breakdown a parabola.
    amperes = 5e-10 + 5e-11 * volts + 3e-9 * np.maximum(volts - 32.55, 0.0) ** 2
    curves = [
        {
            "output": "0.0.0.0",  # noqa: S104 - a bias output, no address
            "volts": volts.tolist(),
            "amperes": amperes.tolist(),
        }
    ]

    async def work() -> None:
        board = PulsedBoard()
        async with world(tmp_path, bench, board) as w:
            for wrong, told in (
                ([{**curves[0], "output": "0.0.0"}], "output"),
                ([{**curves[0], "amperes": [1e-9]}], "400 voltages and 1 currents"),
                ([], "at least 1 item"),
            ):
                with pytest.raises(RefusedError, match=told):
                    await w.runs.start("calibrate-bias-iv", source="test", parameters={"curves": wrong})
            run_id = await w.runs.start("calibrate-bias-iv", source="test", parameters={"curves": curves})
            async with asyncio.timeout(DEADLINE_S):
                await w.runs.wait()
            run = Run.load(w.store.folder_of(run_id))
            assert not board.calls
            assert run.raw_files[0].name == "curves.csv"
            found = run.find("bias_breakdown", "bias:0.0.0.0")
            assert found is not None
            assert found.value == pytest.approx(32.55, abs=0.1)
            other = run.find("bias_breakdown", "bias:0.0.0.1")
            assert other is not None
            assert (other.value, other.reason) == (None, "not measured; the table keeps its value")
            (made,) = list_sets(w.store.sets).sets
            before, after = (load_config(c).require("bias_settings") for c in (bench, w.store.sets / made.id))
            assert (before["breakdown"] != after["breakdown"]).tolist() == [True] + 31 * [False]
            same_again(w.store.folder_of(run_id), tmp_path / "copy")

    asyncio.run(work())
