"""Photons of the next block, followed in a thread of their own while hits of this one are made; the same photons.

For recordings, which are made as fast as it goes: two cores then share what is otherwise one after the other. Of
another block than was thought (something was set meanwhile) nothing is kept, and the random stream is as before.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from petqc_simulators.physics.crystal import DEPOSIT_COLUMNS

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from petqc_simulators.physics.emission import Emission


@dataclass(frozen=True, slots=True)
class _Begun:
    """A block that is being followed, and what brings its emission back to before it."""

    n_deposits: Future[int]
    emission: Emission
    random: dict[str, Any]
    clock: NDArray[np.float64]


class PhotonsAhead:
    """Of one detector, one block ahead; use as a context manager."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "photons ahead")
        self._memory = np.empty((8192, DEPOSIT_COLUMNS))
        self._begun: _Begun | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.give_up()  # the detector can be advanced without this
        finally:
            self._thread.shutdown()

    @property
    def is_going_on(self) -> bool:
        """A block was begun, and neither taken nor given up."""
        return self._begun is not None

    def begin(self, emission: Emission, until_clk: float) -> None:
        """Follow the photons before until_clk; nobody else touches emission until they are taken or given up."""
        random, clock = dict(emission.rng.bit_generator.state), emission.clock.copy()
        self._begun = _Begun(self._thread.submit(self._follow, emission, until_clk), emission, random, clock)

    def _follow(self, emission: Emission, until_clk: float) -> int:
        self._memory, n = emission.generate(until_clk, self._memory, 0)
        return n

    def take(self) -> NDArray[np.float64]:
        """The deposits, (n, columns), in memory of the next block; only of one that was begun."""
        begun, self._begun = self._begun, None
        if begun is None:
            raise RuntimeError("nothing was begun")
        n = begun.n_deposits.result()
        return self._memory[:n]

    def give_up(self) -> None:
        """Let it be as if nothing had been begun."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.n_deposits.result()
            begun.emission.rng.bit_generator.state = begun.random
            begun.emission.clock[:] = begun.clock
