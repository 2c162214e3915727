"""Timing board and readout see the same photons of a simulated detector; together they tell module from clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc.calibration import CalibrationSet
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_raw import RawReader
from petqc.processing import ProcessingSettings, Processor
from petqc.recorded import analyse_file
from petqc.results import EnvironmentReading
from petqc_drivers.caen_a5203 import picotdc, wire
from petqc_drivers.caen_a5203.events import StreamParser
from petqc_drivers.caen_a5203.intervals import Interval, Intervals
from petqc_drivers.caen_a5203.registers import (
    LSB_PS,
    NEW_DATA_QUALIFIER,
    ONE_WORD_TRAILER,
    STREAMING_PERIOD_CLK,
    SUPPRESS_EMPTY,
    AcquisitionMode,
    Command,
    Register,
)
from petqc_simulators.boards.caen_a5203 import TDC_SIGMA_PS
from petqc_simulators.boards.timing_beside import ClocksOfModules, TimingBeside
from petqc_simulators.profile import load_profile
from petqc_simulators.recording import write_recording

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.results import Run
    from petqc_simulators.physics.detector import Detector

SECONDS = 0.8
SEED = 11
MODULES = ("module:0.0.0", "module:0.0.1")
PAIR = " - ".join(MODULES)
CLOCKS = " - ".join(reversed(MODULES))
ONE_HIT = 'base = "bench-timing"\n[processing]\ngroup_max_hits = 1\n'
"""An output gives an edge for what one crystal gets: the readout's events are those of one hit a photon, too."""
CLOCK_PS = 5000.0


def set_up(beside: TimingBeside) -> None:
    """As the driver does, without sockets."""
    mode = AcquisitionMode.STREAMING | NEW_DATA_QUALIFIER | ONE_WORD_TRAILER | SUPPRESS_EMPTY
    beside.handle(wire.write_register(Register.ACQUISITION_CONTROL, mode))
    beside.handle(wire.write_register(Register.STREAMING_PERIOD, STREAMING_PERIOD_CLK))
    for step in picotdc.power_up([0, 1], period_clk=STREAMING_PERIOD_CLK):
        beside.handle(wire.write_register(Register.I2C_DATA, step.value))
        beside.handle(wire.write_register(Register.I2C_ADDRESS, picotdc.i2c_address(0, step.address)))
    for command in (Command.CLEAR, Command.TIME_RESET, Command.START):
        beside.handle(wire.write_register(Register.COMMAND, command))


@dataclass(frozen=True)
class Seen:
    """A recording, and what stood beside the readout saw of the same seconds.

    edges: input and time in ps of each. today_ps: how much later the first module's readout is than the second's, as
    the calibration does not know.
    """

    recording: str
    config: str
    interval: Interval
    edges: tuple[NDArray[np.int64], NDArray[np.float64]]
    skew_ps: float
    today_ps: float

    def environment(self) -> tuple[EnvironmentReading, ...]:
        """As the service writes the instruments' readings into a run."""
        i = self.interval
        values = (
            ("time_interval", PAIR, i.mean_ps, "ps"),
            ("time_interval_uncertainty", PAIR, i.error_ps, "ps"),
            ("time_interval_pairs", PAIR, float(i.n), "1"),
            ("clock_locked", "timing", 1.0, "1"),
            ("clock_skew", CLOCKS, self.skew_ps, "ps"),
            ("clock_skew_uncertainty", CLOCKS, 1.0, "ps"),
            ("clock_reference", "clocks", 1.0, ""),
        )
        return tuple(EnvironmentReading(name, node, v, unit, True, "good", 0.2) for name, node, v, unit in values)

    def analysed(self, baselines: Mapping[str, Mapping[str, float]] | None = None) -> Run:
        """QC of the recording with these readings in its environment."""
        return analyse_file(
            self.recording, config=self.config, environment=self.environment(), baselines=baselines or {}
        )


def record(folder: Path, *, faults: tuple[str, ...] = (), late_ps: float = 0.0) -> Seen:
    """Some seconds of the bench, seen by the readout, a timing board and a counter; module 1 is late by itself."""
    found: list[tuple[Detector, TimingBeside]] = []

    def prepare(detector: Detector) -> None:
        detector.signal_delay_ps[1] = late_ps
        found.append((detector, TimingBeside(detector)))
        set_up(found[0][1])

    (folder / "one-hit.toml").write_text(ONE_HIT)
    profile = load_profile(str(folder / "one-hit.toml"))
    written = write_recording(folder / "run", profile, SEED, SECONDS, faults=faults, truth_seconds=0, prepare=prepare)
    detector, beside = found[0]
    parser, intervals = StreamParser(), Intervals([(0, 1)], 10_000.0)
    events = parser.feed(beside.take()).lists
    intervals(events)
    assert (parser.events_damaged, parser.bytes_skipped, beside.bytes_dropped) == (0, 0, 0)
    clocks = ClocksOfModules(detector)
    clocks.follow()
    today = detector.draw.delay_ps - detector.draw.offset_ps
    later = [float(today[detector.draw.module_of == module].mean()) for module in (0, 1)]
    return Seen(
        written["recording"],
        written["config"],
        intervals.found()[0],
        (events.channel, events.time_lsb() * LSB_PS),
        clocks.counter.clocks.skew_ps,
        later[0] - later[1],
    )


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return record(tmp_path_factory.mktemp("healthy"))


