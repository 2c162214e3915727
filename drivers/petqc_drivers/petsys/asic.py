"""ASIC configuration of TOFPET2 chips 2B and 2C: named fields to and from the bits that travel.

A configuration is held as an integer whose most significant bit is transmitted first, so that "bit k" of the field
tables is the bit of weight 2**k. Values that do not fit a field are refused.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.5; the power-on
strings there check the tables here (tests/golden/petsys.toml).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from petqc_drivers.petsys.wire import CHANNEL_BITS, GLOBAL_BITS, WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

Block = Literal["global", "channel"]


class AsicVersion(Enum):
    """Chip version; the power-on global configuration tells which."""

    V2B = "2B"
    V2C = "2C"


@dataclass(frozen=True, slots=True)
class Field:
    """One named field: its bit numbers from most to least significant, power-on value and value at initialisation."""

    name: str
    bits: tuple[int, ...]
    reset: int
    default: int

    @property
    def maximum(self) -> int:
        """Largest value that fits."""
        return (1 << len(self.bits)) - 1

    def put(self, configuration: int, value: int) -> int:
        """The configuration with this field set.

        Raises:
            WireError: If the value does not fit the field.
        """
        if not 0 <= value <= self.maximum:
            raise WireError(f"ASIC field {self.name}: {value} does not fit 0..{self.maximum}")
        for place, bit in enumerate(reversed(self.bits)):
            configuration = configuration & ~(1 << bit) | (value >> place & 1) << bit
        return configuration

    def get(self, configuration: int) -> int:
        """The field's value in a configuration."""
        value = 0
        for bit in self.bits:
            value = value << 1 | configuration >> bit & 1
        return value


_Row = tuple[str, tuple[str, int, int], tuple[str, int, int]]


def _both(name: str, bits: str, reset: int, default: int) -> _Row:
    return name, (bits, reset, default), (bits, reset, default)


# name, then for 2B and for 2C: bits (from most to least significant), power-on value, value at initialisation
_GLOBAL: Final[tuple[_Row, ...]] = (
    _both("tx_nlinks", "1..0", 2, 2),
    _both("tx_ddr", "2", 1, 1),
    _both("tx_mode", "4..3", 2, 2),
    _both("debug_mode", "5", 0, 0),
    _both("veto_mode", "11..6", 0, 0),
    _both("tdc_clk_div", "12", 1, 1),
    _both("r_clk_en", "15..13", 6, 6),
    _both("stop_ramp_en", "19..18", 0, 0),
    _both("counter_en", "20", 1, 0),
    ("counter_period", ("23..21", 0, 4), ("23..21", 7, 6)),
    _both("tac_refresh_en", "24", 1, 1),
    _both("tac_refresh_period", "28..25", 9, 9),
    _both("data_clk_div", "30..29", 0, 0),
    _both("unused_1", "31", 0, 0),
    _both("fetp_enable", "32", 0, 0),
    _both("input_polarity", "33", 1, 1),
    _both("attenuator_ls", "34..39", 47, 47),
    _both("v_ref_diff_bias_ig", "40..45", 57, 57),
    _both("v_cal_ref_ig", "46..50", 31, 31),
    _both("fe_postamp_t", "51..55", 23, 23),
    _both("fe_postamp_e", "56..60", 20, 20),
    _both("v_cal_tp_top", "61..65", 31, 1),
    _both("v_cal_diff_bias_ig", "66..70", 31, 0),
    _both("v_att_diff_bias_ig", "71..76", 35, 35),
    _both("v_integ_ref_ig", "77..82", 59, 59),
    _both("imirror_bias_top", "83..87", 23, 23),
    _both("tdc_comp_bias", "88..92", 27, 4),
    _both("tdc_i_lsb", "93..97", 19, 19),
    _both("disc_lsb_t1", "98..103", 58, 58),
    ("fe_ib2", ("134 104 105 106 107 108", 44, 0), ("134 176 104 105 106 107 108", 108, 0)),
    _both("vdifffoldcas", "109..114", 54, 54),
    _both("disc_vcas", "115..118", 14, 14),
    _both("disc_lsb_e", "119..124", 57, 40),
    _both("tdc_i_ref", "125..129", 18, 18),
    _both("tdc_comp_vcas", "130..133", 2, 2),
    ("main_global_dac", ("135..139", 17, 11), ("135..139", 17, 23)),
    _both("fe_ib1", "140..145", 59, 59),
    _both("disc_ib", "146..151", 19, 19),
    _both("disc_lsb_t2", "152..157", 45, 48),
    _both("tdc_tac_vcas_p", "158..162", 13, 13),
    _both("tdc_tac_vcas_n", "163..166", 7, 7),
    _both("adebug_out_mode", "167..168", 3, 3),
    _both("tdc_global_dac", "169..174", 52, 19),
    ("adebug_buffer", ("", 0, 0), ("175", 1, 1)),
    _both("disc_sf_bias", "178..183", 35, 0),
)

