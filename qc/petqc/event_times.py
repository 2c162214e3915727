"""When singles come: rates slice by slice of time, and how soon a channel speaks again after it has spoken.

Both are filled from singles in the order of their times, in bounded memory, and do not depend on how a run was cut into
feeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICE_PS = 100_000_000_000
"""Length of a slice, 0.1 s: shorter than a source, a temperature or a bias voltage changes, longer than bursts of
noise, which randoms shall show and not average away."""
GAP_BIN_PS = 200_000
GAP_BINS = 1250
"""Gaps up to 250 us: several times the longest dead time that is looked for."""
_CHUNK = 1024
"""Singles that go through the loop of `fill_times` before their gaps are counted."""

# State of the filling: the slice that is open (-1: none), and whether it was entered from the one before it.
_OPEN, _IS_WHOLE = 0, 1
_NEVER = -(1 << 62)


class EventTimes:
    """Counts that need the times of singles.

    Attributes:
        in_slices: (n_modules,) int64, singles in the energy window in whole slices.
        products: (n_modules, n_modules) float64, sum over whole slices of the products of two modules' singles in the
            window; the lower triangle is used.
        n_slices: whole slices: those that the stream of singles entered from the one before and left for the next.
        gaps: (n_modules, GAP_BINS) int64, times from a single to the next one of the same channel, in bins of
            GAP_BIN_PS.
        n: singles whose times were looked at.
    """

    def __init__(self, n_channels: int, n_modules: int) -> None:
        self.in_slices = np.zeros(n_modules, np.int64)
        self.products = np.zeros((n_modules, n_modules))
        self.gaps = np.zeros((n_modules, GAP_BINS), np.int64)
        self.n = 0
        self._n_slices = np.zeros(1, np.int64)
        self._state = np.array([-1, 0], np.int64)
        self._now = np.zeros(n_modules, np.int64)
        self._last_ps = np.full(n_channels, _NEVER, np.int64)

    @property
    def n_slices(self) -> int:
        """Number of whole slices."""
        return int(self._n_slices[0])

    def add(
        self,
        time_ps: NDArray[np.int64],
        channel: NDArray[np.int32],
        energy: NDArray[np.float32],
        index: NDArray[np.int32],
        module: NDArray[np.int32],
        low: float,
        high: float,
    ) -> None:
        """Count singles.

        Args:
            time_ps: (n,) in order.
            channel: (n,) absolute channels.
            energy: (n,).
            index: position in the topology by absolute channel, -1: none.
            module: (n_channels,) module by position.
            low: lower end of the energy window.
            high: upper end.
        """
        self.n += int(time_ps.size)
        fill_times(
            time_ps, channel, energy, index, module, low, high, self._state, self._now, self._last_ps,
            self._n_slices, self.in_slices, self.products, self.gaps,
        )  # fmt: skip

    def merge(self, other: EventTimes) -> None:
        """Add another filling; the slice that is open at the seam is in neither."""
        self.n += other.n
        for name in ("in_slices", "products", "gaps", "_n_slices"):
            getattr(self, name)[...] += getattr(other, name)

    def together_s(self, i: int, j: int) -> float:
        """Sum over whole slices of the products of two modules' singles over the length of a slice, per second.

        It is the integral of the product of both rates over the time of those slices, whatever the rates do from slice
        to slice; 2τ times it are the randoms expected in a window.
        """
        return float(self.products[max(i, j), min(i, j)]) / (SLICE_PS * 1e-12)


@kernel
def fill_times(
    time_ps: NDArray[np.int64],
    channel: NDArray[np.int32],
    energy: NDArray[np.float32],
    index: NDArray[np.int32],
    module: NDArray[np.int32],
    low: float,
    high: float,
    state: NDArray[np.int64],
    now: NDArray[np.int64],
    last_ps: NDArray[np.int64],
    n_slices: NDArray[np.int64],
    in_slices: NDArray[np.int64],
    products: NDArray[np.float64],
    gaps: NDArray[np.int64],
) -> None:
    """See EventTimes; state: (2,) slice that is open, whether it is whole; now: (n_modules,) its counts.

    Gaps are counted in a short loop of their own, as spectra are (`histograms.fill_energy`).
    """
    n_modules = now.size
    bins = gaps.shape[1]
    flat = gaps.reshape(gaps.size)
    places = np.empty(_CHUNK, np.uint32)
    span = np.uint64(GAP_BIN_PS * bins)
    begin = state[_OPEN] * SLICE_PS  # of a slice that is not open yet: before all times
    end = begin + SLICE_PS
    for first in range(0, time_ps.size, _CHUNK):
        n_on_axis = np.uint64(0)
        for k in range(np.uint64(first), np.uint64(min(first + _CHUNK, time_ps.size))):
            c = channel[k]
            i = index[np.uint64(c)] if 0 <= c < index.size else -1
            if i < 0:
                continue
            row = np.uint64(i)  # unsigned indices spare the test for negative ones
            m = np.uint64(module[row])
            t = time_ps[k]
            gap = np.uint64(t - last_ps[row])  # from the future: far beyond the axis
            last_ps[row] = t
            # Whether it counts no branch predictor can learn: it is written in any case, and kept if so.
            places[n_on_axis] = np.uint32(m * np.uint64(bins) + gap // np.uint64(GAP_BIN_PS))
            n_on_axis += np.uint64(gap < span)
            if not begin <= t < end:
                here = t // SLICE_PS
                begin = here * SLICE_PS
                end = begin + SLICE_PS
                follows = here == state[_OPEN] + 1 and state[_OPEN] >= 0
                if follows and state[_IS_WHOLE] == 1:
                    n_slices[0] += 1
                    for a in range(n_modules):
                        in_slices[a] += now[a]
                        if now[a] > 0:
                            for b in range(a):
                                products[a, b] += float(now[a]) * float(now[b])
                for a in range(n_modules):
                    now[a] = 0
                state[_OPEN] = here
                state[_IS_WHOLE] = 1 if follows else 0
            now[m] += np.int64(low <= energy[k]) & np.int64(energy[k] <= high)
        for k in range(n_on_axis):
            flat[np.uint64(places[np.uint64(k)])] += 1
