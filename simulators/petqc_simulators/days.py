"""Days that pass between runs: faults that grow over months are, in each run, as large as on its day."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqc_simulators.live_faults import LiveFaults
    from petqc_simulators.scenario import DayFault


class Days:
    """The days of one simulator. May be used from several threads.

    Args:
        faults: where faults of days are planted.
        of_days: which they are.

    Attributes:
        day: which one it is.
    """

    def __init__(self, faults: LiveFaults, of_days: Sequence[DayFault]) -> None:
        self._faults, self._of_days = faults, tuple(of_days)
        self._numbers: dict[int, int] = {}
        self._lock = threading.Lock()
        self.day = 0.0

    def begin(self, day: float) -> list[dict[str, Any]]:
        """Let it be this day; what is planted then.

        Raises:
            ProfileError: it is before the day that it is.
        """
        with self._lock:
            if not self.day <= day < 1e6:
                raise ProfileError(f"day {day:g}: it is day {self.day:g}, and time goes on only")
            self.day = day
            for index, one in enumerate(self._of_days):
                size, number = one.size_at(day), self._numbers.get(index)
                if size > 0.0 and number is None:
                    self._numbers[index] = self._faults.plant(one.fault, size)
                elif size > 0.0 and number is not None:
                    self._faults.resize(number, size)
                elif number is not None:
                    self._faults.remove(number)
                    del self._numbers[index]
        return self._faults.documents()