_CHANNEL: Final[tuple[_Row, ...]] = (
    _both("trigger_mode_1", "1..0", 0, 0),
    _both("debug_mode", "3..2", 0, 0),
    _both("sync_chain_length", "5..4", 0, 0),
    _both("dead_time", "11..6", 0, 0),
    _both("counter_mode", "15..12", 0, 0),
    _both("tac_max_age", "20..16", 31, 30),
    _both("tac_min_age", "25..21", 10, 10),
    _both("trigger_mode_2_t", "27..26", 1, 1),
    _both("trigger_mode_2_e", "30..28", 2, 2),
    _both("trigger_mode_2_q", "32..31", 1, 1),
    _both("trigger_mode_2_b", "35..33", 5, 5),
    _both("branch_en_eq", "36", 1, 1),
    _both("branch_en_t", "37", 1, 1),
    _both("qdc_mode", "38", 1, 1),
    _both("trigger_b_latched", "39", 0, 0),
    ("min_intg_time", ("46..40", 7, 15), ("46..40", 7, 34)),
    ("max_intg_time", ("53..47", 14, 15), ("53..47", 14, 34)),
    _both("output_en", "55..54", 0, 0),
    _both("qtx2_en", "56", 0, 0),
    _both("baseline_t", "62..57", 61, 61),
    _both("vth_t1", "68..63", 56, 56),
    _both("vth_t2", "74..69", 47, 47),
    _both("vth_e", "80..75", 19, 19),
    ("baseline_e", ("83..81", 7, 7), ("82 83 81", 7, 7)),
    _both("fe_delay", "84 88 87 85 86", 16, 14),
    _both("postamp_gain_t", "89..90", 0, 0),
    _both("postamp_gain_e", "91..92", 0, 0),
    _both("postamp_sh_e", "94..93", 0, 0),
    _both("intg_en", "95", 1, 1),
    _both("intg_signal_en", "96", 1, 1),
    _both("att", "99..97", 6, 1),
    _both("tdc_current_t", "103..100", 0, 0),
    _both("tdc_current_e", "107..104", 0, 0),
    _both("fe_tp_en", "109..108", 0, 0),
    _both("ch63_obuf_msb", "110", 1, 1),
    ("integ_source_sw", ("111", 0, 0), ("112..111", 0, 0)),
    _both("t1_hysteresis", "117..115", 2, 2),
    _both("t2_hysteresis", "120..118", 2, 2),
    _both("e_hysteresis", "123..121", 2, 2),
    _both("hysteresis_en_n", "124", 1, 1),
)

N_BITS: Final[Mapping[Block, int]] = {"global": GLOBAL_BITS, "channel": CHANNEL_BITS}

POWER_ON_GLOBAL: Final[Mapping[AsicVersion, int]] = {
    AsicVersion.V2B: 0xC797F5ADCB78D133BB665F3BEEF8FFE5EFE7F61310D016,
    AsicVersion.V2C: 0xC797F5ADCB78D133BB665F3BEEF8FFE5EFE7F613F0D016,
}
"""Global configuration after a reset, bit for bit; it is how chips are told apart."""
POWER_ON_CHANNEL: Final = 0xA482006C00F4EFE3D0383BD52AF80000 >> 3
"""Channel configuration after a reset (the three lowest bits of the 16 bytes are padding)."""


def _bit_numbers(text: str) -> tuple[int, ...]:
    if ".." not in text:
        return tuple(int(part) for part in text.split())
    first, last = (int(part) for part in text.split(".."))
    return tuple(range(first, last + 1) if last >= first else range(first, last - 1, -1))


@cache
def fields(block: Block, version: AsicVersion) -> Mapping[str, Field]:
    """The fields of a block by name."""
    column = 1 if version is AsicVersion.V2B else 2
    found: dict[str, Field] = {}
    for row in _GLOBAL if block == "global" else _CHANNEL:
        bits, reset, default = row[1] if column == 1 else row[2]
        if bits:
            found[row[0]] = Field(row[0], _bit_numbers(bits), reset, default)
    return found


@dataclass(frozen=True, slots=True)
class AsicConfiguration:
    """One global or channel configuration of a chip of one version."""

    block: Block
    version: AsicVersion
    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1 << N_BITS[self.block]:
            raise WireError(f"{self.block} configuration does not fit {N_BITS[self.block]} bits")

    @classmethod
    def power_on(cls, block: Block, version: AsicVersion) -> AsicConfiguration:
        """What the chip holds after a reset."""
        return cls(block, version, POWER_ON_GLOBAL[version] if block == "global" else POWER_ON_CHANNEL)

    @classmethod
    def default(cls, block: Block, version: AsicVersion) -> AsicConfiguration:
        """What is uploaded at initialisation when nothing else is asked for."""
        return cls.power_on(block, version).replace({f.name: f.default for f in fields(block, version).values()})

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
            WireError: If this block of this version has no such field.
        """
        found = fields(self.block, self.version).get(name)
        if found is None:
            raise WireError(f"ASIC {self.version.value} has no {self.block} field {name!r}")
        return found

    def __getitem__(self, name: str) -> int:
        return self.field(name).get(self.value)

    def replace(self, values: Mapping[str, int]) -> AsicConfiguration:
        """A configuration with these fields changed.

        Raises:
            WireError: If a field does not exist or a value does not fit.
        """
        value = self.value
        for name, number in values.items():
            value = self.field(name).put(value, number)
        return AsicConfiguration(self.block, self.version, value)

    def as_dict(self) -> dict[str, int]:
        """Every field with its value."""
        return {name: found.get(self.value) for name, found in fields(self.block, self.version).items()}

    def differences(self, other: AsicConfiguration) -> str:
        """In words, which fields differ; for the message when reading back gave something else."""
        mine, theirs = self.as_dict(), other.as_dict()
        named = [f"{n} {v} instead of {mine[n]}" for n, v in theirs.items() if n in mine and mine[n] != v]
        return ", ".join(named) or (f"unnamed bits {self.value ^ other.value:#x}" if self != other else "nothing")


def version_of(global_value: int) -> AsicVersion | None:
    """The chip version whose power-on global configuration this is, or None."""
    return next((version for version, value in POWER_ON_GLOBAL.items() if value == global_value), None)
