"""Share of the test pulses that come back: dead time and losses of the electronics at a known rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from petqc.checks import CheckOutput, check
from petqc.checks.pulse_dead_channels import DEAD_SHARE
from petqc.limits import Limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from petqc.check_input import Node
    from petqc.results import CheckResult
    from petqc.test_pulse import PulseInput

_LIMITS = Limits(95.0, 99.0, 101.0, 105.0)


@check(
    "pulses_seen",
    title="Test pulses seen",
    unit="%",
    levels=("scanner", "module"),
    order=209,
    data=("test-pulse",),
    limits={"scanner": _LIMITS, "module": _LIMITS},
    source="fault F18: daily-qc.md §3; formula: hits over pulses sent, daily-qc.md §2f (survival at a known rate); "
    "limits: daily-qc.md §5.2, row dead time / loss counters (1 %, 5 %); more hits than pulses are retriggers, the "
    "same limits",
)
def pulses_seen(q: PulseInput) -> CheckOutput:
    """Hits of live channels over pulses sent to them, at the ordinary rate and (`fast`) at twice that."""
    t = q.test
    results = []
    for node in q.nodes("scanner", "module"):
        results += _share(q, node, t.hits, t.sent, "")
        results += _share(q, node, t.fast_hits, t.fast_sent, "fast")
    return CheckOutput(results)


def _share(
    q: PulseInput, node: Node, hits: NDArray[np.int64], sent: NDArray[np.float64], part: str
) -> list[CheckResult]:
    mine = node.members[q.test.hits[node.members] > DEAD_SHARE * q.test.sent[node.members]]
    n, of = int(hits[mine].sum()), float(sent[mine].sum())
    if of == 0.0:
        if part:
            return []
        needed = bool(q.test.sent[node.members].any())
        return [q.missing("pulses_seen", node, "%", 0, "no channel answers", needed=needed)]
    share = n / of
    error = 100.0 * math.sqrt(max(share * abs(1.0 - share), 1.0 / of) / of)
    return [q.judge("pulses_seen", node, 100.0 * share, "%", error, of, limits=_LIMITS if part else None, part=part)]
