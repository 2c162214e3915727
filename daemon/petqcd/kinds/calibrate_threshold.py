"""Threshold calibration: baselines, then channel counters at every code of each discriminator's threshold, bias off."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from petqcd import clock, resume
from petqcd.config import ThresholdScanConfig
from petqcd.errors import DaemonError
from petqcd.kinds import run_kind
from petqcd.point_scan import CHANNELS_PER_ASIC, CalibrationScan
from petqcd.readout.board import AsicPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from petqc.calibrate import Calibration
    from petqc.formats.counter_points import CounterHeader, CounterRecording
    from petqcd.procedure import Bench, Job
    from petqcd.readout.board import ChannelCounts

CLOCK_HZ = 200_000_000
VTH = ("vth_t1", "vth_t2", "vth_e")
"""Channel fields of the thresholds, in the order of the field trigger_mode_2_b."""
TRIM = ("baseline_t", "baseline_t", "baseline_e")
"""Channel field of the trim that moves each of them."""
START = {"baseline_t": 61, "baseline_e": 7}
"""Where the search for the trims begins. Source: interface reference, section 4.5, values at initialisation."""
GLOBAL_FIELDS = {"counter_en": 1}
CHANNEL_FIELDS = {
    "trigger_mode_1": 0,
    "trigger_b_latched": 0,
    "trigger_mode_2_b": 0,
    "counter_mode": 0xF,
    **dict.fromkeys(VTH, 0),
    **START,
}
"""ASIC fields before the scan: counters count active clocks, all thresholds as high as they go."""
CHANNEL_OFF = {"trigger_mode_1": 3, **dict.fromkeys(VTH, 0)}


class ThresholdScanSettings(ThresholdScanConfig):
    """Settings of one run."""

    resume: Annotated[str, Field(max_length=100)] = ""
    """Run that was interrupted and is to be continued, or `last`."""


@run_kind("calibrate-threshold", title="threshold calibration", settings=ThresholdScanSettings, needs_bias=False)
class ThresholdCalibration(CalibrationScan):
    """The search for baselines, the scan, and the fit of `petqc.calibrate.threshold`."""

    def __init__(self, job: Job, bench: Bench) -> None:
        self.settings = _settings(job)
        self._points = _points(self.settings)
        super().__init__(job, bench, _plan_document(self.settings), self.settings.channels)
        self._recording: CounterRecording | None = None
        self._window_s = 0.0
        self._counts = {"points": 0, "points_continued": 0, "baseline_rounds": 0, "baselines_not_reached": 0}

    @classmethod
    def refuse(cls, job: Job) -> None:
        """Refuse to continue what cannot be continued, before the run is claimed."""
        resume.continued(job, _plan_document(_settings(job)))

    def prepare(self) -> None:
        """Load the fit."""
        import petqc.calibrate.threshold  # noqa: F401 - it takes its time

    async def at_configure(self) -> None:
        """Bias off, then everything as the scan wants it."""
        await self.at_bias_off()
        await self.board.configure(AsicPlan("tot", GLOBAL_FIELDS, CHANNEL_FIELDS, needs_thresholds=False))

    async def at_board(self) -> None:
        """Find the baselines, unless the run that is continued did; then read at every code that is not there yet."""
        await self.at_environment()
        begun_s = clock.monotonic_s()
        channels = self.channels()
        first = await self.board.read_channel_counters()
        self._window_s = first.window_clk / CLOCK_HZ
        header = await asyncio.to_thread(self._header_kept)
        trims = await self._find_baselines(channels) if header is None else header.of_channels
        await self.at_disk(self._open, channels, first.window_clk, trims)
        begin = self._counts["points_continued"] = self.begin_points()
        if header is not None:
            await self.board.set_channels(_each(channels, trims))
        at = None
        for number in range(begin, self.n_points):
            discriminator, code = self._points[number]
            if at != (discriminator, code):
                at = discriminator, code
                await self._set(channels, discriminator, code)
            await self.at_disk(self._keep, discriminator, code, await self.board.read_channel_counters())
            self.tell_points(number + 1)
        self.acquired.elapsed_s = clock.monotonic_s() - begun_s

    async def at_leave(self) -> None:
        """Nothing triggers any more."""
        await self.board.set_channels({int(c): CHANNEL_OFF for c in self.channels()})

    async def _find_baselines(self, channels: NDArray[np.int32]) -> dict[str, NDArray[np.int64]]:
        """Trims at which every discriminator is over its threshold at the code that `lowered_baselines` is about."""
        import numpy as np

        from petqc.calibrate.threshold import BASELINE_CODE, BASELINE_ROUNDS, DISCRIMINATORS, lowered_baselines

        trims = {name: np.full(channels.size, start, np.int64) for name, start in START.items()}
        wrong = np.zeros(channels.size, bool)
        for discriminator, (name, trim) in enumerate(zip(DISCRIMINATORS, TRIM, strict=True)):
            right = np.zeros(channels.size, bool)
            for _ in range(BASELINE_ROUNDS):
                await self._set(channels, discriminator, BASELINE_CODE)
                reading = await self.board.read_channel_counters()
                self._counts["baseline_rounds"] += 1
                duty = _counts(reading, channels) / reading.window_clk
                lowered, right = lowered_baselines(duty, trims[trim])
                moved = lowered != trims[trim]
                trims[trim] = lowered
                detail = f"baselines of {name}: {int(right.sum())} of {right.size} channels right"
                self.tell("acquire", self.stages["acquire"][0], detail, {})
                if not moved.any():
                    break
                await self.board.set_channels(_each(channels[moved], {trim: lowered[moved]}))
            wrong |= ~right
        self._counts["baselines_not_reached"] = int(wrong.sum())
        return trims

    async def _set(self, channels: NDArray[np.int32], discriminator: int, code: int) -> None:
        """One discriminator is counted, at a code; the others see nothing. Then wait."""
        fields = {**dict.fromkeys(VTH, 0), VTH[discriminator]: code, "trigger_mode_2_b": discriminator}
        await self.board.set_channels({int(c): fields for c in channels})
        await asyncio.sleep(self.settings.settle_windows * self._window_s)

    # -- on the disk --------------------------------------------------------------------------------------------------

    @property
    def n_points(self) -> int:
        """Points of the whole scan."""
        return len(self._points)

    @property
    def n_recorded(self) -> int:
        """Points that are on the disk."""
        return 0 if self._recording is None else self._recording.n_points

    def _header_kept(self) -> CounterHeader | None:
        """Bring the points of the run that is continued; what it was taken with."""
        from petqc.formats.counter_points import CounterReader

        resume.begin(self.job, self._plan, self.acquired.identity, self._kept)
        return None if self._kept is None else CounterReader(self.job.folder / f"{resume.RECORDING}.jsonl").header

    def _open(self, channels: NDArray[np.int32], window_clk: int, trims: Mapping[str, NDArray[np.int64]]) -> None:
        from petqc.formats.counter_points import CounterHeader, CounterRecording

        header = CounterHeader(channels, window_clk, dict(trims))
        self._recording = CounterRecording(self.job.folder / resume.RECORDING, header)

    def _keep(self, discriminator: int, code: int, reading: ChannelCounts) -> None:
        from petqc.calibrate import CounterPoint

        assert self._recording is not None  # noqa: S101 - opened before the first point
        header = self._recording.header
        settings = {"discriminator": float(discriminator), "code": float(code)}
        counts = _counts(reading, header.channels)
        self._recording.add(CounterPoint(settings, header.channels, counts, reading.window_clk))
        self._counts["points"] += 1
        if self.is_time_to_commit():
            self._recording.sync()

    @property
    def frames_kept(self) -> int:
        """None: counters are read like registers."""
        return 0

    def account(self) -> dict[str, int | float]:
        """Points and baselines."""
        return {**self._counts, "points_planned": self.n_points}

    def calibration(self) -> Calibration:
        """Zero and noise of every discriminator."""
        from petqc.calibrate.threshold import fit
        from petqc.formats.counter_points import CounterReader

        reader = CounterReader(self.job.folder / f"{resume.RECORDING}.jsonl")
        if len(reader.points) != self.n_points:
            raise DaemonError(f"{len(reader.points)} points are on the disk, {self.n_points} were taken")
        trims = reader.header.of_channels
        return fit(reader.points, trims["baseline_t"], trims["baseline_e"])


def _settings(job: Job) -> ThresholdScanSettings:
    assert isinstance(job.settings, ThresholdScanSettings)  # noqa: S101 - the model that this kind registers
    return job.settings


def _points(settings: ThresholdScanConfig) -> Sequence[tuple[int, int]]:
    """Discriminator and code of each reading, in order."""
    from petqc.calibrate.threshold import DISCRIMINATORS, VENDOR_PLAN, ThresholdPlan

    plan = VENDOR_PLAN if settings.plan == "vendor" else ThresholdPlan()
    if settings.reads is not None:
        plan = replace(plan, reads=settings.reads)
    if settings.code_step is not None:
        plan = replace(plan, code_step=settings.code_step)
    return [(k, code) for k in range(len(DISCRIMINATORS)) for code in plan.codes() for _ in range(plan.reads)]


def _plan_document(settings: ThresholdScanConfig) -> dict[str, Any]:
    return {
        "global_fields": GLOBAL_FIELDS,
        "channel_fields": CHANNEL_FIELDS,
        "channels": list(settings.channels),
        "channels_at_once": CHANNELS_PER_ASIC,
        "settle_windows": settings.settle_windows,
        "points": [list(point) for point in _points(settings)],
    }


def _counts(reading: ChannelCounts, channels: NDArray[np.int32]) -> NDArray[np.int64]:
    import numpy as np

    return np.array([reading.counts[int(c)] for c in channels], np.int64)


def _each(channels: NDArray[np.int32], trims: Mapping[str, NDArray[np.int64]]) -> dict[int, dict[str, int]]:
    """Fields of each channel from arrays over channels."""
    return {int(c): {name: int(values[i]) for name, values in trims.items()} for i, c in enumerate(channels)}
