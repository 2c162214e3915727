"""What a bias mezzanine's PROM holds: which mezzanine it is, and the calibration its maker measured.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.9.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from petqc_drivers.petsys.mezzanines import BIAS_32P

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_drivers.petsys.mezzanines import BiasKind

PROM_BYTES = 1 << 15
ADC_PER_V = 2.0e5
"""Codes of the maker's voltmeter; nothing but the table uses them."""
BIAS_32P_MAGIC = bytes.fromhex("2743d49c284147e2bba2ff81d06012d3")
_LAYOUT = 1
_BEGINS: dict[str, tuple[bytes, int]] = {
    "BIAS_16P": (b"PETSYS  " + struct.pack("<Q", _LAYOUT), 0x10),
    "BIAS_32P": (BIAS_32P_MAGIC, 0x14),
    "BIAS_32P_AG": (bytes.fromhex("3653774872365577685357496b764a50"), 0x14),
    "BIAS_32P_LTC2439": (bytes.fromhex("2b0c37c0a1a549e3ae22f37c7bae4519"), 0x14),
}
"""How the PROM of each kind begins, and where its calibration does."""
_FULL_SCALE_V = 100.0


def adc_codes(volts: NDArray[np.float64]) -> NDArray[np.int64]:
    """What the maker's voltmeter read."""
    return np.rint(np.maximum(volts, 0.0) * ADC_PER_V).astype(np.int64)


def prom_content(codes: NDArray[np.int64], volts: NDArray[np.float64], kind: BiasKind = BIAS_32P) -> bytes:
    """Magic and calibration.

    Args:
        codes: (points,) DAC codes.
        volts: (channels, points) true voltages.
        kind: the mezzanine; one that has a PROM.
    """
    begin, calibration_at = _BEGINS[kind.name]
    steps = np.clip(np.rint(volts / _FULL_SCALE_V * 2.0**32), 0, 2.0**32 - 1)
    return (
        begin.ljust(calibration_at, b"\xff")
        + struct.pack("<QQ", *volts.shape)
        + codes.astype("<u2").tobytes()
        + steps.astype("<u4").tobytes()
        + adc_codes(volts).astype("<u4").tobytes()
    )
