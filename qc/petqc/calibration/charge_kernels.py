"""Kernels of the charge integrator's table: where a curve rises, and the time of a code, by search.

Common argument: p (10, n_rows), the coefficients by power, so that the rows of one power lie together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_COEFFICIENTS = 10

T_LOW_CLOCKS, T_HIGH_CLOCKS = -64.0, 1024.0  # charge runs cover 0..430 clocks; the rest is for pedestal and tails
CODE_LOWEST, CODE_HIGHEST = -100.0, 1100.0
FLAT = 0.1  # beyond the point where the slope falls below this share of its value at t = 0 a code tells nothing
HALVINGS = 50  # bisection cannot fail on a rising curve; 1100 clocks / 2^50 is far below single precision


@kernel
def rising_range(p: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    """First and last time (clocks) of the rise around t = 0, on a grid of one clock.

    Args:
        p: see above.
        low: (n_rows,) result.
        high: (n_rows,) result.
    """
    n = p.shape[1]
    stop, flat = np.empty(n), np.empty(n)
    for way in (1.0, -1.0):
        last = T_HIGH_CLOCKS if way > 0.0 else -T_LOW_CLOCKS
        stop[:] = last + 1.0
        going, step = n, 0.0
        while going and step <= last:
            t = way * step
            going = 0
            for i in range(n):
                slope = 0.0
                for k in range(N_COEFFICIENTS - 1, 0, -1):
                    slope = slope * t + k * p[k, i]
                code = 0.0
                for k in range(N_COEFFICIENTS - 1, -1, -1):
                    code = code * t + p[k, i]
                if step == 0.0:
                    flat[i] = FLAT * slope
                beyond = code > CODE_HIGHEST if way > 0.0 else code < CODE_LOWEST
                stop[i] = min(stop[i], step) if beyond or slope < flat[i] else stop[i]
                going += stop[i] > last
            step += 1.0
        for i in range(n):
            if way > 0.0:
                high[i] = max(stop[i] - 1.0, 1.0)
            else:
                low[i] = -max(stop[i] - 1.0, 0.0)


@kernel
def halve(
    p: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    code: NDArray[np.float64],
    t: NDArray[np.float64],
) -> None:
    """Times of codes by bisection.

    Args:
        p: see above.
        low: (n_rows,) where the curves begin to rise.
        high: (n_rows,) where they end.
        code: (n, n_rows) codes of each row.
        t: (n, n_rows) result.
    """
    n = p.shape[1]
    left = np.empty(n)
    for j in range(code.shape[0]):
        for i in range(n):
            left[i], t[j, i] = low[i], high[i]
        for _ in range(HALVINGS):
            for i in range(n):
                middle = 0.5 * (left[i] + t[j, i])
                value = 0.0
                for k in range(N_COEFFICIENTS - 1, -1, -1):
                    value = value * middle + p[k, i]
                above = value >= code[j, i]
                left[i] = left[i] if above else middle
                t[j, i] = middle if above else t[j, i]
