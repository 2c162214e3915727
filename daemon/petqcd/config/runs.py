"""[qc.<run>]: one table for each kind of run, and [limits.<check>]."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from petqcd.config.model import Model
from petqcd.interlocks.bias_limits import Finite

Share = Annotated[float, Field(ge=0.2, le=1.5, allow_inf_nan=False)]


class RecordedConfig(Model):
    """What every run at the board has."""

    record: Literal["frames", "everything"] = "frames"
    """What is kept beside the result: the frames with their configuration, or also every byte on every wire, and all
    readings."""


class SourceRunConfig(RecordedConfig):
    """What every run with a source has."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 15.0
    """Acquisition time."""
    settle_s: Annotated[Finite, Field(ge=0, le=600)] = 0.5
    """Wait between bias on and acquisition."""
    queue_mib: Annotated[int, Field(ge=1, le=4096)] = 128
    """Frames that may wait for the recorder before they are dropped and counted."""
    live_queue_mib: Annotated[int, Field(ge=1, le=4096)] = 64
    """Recorded frames that may wait for the analysis while more come. What does not fit is left out of it and counted,
    and the verdict is made from the recording, which takes longer."""


class SourceConfig(SourceRunConfig):
    """[qc.source]: the run with a source, and what the source is, for every run that has it in the scanner."""

    source: Literal["point", "line", "extended", "none"] = "point"
    """Shape of the source in the scanner; a CTR is only one for a point or a line."""
    source_name: Annotated[str, Field(max_length=100)] = ""
    """What the source is, for the report."""
    nuclide: Literal["na22", "ge68", ""] = ""
    """Of the source: control charts of rates take its decay out. Empty: rates are taken as they are."""


class MrDeltaConfig(SourceRunConfig):
    """[qc.mr-delta]: the same source with the MR idle, under stress, and idle again."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 180.0
    """Acquisition time of each of the three."""
    sequence: Annotated[str, Field(max_length=100)] = ""
    """Name of the sequence that stresses the detector."""
    duty_percent: Annotated[Finite, Field(gt=0, le=100)] | None = None
    """Share of the time in which it plays out."""
    phases: Literal["confirmed", "timed"] = "confirmed"
    """confirmed: somebody tells (`petqc confirm`) that the sequence runs, and that it has ended. timed: it follows the
    clock by itself, `gap_s` after each acquisition."""
    gap_s: Annotated[Finite, Field(ge=0, le=3600)] = 30.0
    """timed: pause between two acquisitions, for the sequence to start or to end."""
    confirm_within_s: Annotated[Finite, Field(gt=0, le=7200)] = 900.0
    """confirmed: how long to wait for the word before the run ends, with bias off."""
    begin_within_s: Annotated[Finite, Field(gt=0, le=86_400)] = 3600.0
    """confirmed, of the schedule or a part of the day: how long to wait, with nothing switched on, until somebody tells
    that the source is in its place and the MR idle; then it is missed."""


PartName = Literal["housekeeping", "test-pulse", "dark", "lutetium", "source", "mr-delta"]


class DailyConfig(Model):
    """[qc.daily]: of which runs the day's is composed."""

    runs: Annotated[tuple[PartName, ...], Field(min_length=1)] = ("housekeeping", "source")
    """In this order, each as its own table says."""
    record: Literal["frames", "everything"] | None = None
    """What each of them keeps; default: as its own table says."""

    @model_validator(mode="before")
    @classmethod
    def _not_of_the_source(cls, given: Any) -> Any:
        moved = sorted(set(given) & set(SourceConfig.model_fields) - {"record"}) if isinstance(given, dict) else []
        if moved:
            raise ValueError(f"{', '.join(moved)} of the run with a source: put into [qc.source]")
        return given

    @field_validator("runs")
    @classmethod
    def _once(cls, runs: tuple[PartName, ...]) -> tuple[PartName, ...]:
        if len(set(runs)) < len(runs):
            raise ValueError("a run stands there twice")
        return runs


