"""QC without a source: what the Lu-176 of the crystals themselves shows.

Each decay gives an electron of up to 593 keV and, in cascade, gammas of 307, 202 and 88 keV. A gamma that leaves its
module for another one makes a pair: the electron's module is told by more energy than any gamma has, the other one
shows the line. `LutetiumCounts` collects these pairs in bounded memory; `crystals` has the physics, `lines`, `spectra`
and `times` the estimators, pure functions of what was counted.

Source: daily-qc.md §2g (energy lines: Enriquez 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.events import Coincidences
    from petqc.histograms import ProcessedLike

BETA_KEV = 400.0
"""More than this is an electron's: the gammas come to 307 keV. Source: daily-qc.md §2g."""
WINDOW_PS = 8000.0
"""Full width of the run's own coincidence window. Source: daily-qc.md §2g (±4 ns: clinical ones cut the peaks)."""
ENERGY_KEV = (150.0, 1300.0)
"""Energies of singles that are paired. Source: daily-qc.md §2g (threshold 150 to 250 keV)."""
PROCESSING: Mapping[str, Any] = {"coincidence_window_ps": WINDOW_PS, "coincidence_energy": ENERGY_KEV}
"""Settings of the event processing that such a run has of its own."""
GAMMA_BIN_KEV = 4.0
GAMMA_BINS = 100
LINE_WINDOWS_KEV = ((170.0, 240.0), (265.0, 350.0))
"""Gammas of these energies are taken for absorbed ones of the two lines: two standard deviations to each side."""


@dataclass(frozen=True, slots=True)
class BetaGammaPairs:
    """Pairs kept one by one; all (n,).

    beta, gamma: positions of the channels in the topology. dt_ps: gamma's time minus the electron's. beta_kev,
    gamma_kev: energies. alone: whether both singles have one hit: of several the strongest is timed. Beside an
    electron that may be a gamma that it came with, absorbed some millimetres further; of a scattered gamma it has less
    energy than the whole, so that it is later than its single's energy says.
    """

    beta: NDArray[np.int32]
    gamma: NDArray[np.int32]
    dt_ps: NDArray[np.float32]
    beta_kev: NDArray[np.float32]
    gamma_kev: NDArray[np.float32]
    alone: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.beta.size)


class LutetiumCounts:
    """Beta-gamma pairs of a run: spectra of all, and those in a line one by one, up to a bound.

    Attributes:
        topology: the channels.
        gamma_counts: (n_channels, GAMMA_BINS) uint32, gamma energies of prompt pairs by the gamma's channel.
        gamma_randoms: the same of the delayed window, each random counted twice (either single is delayed once).
        beta_pairs: (n_channels,) int64, prompt pairs by the electron's channel.
        both_high: prompts with both energies above BETA_KEV, which only a source or chance makes.
        stride: every stride-th pair in a line is kept one by one.
    """

    def __init__(self, topology: Topology, *, most_pairs: int = 2_000_000) -> None:
        self.topology = topology
        n = len(topology)
        self.gamma_counts = np.zeros((n, GAMMA_BINS), np.uint32)
        self.gamma_randoms = np.zeros((n, GAMMA_BINS), np.uint32)
        self.beta_pairs = np.zeros(n, np.int64)
        self.both_high = 0
        self.stride = 1
        self._most = most_pairs
        self._seen = 0
        self._kept: list[NDArray[np.float32]] = []
        self._n_kept = 0

    def add(self, processed: ProcessedLike) -> None:
        """Count what one feed of the processor gave."""
        self._add(processed.prompts, self.gamma_counts, keep=True)
        self._add(processed.delayed, self.gamma_randoms, keep=False)

    def pairs(self) -> BetaGammaPairs:
        """The pairs that were kept one by one."""
        if len(self._kept) != 1:
            self._kept = [np.concatenate(self._kept, axis=1) if self._kept else np.empty((6, 0), np.float32)]
        rows = self._kept[0]
        beta, gamma = rows[:2].astype(np.int32)
        return BetaGammaPairs(beta, gamma, rows[2], rows[3], rows[4], rows[5] > 0.0)

    def _add(self, pairs: Coincidences, spectra: NDArray[np.uint32], *, keep: bool) -> None:
        if not len(pairs):
            return
        if pairs.energy_unit != "kev":
            return  # the checks say so
        index_a, index_b = (self.topology.index_of(c) for c in (pairs.channel_a, pairs.channel_b))
        known = (index_a >= 0) & (index_b >= 0)
        known &= self.topology.module[index_a] != self.topology.module[index_b]
        dt = pairs.time_a_ps - pairs.time_b_ps
        if keep:
            self.both_high += int((known & (pairs.energy_a > BETA_KEV) & (pairs.energy_b > BETA_KEV)).sum())
        alone = (pairs.n_hits_a <= 1) & (pairs.n_hits_b <= 1)
        for beta, gamma, beta_kev, gamma_kev, sign in (
            (index_a, index_b, pairs.energy_a, pairs.energy_b, -1),
            (index_b, index_a, pairs.energy_b, pairs.energy_a, 1),
        ):
            mine = known & (beta_kev > BETA_KEV) & (gamma_kev >= 0.0) & (gamma_kev < GAMMA_BIN_KEV * GAMMA_BINS)
            np.add.at(spectra, (gamma[mine], (gamma_kev[mine] / GAMMA_BIN_KEV).astype(np.int64)), np.uint32(1))
            if not keep:
                continue
            self.beta_pairs += np.bincount(beta[mine], minlength=self.beta_pairs.size)
            mine &= np.logical_or.reduce([(gamma_kev > low) & (gamma_kev < high) for low, high in LINE_WINDOWS_KEV])
            rows = np.stack([beta, gamma, sign * dt, beta_kev, gamma_kev, alone])
            self._keep(rows[:, mine].astype(np.float32))

    def _keep(self, rows: NDArray[np.float32]) -> None:
        first = -self._seen % self.stride
        self._seen += rows.shape[1]
        chosen = rows[:, first :: self.stride]
        if not chosen.shape[1]:
            return
        self._kept.append(chosen)
        self._n_kept += chosen.shape[1]
        while self._n_kept > self._most:
            self._kept = [np.ascontiguousarray(np.concatenate(self._kept, axis=1)[:, ::2])]
            self._n_kept = self._kept[0].shape[1]
            self.stride *= 2
