"""Energies of singles that are part of a pair, prompt and delayed.

Singles hold the background of the crystals and whatever has no partner; pairs less randoms hold annihilations alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.events import Coincidences


class PairEnergies:
    """Spectra of both sides of pairs of two modules, by module.

    Attributes:
        prompt: (n_modules, bins) uint32.
        delayed: the same of the delayed window, where each random is counted twice.
    """

    def __init__(self, n_modules: int, bins: int, width: float) -> None:
        self.prompt = np.zeros((n_modules, bins), np.uint32)
        self.delayed = np.zeros((n_modules, bins), np.uint32)
        self._width = width

    def add(
        self, pairs: Coincidences, index: NDArray[np.int32], module: NDArray[np.int32], *, is_delayed: bool
    ) -> None:
        """Count pairs; index and module as EventTimes takes them."""
        fill_pair_energies(
            np.ascontiguousarray(pairs.channel_a, np.int32), np.ascontiguousarray(pairs.channel_b, np.int32),
            np.ascontiguousarray(pairs.energy_a, np.float32), np.ascontiguousarray(pairs.energy_b, np.float32),
            index, module, self._width, self.delayed if is_delayed else self.prompt,
        )  # fmt: skip

    def merge(self, other: PairEnergies) -> None:
        """Add another filling."""
        self.prompt += other.prompt
        self.delayed += other.delayed


@kernel
def fill_pair_energies(
    channel_a: NDArray[np.int32],
    channel_b: NDArray[np.int32],
    energy_a: NDArray[np.float32],
    energy_b: NDArray[np.float32],
    index: NDArray[np.int32],
    module: NDArray[np.int32],
    width: float,
    counts: NDArray[np.uint32],
) -> None:
    """Count both energies of each pair of two modules; those beyond the axis are left out."""
    bins = counts.shape[1]
    for k in range(channel_a.size):
        ca = channel_a[k]
        cb = channel_b[k]
        i = index[ca] if 0 <= ca < index.size else -1
        j = index[cb] if 0 <= cb < index.size else -1
        if i < 0 or j < 0 or module[i] == module[j]:
            continue
        a = float(energy_a[k]) / width
        b = float(energy_b[k]) / width
        if 0.0 <= a < bins:
            counts[module[i], int(a)] += np.uint32(1)
        if 0.0 <= b < bins:
            counts[module[j], int(b)] += np.uint32(1)
