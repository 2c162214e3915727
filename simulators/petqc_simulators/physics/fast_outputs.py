"""Fast outputs of the modules: one edge for each large pulse of a module, for a timing board beside the readout.

An edge is made by the same photons as the readout's hit, so both see one coincidence with the same fluctuation of
light. What belongs to the readout alone (its converters, its clock, its cables) is not in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel
from petqc_simulators.physics import electronics as el
from petqc_simulators.physics.crystal import CHANNEL, CLOCK_PS, ZE, ZT, E, T

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from petqc_simulators.physics.detector import Detector

THRESHOLD_KEV = 400.0
"""Of the discriminator, in keV of the calibration day's amplitude."""
HOLD_CLK = 40.0
"""How long an output stays over its threshold: 200 ns."""


class FastOutputs:
    """Looks on at a detector's photons and keeps the edges of its modules until they are taken.

    Args:
        detector: its `onlooker` becomes this.
        inputs: input of the timing board by module.
        delay_ps: of the cable of each input; default none.
    """

    def __init__(
        self, detector: Detector, inputs: Mapping[int, int], *, delay_ps: Mapping[int, float] | None = None
    ) -> None:
        self._detector = detector
        n_modules = int(detector.draw.module_of.max()) + 1
        self._module_of = np.asarray(detector.draw.module_of, np.int64)
        self._input_of = np.full(n_modules, -1, np.int64)
        self._delay_clk = np.zeros(n_modules)
        for module, input_ in inputs.items():
            self._input_of[module] = input_
            self._delay_clk[module] = (delay_ps or {}).get(input_, 0.0) / CLOCK_PS
        self._busy_clk = np.full(n_modules, -1e9)
        self._edges: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        detector.onlooker = self._look

    def take(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and times (ps since the first frame of the last block) of the edges since the last call, in order."""
        edges, self._edges = self._edges, []
        if not edges:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        inputs, times = (np.concatenate(part) for part in zip(*edges, strict=True))
        order = np.argsort(times, kind="stable")
        return inputs[order], times[order]

    def _look(self, deposits: NDArray[np.float64], parameters: NDArray[np.float64]) -> None:
        module = np.empty(len(deposits), np.int64)
        clk = np.empty(len(deposits))
        delay_clk = self._delay_clk + self._detector.signal_delay_ps / CLOCK_PS
        n = _edges(deposits, parameters, self._module_of, self._input_of, delay_clk, self._busy_clk, module, clk)
        self._busy_clk -= _BLOCK_CLK
        # One block is kept: nobody may look at this output at all.
        self._edges = [(self._input_of[module[:n]], np.rint(clk[:n] * CLOCK_PS).astype(np.int64))]


_BLOCK_CLK = float(1024 * el.FRAME_CLK)


@kernel
def _edges(
    deposits: NDArray[np.float64],
    parameters: NDArray[np.float64],
    module_of: NDArray[np.int64],
    input_of: NDArray[np.int64],
    delay_clk: NDArray[np.float64],
    busy_clk: NDArray[np.float64],
    module: NDArray[np.int64],
    clk: NDArray[np.float64],
) -> int:
    """Edges of deposits in order of time; the number of them."""
    n = 0
    for i in range(deposits.shape[0]):
        channel = int(deposits[i, CHANNEL])
        where = module_of[channel]
        p = parameters[channel]
        energy = deposits[i, E]
        if input_of[where] < 0 or energy < 0.0 or p[el.ON] != 1.0 or deposits[i, T] < busy_clk[where]:
            continue
        light = el.light_kev(energy, deposits[i, ZE], p[el.LIGHT_VARIANCE], p[el.NOISE_VARIANCE])
        if light * p[el.SIGNAL] < THRESHOLD_KEV:
            continue
        ratio = 511.0 / energy
        sigma = np.sqrt(p[el.PHOTON_VARIANCE] * ratio + p[el.AMPLIFIER_VARIANCE] * ratio * ratio)
        walk = p[el.WALK_CLK] * (ratio - 1.0)
        module[n] = where
        clk[n] = deposits[i, T] + walk + deposits[i, ZT] * sigma + delay_clk[where]
        busy_clk[where] = deposits[i, T] + HOLD_CLK
        n += 1
    return n
