"""Bias calibration from current-voltage curves that were measured with a source meter: nothing is done at the board."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from petqc.formats.bundle import CURVES
from petqcd.kinds import run_kind
from petqcd.procedure import Procedure

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from petqc.analysis import RunContext
    from petqc.results import RawFile, Run
    from petqcd.procedure import Bench, Job

Numbers = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1, max_length=5000)]


class Curve(BaseModel):
    """The curve of one bias output: reverse voltages and currents, both positive, point by point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Annotated[str, Field(pattern=r"^\d{1,2}\.\d{1,2}\.\d{1,2}\.\d{1,3}$")]
    """PORT.SLAVE.SLOT.CHANNEL."""
    volts: Numbers
    amperes: Numbers

    @model_validator(mode="after")
    def _same_length(self) -> Curve:
        if len(self.volts) != len(self.amperes):
            raise ValueError(f"{len(self.volts)} voltages and {len(self.amperes)} currents")
        return self


class IvSettings(BaseModel):
    """Settings of one run: the curves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    curves: Annotated[tuple[Curve, ...], Field(min_length=1, max_length=4096)]


@run_kind(
    "calibrate-bias-iv", title="bias calibration from current-voltage curves", settings=IvSettings, needs_bias=False
)
class BiasFromCurves(Procedure):
    """The fit of `petqc.calibrate.bias` to curves that came with the command."""

    stages: ClassVar[Mapping[str, tuple[float, str]]] = {"analyse": (0.1, "fitting the curves")}

    def __init__(self, job: Job, bench: Bench) -> None:
        super().__init__(job, bench)
        assert isinstance(job.settings, IvSettings)  # noqa: S101 - the model that this kind registers
        self._curves = job.settings.curves
        self._raw: tuple[RawFile, ...] = ()

    async def acquire(self) -> None:
        """Nothing: the board is not even connected."""

    async def at_board(self) -> None:
        """Nothing."""

    def prepare(self) -> None:
        """Nothing: no frames come."""

    def finalise(self, *, truncated: str | None) -> None:
        """Keep the curves with the run."""
        from petqc.results import RawFile

        del truncated
        lines = ["output,volts,amperes"]
        for curve in self._curves:
            points = zip(curve.volts, curve.amperes, strict=True)
            lines += [f"{curve.output},{volts!r},{amperes!r}" for volts, amperes in points]
        data = ("\n".join(lines) + "\n").encode()
        (self.job.folder / CURVES).write_bytes(data)
        self._raw = (RawFile(CURVES, hashlib.sha256(data).hexdigest()),)

    def raw_files(self) -> tuple[RawFile, ...]:
        """The curves."""
        return self._raw

    @property
    def frames_kept(self) -> int:
        """None."""
        return 0

    def inputs(self) -> dict[str, Any]:
        """Which channels the outputs feed, and how far a voltage may change."""
        return {"largest_change_v": self._largest_v, "channels": self._channels().tolist()}

    @property
    def _largest_v(self) -> float:
        return self.job.config.qc.calibrate_bias.largest_change_v

    def _channels(self) -> NDArray[np.int32]:
        import numpy as np

        from petqc.calibrate.bias_outputs import outputs_of_channels

        return np.array(sorted(outputs_of_channels(self.job.board_config.require("bias_map"))), np.int32)

    def conclude(self, context: RunContext) -> Run:
        """Fit, judge, and write the calibration set."""
        import numpy as np

        from petqc.calibrate.bias import fit_iv
        from petqc.calibrate.bias_outputs import parse_output
        from petqcd.calibration_run import conclude

        curves = {parse_output(c.output): (np.array(c.volts), np.array(c.amperes)) for c in self._curves}
        found = fit_iv(curves, self.job.board_config.require("bias_settings"), largest_change_v=self._largest_v)
        return conclude(self.job, context, found, self._channels())
