"""How long a run has measured.

A real readout has measured for as long as the wall clock says, and what is missing of its frames then was lost. A
simulator of ours on a busy machine lets its whole clock stand rather than lose data: such a run has measured for as
long as the simulated readout's own clock says, and goes on until that is long enough. How far it fell behind is told.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from petqcd import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CLOCK_HZ = 200e6
TAG_MODULO = 1 << 46
"""The time tag counts clocks of 5 ns. Source: interface reference, section 1.3."""
SLOWEST = 8.0
"""Times as long as asked for: longer than that nobody waits for a simulator."""
_ANSWER_S = 5.0
_TOLD_BEHIND = 0.02


class RunClock:
    """Of one flow of frames. Begin with `start`; `read` asks the readout if need be, `elapsed_s` tells what is known.

    Args:
        time_tag: asks a simulated readout for its time; None: it is a real one, and the wall clock holds.
    """

    def __init__(self, time_tag: Callable[[], Awaitable[int]] | None) -> None:
        self._time_tag = time_tag
        self._begun_s = 0.0
        self._begun_tag = 0
        self._simulated_s = 0.0

    async def start(self) -> None:
        """Time begins now."""
        if self._time_tag is not None:
            self._begun_tag = await self._time_tag()
        self._begun_s = clock.monotonic_s()

    async def read(self) -> None:
        """Ask a simulated readout for its time; one that does not answer keeps the one it told last."""
        if self._time_tag is None:
            return
        try:
            async with asyncio.timeout(_ANSWER_S):
                tag = await self._time_tag()
        except Exception:  # noqa: BLE001 - whoever watches the link tells what is wrong with it
            return
        self._simulated_s = (tag - self._begun_tag) % TAG_MODULO / CLOCK_HZ

    @property
    def wall_s(self) -> float:
        """Since the start, by the wall clock."""
        return clock.monotonic_s() - self._begun_s

    @property
    def elapsed_s(self) -> float:
        """How long was measured."""
        return self.wall_s if self._time_tag is None else self._simulated_s

    def left_s(self, seconds: float) -> float:
        """How long it is until so much was measured; 0 also where a simulator is too slow ever to get there."""
        if self.wall_s > SLOWEST * seconds:
            return 0.0
        return max(seconds - self.elapsed_s, 0.0)

    def told(self) -> str:
        """A remark if the simulated clock fell behind; empty otherwise."""
        behind_s = self.wall_s - self.elapsed_s
        if self._time_tag is None or behind_s < _TOLD_BEHIND * self.wall_s:
            return ""
        return (
            f"This machine was busy: {self.elapsed_s:.1f} s of the simulated readout took {self.wall_s:.1f} s, in "
            "which its clock stood still now and then."
        )
