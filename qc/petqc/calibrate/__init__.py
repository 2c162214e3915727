"""Making calibrations: ONE file here = ONE `petqc calibrate` command; points in, the vendor's tables out.

Each file says which points its acquisition takes, and fits them: pure functions without devices or clocks. Applying
calibrations to data is `petqc.calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from petqc.formats.petsys_tables import TableKind
    from petqc.results import ChannelColumn, CheckResult, Spectrum

CalibrationKind: TypeAlias = Literal["threshold", "tdc", "charge", "energy", "time-offsets", "bias"]


@dataclass(frozen=True, slots=True)
class EventPoint:
    """Events taken at one point of a scan, as the vendor's calibration recordings keep them.

    step1, step2: what was scanned, as the vendor's tools write it (TDC: phase in clocks, 0; charge: length in clocks,
    phase in clocks). words: (n,) uint64 event words, each once; counts: (n,) int32, how often each came.
    """

    step1: float
    step2: float
    words: NDArray[np.uint64]
    counts: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class CounterPoint:
    """Channel counters read at one point of a scan.

    settings: what was set, by name (codes, volts, …). channels: (n,) int32 absolute channel numbers; counts: (n,) int64
    in a window of window_clk clocks.
    """

    settings: dict[str, float]
    channels: NDArray[np.int32]
    counts: NDArray[np.int64]
    window_clk: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration found.

    tables: whole tables, ready to be written, by kind; a channel without a fit that can be trusted is left out of them
    (or marked as the vendor marks it) and its column says why. results: numbers by node, judged by limits. channels:
    (n,) int32 absolute channel numbers that every column goes over.
    """

    kind: CalibrationKind
    tables: dict[TableKind, NDArray[Any]]
    channels: NDArray[np.int32]
    results: list[CheckResult] = field(default_factory=list)
    columns: list[ChannelColumn] = field(default_factory=list)
    spectra: list[Spectrum] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
