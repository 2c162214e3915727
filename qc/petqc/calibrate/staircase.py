"""Dark counts against threshold: steps, one for each photoelectron; their distance is the amplitude of one.

What fires k cells at once has the amplitude zero + k A, smeared with sqrt(e² + k g² A²) by electronics and by the
spread of the cells' gain. A, and how many fire one cell, two and three, are free at every voltage (four and more go on
as three did); zero, e and g are those of the channel. All voltages of a channel are fitted together: what zero is
wrong by, all amplitudes are wrong by. All channels are fitted at once, each by itself.

Source: daily-qc.md §2h (crosstalk as a chain, gain linear in overvoltage).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.channel_map import SCANNER
from petqc.results import Spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOWEST: Final = 0.45
"""Thresholds below this share of the amplitude are left out, and those below this many widths of the baseline's own
noise, which passes them by itself."""
_NOISE_WIDTHS: Final = 5.0
_HIGHEST: Final = 3.6
_MIN_COUNTS = 1000
"""Fewest counts at the lowest threshold that is used, at the highest voltage."""
_MIN_SECOND = 100
"""Fewest counts of two photoelectrons and more, at the highest voltage."""
_LEAST_AMPLITUDE = 1.6
"""Codes: steps closer together than this are not told apart with thresholds that are whole numbers."""
_WORST_RELATIVE = 0.05
_WORST_CHI2 = 5.0
"""Largest chi-square a degree of freedom for a number; what is above 1 widens the error."""
_K: Final = 7
_ROUNDS = 80
_SHARED: Final = 3
"""Parameters of a channel: zero, ln e, ln g. Then, of each voltage: ln N1, ln N2 / N1, ln N3 / N2, ln A."""
_OF_VOLTAGE: Final = 4


@dataclass(frozen=True, slots=True)
class Staircases:
    """Fits of n channels at v voltages.

    amplitude: (n, v) codes of one photoelectron; covariance: (n, v, v) of it. rate: (n, v) of one photoelectron and
    more, in the unit of `windows`; second: (n, v) share of two and more in it. zero: (n,) where no photoelectron at all
    would stand; noise: (n,) width of it. Each with its error; NaN where there is no number. chi2: (n,) a degree of
    freedom; errors and covariance are widened by what it has above 1. reason: (n,) why there is no number, "" where
    there is one. steps, expected: (n, v, m) thresholds and what the fit expects, NaN: not used.
    """

    amplitude: NDArray[np.float64]
    covariance: NDArray[np.float64]
    rate: NDArray[np.float64]
    rate_error: NDArray[np.float64]
    second: NDArray[np.float64]
    second_error: NDArray[np.float64]
    zero: NDArray[np.float64]
    zero_error: NDArray[np.float64]
    noise: NDArray[np.float64]
    noise_error: NDArray[np.float64]
    chi2: NDArray[np.float64]
    reason: NDArray[np.object_]
    steps: NDArray[np.float64]
    expected: NDArray[np.float64]

    def without(self, refused: NDArray[np.bool_], why: str) -> Staircases:
        """The same without the numbers of some channels; why: their reason."""

        def hidden(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.where(refused.reshape(-1, *[1] * (values.ndim - 1)), np.nan, values)

        numbers = {f.name: hidden(getattr(self, f.name)) for f in fields(self) if f.name not in {"reason", "steps"}}
        return replace(self, reason=np.where(refused, why, self.reason), **numbers)

    def picture(self, counts: NDArray[np.int64]) -> Spectrum | None:
        """The staircase of the first channel with a number, at the highest voltage."""
        good = np.flatnonzero(self.reason == "")
        if not good.size:
            return None
        i = int(good[0])
        order = np.argsort(self.steps[i, -1])
        at = self.steps[i, -1][order]
        edges = np.concatenate([[at[0] - 0.5], 0.5 * (at[1:] + at[:-1]), [at[-1] + 0.5]])
        return Spectrum(
            "dark_staircase", SCANNER, "threshold", "codes", edges, counts[i, -1][order].astype(np.float64),
            self.expected[i, -1][order],
        )  # fmt: skip


def fit_staircases(
    steps: NDArray[np.float64],
    counts: NDArray[np.int64],
    windows: NDArray[np.float64],
    relative: NDArray[np.float64],
    noise: NDArray[np.float64],
) -> Staircases:
    """Fit the staircases of many channels.

    Args:
        steps: (n, v, m) thresholds above the baseline, in codes.
        counts: (n, v, m) counts over each.
        windows: (v, m) how long each was counted, in any unit.
        relative: (n, v) amplitude that is expected at each voltage, over that at the last; where the fit begins.
        noise: (n,) width of the baseline's noise, in codes.
    """
    n, v, m = counts.shape
    steps = np.broadcast_to(steps, (n, v, m)).astype(np.float64)
    y = counts.astype(np.float64)
    p, reason = _start(steps, y / windows, relative, noise)
    place = _SHARED + _OF_VOLTAGE * np.arange(v) + 3
    found = reason == ""

    def in_range(p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        share = (steps - p[:, 0, None, None]) / np.exp(p[:, place])[:, :, None]
        return share, (share > _LOWEST) & (share < _HIGHEST) & (steps > _NOISE_WIDTHS * noise[:, None, None])

    p, _, _ = _fisher(steps, y, windows, in_range(p)[1], p)
    share, use = in_range(p)  # the range follows what the first fit found
    p, covariance, converged = _fisher(steps, y, windows, use, p)
    model, _ = _model(steps, windows, p)
    free = np.maximum(use.sum(axis=(1, 2)) - p.shape[1], 1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        chi2 = np.where(use, (y - model) ** 2 / np.maximum(model, 1.0), 0.0).sum(axis=(1, 2)) / free
        amplitude = np.exp(p[:, place])
        value = np.where(np.arange(p.shape[1]) == 0, p, np.exp(np.minimum(p, 50.0)))
        spread = np.sqrt(np.einsum("npp->np", covariance) * np.maximum(chi2, 1.0)[:, None])
        error = np.where(np.arange(p.shape[1]) == 0, spread, value * spread)
        of_log = covariance[:, place[:, None], place[None, :]] * np.maximum(chi2, 1.0)[:, None, None]
        relative_error = np.sqrt(np.einsum("nvv->nv", of_log))
        top_use = use[:, -1]
        lowest = np.where(top_use, share[:, -1], np.inf).min(axis=1)
        at_lowest = np.where(top_use & (share[:, -1] == lowest[:, None]), y[:, -1], 0.0).max(axis=1)
        second = np.exp(p[:, -4] + p[:, -3]) * windows[-1].mean()
        highest = np.where(use, share, -np.inf).max(axis=2).min(axis=1)
    is_fitted = np.isfinite(amplitude).all(axis=1) & np.isfinite(relative_error).all(axis=1) & converged
    for refused, why in (
        (~is_fitted, "the staircases cannot be fitted"),
        (chi2 > _WORST_CHI2, "the counts do not fall in steps"),
        ((relative_error > _WORST_RELATIVE).any(axis=1), "the steps cannot be told apart"),
        ((amplitude < _LEAST_AMPLITUDE).any(axis=1), f"steps less than {_LEAST_AMPLITUDE} codes apart"),
        (
            use.sum(axis=2).min(axis=1) <= _OF_VOLTAGE,
            "too few thresholds between half a photoelectron and three and a half",
        ),
        (highest < 2.3, "the thresholds do not reach the second step"),
        (second < _MIN_SECOND, f"fewer than {_MIN_SECOND} counts of two photoelectrons"),
        (at_lowest < _MIN_COUNTS, f"fewer than {_MIN_COUNTS} dark counts"),
        (~found, "the counts show no step"),
    ):
        reason[refused] = why
    good = reason == ""
    value, error = np.where(good[:, None], value, np.nan), np.where(good[:, None], error, np.nan)
    return Staircases(
        value[:, place],
        of_log * amplitude[:, :, None] * amplitude[:, None, :],
        value[:, place - 3],
        error[:, place - 3],
        value[:, place - 2],
        error[:, place - 2],
        value[:, 0],
        error[:, 0],
        value[:, 1],
        error[:, 1],
        np.where(good, chi2, np.nan),
        reason,
        steps,
        np.where(use, model, np.nan),
    )


def _start(
    steps: NDArray[np.float64], rate: NDArray[np.float64], relative: NDArray[np.float64], noise: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """From the highest voltage: its first step is the lowest deep fall of the logarithm, above the baseline's noise."""
    n, v, _ = steps.shape
    order = np.argsort(steps[:, -1], axis=1)
    t, r = (np.take_along_axis(a[:, -1], order, axis=1) for a in (steps, rate))
    middle = 0.5 * (t[:, 1:] + t[:, :-1])
    fall = -np.diff(np.log(np.maximum(r, 1e-3)), axis=1) / np.maximum(np.diff(t, axis=1), 1e-9)
    fall = np.where(t[:, :-1] > _NOISE_WIDTHS * noise[:, None], fall, 0.0)
    inner = np.zeros(fall.shape, bool)
    inner[:, 1:-1] = (fall[:, 1:-1] >= fall[:, :-2]) & (fall[:, 1:-1] >= fall[:, 2:])
    deep = inner & (fall > 0.35 * fall.max(axis=1, keepdims=True)) & (fall > 0.02)
    found = deep.any(axis=1)
    first = np.argmax(deep, axis=1)
    top = np.where(found, np.take_along_axis(middle, first[:, None], axis=1)[:, 0], 5.0)
    p = np.zeros((n, _SHARED + _OF_VOLTAGE * v))
    p[:, 1] = np.log(noise)
    p[:, 2] = np.log(0.08)
    for k in range(v):
        amplitude = top * relative[:, k]
        at = [np.argmin(np.abs(steps[:, k] - (x * amplitude)[:, None]), axis=1) for x in (0.55, 1.5)]
        n1, n2 = (np.maximum(np.take_along_axis(rate[:, k], a[:, None], axis=1)[:, 0], 1e-3) for a in at)
        # Below the first step there may be nothing but the baseline's noise: then what is just above it tells.
        p[:, _SHARED + _OF_VOLTAGE * k] = np.log(np.minimum(n1, 30.0 * n2))
        ratio = np.clip(np.log(n2 / n1), np.log(0.03), -0.3)
        p[:, _SHARED + _OF_VOLTAGE * k + 1] = p[:, _SHARED + _OF_VOLTAGE * k + 2] = ratio
        p[:, _SHARED + _OF_VOLTAGE * k + 3] = np.log(amplitude)
    reason = np.full(n, "", object)
    reason[~found] = "the counts show no step"
    return p, reason


