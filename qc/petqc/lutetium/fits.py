"""What the checks of a source-free run share: every fit is made once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from petqc.errors import QcError, TooFewCountsError
from petqc.fits.energy_fits import Refusal
from petqc.fits.offsets import Offsets, solve_offsets
from petqc.lutetium import WINDOW_PS
from petqc.lutetium.crystals import MATERIALS, Material
from petqc.lutetium.lines import Lines, fit_lines
from petqc.lutetium.spectra import ChannelScales, Continuum, fit_channels, fit_continuum
from petqc.lutetium.times import FlightFit, fit_flight

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from petqc.lutetium import LutetiumCounts
    from petqc.qc_input import Node, QcInput

T = TypeVar("T")

_SOURCE_SHARE = 0.3
"""Pairs with both energies above 400 keV against beta-gamma pairs: lutetium alone makes next to none."""
_MIN_PAIRS = 200


@dataclass(slots=True)
class LutetiumFits:
    """Fits of one run, by node name where they have one."""

    counts: LutetiumCounts
    _lines: dict[str, Lines | Refusal] = field(default_factory=dict)
    _continua: dict[str, Continuum | Refusal] = field(default_factory=dict)
    _channels: ChannelScales | None = None
    _flight: FlightFit | Refusal | None = None
    _offsets: Offsets | Refusal | None = None

    def spoiled(self, q: QcInput) -> str:
        """Why nothing of the run can be used; empty if it can."""
        if not q.is_kev:
            return f"energies are in {q.energy_unit}, not in keV: the lines of lutetium have no place there"
        material = q.context.crystal_material
        if material and material not in MATERIALS:
            return f"{material} is not a crystal with lutetium that is known here: {', '.join(MATERIALS)}"
        tagged = int(self.counts.beta_pairs.sum())
        if self.counts.both_high > _MIN_PAIRS and self.counts.both_high > _SOURCE_SHARE * tagged:
            return (
                f"{self.counts.both_high} coincidences have both energies above 400 keV, as only a source makes them: "
                "take it out and repeat the run"
            )
        return ""

    def lines(self, q: QcInput, node: Node) -> Lines | Refusal:
        """The lines of gammas that were absorbed in a node."""
        if node.name not in self._lines:
            counts = self.counts.gamma_counts[node.members].sum(axis=0, dtype=np.float64)
            self._lines[node.name] = self._try(q, lambda: fit_lines(counts), int(counts.sum()))
        return self._lines[node.name]

    def continuum(self, q: QcInput, node: Node) -> Continuum | Refusal:
        """The singles of a node."""
        if node.name not in self._continua:
            edges, counts = q.histograms.energy_edges, q.spectrum(node.members)
            self._continua[node.name] = self._try(q, lambda: fit_continuum(edges, counts), int(counts.sum()))
        return self._continua[node.name]

    def channels(self, q: QcInput) -> ChannelScales:
        """Scale and decays of every channel, from the shape of its module."""
        if self._channels is None:
            h = q.histograms
            n = len(h.topology)
            found = ChannelScales.unknown(n)
            for node in q.nodes("module"):
                fit, at = self.continuum(q, node), node.members
                if isinstance(fit, Refusal):
                    found.reason[at] = f"its module's spectrum has no fit: {fit.reason}"
                    continue
                part = fit_channels(h.energy_edges, h.energy_counts[at], fit)
                for name in ChannelScales.__dataclass_fields__:
                    getattr(found, name)[at] = getattr(part, name)
            self._channels = found
        return self._channels

    def flight(self, q: QcInput) -> FlightFit | Refusal:
        """Times of pairs."""
        if self._flight is None:
            pairs = self.counts.pairs()
            context = q.context
            self._flight = self._try(
                q,
                lambda: fit_flight(
                    pairs, q.histograms.topology, window_ps=WINDOW_PS,
                    material=material_of(q), length_mm=context.crystal_mm[2] if context.crystal_mm else None,
                ),
                len(pairs),
            )  # fmt: skip
        return self._flight

    def offsets(self, q: QcInput) -> Offsets | Refusal:
        """Offsets of all channels, flight and walk being taken out."""
        if self._offsets is None:
            flight = self.flight(q)
            self._offsets = flight if isinstance(flight, Refusal) else self._try(
                q, lambda: self._solve(q, flight), round(flight.pairs)
            )  # fmt: skip
        return self._offsets

    def _solve(self, q: QcInput, flight: FlightFit) -> Offsets:
        pairs, topology = self.counts.pairs(), q.histograms.topology
        inside = flight.component[topology.module] == 0
        keep = inside[pairs.beta] & inside[pairs.gamma]
        start: NDArray[np.float64] = np.nan_to_num(flight.module_ps)[topology.module]
        return solve_offsets(
            pairs.gamma[keep], pairs.beta[keep], flight.left_ps[keep], len(topology),
            window_ps=WINDOW_PS, start_ps=start, sigma_ps=float(flight.sigma_ps.mean()),
        )  # fmt: skip

    def _try(self, q: QcInput, fit: Callable[[], T], n: int) -> T | Refusal:
        why = self.spoiled(q)
        if why:
            return Refusal(why, n)
        try:
            return fit()
        except QcError as error:
            return Refusal(str(error), n)


def material_of(q: QcInput) -> Material | None:
    """The crystals' material, if the configuration says it."""
    return MATERIALS.get(q.context.crystal_material)


def decays_per_channel(q: QcInput) -> float:
    """Decays that each crystal had in the live time.

    Raises:
        TooFewCountsError: material, size or live time is not known.
    """
    material, size, live = material_of(q), q.context.crystal_mm, q.live_time_s
    if material is None or size is None or not live:
        missing = "material" if material is None else "size" if size is None else "live time"
        raise TooFewCountsError(f"the crystals' {missing} is not known: efficiency is relative to the mean module")
    return material.activity_bq_per_cm3 * size[0] * size[1] * size[2] * 1e-3 * live


def random_share(counts: LutetiumCounts) -> float:
    """Share of randoms among beta-gamma pairs, from the delayed window, where each is counted twice."""
    total = float(counts.gamma_counts.sum())
    return 0.5 * float(counts.gamma_randoms.sum()) / total if total else 0.0
