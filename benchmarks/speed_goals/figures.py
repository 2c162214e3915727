"""What a benchmark gives: one figure with its goal."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One figure.

    id: stays the same from version to version. goal: None where none is set; is_least: the goal is a least value, else
    a most one. how: what was compared with what.
    """

    id: str
    what: str
    value: float | None
    unit: str
    how: str
    goal: float | None = None
    is_least: bool = True

    @property
    def met(self) -> bool | None:
        """None: there is no goal, or no value."""
        if self.goal is None or self.value is None:
            return None
        return self.value >= self.goal if self.is_least else self.value <= self.goal


@dataclass(frozen=True)
class Size:
    """How much is measured; quick: just enough to see that it works, too little for a figure to hold.

    maker: the readout maker's own converter, to compare with.
    """

    quick: bool
    hits: int
    repeats: int
    seconds: float
    maker: Path | None = None


FULL = Size(quick=False, hits=4_000_000, repeats=5, seconds=40.0)
QUICK = Size(quick=True, hits=60_000, repeats=1, seconds=0.5)


def in_turn(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of this thread for each way; all take turns, so that a slow moment hits all of them."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(repeats + 1):
        for name, way in ways.items():
            began = time.thread_time()
            way()
            if k:  # the first round loads or compiles kernels
                spent[name].append(time.thread_time() - began)
    return {name: statistics.median(times) for name, times in spent.items()}
