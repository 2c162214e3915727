"""The bias mezzanines: what each kind can do, and how one says which it is.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.2 (0x0030) and 4.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasKind:
    """A kind of bias mezzanine.

    Attributes:
        name: Its name.
        dac: Its DACs: one that shows the code it took (ltc2668), or one that shows nothing (ad5535).
        n_channels: Outputs.
        channels_per_dac: Outputs of one DAC.
        bits: Of a DAC.
        full_scale_v: Nominal output at full code, and the highest voltage that any hard limit may allow.
        lowest_code: Least code it is ever given (about 1 V).
        hears_without_supply: Its DACs can be told something while the bias supply is off.
        has_converter: A DC-DC converter of its own feeds its outputs and must be set before them.
        prom_layout_at: Where its PROM's calibration is shifted to, in bytes; None if it has no PROM.
    """

    name: str
    dac: Literal["ltc2668", "ad5535"]
    n_channels: int
    channels_per_dac: int
    bits: int
    full_scale_v: float
    lowest_code: int
    hears_without_supply: bool = True
    has_converter: bool = False
    prom_layout_at: int | None = None

    @property
    def shows_code(self) -> bool:
        """Whether a DAC shows the code it took; if not, that a message was carried out is all that can be known."""
        return self.dac == "ltc2668"

    @property
    def n_set_before_supply(self) -> int:
        """Outputs, and converters, that are brought to their lowest before the supply is switched on."""
        return self.n_channels + self.has_converter if self.hears_without_supply else 0

    def nominal_volts(self, code: int) -> float:
        """Nominal output of a code; calibrations differ from it by a few percent."""
        return code * self.full_scale_v / (1 << self.bits)


def _of_32(name: str, *, has_converter: bool = False) -> BiasKind:
    return BiasKind(
        name=name,
        dac="ltc2668",
        n_channels=32,
        channels_per_dac=16,
        bits=16,
        full_scale_v=60.0,
        lowest_code=0x0445,
        has_converter=has_converter,
        prom_layout_at=4,
    )


BIAS_64P: Final = BiasKind(
    name="BIAS_64P",
    dac="ad5535",
    n_channels=64,
    channels_per_dac=32,
    bits=14,
    full_scale_v=200.0,
    lowest_code=82,
)
BIAS_16P: Final = BiasKind(
    name="BIAS_16P",
    dac="ltc2668",
    n_channels=16,
    channels_per_dac=16,
    bits=16,
    full_scale_v=75.0,
    lowest_code=874,
    hears_without_supply=False,
    prom_layout_at=0,
)
BIAS_32P: Final = _of_32("BIAS_32P")
BIAS_32P_AG: Final = _of_32("BIAS_32P_AG", has_converter=True)
BIAS_32P_LTC2439: Final = _of_32("BIAS_32P_LTC2439")

KINDS: Final[Mapping[str, BiasKind]] = {
    kind.name: kind for kind in (BIAS_64P, BIAS_16P, BIAS_32P, BIAS_32P_AG, BIAS_32P_LTC2439)
}

CONVERTER_MIN_V: Final = 39.5
CONVERTER_MAX_V: Final = 57.0
"""Range of the DC-DC converter of a BIAS_32P_AG."""
CONVERTER_HEADROOM_V: Final = 2.0
"""How much more than its highest output it gives."""

PROM_MAGIC: Final = {
    bytes.fromhex("2743d49c284147e2bba2ff81d06012d3"): "BIAS_32P",
    bytes.fromhex("3653774872365577685357496b764a50"): "BIAS_32P_AG",
    bytes.fromhex("2b0c37c0a1a549e3ae22f37c7bae4519"): "BIAS_32P_LTC2439",
}
"""First 16 bytes of a mezzanine's PROM."""
PROM_MAGIC_BYTES: Final = 16
_BY_INTERFACE: Final = {0xF: "BIAS_64P", 0xE: "BIAS_16P"}
IDENTIFY_BY_PROM: Final = 0xD


def interface_nibble(bias_interface: int, slot: int) -> int:
    """The four bits of the register `bias_interface` that belong to a slot."""
    return bias_interface >> (4 * slot) & 0xF


def mezzanine_name(nibble: int, magic: bytes | None) -> str:
    """Name of the mezzanine in a slot from its interface bits and, where those say so, the begin of its PROM."""
    if nibble == IDENTIFY_BY_PROM:
        return PROM_MAGIC.get(magic or b"", f"unknown mezzanine (PROM begins {(magic or b'').hex() or 'with nothing'})")
    return _BY_INTERFACE.get(nibble, f"unknown mezzanine (interface {nibble:#x})")
