"""The clock of ages and deadlines: it goes on while the host is suspended, as what was read then grows old, too.

Python's own monotonic clock stands still meanwhile (CLOCK_MONOTONIC of Linux), so that after an hour of sleep what was
read before would look as fresh as ever, and an output that nobody watched would look watched.
"""

from __future__ import annotations

import time
from typing import Final

_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""As CLOCK_MONOTONIC, and it includes any time that the system is suspended; elsewhere than on Linux the latter does.
Source: clock_gettime(2)."""
_LEAST_S: Final = 0.1
"""A suspension is longer than this; within it, two clocks that are read one after the other may seem apart."""


def monotonic_s() -> float:
    """Seconds that never go back, and go on while the host is suspended."""
    return time.clock_gettime(_BOOTTIME)


class Awake:
    """Whether the host was suspended since this was made: an answer may have waited all that time to be looked at."""

    __slots__ = ("_asleep_s",)

    def __init__(self) -> None:
        # In this order, and below in the other one: whoever is held up between the two is not taken for asleep.
        awake_s = time.monotonic()
        self._asleep_s = monotonic_s() - awake_s

    @property
    def no_more(self) -> bool:
        """It was."""
        now_s = monotonic_s()
        return now_s - time.monotonic() - self._asleep_s > _LEAST_S
