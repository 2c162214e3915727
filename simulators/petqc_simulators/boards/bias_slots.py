"""The bias mezzanines of a board, and which of their outputs serve its share of the detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc_simulators.boards.bias_mezzanine import EMPTY_SLOT, Mezzanine
from petqc_simulators.physics.draw import bias_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from petqc_drivers.petsys.mezzanines import BiasKind
    from petqc_simulators.boards.witness import BiasWitness
    from petqc_simulators.physics.draw import Draw
    from petqc_simulators.profile import Profile

_ALL_EMPTY = 0xFFFF


class BiasSlots:
    """All slots of one board.

    Args:
        profile: the scanner.
        draw: its detector, whose outputs these are.
        outputs: which of the detector's outputs are this board's.
        witness: is told of each set-point.
        now_s: the time.
        is_supplied: whether the bias supply is on.
        on_change: is called after each set-point.

    Attributes:
        mezzanines: by slot.
    """

    def __init__(
        self,
        profile: Profile,
        draw: Draw,
        outputs: slice,
        witness: BiasWitness,
        *,
        now_s: Callable[[], float],
        is_supplied: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._draw, self._outputs = draw, outputs
        self._witness, self._now_s, self._is_supplied, self._on_change = witness, now_s, is_supplied, on_change
        self._places = profile.hardware.bias_places(profile.outputs_per_board)
        self.mezzanines = [self._mezzanine(slot, kind) for slot, kind in enumerate(profile.hardware.mezzanines)]

    def _mezzanine(self, slot: int, kind: BiasKind) -> Mezzanine:
        """Outputs that serve crystals are those of the detector, the others are as they should be."""
        gain, offset_v = np.ones(kind.n_channels), np.zeros(kind.n_channels)
        for number, (at, output) in enumerate(self._places):
            if at == slot:
                gain[output] = self._draw.dac_gain[self._outputs.start + number]
                offset_v[output] = self._draw.dac_offset_v[self._outputs.start + number]
        return Mezzanine(
            kind,
            slot,
            gain=gain,
            offset_v=offset_v,
            calibration=bias_points(gain, offset_v, kind),
            told=self,
            is_supplied=self._is_supplied,
            now_s=self._now_s,
        )

    @property
    def interface(self) -> int:
        """The interface register: four bits for each slot."""
        value = _ALL_EMPTY
        for mezzanine in self.mezzanines:
            value ^= (EMPTY_SLOT ^ mezzanine.interface) << 4 * mezzanine.slot
        return value

    def volts(self) -> NDArray[np.float64]:
        """(outputs of this board,) what they are given now; without mezzanines, by the laboratory's own supply."""
        if not self.mezzanines:
            return self._draw.output_v(self._draw.bias_code[self._outputs], self._outputs)
        if not self._is_supplied():
            return np.zeros(len(self._places))
        volts = [mezzanine.volts() for mezzanine in self.mezzanines]
        return np.array([volts[slot][output] for slot, output in self._places], np.float64)

    def output_set(self, slot: int, output: int, code: int) -> None:
        """A bias output was given a code."""
        mezzanine, place = self.mezzanines[slot], (slot, output)
        converters_v = mezzanine.converters_v()
        self._witness.set_point(
            self._now_s(),
            self._places.index(place) if place in self._places else None,
            code,
            float(mezzanine.volts()[output]),
            place=(slot, *divmod(output, mezzanine.kind.channels_per_dac)),
            is_supplied=self._is_supplied(),
            converter_v=converters_v[mezzanine.converter_of(output)] if converters_v else None,
        )
        self._on_change()

    def converter_set(self, slot: int, converter: int, code: int) -> None:
        """The DC-DC converter of a mezzanine was given a code."""
        volts = round(self.mezzanines[slot].converters_v()[converter], 4)
        self._witness.note(self._now_s(), "converter", slot=slot, converter=converter, code=code, volts=volts)
        self._on_change()
