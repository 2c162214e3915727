"""The latch of a trip: acknowledge, reset and energise are three steps, and none implies the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from petqc_drivers.clock import monotonic_s
from petqc_drivers.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqc_drivers.device import Reading


@dataclass(frozen=True, slots=True)
class TripCause:
    """Why, when on the monotonic clock, and what was measured then."""

    cause: str
    at_monotonic_s: float
    snapshot: tuple[Reading, ...] = ()


class Trip:
    """`armed`, `tripped` or `acknowledged`; the first cause of a cascade is kept, the others are listed behind it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._causes: list[TripCause] = []
        self._is_acknowledged = False

    @property
    def state(self) -> str:
        """In one word."""
        if not self._causes:
            return "armed"
        return "acknowledged" if self._is_acknowledged else "tripped"

    @property
    def causes(self) -> tuple[TripCause, ...]:
        """The first one first."""
        return tuple(self._causes)

    def latch(self, cause: str, snapshot: Sequence[Reading] = ()) -> None:
        """It tripped; a new cause needs a new acknowledgement, the same one again does not."""
        if any(known.cause == cause for known in self._causes):
            return
        self._causes.append(TripCause(cause, monotonic_s(), tuple(snapshot)))
        self._is_acknowledged = False

    def acknowledge(self) -> None:
        """Somebody saw it; nothing else changes.

        Raises:
            StateError: There is nothing to acknowledge.
        """
        if not self._causes:
            raise StateError("there is no trip to acknowledge", device=self._device)
        self._is_acknowledged = True

    def check_resettable(self) -> None:
        """Refuse a reset of what nobody acknowledged.

        Raises:
            StateError: Nothing tripped, or nobody acknowledged it.
        """
        if not self._causes:
            raise StateError("there is no trip to reset", device=self._device)
        if not self._is_acknowledged:
            raise StateError(f"tripped: {self._causes[0].cause}", device=self._device, do="acknowledge it first")

    def rearm(self) -> None:
        """The cause is gone, whoever resets has made sure."""
        self.check_resettable()
        self._causes.clear()
        self._is_acknowledged = False

    def check_armed(self) -> None:
        """Refuse what must not happen while tripped.

        Raises:
            StateError: It is tripped.
        """
        if self._causes:
            raise StateError(
                f"tripped: {self._causes[0].cause}", device=self._device, do="find out why; acknowledge, then reset"
            )
