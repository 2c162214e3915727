"""A scan of test pulses at the board: channels in turns, a point for each pulse, every point on the disk once taken.

One acquisition runs through the whole scan. A point is a span of frames that begins after the time tag that was read
after its last setting, and the next setting waits until the last frame of the span has come: whatever a frame holds
was taken with one setting.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from petqcd import clock, resume
from petqcd.config import PulseScanConfig
from petqcd.errors import DaemonError
from petqcd.point_scan import CHANNELS_PER_ASIC, CalibrationScan, PointScan

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from petqc.calibrate import Calibration, EventPoint
    from petqc.calibrate.charge import ChargePlan
    from petqc.calibrate.reduce import TakenPoint
    from petqc.calibrate.tdc import TdcPlan
    from petqc.formats.petsys_calibration_raw import CalibrationRecording
    from petqcd.procedure import Bench, Flow, Job
    from petqcd.readout.board import AsicPlan, Pulses

FRAME_CLK = 1024
FRAME_S = FRAME_CLK / 200e6
FRAME_IDS = 1 << 36
TRIGGER_OFF, TRIGGER_ON_PULSE = 3, 1
"""Values of the ASIC field trigger_mode_1."""
SIMPLE_TRIGGER = {"trigger_mode_2_t": 0, "trigger_mode_2_e": 0, "trigger_mode_2_q": 0, "trigger_mode_2_b": 0}
"""One signal for all triggers of a channel. Source: readout maker's own calibration acquisitions."""
POINT_DEADLINE_S = 10.0
"""For the frames of a point, on top of the time that they take."""


@dataclass(frozen=True, slots=True)
class PulsePoint:
    """A pulse, and what the recording calls its point."""

    step1: float
    step2: float
    pulses: Pulses


@dataclass(frozen=True, slots=True)
class Scan:
    """What a kind of scan does with each group of channels.

    asics: how the ASICs are set, but for the triggers. points: in order. frames_per_point: how many each takes.
    """

    asics: AsicPlan
    points: Sequence[PulsePoint]
    frames_per_point: int


class PulseScanSettings(PulseScanConfig):
    """Settings of one calibration."""

    resume: Annotated[str, Field(max_length=100)] = ""
    """Run that was interrupted and is to be continued, or `last`."""


