"""From histograms to a verdict: every check is run, the worst status counts, one sentence says what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from petqc.limits import Status
from petqc.qc_input import QcInput, RunContext, SourceShape
from petqc.recorded import analyse_file

if TYPE_CHECKING:
    from petqc.histograms import QcHistograms
    from petqc.lutetium import LutetiumCounts
    from petqc.results import Run

MOST_TIMES_AS_LONG = 1000.0
"""More is no advice: something else is wrong."""
_AT_ONCE = 2
"""Checks that run side by side. Most of their time is spent in compiled code, which leaves the interpreter free."""
_BEGUN_FIRST = ("timing_width", "ctr_fit", "photopeak")
"""Checks by which what many others wait for is made early: the time offsets, which need the time peaks of pairs of
modules before long, and the photopeaks."""

__all__ = ["RunContext", "SourceShape", "analyse", "analyse_file", "invalid_run"]


def analyse(histograms: QcHistograms, context: RunContext, lutetium: LutetiumCounts | None = None) -> Run:
    """Run every check that belongs to the run and give the verdict.

    Args:
        histograms: everything counted.
        context: everything else that is known about the run.
        lutetium: beta-gamma pairs of a run without a source; with them, its checks are those of such a run.
    """
    from petqc.channel_spectra import of_run
    from petqc.checks import checks_of, run_checks
    from petqc.checks.source_seen import is_source_missing
    from petqc.verdict import SCAN, SCAN_BY_LUTETIUM, conclude

    fits = None
    if lutetium is not None:
        from petqc.lutetium.fits import LutetiumFits

        fits = LutetiumFits(lutetium)
    shared = QcInput(histograms, context, lutetium=fits)
    needs_none = checks_of("lutetium")
    checks = checks_of("source") if fits is None else needs_none
    is_forgotten = fits is None and is_source_missing(shared)
    if is_forgotten:
        checks = tuple(c for c in checks if c.id == "source_seen" or c in needs_none)
    shared.histograms.pairs()  # joins what was kept piece by piece, before two ask for it
    outputs = run_checks(checks, shared, at_once=_AT_ONCE, first=_BEGUN_FIRST)
    words = SCAN if fits is None else SCAN_BY_LUTETIUM
    run = conclude(histograms.topology, context, outputs, words)
    run.channel_spectra = of_run(shared)
    if run.verdict is Status.INVALID and not is_forgotten and 1.0 < shared.times_as_long <= MOST_TIMES_AS_LONG:
        run.sentence += _longer(shared.times_as_long, context.elapsed_s)
    return run


def _longer(times: float, elapsed_s: float | None) -> str:
    """What would do where counts were too few."""
    times = math.ceil(10.0 * times) / 10.0 if times < 3.0 else math.ceil(times)
    seconds = "" if not elapsed_s else f", {times * elapsed_s:.2g} s"
    return f" Counts are too few: measure {times:g} times as long{seconds}."


def invalid_run(context: RunContext, reason: str) -> Run:
    """A run that could not measure: verdict invalid, no checks, the reason in the sentence.

    Args:
        context: what is known about the run.
        reason: a sentence for a person, without a full stop at the end.
    """
    from petqc.verdict import not_measured

    return not_measured(context, reason)
