"""What a run leaves behind: checks with units, uncertainties and limits; channel columns; spectra; the document.

A run is one JSON document (contract in docs/reference/run-document.md), a Parquet file of channel columns and a
Parquet file of spectra beside it. Everything a report shows comes from these three.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.errors import BadInputError
from petqc.limits import Limits, Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.channel_spectra import ChannelSpectra
    from petqc.past import Past

SCHEMA = "petqc-run/1"
REPLAYED = "Replayed: "
"""How the note begins that a run's frames are older than the run."""
CHART_KINDS = ("ewma", "step", "since_acceptance", "crystals")
"""What follows the dot in the id of a result that compares with the history."""
_OF_CHARTS = tuple(f".{kind}" for kind in CHART_KINDS)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One number (or the reason why there is none) of one check at one node.

    value and uncertainty (one standard deviation) are in `unit`; n is the number of counts or pairs behind it.
    """

    id: str
    node: str
    value: float | None
    unit: str
    uncertainty: float | None
    n: int
    limits: Limits
    status: Status
    reason: str | None = None
    baseline: float | None = None
    method: str | None = None

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError(f"{self.id} at {self.node}: no value and no reason")
        if self.value is None and self.status not in (Status.INVALID, Status.NO_LIMITS):
            raise ValueError(f"{self.id} at {self.node}: status {self.status} without a value")
        for number in (self.value, self.uncertainty, self.baseline):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{self.id} at {self.node}: {number} is not a number to give")

    def document(self) -> dict[str, Any]:
        """Plain types only, written out: a run of a whole scanner has thousands."""
        return {
            "id": self.id,
            "node": self.node,
            "value": self.value,
            "unit": self.unit,
            "uncertainty": self.uncertainty,
            "n": self.n,
            "limits": {side: getattr(self.limits, side) for side in self.limits.__slots__},
            "status": str(self.status),
            "reason": self.reason,
            "baseline": self.baseline,
            "method": self.method,
        }

    @property
    def is_chart(self) -> bool:
        """Whether it compares with the history, rather than being measured."""
        return self.id.endswith(_OF_CHARTS)

    @classmethod
    def measured(
        cls,
        id: str,  # noqa: A002 - the document's own word
        node: str,
        value: float,
        unit: str,
        uncertainty: float,
        n: int,
        limits: Limits,
        *,
        method: str | None = None,
        reason: str | None = None,
    ) -> CheckResult:
        """A value judged by its limits."""
        return cls(
            id, node, float(value), unit, float(uncertainty), int(n), limits, limits.judge(value), reason, None, method
        )

    @classmethod
    def missing(
        cls,
        id: str,  # noqa: A002 - the document's own word
        node: str,
        unit: str,
        n: int,
        limits: Limits,
        reason: str,
        *,
        method: str | None = None,
    ) -> CheckResult:
        """No number, and why."""
        return cls(id, node, None, unit, None, int(n), limits, Status.INVALID, reason, None, method)


@dataclass(frozen=True, slots=True)
class ChannelColumn:
    """One check over all channels of the topology: arrays of one length, NaN where there is no number.

    status and reason are (n,) object arrays of str (reason: "" where there is none).
    """

    id: str
    unit: str
    value: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    n: NDArray[np.int64]
    status: NDArray[np.object_]
    reason: NDArray[np.object_]

    def spread(self, place: NDArray[np.integer[Any]], size: int, why: str) -> ChannelColumn:
        """The same over more channels: entry i goes to place[i] of `size`; the others have no number, and say why."""
        value, uncertainty, n = np.full(size, np.nan), np.full(size, np.nan), np.zeros(size, np.int64)
        status, reason = np.full(size, str(Status.INVALID), object), np.full(size, why, object)
        for target, source in (
            (value, self.value), (uncertainty, self.uncertainty), (n, self.n),
            (status, self.status), (reason, self.reason),
        ):  # fmt: skip
            target[place] = source
        return ChannelColumn(self.id, self.unit, value, uncertainty, n, status, reason)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A histogram worth looking at, with the fit drawn through it.

    edges: (n + 1,) in `unit`; counts: (n,); fit: (n,) expected counts, NaN outside the fitted range; background:
    (n,) the fit's background part; delayed: (n,) counts of the delayed window. window: low and high, in `unit`.
    """

    id: str
    node: str
    quantity: str
    unit: str
    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    fit: NDArray[np.float64] | None = None
    background: NDArray[np.float64] | None = None
    delayed: NDArray[np.float64] | None = None
    window: tuple[float, float] | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class EnvironmentReading:
    """A reading taken with the run. measured False: commanded, there is no read-back. age_s: at the run's end.

    reason: why the quality is not good, where the device says so.
    """

    name: str
    node: str
    value: float | None
    unit: str
    measured: bool
    quality: str
    age_s: float
    reason: str | None = None

    def document(self) -> dict[str, Any]:
        """Plain types for JSON; a site has thousands of readings, and `asdict` looks into each value of each."""
        return {
            "name": self.name,
            "node": self.node,
            "value": self.value,
            "unit": self.unit,
            "measured": self.measured,
            "quality": self.quality,
            "age_s": self.age_s,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A possible cause with the hardware address, the evidence and what to try next."""

    cause: str
    node: str
    score: float
    evidence: tuple[str, ...]
    next_step: str


@dataclass(frozen=True, slots=True)
class RawFile:
    """A recording that the run was made from."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class RunPart:
    """A run that is part of another one. run_id: None: it never began."""

    run_id: str | None
    kind: str
    verdict: Status
    sentence: str


@dataclass(slots=True)
class Run:
    """A whole run. `channels` (absolute numbers, with module, asic, column, row) indexes every channel column.

    scanner: the name its people give the scanner; empty where nobody named one. calibration_set: what a calibration run
    made (plain types for JSON; contract in docs/reference/calibration-sets.md). baselines: SHA-256 of each accepted
    baseline that it was held against, by what it is. parts: the runs that it is composed of; it has their checks.
    past: trends, and what moved since when; None: nobody looked. reanalysis_of: the run whose recording was analysed
    again; empty: it is the run itself. channel_spectra: to be written with it; not read back.
    """

    run_id: str
    kind: str
    started_at: str
    finished_at: str
    simulated: bool
    verdict: Status
    sentence: str
    software: dict[str, str]
    config_hash: str
    calibration_ids: dict[str, str]
    raw_files: list[RawFile] = field(default_factory=list)
    environment: list[EnvironmentReading] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)
    diagnosis: list[Hypothesis] = field(default_factory=list)
    account: dict[str, int | float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    channels: dict[str, NDArray[Any]] = field(default_factory=dict)
    columns: list[ChannelColumn] = field(default_factory=list)
    spectra: list[Spectrum] = field(default_factory=list)
    scanner: str = ""
    calibration_set: dict[str, Any] | None = None
    baselines: dict[str, str] = field(default_factory=dict)
    parts: list[RunPart] = field(default_factory=list)
    past: Past | None = None
    reanalysis_of: str = ""
    channel_spectra: ChannelSpectra | None = None

    @property
    def replayed(self) -> str:
        """What it says of the recording that was replayed to it as hardware; empty: none was."""
        return next((note for note in self.notes if note.startswith(REPLAYED)), "")

    @property
    def is_calibration(self) -> bool:
        """Whether it was made to calibrate rather than to judge a scanner."""
        return self.kind.startswith("calibrate-")

    def find(self, check_id: str, node: str = "scanner") -> CheckResult | None:
        """The result of one check at one node."""
        return next((c for c in self.checks if c.id == check_id and c.node == node), None)

    def document(self) -> dict[str, Any]:
        """The JSON document: plain types only, numbers or null, never NaN."""
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "kind": self.kind,
            **({"reanalysis_of": self.reanalysis_of} if self.reanalysis_of else {}),
            "scanner": self.scanner,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "simulated": self.simulated,
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "software": dict(self.software),
            "config_hash": self.config_hash,
            "calibration_ids": dict(self.calibration_ids),
            "baselines": dict(self.baselines),
            "raw_files": [asdict(r) for r in self.raw_files],
            "environment": [e.document() for e in self.environment],
            "account": dict(self.account),
            "checks": [c.document() for c in self.checks],
            "diagnosis": [{**asdict(h), "evidence": list(h.evidence)} for h in self.diagnosis],
            "notes": list(self.notes),
            **({} if self.calibration_set is None else {"calibration_set": self.calibration_set}),
            **({} if self.past is None else {"past": self.past.document()}),
            **({"parts": [{**asdict(p), "verdict": str(p.verdict)} for p in self.parts]} if self.parts else {}),
        }

    def to_json(self) -> str:
        """The document as text; the same run gives the same bytes."""
        return json.dumps(self.document(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Run:
        """A run from its document (without channel columns and spectra)."""
        from petqc.past import Past

        if document.get("schema") != SCHEMA:
            raise BadInputError(
                f"schema is {document.get('schema')!r}, not {SCHEMA!r}", do="read it with the version that wrote it"
            )
        return cls(
            run_id=document["run_id"],
            kind=document["kind"],
            started_at=document["started_at"],
            finished_at=document["finished_at"],
            simulated=document["simulated"],
            verdict=Status(document["verdict"]),
            sentence=document["sentence"],
            software=dict(document["software"]),
            config_hash=document["config_hash"],
            calibration_ids=dict(document["calibration_ids"]),
            raw_files=[RawFile(**r) for r in document["raw_files"]],
            environment=[EnvironmentReading(**e) for e in document["environment"]],
            checks=[
                CheckResult(**{**c, "limits": Limits(**c["limits"]), "status": Status(c["status"])})
                for c in document["checks"]
            ],
            diagnosis=[Hypothesis(**{**h, "evidence": tuple(h["evidence"])}) for h in document["diagnosis"]],
            account=dict(document["account"]),
            notes=list(document["notes"]),
            scanner=document.get("scanner", ""),
            calibration_set=document.get("calibration_set"),
            parts=[RunPart(**{**p, "verdict": Status(p["verdict"])}) for p in document.get("parts", ())],
            baselines=dict(document.get("baselines", {})),
            reanalysis_of=document.get("reanalysis_of", ""),
            past=Past.from_document(document["past"]) if "past" in document else None,
        )

    def save(self, folder: Path) -> None:
        """Write run.json and the Parquet files beside it into a folder that exists."""
        from petqc.run_files import save_run

        save_run(self, folder)

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Read what save wrote."""
        from petqc.run_files import load_run

        return load_run(folder)
