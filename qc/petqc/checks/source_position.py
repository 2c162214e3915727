"""Where the source is, against where it is meant to be: a misplaced source is nobody's fault but the operator's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.errors import TooFewCountsError
from petqc.limits import Limits, Status
from petqc.results import CheckResult

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.qc_input import QcInput

INVALID_MM = 20.0
"""Further off, the run says nothing about the scanner. Source: daily-qc.md §5.2, row source position."""
_METHOD = "point nearest to the lines of all coincidences, without those far from it"
_ALONG = "a source of this shape may be longer than what the crystals see: where it is along its axis is not known"
_ON_AXIS = 0.9
"""Cosine: an axis nearer to a coordinate than this runs along it."""


@check(
    "source_position",
    title="Source position",
    unit="mm",
    levels=("scanner",),
    order=57,
    limits={"scanner": Limits(warn_high=5.0)},
    source="formula: daily-qc.md §2d (the source is found from the lines, not from times); limits: daily-qc.md §5.2 "
    "(5 mm warn; 20 mm: the run is invalid, the scanner not at fault)",
)
def source_position(q: QcInput) -> CheckOutput:
    """Distance of the source's middle from its place; of a line or an extended source, across the scanner's axis."""
    if not q.context.has_pair_search or q.histograms.n_pairs == 0 or q.context.source == "none":
        return CheckOutput()
    where: tuple[Level, str] = ("scanner", SCANNER)
    n = int(q.histograms.pairs()[0].size)
    try:
        found = q.source_place()
    except TooFewCountsError as why:
        return CheckOutput([q.missing("source_position", where, "mm", n, str(why), method=_METHOD, needed=False)])
    xyz, errors = np.array(found.xyz_mm), np.array(found.error_mm)
    axis = np.zeros(3) if found.axis is None else np.array(found.axis)
    results = []
    for name, value, error, along in zip("xyz", found.xyz_mm, found.error_mm, np.abs(axis), strict=True):
        if along > _ON_AXIS:
            one = CheckResult.missing(f"source_position.{name}", SCANNER, "mm", n, Limits(), _ALONG, method=_METHOD)
            one = replace(one, status=Status.NO_LIMITS)
        else:
            one = q.judge(
                "source_position", where, value, "mm", error, found.pairs, limits=Limits(), part=name, method=_METHOD
            )
        results.append(one)
    meant = q.context.source_mm
    if meant is None:
        return CheckOutput(results)
    off, method = xyz - np.array(meant), _METHOD
    if found.axis is not None:
        off -= (off @ axis) * axis
        method += "; across its axis, along which such a source may reach further than the crystals see"
    distance = float(np.linalg.norm(off))
    error = float(np.linalg.norm(errors * off) / distance) if distance > 0.0 else float(errors.max())
    result = q.judge("source_position", where, distance, "mm", error, found.pairs, method=method)
    if distance > INVALID_MM:
        told = "move the source to its place and repeat the run; this one says nothing about the scanner"
        result = replace(result, status=Status.INVALID, reason=told)
    return CheckOutput([result, *results])
