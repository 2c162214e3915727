"""Permits: conditions for energising and for staying energised, each a value with a quality and an age.

Everything here is a function of what it is given and of a clock that is given: no device, no task, no configuration.

| situation | energise | stay energised |
| --- | --- | --- |
| good, fresh and true | allowed | yes |
| good, fresh and false | refused | trip now |
| uncertain, or stale | refused | held for `doubt_s`, then trip |
| bad, or never known | refused | trip after `doubt_s`, now if `strict` |
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DOUBT_S = 5.0
"""How long a doubtful permit holds what is energised already."""
MAX_AGE_S = 5.0


class Quality(enum.StrEnum):
    """How much a permit's value can be believed."""

    GOOD = "good"
    UNCERTAIN = "uncertain"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Permit:
    """One condition. at_monotonic_s: when it was last known; max_age_s: how long that holds."""

    name: str
    value: bool
    quality: Quality
    at_monotonic_s: float
    source: str
    reason: str = ""
    max_age_s: float = MAX_AGE_S

    def is_fresh(self, now_s: float) -> bool:
        """Whether it is not older than it may be; what comes from the future is not fresh."""
        return 0 <= now_s - self.at_monotonic_s <= self.max_age_s

    def allows(self, now_s: float) -> bool:
        """Whether it is true, good and fresh."""
        return self.value and self.quality is Quality.GOOD and self.is_fresh(now_s)

    def forbids(self, now_s: float) -> bool:
        """Whether it is surely not given: false, good and fresh."""
        return not self.value and self.quality is Quality.GOOD and self.is_fresh(now_s)

    def why_not(self, now_s: float) -> str:
        """What stands in the way, for a person."""
        age_s = now_s - self.at_monotonic_s
        if self.quality is not Quality.GOOD:
            state = f"is {self.quality}"
        elif not self.is_fresh(now_s):
            state = f"is stale ({age_s:.1f} s old, at most {self.max_age_s:g} s)"
        else:
            state = "is not given"
        return f"{self.name} {state}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a permit is needed for.

    Attributes:
        name: of the permit.
        to_energise, to_stay: for switching on and raising; for staying on.
        is_strict: bad or unknown trips at once.
        doubt_s: how long doubt holds what is on.
        can_be_bypassed: by an engineer, for a time.
    """

    name: str
    to_energise: bool = True
    to_stay: bool = True
    is_strict: bool = False
    doubt_s: float = DOUBT_S
    can_be_bypassed: bool = False


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the permits say now, in words for people.

    Attributes:
        against: what stands in the way of energising; empty: nothing does.
        trips: what must switch off now.
        doubts: what is held for a while, and must be told.
    """

    against: tuple[str, ...] = ()
    trips: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


class Permits:
    """The permits of one device with an output.

    Args:
        rules: those that count; a permit without a rule is none.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules: Mapping[str, Rule] = {rule.name: rule for rule in rules}
        self._known: dict[str, Permit] = {}
        self._doubtful_since: dict[str, float] = {}

    def need(self, rules: Iterable[Rule]) -> None:
        """Let other permits count; what is known of them stays known."""
        self.rules = {rule.name: rule for rule in rules}

    def give(self, permit: Permit) -> None:
        """State a permit's present value."""
        self._known[permit.name] = permit

    def forget(self) -> None:
        """Nothing is known any more, as after the loss of a connection."""
        self._known.clear()

    def objection(self, name: str, now_s: float) -> str:
        """Why a permit does not allow now; empty: it does."""
        permit = self._known.get(name)
        if permit is None:
            return f"{name} is unknown"
        return "" if permit.allows(now_s) else permit.why_not(now_s)

    def against(self, now_s: float, bypassed: Iterable[str] = ()) -> tuple[str, ...]:
        """What stands in the way of energising; empty: nothing does."""
        return self._missing((rule for rule in self.rules.values() if rule.to_energise), now_s, bypassed)

    def still_lost(self, now_s: float, bypassed: Iterable[str] = ()) -> tuple[str, ...]:
        """What would trip again as soon as it were on; what energising itself puts right is not of it."""
        both = (rule for rule in self.rules.values() if rule.to_energise and rule.to_stay)
        return self._missing(both, now_s, bypassed)

    def _missing(self, rules: Iterable[Rule], now_s: float, bypassed: Iterable[str]) -> tuple[str, ...]:
        skipped = self._skipped(bypassed)
        found = []
        for rule in rules:
            permit = self._known.get(rule.name)
            if rule.name not in skipped and (permit is None or not permit.allows(now_s)):
                found.append(f"{rule.name} is unknown" if permit is None else permit.why_not(now_s))
        return tuple(found)

    def _skipped(self, bypassed: Iterable[str]) -> set[str]:
        return {name for name in bypassed if name in self.rules and self.rules[name].can_be_bypassed}

    def rule(self, now_s: float, bypassed: Iterable[str] = (), *, is_starting: bool = False) -> Ruling:
        """Judge them now, for an output that is on; called again and again, it counts how long a doubt lasts.

        is_starting: whatever was never known yet may still come, so it is doubt that does not count.
        """
        skipped = self._skipped(bypassed)
        trips, doubts = [], []
        for rule in self.rules.values():
            told = self.objection(rule.name, now_s)
            if not rule.to_stay or rule.name in skipped or not told:
                self._doubtful_since.pop(rule.name, None)
                continue
            permit = self._known.get(rule.name)
            if permit is None and is_starting:
                doubts.append(told)
                continue
            since_s = self._doubtful_since.setdefault(rule.name, now_s)
            is_bad = permit is None or permit.quality is Quality.BAD
            if permit is not None and permit.forbids(now_s):
                trips.append(told)
            elif (is_bad and rule.is_strict) or now_s - since_s >= rule.doubt_s:
                trips.append(f"{told}, for {now_s - since_s:.1f} s")
            else:
                doubts.append(told)
        return Ruling(self.against(now_s, bypassed), tuple(trips), tuple(doubts))

    def it_is_off(self) -> None:
        """Doubts count from the next time that it is on."""
        self._doubtful_since.clear()


LINK = "device link"
IDENTITY = "identity verified"
LIMITS = "hard limits configured"
DEVICE_LIMITS = "device-side limits"
NO_TRIP = "no latched trip"
AUDIT_DISK = "audit can be written"
CLOCK = "clock sane"
MAINTENANCE = "not in maintenance"

STANDARD = (
    Rule(name=MAINTENANCE, to_stay=False),
    Rule(name=LINK),
    Rule(name=IDENTITY, is_strict=True),
    Rule(name=LIMITS, is_strict=True),
    Rule(name=DEVICE_LIMITS, to_energise=False),
    Rule(name=NO_TRIP, to_stay=False),
    Rule(name=AUDIT_DISK, to_stay=False),
    Rule(name=CLOCK, to_stay=False, can_be_bypassed=True),
)
"""Of every bias source. Energising writes the limits of the device itself and reads them back; then they must stay."""
