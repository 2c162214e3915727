"""SiPMs: what overvoltage and temperature do to light detection, gain, crosstalk and dark counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.profile import Crystal, Sipm


CELL_GAIN_SPREAD = 0.08
"""Standard deviation of the amplitude of one cell around the mean, relative: cell to cell, and avalanche."""
STAIRCASE_CELLS = 24
"""Longest chain that is told apart; one in 10^15 dark counts is longer."""


@dataclass(frozen=True, slots=True)
class SipmState:
    """How each channel's SiPM and crystal answer at one voltage and temperature; all (channels,) float64.

    overvoltage_v; pde, gain and light: relative to nominal conditions; crosstalk: mean extra cells per fired cell;
    dark_hz: dark count rate.
    """

    overvoltage_v: NDArray[np.float64]
    pde: NDArray[np.float64]
    gain: NDArray[np.float64]
    light: NDArray[np.float64]
    crosstalk: NDArray[np.float64]
    dark_hz: NDArray[np.float64]

    @property
    def fired_per_photon(self) -> NDArray[np.float64]:
        """Fired cells per scintillation photon before saturation, relative to no crosstalk at nominal conditions."""
        return self.pde * self.light * (1.0 + self.crosstalk)

    @property
    def signal(self) -> NDArray[np.float64]:
        """Charge per keV before saturation, relative to no crosstalk at nominal conditions."""
        return self.fired_per_photon * self.gain


def sipm_state(
    sipm: Sipm,
    crystal: Crystal,
    bias_v: NDArray[np.float64],
    breakdown_v: NDArray[np.float64],
    warmer_k: NDArray[np.float64],
) -> SipmState:
    """State of each channel.

    Args:
        sipm: the sensor's numbers.
        crystal: the crystal's numbers (light yield against temperature).
        bias_v: (n,) voltage at the sensor.
        breakdown_v: (n,) breakdown voltage at the calibration temperature.
        warmer_k: (n,) temperature above the calibration temperature.

    Source: models and typical sizes of section 2h of the daily-QC physics notes: linear gain above breakdown, PDE as
    1 - exp(-overvoltage / scale), dark counts doubling every 8 to 10 K, light yield of LYSO -0.2 %/K.
    """
    over = np.maximum(bias_v - breakdown_v - sipm.breakdown_v_per_k * warmer_k, 0.0)
    relative = over / sipm.overvoltage_v
    pde = -np.expm1(-over / sipm.pde_scale_v) / -np.expm1(-sipm.overvoltage_v / sipm.pde_scale_v)
    return SipmState(
        overvoltage_v=over,
        pde=pde,
        gain=relative,
        light=1.0 + crystal.light_yield_per_k * warmer_k,
        crosstalk=sipm.crosstalk_per_v * over,
        dark_hz=sipm.dark_rate_hz * relative**1.5 * np.exp2(warmer_k / sipm.dark_doubling_k),
    )


def fired_cells(expected: NDArray[np.float64], cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cells that fire when `expected` would fire without saturation. Source: daily-QC notes, section 2a."""
    return -cells * np.expm1(-expected / cells)


def dark_pulse_rate_hz(
    dark_hz: NDArray[np.float64], crosstalk: NDArray[np.float64], threshold_cells: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rate of dark counts that pass a threshold in fired cells, crosstalk as a geometric chain.

    A chain of more than k cells has the probability p^k, p the probability that a cell fires another one. For
    thresholds far above single cells, where how wide one step is does not matter.
    """
    more_than = np.floor(np.maximum(threshold_cells, 0.0))
    return np.asarray(dark_hz * np.exp(np.maximum(_log_share(crosstalk) * more_than, -700.0)))


def dark_staircase_hz(
    dark_hz: NDArray[np.float64],
    crosstalk: NDArray[np.float64],
    threshold_cells: NDArray[np.float64],
    noise_cells: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Rate of dark counts that pass a threshold, where every chain's amplitude is smeared.

    Args:
        dark_hz: rate of dark counts.
        crosstalk: mean extra cells per fired cell.
        threshold_cells: threshold in amplitudes of one cell; may lie below the baseline.
        noise_cells: standard deviation of the electronic noise, in the same unit; gain differs from cell to cell by
            CELL_GAIN_SPREAD on top.
    """
    log_share = _log_share(crosstalk)
    passed = np.zeros(np.broadcast_shapes(np.shape(threshold_cells), np.shape(dark_hz)))
    for k in range(1, STAIRCASE_CELLS + 1):
        sigma = np.sqrt(noise_cells**2 + k * CELL_GAIN_SPREAD**2)
        exactly = np.exp(log_share * (k - 1)) * (-np.expm1(log_share) if k < STAIRCASE_CELLS else 1.0)
        passed += exactly * ndtr((k - threshold_cells) / sigma)
    return np.asarray(dark_hz * passed)


def _log_share(crosstalk: NDArray[np.float64]) -> NDArray[np.float64]:
    share = crosstalk / (1.0 + crosstalk)
    with np.errstate(divide="ignore"):
        return np.where(share > 0.0, np.log(np.maximum(share, 1e-300)), -700.0)
