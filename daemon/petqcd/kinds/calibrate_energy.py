"""Energy calibration: charge spectra of single-hit gammas from a source with known lines, bias on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from petqcd.config import EnergyCalibrationConfig
from petqcd.errors import RefusedError
from petqcd.kinds import run_kind
from petqcd.source_run import SourceRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc.analysis import RunContext
    from petqc.calibrate.energy import ChargeSpectra
    from petqc.channel_map import Topology
    from petqc.processing import Processed
    from petqc.results import Run
    from petqcd.measurement import Measurement
    from petqcd.procedure import Bench, Job

LOOK_EVERY = 64
"""Blocks of frames between two looks at whether the spectra are enough."""


@run_kind("calibrate-energy", title="energy calibration", settings=EnergyCalibrationConfig, needs_source=True)
class EnergyCalibration(SourceRun):
    """A source run whose energies stay charge, and the fit of `petqc.calibrate.energy`."""

    def __init__(self, job: Job, bench: Bench) -> None:
        self._wanted = _settings(job)
        self._spectra: ChargeSpectra | None = None
        self._blocks = 0
        self._is_enough = False
        super().__init__(job, bench)

    @classmethod
    def refuse(cls, job: Job) -> None:
        """Refuse a source of one line where no calibration before tells how charge bends."""
        table = job.board_config.tables.get("energy_kev")
        if _settings(job).source == "ge68" and (table is None or not table.size):
            raise RefusedError(
                "ge68 has one line, which cannot show how charge bends, and there is no former energy calibration: "
                "calibrate with na22 first"
            )

    def measurement(self, **own: Any) -> Measurement:
        """Recording and processing, without keV."""
        return super().measurement(look=self._begin, use_kev=False, **own)

    def is_enough(self) -> bool:
        """Whether nearly every channel shows the first line."""
        return self._is_enough

    def _begin(self, topology: Topology) -> Callable[[Processed], None]:
        from petqc.calibrate.energy import ChargeSpectra

        self._spectra, self._blocks = ChargeSpectra(topology.channels), 0
        return partial(self._add, self._spectra)  # what an earlier counting still adds does not come into this one

    def _add(self, spectra: ChargeSpectra, processed: Processed) -> None:
        from petqc.calibrate.energy import LINES

        spectra.add(processed.singles)
        self._blocks += 1
        if self._blocks % LOOK_EVERY == 0:
            counts = spectra.first_line_counts(len(LINES[self._wanted.source]))
            self._is_enough = counts >= self._wanted.first_line_counts

    def inputs(self) -> dict[str, Any]:
        """Which source it was, and the channels."""
        assert self._spectra is not None  # noqa: S101 - made before it is asked
        return {"source": self._wanted.source, "channels": self._spectra.channels.tolist()}

    def conclude(self, context: RunContext) -> Run:
        """Fit, judge, and write the calibration set."""
        from petqc.calibrate.energy import fit
        from petqcd.calibration_run import conclude

        assert self._spectra is not None  # noqa: S101 - made with the measurement
        calibration = fit(self._spectra, self._wanted.source, self.job.board_config.tables.get("energy_kev"))
        return conclude(self.job, context, calibration, self._spectra.channels)


def _settings(job: Job) -> EnergyCalibrationConfig:
    assert isinstance(job.settings, EnergyCalibrationConfig)  # noqa: S101 - the model that this kind registers
    return job.settings
