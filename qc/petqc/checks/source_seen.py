"""Whether there is a source at all: a forgotten one must not read as a detector that is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check

if TYPE_CHECKING:
    from petqc.qc_input import QcInput

_OWN_SINGLES = 1.5
"""Singles that crystals alone make for each decay at most: an electron, and gammas that reach a neighbour."""
_TRUE_SHARE = 1e-3
"""Of singles, in true coincidences within the energy window. The weakest daily source leaves a per cent."""
_SIGMAS = 5.0
_METHOD = "singles over decays of Lu-176 in the crystals' volume"
_NONE = "not seen: no more singles than the crystals make themselves, and no pairs; put it in and measure again"


@check(
    "source_seen",
    title="Source",
    unit="ratio",
    levels=("scanner",),
    order=78,
    source="formula: singles over the decays of Lu-176 in the crystals' volume, daily-qc.md §2g, and coincidences "
    "without randoms, §2e; limits: none, a source is there or not",
)
def source_seen(q: QcInput) -> CheckOutput:
    """Singles per decay of the crystals' own Lu-176: about one without a source, several with one.

    As few singles as that, and no true coincidence, are a run without a source: nothing that a source is needed for is
    then told. Where the crystals are not known to have lutetium, nobody can say.
    """
    decays, singles = q.own_decays(), int(q.histograms.singles.sum())
    if decays is None:
        return CheckOutput()
    (scanner,) = q.nodes("scanner")
    if is_source_missing(q):
        return CheckOutput([q.missing("source_seen", scanner, "ratio", singles, _NONE, method=_METHOD)])
    ratio = singles / decays
    return CheckOutput(
        [q.judge("source_seen", scanner, ratio, "ratio", singles**0.5 / decays, singles, method=_METHOD)]
    )


def is_source_missing(q: QcInput) -> bool:
    """Whether a run that should have a source has none: no more than the crystals' own singles, and no pairs."""
    decays, h = q.own_decays(), q.histograms
    singles, prompts, delayed = int(h.singles.sum()), int(h.prompts.sum()), int(h.delayed.sum())
    true = prompts - 0.5 * delayed  # the delayed window is searched on both sides
    noise = (prompts + 0.25 * delayed) ** 0.5
    has_pairs = true > max(_TRUE_SHARE * singles, _SIGMAS * noise)
    return decays is not None and 0 < singles < _OWN_SINGLES * decays and not has_pairs
