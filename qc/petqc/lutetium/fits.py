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
from petqc.made_once import MadeOnce

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
    _made: MadeOnce = field(default_factory=MadeOnce)

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
        return self._made.get(("lines", node.name), lambda: self._fit_lines(q, node))

    def _fit_lines(self, q: QcInput, node: Node) -> Lines | Refusal:
        counts = self.counts.gamma_counts[node.members].sum(axis=0, dtype=np.float64)
        return self._try(q, lambda: fit_lines(counts), int(counts.sum()))

    def continuum(self, q: QcInput, node: Node) -> Continuum | Refusal:
        """The singles of a node."""
        return self._made.get(("continuum", node.name), lambda: self._fit_continuum(q, node))

    def _fit_continuum(self, q: QcInput, node: Node) -> Continuum | Refusal:
        edges, counts = q.histograms.energy_edges, q.spectrum(node.members)
        return self._try(q, lambda: fit_continuum(edges, counts), int(counts.sum()))

    def channels(self, q: QcInput) -> ChannelScales:
        """Scale and decays of every channel, from the shape of its module."""
        return self._made.get("channels", lambda: self._fit_channels(q))

    def _fit_channels(self, q: QcInput) -> ChannelScales:
        h = q.histograms
        found = ChannelScales.unknown(len(h.topology))
        for node in q.nodes("module"):
            fit, at = self.continuum(q, node), node.members
            if isinstance(fit, Refusal):
                found.reason[at] = f"its module's spectrum has no fit: {fit.reason}"
                continue
            part = fit_channels(h.energy_edges, h.energy_counts[at], fit)
            for name in ChannelScales.__dataclass_fields__:
                getattr(found, name)[at] = getattr(part, name)
        return found

    def flight(self, q: QcInput) -> FlightFit | Refusal:
        """Times of pairs."""
        return self._made.get("flight", lambda: self._fit_flight(q))

    def _fit_flight(self, q: QcInput) -> FlightFit | Refusal:
        pairs, size = self.counts.pairs(), q.context.crystal_mm
        return self._try(
            q,
            lambda: fit_flight(
                pairs, q.histograms.topology, window_ps=WINDOW_PS,
                material=material_of(q), length_mm=size[2] if size else None,
            ),
            len(pairs),
        )  # fmt: skip

    def offsets(self, q: QcInput) -> Offsets | Refusal:
        """Offsets of all channels, flight and walk being taken out."""
        return self._made.get("offsets", lambda: self._fit_offsets(q))

    def _fit_offsets(self, q: QcInput) -> Offsets | Refusal:
        flight = self.flight(q)
        if isinstance(flight, Refusal):
            return flight
        return self._try(q, lambda: self._solve(q, flight), round(flight.pairs))

    def _solve(self, q: QcInput, flight: FlightFit) -> Offsets:
        pairs, topology = self.counts.pairs(), q.histograms.topology
        inside = flight.component[topology.module] == 0
        keep = inside[pairs.beta] & inside[pairs.gamma]
        start: NDArray[np.float64] = np.nan_to_num(flight.module_ps)[topology.module]
        return solve_offsets(
            pairs.gamma[keep], pairs.beta[keep], flight.left_ps[keep], len(topology),
            window_ps=WINDOW_PS, start_ps=start, sigma_ps=float(flight.sigma_ps.mean()),
        ).with_errors()  # fmt: skip

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
