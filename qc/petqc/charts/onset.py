"""How the photopeak of a bias output came to where it is: at once, or little by little. One run cannot tell.

A register that was upset and a supply that drifts move the photopeaks of an output alike, and what a board reads back
is its own command. The runs before tell them apart: a step is between two runs, a drift in all of them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.limits import Status
from petqc.statistics import SIGMA_OF_MAD
from petqc.verdict import likely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqc.charts.judge import PastRun
    from petqc.results import Hypothesis, Run

CHECK: Final = "bias_peak"
LEAST_RUNS: Final = 4
"""Fewest earlier runs with this calibration and a value of the output."""
MOST_RUNS: Final = 60
_DRIFT, _STEP = "F03", "F04"
_STANDS_OUT = 5.0
"""Standard deviations between runs by which the output has moved, to be asked about."""
_IN_ONE = 0.8
"""Share of the way between two runs that makes a step; half or less makes a drift, and in between nothing is said."""
_NOT_IN_ONE = 0.5
_AGAINST = 0.7
"""What the score of the other cause is multiplied by: as for a size that is unusual for a fault."""
_LEAST_NOISE = 5e-4
"""Of the photopeak: less than this two runs never differ by."""


def asked(run: Run) -> list[str]:
    """Bias outputs of which the diagnosis says that they have drifted or jumped."""
    return list(dict.fromkeys(h.node for h in run.diagnosis if _is_asked(h)))


def _is_asked(hypothesis: Hypothesis) -> bool:
    return hypothesis.node.startswith("bias:") and hypothesis.cause.partition(" ")[0] in {_DRIFT, _STEP}


def tell_onset(run: Run, at_d: float, past: Sequence[PastRun]) -> None:
    """Put into the diagnosis how each output that is asked about came to where it is, and rank its causes by that.

    Args:
        run: with its diagnosis.
        at_d: its time, days from any beginning.
        past: earlier runs of the same kind, oldest first.
    """
    same = list(takewhile(lambda p: p.calibration_ids == run.calibration_ids, reversed(past)))[::-1][-MOST_RUNS:]
    before = likely(run)
    for node in asked(run):
        now = next((c.value for c in run.checks if c.id == CHECK and c.node == node), None)
        known = [p for p in same if (CHECK, node) in p.values]
        if now is None or len(known) < LEAST_RUNS:
            continue
        told, cause = _onset(
            [*(p.values[CHECK, node][0] for p in known), now], [*(p.at_d for p in known), at_d], known[-1].run_id
        )
        if told:
            run.diagnosis[:] = _ranked(run.diagnosis, node, told, cause)
    if (after := likely(run)) != before and run.verdict is not Status.PASS and before:
        run.sentence = run.sentence.replace(before, after)


def _onset(kev: Sequence[float], at_d: Sequence[float], last: str) -> tuple[str, str]:
    """A sentence, and the cause that it speaks for; two empty ones: the runs do not tell."""
    value = np.asarray(kev)
    noise = SIGMA_OF_MAD * float(np.median(np.abs(np.diff(value[:-1])))) / np.sqrt(2.0)
    noise = max(noise, _LEAST_NOISE * float(value[0]))
    way = float(value[-1] - np.median(value[: max(LEAST_RUNS // 2, value.size // 4)]))
    if abs(way) < _STANDS_OUT * noise:
        return "", ""
    steps = np.diff(value)
    share = float(np.max(steps * np.sign(way))) / abs(way)
    k = int(np.argmax(steps * np.sign(way)))
    runs, days = value.size, at_d[-1] - at_d[0]
    if share >= _IN_ONE:
        when = f"between the run before ({last}) and this one" if k == runs - 2 else f"{runs - 2 - k} runs ago"
        away = f"{24.0 * (at_d[k + 1] - at_d[k]):.0f} hours"
        told = f"its photopeak moved in one step of {100.0 * steps[k] / value[k]:+.2g} %, {when}, within {away}"
        return f"{told}; other runs differ by {100.0 * noise / value[0]:.2g} %", _STEP
    if share <= _NOT_IN_ONE:
        told = f"its photopeak crept by {100.0 * way / value[0]:+.2g} % over {runs} runs in {days:.0f} days"
        return f"{told}, at most {100.0 * share:.0f} % of that between two of them", _DRIFT
    return "", ""


def _ranked(found: Sequence[Hypothesis], node: str, told: str, cause: str) -> list[Hypothesis]:
    """Both causes of the node with the sentence; they change places where the other one was in front."""
    mine = [k for k, h in enumerate(found) if h.node == node and _is_asked(h)]
    new = [
        replace(
            h,
            evidence=(*h.evidence, told),
            score=h.score if h.cause.startswith(cause) else round(h.score * _AGAINST, 3),
        )
        for h in (found[k] for k in mine)
    ]
    new.sort(key=lambda h: not h.cause.startswith(cause))
    ranked = list(found)
    for k, h in zip(mine, new, strict=True):
        ranked[k] = h
    return ranked
