"""Time-offset calibration: coincidences of a point source, bias on; what is left is added to the table in use."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from petqcd.config import TimeOffsetCalibrationConfig
from petqcd.kinds import run_kind
from petqcd.source_run import SourceRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc.analysis import RunContext
    from petqc.calibrate.time_offsets import PairList
    from petqc.channel_map import Topology
    from petqc.processing import Processed
    from petqc.results import Run
    from petqcd.measurement import Measurement
    from petqcd.procedure import Bench, Job


@run_kind(
    "calibrate-time-offsets", title="time-offset calibration", settings=TimeOffsetCalibrationConfig, needs_source=True
)
class TimeOffsetCalibration(SourceRun):
    """A source run whose coincidences are kept, and the fit of `petqc.calibrate.time_offsets`."""

    def __init__(self, job: Job, bench: Bench) -> None:
        assert isinstance(job.settings, TimeOffsetCalibrationConfig)  # noqa: S101 - the model that this kind registers
        self._wanted = job.settings
        self._pairs: PairList | None = None
        self._is_enough = False
        super().__init__(job, bench)

    def measurement(self, **own: Any) -> Measurement:
        """Recording and processing as on any day."""
        return super().measurement(look=self._begin, **own)

    def is_enough(self) -> bool:
        """Whether nearly every channel has the coincidences that are wanted."""
        return self._is_enough

    def _begin(self, topology: Topology) -> Callable[[Processed], None]:
        from petqc.calibrate.time_offsets import PairList

        self._pairs = PairList(topology)
        return partial(self._add, self._pairs)  # what an earlier counting still adds does not come into this one

    def _add(self, pairs: PairList, processed: Processed) -> None:
        pairs.add(processed.prompts)
        self._is_enough = pairs.nearly_all_have() >= self._wanted.pairs_per_channel

    def inputs(self) -> dict[str, Any]:
        """Where the source was, how long crystals are, and the channels."""
        assert self._pairs is not None  # noqa: S101 - made before it is asked
        return {
            "source_mm": self._wanted.source_mm,
            "crystal_mm": self._wanted.crystal_mm,
            "channels": self._pairs.topology.channels.tolist(),
        }

    def conclude(self, context: RunContext) -> Run:
        """Fit, judge, and write the calibration set."""
        from petqc.calibrate.time_offsets import fit
        from petqcd.calibration_run import conclude

        assert self._pairs is not None  # noqa: S101 - made with the measurement
        calibration = fit(
            self._pairs,
            self.job.board_config.tables.get("time_offset"),
            window_ps=float(self._measurement.histograms.settings.coincidence_window_ps),
            source_mm=self._wanted.source_mm,
            crystal_mm=self._wanted.crystal_mm,
        )
        return conclude(self.job, context, calibration, self._pairs.topology.channels)
