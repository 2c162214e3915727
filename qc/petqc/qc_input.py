"""What a check may look at: the histograms, the context of the run, and fits that several checks share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc.histograms import QcHistograms
    from petqc.results import EnvironmentReading, RawFile

SourceShape = Literal["point", "line", "extended", "none"]


@dataclass(frozen=True, slots=True)
class RunContext:
    """Everything about a run that is not counted events.

    started_at, finished_at: RFC 3339. limits: overrides, by check id or `id.level` (`photopeak.module`), of single
    sides of the limits. baselines: reference values by check id and node. account: counters of processing and
    receiving (`frames`, `frames_lost`, `datagrams_rejected`, …). elapsed_s and live_time_s: duration of the recording
    and the part of it that was live; None if nobody knows. coincidence_window_ps: full width 2τ. source: shape of the
    radioactive source; CTR is only a CTR for a point or a line. has_pair_search False: there was nothing to pair, so
    checks on coincidences do not apply. expected_channels False: the channels are those that were seen, so a silent
    one cannot be told from one that does not exist.
    """

    run_id: str
    kind: str = "daily"
    scanner: str = ""
    started_at: str = ""
    finished_at: str = ""
    simulated: bool = False
    software: Mapping[str, str] = field(default_factory=dict)
    config_hash: str = ""
    calibration_ids: Mapping[str, str] = field(default_factory=dict)
    raw_files: tuple[RawFile, ...] = ()
    environment: tuple[EnvironmentReading, ...] = ()
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    account: Mapping[str, int | float] = field(default_factory=dict)
    elapsed_s: float | None = None
    live_time_s: float | None = None
    source: SourceShape = "point"
    source_name: str = ""
    has_singles: bool = True
    has_pair_search: bool = True
    expected_channels: bool = True
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class QcInput:
    """Histograms and context, handed to every check."""

    histograms: QcHistograms
    context: RunContext
