"""An accepted baseline: what the physicist signed as this scanner in good order, from runs that were looked at.

There are two of a kind of run. The reference is what control charts compare with; it holds for the calibration that its
runs were made with, and another one ends it. The acceptance is the scanner as it was accepted; it stays through
calibrations, so that a slide of which every new reference hides a part cannot hide. Limits that are relative to a
baseline take the acceptance's values, and the reference's where there are none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.errors import BadInputError
from petqc.limits import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.results import Run

_LEVELS = ("scanner", "module", "asic", "pair")
RATES = frozenset({"prompts", "singles_rate"})
"""Checks whose values fall with the source."""
OF_CALIBRATION = frozenset({"module_time_offset", "asic_time_offset"})
"""Checks whose values say how good the calibration in use is; another one sets them anew."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class AcceptedBaseline:
    """One baseline, or the end of one (then without runs). Never changed once it is written.

    number: 1, 2, …, whatever the kind. kind: of the runs it is for. runs: ids, in order. values: mean and standard
    error by check, then by node. previous: SHA-256 of the one before, so that none can be taken out unnoticed.
    is_acceptance: the scanner as it was accepted, which stays through calibrations, beside the one of the calibration
    in use. measured_at: middle of the runs' time, ISO 8601.
    """

    number: int
    kind: str
    scanner: str
    simulated: bool
    at: str
    who: str
    reason: str
    runs: tuple[str, ...] = ()
    calibration_ids: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    previous: str = ""
    is_acceptance: bool = False
    measured_at: str = ""

    @property
    def is_end(self) -> bool:
        """It ends the one before: from here on there is none."""
        return not self.runs

    @property
    def role(self) -> str:
        """`reference` or `acceptance`."""
        return "acceptance" if self.is_acceptance else "reference"

    def references(
        self, calibration_ids: Mapping[str, str], at_d: float, half_life_d: float | None
    ) -> dict[str, dict[str, float]]:
        """Values by check and node, as limits of a run want them; their standard errors: `reference_errors`.

        Args:
            calibration_ids: of the run; with another calibration than the baseline's, values that only say how good
                the calibration is are left out.
            at_d: the day (since 1970) to which rates are brought.
            half_life_d: of the source; None: it does not decay.
        """
        return self._brought(0, calibration_ids, at_d, half_life_d)

    def reference_errors(
        self, calibration_ids: Mapping[str, str], at_d: float, half_life_d: float | None
    ) -> dict[str, dict[str, float]]:
        """Standard errors of `references`."""
        return self._brought(1, calibration_ids, at_d, half_life_d)

    def _brought(
        self, which: int, calibration_ids: Mapping[str, str], at_d: float, half_life_d: float | None
    ) -> dict[str, dict[str, float]]:
        left = 1.0
        if half_life_d is not None and self.measured_at:
            left = 2.0 ** ((day_of(self.measured_at) - at_d) / half_life_d)
        return {
            check: {node: pair[which] * (left if check in RATES else 1.0) for node, pair in nodes.items()}
            for check, nodes in self.values.items()
            if check not in OF_CALIBRATION or dict(calibration_ids) == dict(self.calibration_ids)
        }

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)

    def digest(self) -> str:
        """SHA-256 of the document."""
        return digest_of(self.document())

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> AcceptedBaseline:
        """What `document` wrote."""
        values = {
            check: {node: (float(pair[0]), float(pair[1])) for node, pair in nodes.items()}
            for check, nodes in document["values"].items()
        }
        return cls(**{**document, "runs": tuple(document["runs"]), "values": values})


def digest_of(document: Mapping[str, Any]) -> str:
    """SHA-256 of a baseline's document as it was written, whatever fields later versions have."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()


def day_of(text: str) -> float:
    """Days since 1970 of an ISO 8601 time."""
    return datetime.fromisoformat(text).timestamp() / DAY_S


def middle_of(runs: Sequence[Run]) -> str:
    """Middle of the runs' time, ISO 8601."""
    mean_d = float(np.mean([day_of(run.started_at) for run in runs]))
    return datetime.fromtimestamp(mean_d * DAY_S, UTC).isoformat(timespec="seconds")


def of_runs(
    runs: Sequence[Run], half_life_d: float | None = None
) -> tuple[dict[str, str], dict[str, dict[str, tuple[float, float]]]]:
    """Calibration and values of a baseline from its runs; rates as they were in the middle of the runs' time.

    The standard error is that of the mean, from the spread of the runs; of a single run its own uncertainty.
    half_life_d: of the source; None: it does not decay.

    Raises:
        BadInputError: no runs, runs that do not belong together, or one that a baseline must not be made of.
    """
    if not runs:
        raise BadInputError("a baseline needs a run", do="name runs, or how many of the last ones")
    first = runs[0]
    for run in runs:
        if run.verdict not in (Status.PASS, Status.WARN):
            raise BadInputError(f"run {run.run_id} is {run.verdict}", do="take runs of a scanner in good order")
        for name in ("kind", "scanner", "simulated", "calibration_ids"):
            if getattr(run, name) != getattr(first, name):
                raise BadInputError(
                    f"runs {first.run_id} and {run.run_id} differ in {name.replace('_', ' ')}",
                    do="a baseline is of one kind of run with one calibration",
                )
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    middle_d = day_of(middle_of(runs))
    for run in runs:
        grown = 1.0 if half_life_d is None else 2.0 ** ((day_of(run.started_at) - middle_d) / half_life_d)
        for c in run.checks:
            level = "pair" if " - " in c.node else c.node.partition(":")[0]
            if c.value is not None and level in _LEVELS and not c.is_chart:
                scale = grown if c.id in RATES else 1.0
                pair = (c.value * scale, (c.uncertainty or 0.0) * scale)
                found.setdefault(c.id, {}).setdefault(c.node, []).append(pair)
    return dict(first.calibration_ids), {
        check: {node: _mean(pairs) for node, pairs in nodes.items()} for check, nodes in found.items()
    }


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    values = np.array([value for value, _ in pairs])
    if values.size == 1:
        return float(values[0]), pairs[0][1]
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))
