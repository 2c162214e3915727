"""Four limits (fail low, warn low, warn high, fail high) and the status they give a value.

Vocabulary as in QATrack+ (action and tolerance levels); comparison is inclusive with a relative epsilon, and a
value that is not finite is never inside.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

_EPSILON = 1e-9


class Status(enum.StrEnum):
    """Outcome of one check at one node, and of a run."""

    PASS = "pass"  # noqa: S105 - a verdict
    WARN = "warn"
    FAIL = "fail"
    INVALID = "invalid"
    NO_LIMITS = "no-limits"
    MISSED = "missed"
    """Of a run that never happened; a check never is."""


_ORDER = {
    Status.NO_LIMITS: 0, Status.PASS: 1, Status.WARN: 2, Status.MISSED: 3, Status.INVALID: 4, Status.FAIL: 5,
}  # fmt: skip


def worst(statuses: list[Status]) -> Status:
    """The worst of several: fail, then invalid, warn, pass. Nothing measured at all is invalid."""
    judged = [s for s in statuses if s is not Status.NO_LIMITS]
    return max(judged, key=_ORDER.__getitem__) if judged else Status.INVALID


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits in the unit of the value; None means that side has none."""

    fail_low: float | None = None
    warn_low: float | None = None
    warn_high: float | None = None
    fail_high: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.fail_low, self.warn_low, self.warn_high, self.fail_high) if v is not None]
        if not all(math.isfinite(v) for v in given):
            raise ValueError(f"limits must be finite: {self}")
        if given != sorted(given):
            raise ValueError(f"limits must rise from fail_low to fail_high: {self}")

    def judge(self, value: float | None) -> Status:
        """Status of a value; no value is invalid."""
        if value is None or not math.isfinite(value):
            return Status.INVALID
        if all(v is None for v in (self.fail_low, self.warn_low, self.warn_high, self.fail_high)):
            return Status.NO_LIMITS
        slack = _EPSILON * max(1.0, abs(value))
        if (self.fail_low is not None and value < self.fail_low - slack) or (
            self.fail_high is not None and value > self.fail_high + slack
        ):
            return Status.FAIL
        if (self.warn_low is not None and value < self.warn_low - slack) or (
            self.warn_high is not None and value > self.warn_high + slack
        ):
            return Status.WARN
        return Status.PASS
