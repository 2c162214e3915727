"""Bypass of one named permit of one device, for a time: never silent, never longer than a shift, gone after a restart.

The encoder guard, the hard limit, the device's own limits, identity and a latched trip have none: only what the rules
of the permits mark may be bypassed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petqcd.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqcd.interlocks.permits import Rule

LONGEST_S = 8 * 3600.0


@dataclass(frozen=True, slots=True)
class Bypass:
    """One that holds. until_s: on the monotonic clock, which stops with the process that granted it."""

    device: str
    permit: str
    until_s: float
    reason: str
    by: str

    def document(self, now_s: float) -> dict[str, Any]:
        """Plain types for people."""
        return {
            "device": self.device,
            "permit": self.permit,
            "left_s": round(max(self.until_s - now_s, 0.0), 1),
            "reason": self.reason,
            "by": self.by,
        }


class Bypasses:
    """Those that hold now; nothing of it is ever stored."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Bypass] = {}

    def grant(
        self, device: str, rules: Mapping[str, Rule], permit: str, *, seconds: float, reason: str, by: str, now_s: float
    ) -> Bypass:
        """Let one permit count as given, for a time.

        Raises:
            RefusedError: there is no such permit, it has no bypass, the time is too long, or nobody says why.
        """
        rule = rules.get(permit)
        if rule is None:
            raise RefusedError(f"{device} has no permit {permit!r}: it has {', '.join(rules)}")
        if not rule.can_be_bypassed:
            raise RefusedError(f"{permit!r} of {device} has no bypass")
        if not 0 < seconds <= LONGEST_S:
            raise RefusedError(f"a bypass lasts up to {LONGEST_S / 3600:g} h, not {seconds!r} s")
        if not reason.strip():
            raise RefusedError("a bypass needs a reason")
        bypass = Bypass(device, permit, now_s + seconds, reason.strip(), by)
        self._held[device, permit] = bypass
        return bypass

    def end(self, device: str, permit: str) -> Bypass:
        """End one before its time.

        Raises:
            RefusedError: there is none.
        """
        found = self._held.pop((device, permit), None)
        if found is None:
            raise RefusedError(f"{permit!r} of {device} is not bypassed")
        return found

    def holding(self, now_s: float) -> list[Bypass]:
        """Those that hold now."""
        return [one for one in self._held.values() if now_s < one.until_s]

    def of(self, device: str, now_s: float) -> set[str]:
        """Names of the permits of a device that are bypassed now."""
        return {one.permit for one in self.holding(now_s) if one.device == device}

    def ended(self, now_s: float) -> list[Bypass]:
        """Those whose time is over since the last call; they are told once."""
        over = [one for one in self._held.values() if now_s >= one.until_s]
        for one in over:
            del self._held[one.device, one.permit]
        return over