class HousekeepingConfig(RecordedConfig):
    """[qc.housekeeping]: readings of the hardware, without source and without bias."""

    seconds: Annotated[Finite, Field(gt=0, le=3600)] = 5.0
    """Time between the first and the last reading, in which errors are counted."""


class LutetiumConfig(SourceRunConfig):
    """[qc.lutetium]: the nightly run without a source and without anybody."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 600.0
    """Acquisition time."""


class EnergyCalibrationConfig(SourceRunConfig):
    """[qc.calibrate-energy]: charge spectra of a source; ends once there is enough of its first line."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 300.0
    """Longest acquisition time."""
    source: Literal["na22", "na22-cs137", "ge68"] = "na22"
    """Whose lines: ge68 has one, which keeps how charge bends from the calibration before; na22-cs137 (both at once)
    has three, which also test the curve."""
    first_line_counts: Annotated[int, Field(ge=200, le=10_000_000)] = 2000
    """Counts in the first line that 95 % of the channels must have."""


class TimeOffsetCalibrationConfig(SourceRunConfig):
    """[qc.calibrate-time-offsets]: coincidences of a point source; ends once there are enough."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 300.0
    """Longest acquisition time."""
    pairs_per_channel: Annotated[int, Field(ge=20, le=10_000_000)] = 2000
    """Coincidences that 95 % of the channels must have."""
    source_mm: tuple[Finite, Finite, Finite] | None = None
    """Place of the source; default: found from the lines between crystals."""
    crystal_mm: Annotated[Finite, Field(gt=0, le=100)] = 20.0
    """Length of the crystals."""


class PointScanConfig(RecordedConfig):
    """What every scan of points has."""

    plan: Literal["short", "vendor"] = "short"
    """The points: `short` takes as many as the fit needs, `vendor` those of the readout maker's own acquisition."""
    channels: tuple[int, int] = (0, 63)
    """First and last channel of each ASIC; the new table has nothing for the others."""

    @field_validator("channels")
    @classmethod
    def _rising(cls, channels: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= channels[0] <= channels[1] <= 63:
            raise ValueError("first and last channel: 0 <= first <= last <= 63")
        return channels


class ThresholdScanConfig(PointScanConfig):
    """[qc.calibrate-threshold]: a scan of threshold codes with channel counters."""

    code_step: Literal[1, 2] | None = None
    """Every code, or every second one; default: as the plan has it."""
    reads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Counter windows of 21 ms at each code; default: as the plan has it."""
    settle_windows: Annotated[int, Field(ge=0, le=100)] = 1
    """Counter windows to wait after a setting."""


class DarkScanConfig(PointScanConfig):
    """[qc.dark]: counts over many thresholds at the working voltage; no source, no light."""

    plan: Literal["short"] = "short"
    """The readout maker has no such acquisition."""
    codes: tuple[int, int] = (2, 21)
    """Thresholds: the fewest and the most codes below the baseline of T1."""
    reads: Annotated[int, Field(ge=1, le=64)] = 8
    """Counter windows of 21 ms at each threshold."""
    settle_s: Annotated[Finite, Field(ge=0, le=600)] = 0.5
    """Wait after each change of voltage."""
    settle_windows: Annotated[int, Field(ge=0, le=100)] = 1
    """Counter windows to wait after each threshold."""

    @field_validator("codes")
    @classmethod
    def _codes_rising(cls, codes: tuple[int, int]) -> tuple[int, int]:
        if codes[0] < 1 or not codes[0] + 9 <= codes[1] <= 62:
            raise ValueError("fewest and most codes below the baseline: 1 or more, ten of them or more, at most 62")
        return codes


class BiasScanConfig(DarkScanConfig):
    """[qc.calibrate-bias]: the same at several voltages."""

    overvoltage_shares: Annotated[tuple[Share, ...], Field(min_length=3, max_length=20)] = (0.6, 0.7, 0.8, 0.9, 1.0)
    """Voltages to measure at, as shares of each output's overvoltage; above 1 only up to the hard limit."""
    reads: Annotated[int, Field(ge=1, le=64)] = 4
    """Counter windows of 21 ms at each threshold."""
    largest_change_v: Annotated[Finite, Field(gt=0, le=5)] = 0.5
    """A breakdown voltage further from the one in use is a finding, and not put in the table."""

    @field_validator("overvoltage_shares")
    @classmethod
    def _shares_rising(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if any(b - a < 0.02 for a, b in pairwise(shares)):
            raise ValueError("shares must rise, by 0.02 at least")
        return shares


class PulseScanConfig(PointScanConfig):
    """[qc.calibrate-tdc], [qc.calibrate-charge]: a scan of test pulses."""

    hits_per_tac: Annotated[int, Field(ge=4, le=100_000)] | None = None
    """Hits of each buffer at a point; default: as the plan has it."""
    channels_at_once: Annotated[int, Field(ge=1, le=12)] = 1
    """Channels of each ASIC that are pulsed together. Source: link of an ASIC, 80 bits an event, 1024 bits a frame."""
    settle_frames: Annotated[int, Field(ge=0, le=200_000)] = 2
    """Frames of 5.12 µs left out after a setting."""
    queue_mib: Annotated[int, Field(ge=1, le=4096)] = 128
    """Frames that may wait for the reduction before they are dropped and counted."""


class PulseTestConfig(PulseScanConfig):
    """[qc.test-pulse]: the readout's own pulses through every channel, without source and without bias."""

    plan: Literal["short"] = "short"
    """The readout maker has no such acquisition."""
    channels_at_once: Annotated[int, Field(ge=1, le=12)] = 4
    """Channels of each ASIC that are pulsed together."""


class QcConfig(Model):
    """[qc.<run>]: one table for each kind of run."""

    daily: DailyConfig = DailyConfig()
    source: SourceConfig = SourceConfig()
    housekeeping: HousekeepingConfig = HousekeepingConfig()
    lutetium: LutetiumConfig = LutetiumConfig()
    mr_delta: MrDeltaConfig = Field(default=MrDeltaConfig(), alias="mr-delta")
    dark: DarkScanConfig = DarkScanConfig()
    test_pulse: PulseTestConfig = Field(default=PulseTestConfig(), alias="test-pulse")
    calibrate_threshold: ThresholdScanConfig = Field(default=ThresholdScanConfig(), alias="calibrate-threshold")
    calibrate_tdc: PulseScanConfig = Field(default=PulseScanConfig(), alias="calibrate-tdc")
    calibrate_charge: PulseScanConfig = Field(default=PulseScanConfig(), alias="calibrate-charge")
    calibrate_bias: BiasScanConfig = Field(default=BiasScanConfig(), alias="calibrate-bias")
    calibrate_energy: EnergyCalibrationConfig = Field(default=EnergyCalibrationConfig(), alias="calibrate-energy")
    calibrate_time_offsets: TimeOffsetCalibrationConfig = Field(
        default=TimeOffsetCalibrationConfig(), alias="calibrate-time-offsets"
    )

    def of(self, kind: str) -> BaseModel:
        """The table of a kind of run."""
        found: BaseModel = getattr(self, kind.replace("-", "_"), Model())  # not every kind has something to configure
        return found


class CheckLimits(Model):
    """[limits.<check>] or [limits.<check>.<level>]: limits that replace the check's own, in the unit of the check."""

    fail_low: Finite | None = None
    warn_low: Finite | None = None
    warn_high: Finite | None = None
    fail_high: Finite | None = None

    @model_validator(mode="after")
    def _rising(self) -> CheckLimits:
        given = [v for v in (self.fail_low, self.warn_low, self.warn_high, self.fail_high) if v is not None]
        if not given:
            raise ValueError("no limit given: name at least one of fail_low, warn_low, warn_high, fail_high")
        if given != sorted(given):
            raise ValueError("limits must rise: fail_low <= warn_low <= warn_high <= fail_high")
        return self
