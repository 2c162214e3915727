"""The MR's influence: the same source measured with the MR idle, under stress, and idle again, to a run with a verdict.

What changes in step with the stress is the MR's; what drifts all the time is taken out by the mean of the two idle
measurements, and what they differ by beyond noise is part of the uncertainty.

Source: daily-qc.md §2i (paired acquisition), §5.1, P5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.check_input import CheckInput, Node
from petqc.errors import QcError
from petqc.fits.energy_fits import Refusal
from petqc.fits.moved_spectra import stretch
from petqc.limits import Limits, Status
from petqc.verdict import Words, conclude

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from petqc.channel_map import Topology
    from petqc.qc_input import QcInput, RunContext
    from petqc.results import CheckResult, Run

PHASES: Final = ("idle", "stress", "idle again")
IDLE, STRESS, AGAIN = range(3)
_BELOW, _ABOVE = 0.78, 1.22
"""Range in which spectra are compared, in multiples of the photopeak: that of its fit."""
WORDS: Final = Words(
    opening={
        Status.FAIL: "The MR disturbs the detector: ",
        Status.WARN: "Look at ",
        Status.INVALID: "The influence of the MR was not measured: ",
    },
    passing="The MR does not disturb the detector: ",
    headlines=("mr_rate", "mr_peak"),
    essential="mr_rate",
    without_essential="no rate was compared",
)


@dataclass(frozen=True, slots=True)
class Delta:
    """A change under stress: value and its error, and by how much the two idle measurements differ, and that error."""

    value: float
    error: float
    idles: float
    idles_error: float


def delta(values: Sequence[float], errors: Sequence[float]) -> Delta:
    """Stress minus the mean of the two idles.

    Args:
        values: of the three phases.
        errors: their standard deviations.
    """
    idle, stress, again = values
    idles, idles_error = again - idle, math.hypot(errors[IDLE], errors[AGAIN])
    error = math.hypot(errors[STRESS], 0.5 * idles_error)
    return _with_drift(stress - 0.5 * (idle + again), error, idles, idles_error)


def delta_of_spectra(phases: Sequence[QcInput], node: Node) -> tuple[Delta, int] | Refusal:
    """Change of a node's energies under stress, as a share, from its spectra as they are; and the counts behind it.

    For a photopeak that no fit describes, such as one that moved while it was measured. That there is a photopeak
    where the spectra are compared, another phase must have shown.
    """
    fits = [fit for q in phases if not isinstance(fit := q.energy_fit(node), Refusal)]
    if not fits:
        return Refusal("no photopeak in any of the three", 0)
    edges = phases[IDLE].histograms.energy_edges
    spectra = [q.spectrum(node.members).astype(np.float64) for q in phases]
    low, high = _BELOW * fits[0].mu, _ABOVE * fits[0].mu
    try:
        again = stretch(edges, spectra[IDLE], spectra[AGAIN], low, high)
        stressed = stretch(edges, spectra[IDLE] + spectra[AGAIN], spectra[STRESS], low, high)
    except QcError as error:
        return Refusal(str(error), int(min(s.sum() for s in spectra)))
    return _with_drift(stressed.value - 1.0, stressed.error, again.value - 1.0, again.error), stressed.n


def _with_drift(value: float, error: float, idles: float, idles_error: float) -> Delta:
    # A drift that is a straight line cancels in the mean; of what else it is, the difference tells the size. Evenly
    # distributed over that: variance d² / 12.
    drift = max(idles**2 - idles_error**2, 0.0) / 12.0
    return Delta(value, math.sqrt(error**2 + drift), idles, idles_error)


@dataclass(slots=True)
class MrDeltaInput(CheckInput):
    """The three measurements and the context of the whole, handed to every check of the MR's influence.

    degc: of the three phases, median of SiPM sensors by module; a module without a reading is not there.
    """

    phases: Sequence[QcInput]
    degc: Sequence[dict[str, float]]
    context: RunContext

    @property
    def topology(self) -> Topology:
        """The channels of the detector."""
        return self.phases[IDLE].topology

    @property
    def is_calibrated(self) -> bool:
        """Whether energies are keV."""
        return self.phases[IDLE].is_calibrated

    def compared(
        self,
        check_id: str,
        node: Node,
        measure: Callable[[QcInput, Node], tuple[float, float, int] | Refusal],
        *,
        fallback: Callable[[Node], tuple[Delta, int] | Refusal] | None = None,
        part: str = "",
        limits: Limits | None = None,
        needed: bool = True,
    ) -> list[CheckResult]:
        """The change of a quantity under stress in per cent of its idle value, and how far the idles differ.

        Args:
            check_id: the check.
            node: where.
            measure: value, standard deviation and counts of a phase, or why there is none.
            fallback: where a phase has none, the change as a share of the idle value, and the counts behind it; or why
                there is none either.
            part: name of a secondary number.
            limits: instead of the check's own.
            needed: whether the run is invalid without it.
        """
        found = [measure(q, node) for q in self.phases]
        for phase, one in zip(PHASES, found, strict=True):
            if isinstance(one, Refusal):
                told = f"{phase}: {one.reason}"
                other = one if fallback is None or part else fallback(node)
                if isinstance(other, Refusal):
                    told += "" if other is one else f"; nor without a fit: {other.reason}"
                    return [] if part else [self.missing(check_id, node, "%", one.n, told, needed=needed)]
                method = f"fallback: spectra compared with each other, for there is no fit ({told})"
                return self._change(check_id, node, other[0], 100.0, other[1], method, limits=limits)
        numbers = [one for one in found if not isinstance(one, Refusal)]
        idle = 0.5 * (numbers[IDLE][0] + numbers[AGAIN][0])
        if idle <= 0.0:
            return [] if part else [self.missing(check_id, node, "%", 0, "nothing was measured with the MR idle")]
        d = delta([v for v, _, _ in numbers], [e for _, e, _ in numbers])
        n = min(n for _, _, n in numbers)
        method = "stress minus the mean of both idles, of the idle value"
        return self._change(check_id, node, d, 100.0 / idle, n, method, part=part, limits=limits)

    def _change(
        self,
        check_id: str,
        node: Node,
        d: Delta,
        share: float,
        n: int,
        method: str,
        *,
        part: str = "",
        limits: Limits | None = None,
    ) -> list[CheckResult]:
        """A change, times `share` in per cent, and how far the idles differ."""
        results = [
            self.judge(
                check_id, node, share * d.value, "%", share * d.error, n, limits=limits, centre=0.0, part=part,
                method=method,
            )
        ]  # fmt: skip
        if not part:
            results.append(
                self.judge(
                    check_id, node, share * d.idles, "%", share * d.idles_error, n, limits=Limits(), part="idles",
                    method="idle again minus idle: what drifted by itself",
                )
            )  # fmt: skip
        return results


def analyse_mr_delta(phases: Sequence[QcInput], degc: Sequence[dict[str, float]], context: RunContext) -> Run:
    """Every check of the MR's influence, and the verdict.

    Args:
        phases: the three measurements.
        degc: temperatures of each, see `MrDeltaInput`.
        context: of the whole run.
    """
    from petqc.checks import checks_of, run_checks

    shared = MrDeltaInput(phases, degc, context)
    return conclude(shared.topology, context, run_checks(checks_of("mr-delta"), shared), WORDS)