def _model(
    steps: NDArray[np.float64], windows: NDArray[np.float64], p: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected counts (n, v, m) and their derivatives (n, v, m, parameters)."""
    from scipy.special import ndtr

    n, v, m = steps.shape
    out, jacobian = np.zeros((n, v, m)), np.zeros((n, v, m, p.shape[1]))
    zero, e2, g2 = p[:, 0], np.exp(2.0 * p[:, 1]), np.exp(2.0 * p[:, 2])
    for level in range(v):
        own = slice(_SHARED + _OF_VOLTAGE * level, _SHARED + _OF_VOLTAGE * (level + 1))
        q = p[:, own]
        total, ratio2, ratio3, a = np.exp(q[:, 0]), np.exp(q[:, 1]), np.exp(q[:, 2]), np.exp(q[:, 3])
        at_least = [total, *(total * ratio2 * ratio3 ** (k - 1) for k in range(1, _K + 1))]
        d = np.zeros((n, m, _OF_VOLTAGE))
        for k in range(1, _K + 1):
            more = at_least[k] if k < _K else np.zeros(n)
            exactly = at_least[k - 1] - more
            variance = e2 + k * g2 * a * a
            sigma = np.sqrt(variance)
            x = (zero[:, None] + k * a[:, None] - steps[:, level]) / sigma[:, None]
            passed = ndtr(x)
            bell = exactly[:, None] * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)
            out[:, level] += exactly[:, None] * passed
            d[:, :, 1] += (at_least[k - 1] * (k > 1) - more)[:, None] * passed
            d[:, :, 2] += (max(k - 2, 0) * at_least[k - 1] - (k - 1) * more)[:, None] * passed
            widen = -bell * x / variance[:, None]
            jacobian[:, level, :, 0] += bell / sigma[:, None]
            jacobian[:, level, :, 1] += widen * e2[:, None]
            jacobian[:, level, :, 2] += widen * (k * g2 * a * a)[:, None]
            d[:, :, 3] += bell / sigma[:, None] * (k * a)[:, None] + widen * (k * g2 * a * a)[:, None]
        d[:, :, 0] = out[:, level]
        jacobian[:, level, :, own] = d
    return out * windows, jacobian * windows[None, :, :, None]


def _fisher(
    steps: NDArray[np.float64],
    y: NDArray[np.float64],
    windows: NDArray[np.float64],
    use: NDArray[np.bool_],
    p: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Largest Poisson likelihood by damped Fisher scoring, all channels at once."""
    n, size = p.shape
    shape = (n, -1)
    y, use = y.reshape(shape), use.reshape(shape)
    p = p.copy()

    def of(at: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        model, jacobian = _model(steps, windows, at)
        model = model.reshape(shape)
        return model, jacobian.reshape(n, -1, size), _deviance(y, model, use) + (weak * (at - mean) ** 2).sum(axis=1)

    # Weak knowledge that keeps what the counts do not tell from running away; far wider than any counts make it.
    mean = p.copy()
    weak = np.array([0.25, 1.0, 1.0] + [0.0, 0.1, 1.0, 0.0] * (size // _OF_VOLTAGE))
    model, jacobian, value = of(p)
    damping, converged = np.full(n, 1e-2), np.zeros(n, bool)
    for _ in range(_ROUNDS):
        w = np.where(use, 1.0 / np.maximum(model, 0.5), 0.0)
        gradient = np.einsum("nmp,nm->np", jacobian, w * (y - model)) - weak * (p - mean)
        information = np.matmul(jacobian.transpose(0, 2, 1), w[:, :, None] * jacobian) + np.diag(weak)
        diagonal = np.einsum("npp->np", information)
        damped = information + (damping[:, None] * np.maximum(diagonal, 1e-6))[:, :, None] * np.eye(size)
        step = np.clip(np.linalg.solve(damped, gradient[:, :, None])[:, :, 0], -0.3, 0.3)
        new_model, new_jacobian, new_value = of(p + step)
        better = np.isfinite(new_value) & (new_value <= value + 1e-9)
        converged |= better & ((value - new_value < 1e-4) | (np.abs(step).max(axis=1) < 1e-6))
        p[better], model[better], jacobian[better] = (p + step)[better], new_model[better], new_jacobian[better]
        value = np.where(better, new_value, value)
        damping = np.clip(np.where(better, damping * 0.3, damping * 5.0), 1e-9, 1e6)
        if converged.all():
            break
    w = np.where(use, 1.0 / np.maximum(model, 0.5), 0.0)
    information = np.matmul(jacobian.transpose(0, 2, 1), w[:, :, None] * jacobian) + np.diag(weak)
    covariance = np.full((n, size, size), np.nan)
    fine = np.isfinite(information).all(axis=(1, 2))
    fine[fine] = np.linalg.cond(information[fine]) < 1e14
    covariance[fine] = np.linalg.inv(information[fine])
    return p, covariance, converged


def _deviance(y: NDArray[np.float64], model: NDArray[np.float64], use: NDArray[np.bool_]) -> NDArray[np.float64]:
    safe = np.maximum(model, 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = 2.0 * (safe - y + np.where(y > 0, y * np.log(np.maximum(y, 1e-9) / safe), 0.0))
    return np.asarray(np.where(use, terms, 0.0).sum(axis=1))
