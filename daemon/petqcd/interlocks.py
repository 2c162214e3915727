"""Who may energise what: permits, each a value with a quality and an age. Unknown counts as no.

Off needs no permit, ever: it does not pass through here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from petqcd.errors import PermitError


class Quality(enum.StrEnum):
    """How much a permit's value can be believed."""

    GOOD = "good"
    UNCERTAIN = "uncertain"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Permit:
    """One condition for energising. at_monotonic_s: when it was last known; max_age_s: how long that holds."""

    name: str
    value: bool
    quality: Quality
    at_monotonic_s: float
    source: str
    reason: str = ""
    max_age_s: float = 5.0

    def allows(self, now_s: float) -> bool:
        """Whether it is true, good and fresh."""
        return self.value and self.quality is Quality.GOOD and 0 <= now_s - self.at_monotonic_s <= self.max_age_s

    def why_not(self, now_s: float) -> str:
        """What stands in the way, for a person."""
        age_s = now_s - self.at_monotonic_s
        if self.quality is not Quality.GOOD:
            state = f"is {self.quality}"
        elif not self.value:
            state = "is not given"
        else:
            state = f"is stale ({age_s:.1f} s old, at most {self.max_age_s:g} s)"
        return f"{self.name} {state}" + (f": {self.reason}" if self.reason else "")


COMMAND = "explicit command"
IDENTITY = "identity verified"
CONFIGURATION = "device configuration verified"
LINK = "device link"
LIMITS = "hard limits configured"
REQUIRED = (COMMAND, IDENTITY, CONFIGURATION, LINK, LIMITS)
"""Permits without which nothing is energised."""

CONNECTION_AGE_S = 120.0
"""How long what was verified on a connection holds on that same connection."""


class Interlocks:
    """The permits of one device and one connection; `require` is called right before bias goes on."""

    def __init__(self) -> None:
        self._permits: dict[str, Permit] = {}

    def give(self, permit: Permit) -> None:
        """State a permit's present value."""
        self._permits[permit.name] = permit

    def forget(self) -> None:
        """Connection lost or closed: everything that was known about it is unknown again."""
        self._permits.clear()

    def missing(self, now_s: float) -> list[str]:
        """What stands in the way of energising; empty: nothing does."""
        reasons = []
        for name in REQUIRED:
            permit = self._permits.get(name)
            if permit is None:
                reasons.append(f"{name} is unknown")
            elif not permit.allows(now_s):
                reasons.append(permit.why_not(now_s))
        return reasons

    def require(self, now_s: float) -> None:
        """Refuse unless every permit is true, good and fresh.

        Raises:
            PermitError: naming every permit that is missing.
        """
        reasons = self.missing(now_s)
        if reasons:
            raise PermitError("bias stays off: " + "; ".join(reasons))
