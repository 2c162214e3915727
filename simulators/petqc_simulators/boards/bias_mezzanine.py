"""A bias mezzanine of any kind: its chips on the SPI bus, and the voltages that its outputs truly have.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6 and 4.9.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from petqc_drivers.petsys.mezzanines import BIAS_16P, BIAS_64P, IDENTIFY_BY_PROM
from petqc_drivers.petsys.spi import bias_converter_dac, bias_dac, bias_prom
from petqc_simulators.boards.bias_prom import PROM_BYTES, prom_content
from petqc_simulators.boards.spi_devices import Ad5535, Eeprom, Ltc2668, Max5136, SpiDevice, always

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from petqc_drivers.petsys.mezzanines import BiasKind

EMPTY_SLOT = 0xF
"""What the interface register shows for a slot without a mezzanine: the same as for a BIAS_64P, which shows nothing."""
DROPOUT_V = 0.5
"""How far an output of a BIAS_32P_AG stays below the DC-DC converter that feeds it."""
_INTERFACE = {BIAS_64P.name: 0xF, BIAS_16P.name: 0xE}
_CONVERTER_REFERENCE_V = 2.495
_CONVERTER_DAC_V = 5.0
_CONVERTER_OHMS = (27_000.0, 5431.0, 100_000.0)


def converter_v(code: int) -> float:
    """Output of a DC-DC converter for the code of its DAC: 57.7 V at zero, falling; the inverse of 4.9's formula."""
    dac_ohms, low_ohms, high_ohms = _CONVERTER_OHMS
    dac_v = _CONVERTER_DAC_V * code / 65536
    current = (_CONVERTER_REFERENCE_V - dac_v) / dac_ohms + _CONVERTER_REFERENCE_V / low_ohms
    return _CONVERTER_REFERENCE_V + high_ohms * current


class SetPoints(Protocol):
    """Whoever is told what the mezzanine's chips are told."""

    def output_set(self, slot: int, output: int, code: int) -> None:
        """An output was given a code."""

    def converter_set(self, slot: int, converter: int, code: int) -> None:
        """A DC-DC converter was given a code."""


class Mezzanine:
    """One mezzanine in one slot.

    Args:
        kind: which.
        slot: where it is plugged.
        gain: (outputs,) true against nominal.
        offset_v: (outputs,) true at code 0.
        calibration: codes (points,) and volts (outputs, points) that its maker measured, for its PROM.
        told: is told of each set-point.
        is_supplied: whether the bias supply is on.

    Attributes:
        dacs: in the order of the outputs.
        converter: the DAC of the DC-DC converters; None if it has none.
        prom: None if it has none.
        spi: its chips by SPI id.
    """

    def __init__(
        self,
        kind: BiasKind,
        slot: int,
        *,
        gain: NDArray[np.float64],
        offset_v: NDArray[np.float64],
        calibration: tuple[NDArray[np.int64], NDArray[np.float64]],
        told: SetPoints,
        is_supplied: Callable[[], bool],
        now_s: Callable[[], float],
    ) -> None:
        self.kind = kind
        self.slot = slot
        self._volts_per_code = kind.full_scale_v / (1 << kind.bits)
        self._gain, self._offset_v = gain, offset_v
        # The DACs of a BIAS_16P live on the bias supply itself.
        self._is_on_bias = not kind.hears_without_supply
        n_dacs = kind.n_channels // kind.channels_per_dac

        def on_update(dac: int, output: int, code: int) -> None:
            told.output_set(slot, kind.channels_per_dac * dac + output, code)

        self.dacs: list[Ltc2668 | Ad5535] = [
            Ad5535(partial(on_update, dac))
            if kind.dac == "ad5535"
            else Ltc2668(partial(on_update, dac), is_supplied if self._is_on_bias else always)
            for dac in range(n_dacs)
        ]
        self.converter = Max5136(partial(told.converter_set, slot)) if kind.has_converter else None
        self.prom: Eeprom | None = None
        self.spi: dict[int, SpiDevice] = {bias_dac(slot, dac): chip for dac, chip in enumerate(self.dacs)}
        if self.converter is not None:
            self.spi[bias_converter_dac(slot)] = self.converter
        if kind.prom_layout_at is not None:
            self.prom = Eeprom(PROM_BYTES, prom_content(*calibration, kind), now_s=now_s)
            self.spi[bias_prom(slot)] = self.prom

    @property
    def interface(self) -> int:
        """Its four bits of the interface register."""
        return _INTERFACE.get(self.kind.name, IDENTIFY_BY_PROM)

    def supply_switched(self, *, is_on: bool) -> None:
        """The bias supply was switched; a chip that lives on it loses what it was told."""
        for dac in self.dacs:
            if self._is_on_bias and not is_on and isinstance(dac, Ltc2668):
                dac.lose_power()

    def converter_of(self, output: int) -> int:
        """Which DC-DC converter feeds an output: each DAC's outputs have their own."""
        return output // self.kind.channels_per_dac

    def converters_v(self) -> list[float]:
        """Voltages of the DC-DC converters; none if it has none."""
        return [] if self.converter is None else [converter_v(code) for code in self.converter.codes]

    def volts(self) -> NDArray[np.float64]:
        """(outputs,) what the outputs have with the supply on."""
        codes = np.array([code for dac in self.dacs for code in dac.codes], np.int64)
        volts = np.maximum(self._volts_per_code * codes * self._gain + self._offset_v, 0.0)
        if self.converter is not None:
            bound = np.array(self.converters_v()) - DROPOUT_V
            volts = np.minimum(volts, np.repeat(bound, self.kind.channels_per_dac))
        return volts
