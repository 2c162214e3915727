"""What a BIAS_32P mezzanine's PROM holds: which mezzanine it is, and the calibration its maker measured.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.9.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from petqc_simulators.boards.spi_devices import BIAS_32P_MAGIC

if TYPE_CHECKING:
    from numpy.typing import NDArray

ADC_PER_V = 2.0e5
"""Codes of the maker's voltmeter; nothing but the table uses them."""
_CALIBRATION_AT = 0x14
_FULL_SCALE_V = 100.0


def adc_codes(volts: NDArray[np.float64]) -> NDArray[np.int64]:
    """What the maker's voltmeter read."""
    return np.rint(np.maximum(volts, 0.0) * ADC_PER_V).astype(np.int64)


def prom_content(codes: NDArray[np.int64], volts: NDArray[np.float64]) -> bytes:
    """Magic and calibration.

    Args:
        codes: (points,) DAC codes.
        volts: (channels, points) true voltages.
    """
    steps = np.clip(np.rint(volts / _FULL_SCALE_V * 2.0**32), 0, 2.0**32 - 1)
    return (
        BIAS_32P_MAGIC.ljust(_CALIBRATION_AT, b"\xff")
        + struct.pack("<QQ", *volts.shape)
        + codes.astype("<u2").tobytes()
        + steps.astype("<u4").tobytes()
        + adc_codes(volts).astype("<u4").tobytes()
    )
