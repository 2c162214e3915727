"""Faults that come and go with the time: from the start on the clock of the readout, planted live on the wall's."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_simulators.faults import Fault


@dataclass(slots=True)
class Timed:
    """A fault and whether it acts. is_live: its times are of the monotonic clock, not of the synchronisation."""

    fault: Fault
    place: str
    is_live: bool


class TimedFaults(ABC):
    """The faults of one handler, with their times.

    Args:
        now_s: seconds since the synchronisation of the readout.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._timed: list[Timed] = []

    def plant(self, fault: Fault) -> int:
        """A fault that is there from the start.

        Raises:
            ProfileError: it cannot be had here.
        """
        return self._add(self._as_acting(fault), self._place(fault), is_live=False)

    def begin(self, fault: Fault) -> int:
        """A fault from now on.

        Raises:
            ProfileError: it cannot be had here.
        """
        return self._add(self._as_acting(fault), self._place(fault), is_live=True)

    @abstractmethod
    def _place(self, fault: Fault) -> str:
        """Where it acts.

        Raises:
            ProfileError: it cannot be had here.
        """

    def _as_acting(self, fault: Fault) -> Fault:
        """The fault with the times that follow from its kind."""
        return fault

    def _clock_s(self, one: Timed) -> float:
        return time.monotonic() if one.is_live else self._now_s()

    def _add(self, fault: Fault, place: str, *, is_live: bool) -> int:
        if is_live:
            now = time.monotonic()
            fault = replace(fault, onset_s=fault.onset_s + now, end_s=fault.end_s + now)
        with self._lock:
            self._timed.append(Timed(fault, place, is_live))
            return len(self._timed) - 1

    def _acts(self, one: Timed) -> bool:
        return one.fault.acts(self._clock_s(one))

    def _acting(self, place: str) -> list[tuple[int, Fault]]:
        """Numbers and faults that act on a place now."""
        with self._lock:
            timed = list(enumerate(self._timed))
        return [
            (number, one.fault.at(self._clock_s(one)))
            for number, one in timed
            if one.place == place and self._acts(one)
        ]

    def resize(self, number: int, size: float) -> None:
        """Let one be of another size."""
        with self._lock:
            one = self._timed[number]
            self._timed[number] = Timed(replace(one.fault, size=size), one.place, one.is_live)

    def end(self, number: int) -> None:
        """Take a fault away now, for good."""
        with self._lock:
            one = self._timed[number]
            now = self._clock_s(one)
            fault = replace(one.fault, onset_s=min(one.fault.onset_s, now), end_s=min(one.fault.end_s, now))
            self._timed[number] = Timed(fault, one.place, one.is_live)

    def describe(self, number: int) -> dict[str, Any]:
        """What it is, where, and whether it acts."""
        one = self._timed[number]
        kind = one.fault.kind
        return {
            "id": kind.id,
            "title": kind.title,
            "size": one.fault.size,
            "size_means": kind.size_means,
            "onset_s": round(one.fault.onset_s - (time.monotonic() - self._now_s() if one.is_live else 0.0), 3),
            "nodes": [one.place],
            "is_acting": self._acts(one),
        }
