"""An accepted baseline: what the physicist signed as this scanner in good order, from runs that were looked at.

Limits that are relative to a baseline take its values, and control charts compare with its runs. It holds for the
calibration that its runs were made with; another one ends it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.errors import BadInputError
from petqc.limits import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.results import Run

_LEVELS = ("scanner", "module", "asic", "pair")
_CHARTS = (".ewma", ".step")


@dataclass(frozen=True, slots=True)
class AcceptedBaseline:
    """One baseline, or the end of one (then without runs). Never changed once it is written.

    number: 1, 2, …, whatever the kind. kind: of the runs it is for. runs: ids, in order. values: mean and standard
    error by check, then by node. previous: SHA-256 of the one before, so that none can be taken out unnoticed.
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

    @property
    def is_end(self) -> bool:
        """It ends the one before: from here on there is none."""
        return not self.runs

    def references(self) -> dict[str, dict[str, float]]:
        """Values by check and node, as limits want them."""
        return {check: {node: value for node, (value, _) in nodes.items()} for check, nodes in self.values.items()}

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)

    def digest(self) -> str:
        """SHA-256 of the document."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True, allow_nan=False).encode()).hexdigest()

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> AcceptedBaseline:
        """What `document` wrote."""
        values = {
            check: {node: (float(pair[0]), float(pair[1])) for node, pair in nodes.items()}
            for check, nodes in document["values"].items()
        }
        return cls(**{**document, "runs": tuple(document["runs"]), "values": values})


def of_runs(runs: Sequence[Run]) -> tuple[dict[str, str], dict[str, dict[str, tuple[float, float]]]]:
    """Calibration and values of a baseline from its runs.

    The standard error is that of the mean, from the spread of the runs; of a single run its own uncertainty.

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
    for run in runs:
        for c in run.checks:
            level = "pair" if " - " in c.node else c.node.partition(":")[0]
            if c.value is not None and level in _LEVELS and not c.id.endswith(_CHARTS):
                found.setdefault(c.id, {}).setdefault(c.node, []).append((c.value, c.uncertainty or 0.0))
    return dict(first.calibration_ids), {
        check: {node: _mean(pairs) for node, pairs in nodes.items()} for check, nodes in found.items()
    }


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    values = np.array([value for value, _ in pairs])
    if values.size == 1:
        return float(values[0]), pairs[0][1]
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))
