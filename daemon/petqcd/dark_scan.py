"""A scan of dark counts: channel counters against the T1 threshold at one or more voltages; no source, no light.

Every voltage passes the permits and the guard like that of a daily run, and nothing goes above the hard limit. The
dark run takes one voltage, the bias calibration several.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from petqcd import clock, resume
from petqcd.config import DarkScanConfig
from petqcd.errors import DaemonError
from petqcd.point_scan import CHANNELS_PER_ASIC, PointScan
from petqcd.readout.board import AsicPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from petqc.calibrate import CounterPoint
    from petqc.formats.counter_points import CounterRecording
    from petqcd.procedure import Bench, Job
    from petqcd.readout.board import ChannelCounts

CLOCK_HZ = 200_000_000
GLOBAL_FIELDS = {"counter_en": 1}
HIGHEST_THRESHOLDS = {"vth_t1": 0, "vth_t2": 0, "vth_e": 0}
"""A lower code is a higher threshold: nothing triggers, so that no events come."""
CHANNEL_FIELDS = {
    "trigger_mode_1": 0,
    "trigger_b_latched": 0,
    "trigger_mode_2_b": 0,
    "counter_mode": 0xC,
    **HIGHEST_THRESHOLDS,
}
"""Counters count how often T1 goes over its threshold."""
CHANNEL_OFF = {"trigger_mode_1": 3, **HIGHEST_THRESHOLDS}


class DarkScan(PointScan):
    """What scans of dark counts have in common: everything but what is concluded.

    Args:
        job: the run's job.
        bench: what it works with.
        overvoltage_shares: voltages, as shares of each output's overvoltage, rising.
    """

    stages: ClassVar[Mapping[str, tuple[float, str]]] = {
        "connect": (0.0, "connecting to the board and verifying its identity"),
        "configure": (0.01, "configuring and reading back"),
        "bias": (0.03, "bias on"),
        "acquire": (0.04, "counting dark counts"),
        "off": (0.9, "bias off"),
        "analyse": (0.92, "fitting"),
    }

    def __init__(self, job: Job, bench: Bench, overvoltage_shares: Sequence[float]) -> None:
        job.board_config.require("disc_calibration")  # better now than once everything was counted
        assert isinstance(job.settings, DarkScanConfig)  # noqa: S101 - what scans of dark counts register
        self._scan = job.settings
        self._shares = tuple(overvoltage_shares)
        self._points = points(self._scan, len(self._shares))
        super().__init__(job, bench, plan_document(self._scan, self._shares), self._scan.channels)
        self._recording: CounterRecording | None = None
        self._baseline: dict[int, int] = {}
        self._volts: dict[str, float] = {}
        self._counts = {"points": 0, "points_continued": 0, "channels_without_baseline": 0}

    async def at_configure(self) -> None:
        """Everything as the scan wants it."""
        await self.board.configure(AsicPlan("tot", GLOBAL_FIELDS, CHANNEL_FIELDS))

    async def at_board(self) -> None:
        """At each voltage, rising, read the counters at each threshold that is not there yet."""
        begun_s = clock.monotonic_s()
        await self.at_environment()
        first = await self.board.read_channel_counters()
        window_s = first.window_clk / CLOCK_HZ
        await self.at_disk(self._open, first.window_clk)
        begin = self._counts["points_continued"] = self.begin_points()
        at: tuple[int, int] | None = None
        for number in range(begin, self.n_points):
            level, below = self._points[number]
            if at is None or at[0] != level:
                await self._set_voltage(level, is_first=at is None)
            if at != (level, below):
                at = level, below
                await self.board.set_channels(self._thresholds(below))
                await asyncio.sleep(self._scan.settle_windows * window_s)
            await self.at_disk(self._keep, level, below, await self.board.read_channel_counters())
            self.tell_points(number + 1)
        self.acquired.elapsed_s = clock.monotonic_s() - begun_s

    async def _set_voltage(self, level: int, *, is_first: bool) -> None:
        share = self._shares[level]
        if is_first:
            await self.at_bias_on(self._scan.settle_s, share)
            self.stage("acquire")
        else:
            await self.at_bias_changed(self._scan.settle_s, share)
        await self.at_environment()
        # What the outputs were told last, in their own steps: they cannot be asked.
        self._volts = {
            f"volts.{r.node.removeprefix('bias:')}": float(r.value)
            for r in self.acquired.readings
            if r.name == "bias_commanded" and r.value is not None
        }
        if not self._volts:
            raise DaemonError("the board does not tell what voltages it was given")

    def _thresholds(self, below: int) -> dict[int, dict[str, int]]:
        return {c: {"vth_t1": code - below} for c, code in self._baseline.items()}

    async def at_leave(self) -> None:
        """Nothing triggers any more."""
        await self.board.set_channels({int(c): CHANNEL_OFF for c in self.channels()})

    # -- on the disk --------------------------------------------------------------------------------------------------

    @property
    def n_points(self) -> int:
        """Points of the whole scan."""
        return len(self._points)

    @property
    def n_recorded(self) -> int:
        """Points that are on the disk."""
        return 0 if self._recording is None else self._recording.n_points

    def _open(self, window_clk: int) -> None:
        """Bring the points of the run that is continued; find where the thresholds begin."""
        import numpy as np

        from petqc.calibrate.bias import t1_baseline
        from petqc.formats.counter_points import CounterHeader, CounterRecording

        resume.begin(self.job, self._plan, self.acquired.identity, self._kept)
        channels = self.channels()
        zero, noise = t1_baseline(self.job.board_config.require("disc_calibration"), channels)
        usable = np.isfinite(zero) & np.isfinite(noise) & (zero >= self._scan.codes[1]) & (zero < 64.0)
        self._baseline = {int(c): int(z) for c, z in zip(channels[usable], zero[usable], strict=True)}
        self._counts["channels_without_baseline"] = int((~usable).sum())
        if not self._baseline:
            raise DaemonError("no channel has a T1 baseline that leaves room for the thresholds: calibrate threshold")
        baseline = np.where(usable, np.floor(np.nan_to_num(zero)), -1).astype(np.int64)
        header = CounterHeader(channels, window_clk, {"t1_baseline": baseline})
        self._recording = CounterRecording(self.job.folder / resume.RECORDING, header)

    def _keep(self, level: int, below: int, reading: ChannelCounts) -> None:
        import numpy as np

        from petqc.calibrate import CounterPoint

        assert self._recording is not None  # noqa: S101 - opened before the first point
        channels = self._recording.header.channels
        settings = {"level": float(level), "below": float(below), **self._volts}
        counts = np.array([reading.counts[int(c)] for c in channels], np.int64)
        self._recording.add(CounterPoint(settings, channels, counts, reading.window_clk))
        self._counts["points"] += 1
        if self.is_time_to_commit():
            self._recording.sync()

    def finalise(self, *, truncated: str | None) -> None:
        """Sync and close the recording."""
        del truncated
        if self._recording is not None:
            self._recording.close()

    @property
    def frames_kept(self) -> int:
        """None: counters are read like registers."""
        return 0

    def account(self) -> dict[str, int | float]:
        """Points, and channels that could not be scanned."""
        return {**self._counts, "points_planned": self.n_points}

    def counted(self) -> tuple[list[CounterPoint], NDArray[np.void]]:
        """What is on the disk, and the discriminator calibration of the channels whose thresholds could be set.

        Raises:
            DaemonError: points are missing.
        """
        from petqc.formats.counter_points import CounterReader
        from petqc.recorded.kinds import scanned_by

        reader = CounterReader(self.job.folder / f"{resume.RECORDING}.jsonl")
        if len(reader.points) != self.n_points:
            raise DaemonError(f"{len(reader.points)} points are on the disk, {self.n_points} were taken")
        return list(reader.points), scanned_by(self.job.board_config, reader)


def points(settings: DarkScanConfig, n_voltages: int) -> Sequence[tuple[int, int]]:
    """Number of the voltage and codes below the baseline of each reading, in order."""
    return [
        (level, below)
        for level in range(n_voltages)
        for below in range(settings.codes[0], settings.codes[1] + 1)
        for _ in range(settings.reads)
    ]


def plan_document(settings: DarkScanConfig, overvoltage_shares: Sequence[float]) -> dict[str, Any]:
    """What the points are points of."""
    return {
        "global_fields": GLOBAL_FIELDS,
        "channel_fields": CHANNEL_FIELDS,
        "channels": list(settings.channels),
        "channels_at_once": CHANNELS_PER_ASIC,
        "overvoltage_shares": list(overvoltage_shares),
        "settle_s": settings.settle_s,
        "settle_windows": settings.settle_windows,
        "points": [list(point) for point in points(settings, len(overvoltage_shares))],
    }