@pytest.fixture(scope="module")
def healthy_run(healthy: Seen) -> Run:
    return healthy.analysed()


@pytest.fixture(scope="module")
def baselines(healthy_run: Run) -> dict[str, dict[str, float]]:
    """What a baseline of the healthy day has."""
    found: dict[str, dict[str, float]] = {}
    for c in healthy_run.checks:
        if c.id in {"time_interval", "clock_skew"} and c.value is not None:
            found.setdefault(c.id, {})[c.node] = c.value
    assert set(found) == {"time_interval", "clock_skew"}
    return found


def test_the_interval_has_width_and_centre_of_the_readouts_coincidences(healthy: Seen, healthy_run: Run) -> None:
    interval, ctr = healthy.interval, healthy_run.find("ctr_fit")
    assert interval.n > 5000
    assert interval.mean_ps is not None
    assert interval.sigma_ps is not None
    assert interval.error_ps is not None
    assert ctr is not None
    assert ctr.value is not None
    assert ctr.uncertainty is not None
    # What each of them adds by itself, on both sides: converters and their steps, the readout's clock.
    profile = load_profile("bench")
    step_ps = CLOCK_PS / profile.electronics.tdc_codes_per_clock
    of_readout = profile.timing.tdc_sigma_ps**2 + profile.timing.clock_sigma_ps**2 + step_ps**2 / 12.0
    of_board = TDC_SIGMA_PS**2 + LSB_PS**2 / 12.0
    expected = math.sqrt(interval.sigma_ps**2 + 2.0 * (of_readout - of_board))
    error = math.hypot(ctr.uncertainty / 2.3548, interval.error_ps / math.sqrt(2.0))
    assert ctr.value / 2.3548 == pytest.approx(expected, abs=3.0 * error)
    first, second = (healthy_run.find("module_time_offset", node) for node in MODULES)
    assert first is not None
    assert second is not None
    assert first.value is not None
    assert second.value is not None
    between = first.value - second.value - healthy.today_ps
    assert between == pytest.approx(
        interval.mean_ps, abs=3.0 * math.hypot(2 * (first.uncertainty or 0), interval.error_ps)
    )


def pairs_of_both(seen: Seen) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time of the first module minus that of the second, of each coincidence that readout and board have; in ps."""
    config = load_config(seen.config)
    processor = Processor(CalibrationSet.from_config(config), ProcessingSettings.from_config(config))
    with RawReader(seen.recording) as reader:
        pairs = [processor.feed(words).prompts for words in reader.blocks(1 << 19)]
    pairs.append(processor.finish().prompts)
    of_first = np.concatenate([np.where(p.channel_a < 256, p.time_a_ps, p.time_b_ps) for p in pairs])
    of_second = np.concatenate([np.where(p.channel_a < 256, p.time_b_ps, p.time_a_ps) for p in pairs])
    inputs, times = seen.edges
    by_board = []
    for input_, readout in ((0, of_first), (1, of_second)):
        mine = times[inputs == input_]
        near = np.clip(np.searchsorted(mine, readout), 1, mine.size - 1)
        near -= readout - mine[near - 1] < mine[near] - readout
        by_board.append(mine[near])
    both = (np.abs(by_board[0] - of_first) < 2000.0) & (np.abs(by_board[1] - of_second) < 2000.0)
    assert both.mean() > 0.95  # others are over one threshold and under the other
    return (of_first - of_second)[both].astype(np.float64), (by_board[0] - by_board[1])[both]


def test_coincidence_by_coincidence_both_see_the_same_fluctuation(healthy: Seen) -> None:
    readout, board = pairs_of_both(healthy)
    assert np.corrcoef(readout, board)[0, 1] > 0.95
    assert (readout - board).std() < 0.3 * readout.std()


def test_a_module_that_moves_is_told_from_a_clock_that_moves(
    tmp_path: Path, baselines: dict[str, dict[str, float]]
) -> None:
    """200 ps on module 1 either way: the readout's numbers are alike, the witnesses' are not."""
    named = {}
    for name, how in (("module", {"late_ps": 200.0}), ("clock", {"faults": ("F14=200",)})):
        folder = tmp_path / name
        folder.mkdir()
        run = record(folder, **how).analysed(baselines)  # type: ignore[arg-type]
        offsets = [run.find("module_time_offset", node) for node in MODULES]
        assert all(c is not None and abs(abs(c.value or 0.0) - 100.0) < 8.0 for c in offsets), name
        named[name] = run.diagnosis[0]
    assert (named["module"].cause[:3], named["module"].node) == ("F29", PAIR)
    assert (named["clock"].cause[:3], named["clock"].node) == ("F14", PAIR)
    assert any("the timing board sees it too: +20" in told for told in named["module"].evidence)
    assert any("the counter between the clocks does not see it" in told for told in named["module"].evidence)
    assert any("the timing board does not see it" in told for told in named["clock"].evidence)
    assert any("the counter between the clocks sees it too" in told for told in named["clock"].evidence)
