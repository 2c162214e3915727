"""Pairs of photons of different modules in a file of processed events, prompt and delayed, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import BadInputError
from petqc.events import Coincidences, Singles
from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.channel_map import Topology

DELAY_PS = 1_003_700
"""Shift of the delayed window: beyond any pulse, no multiple of the 5 ns clock. Source: daily-qc.md §2e."""
_HELD = 1 << 18
"""Photons held back so that a file that is nearly in order of time (converters write groups by buffer) is sorted."""
_MOST_PAIRS = 64
"""Pairs per photon that no detector can give: at more, the column taken for time is something else."""


class PairSearch:
    """Feed photons as they stand in the file; pairs come out once nothing earlier can follow.

    All pairs inside the window are given (no multiples policy). Delayed pairs are searched with either photon as the
    delayed one, as petqc.processing does it.
    """

    def __init__(self, topology: Topology, window_ps: int, delay_ps: int = DELAY_PS) -> None:
        self._topology = topology
        self._half = window_ps // 2
        self._delay = delay_ps
        self._held = Singles.empty()

    def feed(self, photons: Singles) -> tuple[Coincidences, Coincidences]:
        """Take photons; give the prompt and the delayed pairs that are final."""
        self._held = _sorted(_joined(self._held, photons))
        if len(self._held) <= 2 * _HELD:
            return Coincidences.empty(), Coincidences.empty()
        if self._held.time_ps[-1 - _HELD] - self._held.time_ps[0] <= 2 * self._half:
            raise _not_times(len(self._held) - _HELD, int(self._held.time_ps[-1 - _HELD] - self._held.time_ps[0]))
        # A pair belongs to its earlier photon; its later one must be here already.
        reach = self._held.time_ps[-1 - _HELD] - self._delay - 2 * self._half
        return self._pairs(int(np.searchsorted(self._held.time_ps, reach)))

    def finish(self) -> tuple[Coincidences, Coincidences]:
        """The rest."""
        return self._pairs(len(self._held))

    def _pairs(self, n: int) -> tuple[Coincidences, Coincidences]:
        held = self._held
        index = self._topology.index_of(held.channel)
        module = np.where(index >= 0, self._topology.module[np.maximum(index, 0)], -1).astype(np.int32)
        found = []
        for shift in (0, self._delay):
            most = _MOST_PAIRS * max(n, 1000)
            count = find_pairs(held.time_ps, module, n, shift, self._half, np.empty((0, 2), np.int64), most)
            if count > most:
                raise _not_times(n, int(held.time_ps[-1] - held.time_ps[0]))
            pairs = np.empty((count, 2), np.int64)
            find_pairs(held.time_ps, module, n, shift, self._half, pairs, most)
            found.append(_coincidences(held, module, pairs, shift))
        self._held = Singles(held.time_ps[n:], held.energy[n:], held.channel[n:], held.n_hits[n:])
        return found[0], found[1]


@kernel
def find_pairs(
    time_ps: NDArray[np.int64],
    module: NDArray[np.int32],
    n: int,
    shift: int,
    half: int,
    out: NDArray[np.int64],
    most: int,
) -> int:
    """Pairs (earlier, later) of different modules with |t_later - t_earlier - shift| <= half.

    Args:
        time_ps: (m,) sorted.
        module: (m,) -1: none.
        n: earlier photons to search from.
        shift: 0 for prompt pairs.
        half: half of the window.
        out: (pairs, 2) result; without room pairs are only counted.
        most: stop once there are more.

    Returns:
        Number of pairs.
    """
    found = 0
    first = 0
    for i in range(n):
        low = time_ps[i] + shift - half
        high = time_ps[i] + shift + half
        if shift == 0:
            first = i + 1
        else:
            while first < time_ps.size and time_ps[first] < low:
                first += 1
        j = first
        while j < time_ps.size and time_ps[j] <= high:
            if module[i] >= 0 and module[j] >= 0 and module[i] != module[j]:
                if found < out.shape[0]:
                    out[found, 0] = i
                    out[found, 1] = j
                found += 1
                if found > most:
                    return found
            j += 1
    return found


def _not_times(n: int, span_ps: int) -> BadInputError:
    return BadInputError(
        f"{n} photons within {span_ps} ps: the column taken for time is not one of detector hits in picoseconds",
        do="if the columns are time, energy and channel in another unit or order, or something else, give a descriptor",
    )


def _coincidences(held: Singles, module: NDArray[np.int32], pairs: NDArray[np.int64], shift: int) -> Coincidences:
    """Side a is the photon of the higher module; the earlier one is moved to where the later one's window is."""
    early, late = pairs[:, 0], pairs[:, 1]
    early_ps = held.time_ps[early] + shift
    late_ps = held.time_ps[late]
    up = module[early] > module[late]
    a, b = np.where(up, early, late), np.where(up, late, early)
    return Coincidences(
        np.where(up, early_ps, late_ps),
        np.where(up, late_ps, early_ps),
        held.energy[a],
        held.energy[b],
        held.channel[a],
        held.channel[b],
        held.n_hits[a],
        held.n_hits[b],
    )


def _joined(a: Singles, b: Singles) -> Singles:
    return Singles(
        np.concatenate([a.time_ps, b.time_ps]),
        np.concatenate([a.energy, b.energy]),
        np.concatenate([a.channel, b.channel]),
        np.concatenate([a.n_hits, b.n_hits]),
    )


def _sorted(s: Singles) -> Singles:
    order = np.argsort(s.time_ps, kind="stable")
    return Singles(s.time_ps[order], s.energy[order], s.channel[order], s.n_hits[order])