class PulseScan(PointScan):
    """A scan of test pulses; what a kind adds: `scan` and `conclude`. Those that calibrate: see `PulseCalibration`."""

    def __init__(self, job: Job, bench: Bench) -> None:
        from petqc.calibrate.reduce import PointCollector

        self.settings = _settings(job)
        self._scan = self.scan(self.settings)
        self._points = self._scan.points
        self._groups = channel_groups(self.settings.channels, self.settings.channels_at_once)
        super().__init__(job, bench, _plan_document(self._scan, self.settings), self.settings.channels)
        self._recording: CalibrationRecording | None = None
        self._collector = PointCollector(self._taken)
        self._is_done = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._counts = {"points": 0, "points_continued": 0, "events": 0, "frames_in_points": 0, "frames_missing": 0}
        self.frames_taken: list[int] = []
        """Frames that came of each point that this run took."""

    # -- what a kind says ---------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def scan(cls, settings: PulseScanConfig) -> Scan:
        """What is done with each group of channels."""

    # -- at the board -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Compile, or load, the reduction."""
        from petqc.calibrate.reduce import warm_up

        warm_up()

    async def at_configure(self) -> None:
        """Bias off, then everything as the scan wants it, every channel off."""
        await self.at_bias_off()
        plan = self._scan.asics
        off = {**plan.channel_fields, **SIMPLE_TRIGGER, "trigger_mode_1": TRIGGER_OFF}
        await self.board.configure(replace(plan, channel_fields=off))

    async def at_board(self) -> None:
        """Take every point that is not there yet."""
        await self.at_environment()
        self._loop = asyncio.get_running_loop()
        await self.at_disk(self._open)
        begin = self._counts["points_continued"] = self.begin_points()
        if begin == self.n_points:
            return
        async with self.flow(self._collector, lambda _: None, queue_mib=self.settings.queue_mib) as flow:
            on: Sequence[int] = ()
            for number in range(begin, self.n_points):
                group, index = divmod(number, len(self._points))
                if index == 0 or number == begin:
                    on = await self._switch(on, self._groups[group])
                await self._take(flow, self._points[index])
                self.tell_points(number + 1, {"events": self._counts["events"]})

    async def at_leave(self) -> None:
        """No pulses any more."""
        await self.board.set_test_pulse(None)

    async def _switch(self, on: Sequence[int], group: Sequence[int]) -> Sequence[int]:
        """One group off, the next one on; the channels that are on now."""
        chosen = set(group)
        wanted = [c for c in self.board.channels if c % CHANNELS_PER_ASIC in chosen]
        off = {c: {"trigger_mode_1": TRIGGER_OFF} for c in on}
        await self.board.set_channels(off | {c: {"trigger_mode_1": TRIGGER_ON_PULSE} for c in wanted})
        return wanted

    async def _take(self, flow: Flow, point: PulsePoint) -> None:
        await self.board.set_test_pulse(point.pulses)
        tag = await self.board.time_tag()
        first = (tag // FRAME_CLK + 1 + self.settings.settle_frames) % FRAME_IDS
        self._is_done.clear()
        self._collector.begin(point.step1, point.step2, first, self._scan.frames_per_point)
        end_s = clock.monotonic_s() + POINT_DEADLINE_S + 20 * FRAME_S * self._scan.frames_per_point
        while not self._is_done.is_set():
            left_s = end_s - clock.monotonic_s()
            if left_s <= 0:
                raise DaemonError(f"frame {first + self._scan.frames_per_point} of a point did not come in time")
            await flow.wait(left_s, self._is_done)

    def _taken(self, taken: TakenPoint) -> None:
        """A point is complete; called from the worker thread, which is the one that writes."""
        assert self._recording is not None  # noqa: S101 - opened before frames flow
        assert self._loop is not None  # noqa: S101 - as above
        self._recording.add(taken.point, first_frame=taken.first_frame, last_frame=taken.last_frame)
        self._counts["points"] += 1
        self._counts["events"] += taken.events
        self._counts["frames_in_points"] += taken.frames
        self._counts["frames_missing"] += self._scan.frames_per_point - taken.frames
        self.frames_taken.append(taken.frames)
        if self.is_time_to_commit():
            self._recording.sync()
        self._loop.call_soon_threadsafe(self._is_done.set)

    # -- on the disk --------------------------------------------------------------------------------------------------

    @property
    def n_points(self) -> int:
        """Points of the whole scan."""
        return len(self._groups) * len(self._points)

    @property
    def n_recorded(self) -> int:
        """Points that are on the disk."""
        return 0 if self._recording is None else len(self._recording.steps)

    def _open(self) -> None:
        """Create the recording, or go on behind the last point of the run that is continued."""
        from petqc.formats.petsys_calibration_raw import CalibrationRecording
        from petqc.formats.petsys_frames import RawHeader

        resume.begin(self.job, self._plan, self.acquired.identity, self._kept)
        header = RawHeader(all_charge=self._scan.asics.mode == "qdc", trigger_id=None)
        self._recording = CalibrationRecording(self.job.folder / resume.RECORDING, header)

    @property
    def frames_kept(self) -> int:
        """Frames that were looked through."""
        return self._collector.frames_recorded

    def account(self) -> dict[str, int | float]:
        """Points, frames and events; `frames_missing_in_points` is what the points lack."""
        found: dict[str, int | float] = {**self._counts, "points_planned": self.n_points}
        found["frames_missing_in_points"] = found.pop("frames_missing")
        return found

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def points(self) -> list[EventPoint]:
        """What is on the disk.

        Raises:
            DaemonError: points are missing.
        """
        from petqc.formats.petsys_calibration_raw import CalibrationReader

        reader = CalibrationReader(self.job.folder / f"{resume.RECORDING}.rawf")
        points = list(reader.points())
        if len(points) != self.n_points:
            raise DaemonError(f"{len(points)} points are on the disk, {self.n_points} were taken")
        return points

    def channels_of(self, number: int) -> NDArray[np.int32]:
        """Those that were on at a point, absolute numbers."""
        import numpy as np

        every = self.all_channels()
        return every[np.isin(every % CHANNELS_PER_ASIC, self._groups[number // len(self._points)])]


class PulseCalibration(PulseScan, CalibrationScan):
    """A scan of test pulses that calibrates; what a kind adds: `scan` and `fit`."""

    @abstractmethod
    def fit(self, points: Sequence[EventPoint], channels: NDArray[np.int32]) -> Calibration:
        """The calibration of these channels."""

    @classmethod
    def refuse(cls, job: Job) -> None:
        """Refuse to continue what cannot be continued, before the run is claimed."""
        settings = _settings(job)
        resume.continued(job, _plan_document(cls.scan(settings), settings))

    def calibration(self) -> Calibration:
        """What the points on the disk say."""
        return self.fit(self.points(), self.channels())


def _settings(job: Job) -> PulseScanConfig:
    assert isinstance(job.settings, PulseScanConfig)  # noqa: S101 - the model that pulse scans register
    return job.settings


P = TypeVar("P", "TdcPlan", "ChargePlan")


def chosen_plan(settings: PulseScanConfig, ordinary: P, vendor: P) -> P:
    """The plan that the settings ask for."""
    plan = vendor if settings.plan == "vendor" else ordinary
    return plan if settings.hits_per_tac is None else replace(plan, hits_per_tac=settings.hits_per_tac)


def _plan_document(scan: Scan, settings: PulseScanConfig) -> dict[str, Any]:
    return {
        "mode": scan.asics.mode,
        "global_fields": dict(scan.asics.global_fields),
        "channel_fields": dict(scan.asics.channel_fields),
        "channels": list(settings.channels),
        "channels_at_once": settings.channels_at_once,
        "frames_per_point": scan.frames_per_point,
        "points": [[p.step1, p.step2, p.pulses.length_clk, p.pulses.interval_clk] for p in scan.points],
    }


def channel_groups(channels: tuple[int, int], at_once: int) -> list[list[int]]:
    """Channels of an ASIC that are on together, far from each other; each is in one group."""
    chosen = list(range(channels[0], channels[1] + 1))
    step = -(-len(chosen) // at_once)
    return [chosen[first::step] for first in range(step)]
