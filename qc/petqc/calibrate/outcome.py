"""From arrays over channels to what a report and a verdict are made of, the same way for every calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import SCANNER, asic_node
from petqc.limits import Limits
from petqc.results import ChannelColumn, CheckResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def column(
    id: str,  # noqa: A002 - the document's own word
    unit: str,
    value: NDArray[np.float64],
    uncertainty: NDArray[np.float64],
    n: NDArray[np.int64],
    limits: Limits,
    reasons: Mapping[int, str],
) -> ChannelColumn:
    """One quality figure of every channel; a channel with a reason has no number.

    Args:
        id: name of the figure.
        unit: unit of value and uncertainty, (channels,) each.
        value: the figure, NaN where there is none.
        uncertainty: one standard deviation.
        n: counts behind it.
        limits: of a single channel.
        reasons: position of a channel to why it has no calibration.
    """
    value = np.array(value, np.float64)
    for place in reasons:
        value[place] = np.nan
    status = np.array([str(limits.judge(float(v))) for v in value], object)
    reason = np.array(["" if np.isfinite(v) else "no value" for v in value], object)
    for place, why in reasons.items():
        reason[place] = why
    return ChannelColumn(
        id,
        unit,
        value,
        np.where(np.isfinite(value), uncertainty, np.nan),
        np.asarray(n, np.int64),
        status,
        reason,
    )


def summary(
    found: ChannelColumn, channels: NDArray[np.int32], *, limits: Limits, asic_limits: Limits, method: str
) -> list[CheckResult]:
    """Median of a column over the scanner and over each ASIC, with the median's standard error.

    Args:
        found: the column.
        channels: (n,) absolute channels that it goes over.
        limits: of the scanner's median.
        asic_limits: of an ASIC's median.
        method: how the figure was made.
    """
    asic = channels >> 6
    places = [(SCANNER, np.ones(channels.size, bool), limits)]
    places += [(asic_node(int(a) << 6), asic == a, asic_limits) for a in np.unique(asic)]
    results = []
    for node, mine, allowed in places:
        values = found.value[mine]
        values = values[np.isfinite(values)]
        if not values.size:
            why = f"none of {int(mine.sum())} channels has one"
            results.append(CheckResult.missing(found.id, node, found.unit, 0, allowed, why, method=method))
            continue
        # 1.2533 = sqrt(pi / 2): a median's standard error over a mean's, for Gaussian values.
        spread = 1.2533 * float(values.std(ddof=1)) / values.size**0.5 if values.size > 1 else float(np.nan)
        if not np.isfinite(spread):
            spread = float(found.uncertainty[mine][np.isfinite(found.value[mine])][0])
        results.append(
            CheckResult.measured(
                found.id, node, float(np.median(values)), found.unit, spread, values.size, allowed, method=method
            )
        )
    return results


_WARN_REFUSED, _FAIL_REFUSED = 0.001, 0.1
"""Share of the channels without a calibration."""


def refused(kind: str, channels: NDArray[np.int32], reasons: Mapping[int, str]) -> CheckResult:
    """How many channels got no calibration."""
    limits = Limits(warn_high=_WARN_REFUSED * channels.size, fail_high=_FAIL_REFUSED * channels.size)
    return CheckResult.measured(
        f"{kind}_channels_refused", SCANNER, len(reasons), "channels", 0.0, channels.size, limits
    )


def refusal_notes(kind: str, reasons: Mapping[int, str]) -> list[str]:
    """How often each reason was given, the most frequent first."""
    by_reason: dict[str, int] = {}
    for why in reasons.values():
        by_reason[why] = by_reason.get(why, 0) + 1
    ordered = sorted(by_reason.items(), key=lambda item: -item[1])
    return [f"{kind}: {count} channels without calibration: {why}." for why, count in ordered]
