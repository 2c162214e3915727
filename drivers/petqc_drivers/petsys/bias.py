"""Bias of a front-end board: which mezzanine, which DAC, which code, behind the encoder guard.

`encode_bias` is the only function that makes messages for a bias DAC. The voltages are commanded, never measured: the
mezzanines of this family have no read-back that this software knows how to read.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6, 4.9 and 7.5.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import LimitError
from petqc_drivers.limits import HardLimit, SetOutput, Volts, guard, guard_enable, guard_lowest
from petqc_drivers.petsys.registers import POWER_BIAS, POWER_FEM, register
from petqc_drivers.petsys.spi import LTC2668_WRITE, Ltc2668Word, SpiRequest, bias_dac, parse_ltc2668
from petqc_drivers.petsys.wire import Function

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class BiasKind:
    """A bias mezzanine this driver can set.

    Attributes:
        name: Its name.
        n_channels: Outputs.
        channels_per_dac: Outputs of one DAC.
        bits: Of a DAC.
        full_scale_v: Nominal output at full code, and the highest voltage that any hard limit may allow.
        lowest_code: Least code it is ever given (about 1 V).
    """

    name: str
    n_channels: int
    channels_per_dac: int
    bits: int
    full_scale_v: float
    lowest_code: int

    def nominal_volts(self, code: int) -> float:
        """Nominal output of a code; calibrations differ from it by a few percent."""
        return code * self.full_scale_v / (1 << self.bits)


BIAS_32P: Final = BiasKind("BIAS_32P", 32, 16, 16, 60.0, 0x0445)
BIAS_32P_LTC2439: Final = BiasKind("BIAS_32P_LTC2439", 32, 16, 16, 60.0, 0x0445)

PROM_MAGIC: Final = {
    bytes.fromhex("2743d49c284147e2bba2ff81d06012d3"): "BIAS_32P",
    bytes.fromhex("3653774872365577685357496b764a50"): "BIAS_32P_AG",
    bytes.fromhex("2b0c37c0a1a549e3ae22f37c7bae4519"): "BIAS_32P_LTC2439",
}
"""First 16 bytes of a mezzanine's PROM."""
SUPPORTED: Final = {kind.name: kind for kind in (BIAS_32P, BIAS_32P_LTC2439)}
"""Mezzanines that can be set. BIAS_32P_AG (a second supply that must be set first), BIAS_16P (cannot be set low before
it is switched on) and BIAS_64P (another DAC) are recognised and refused."""
_BY_INTERFACE: Final = {0xF: "BIAS_64P", 0xE: "BIAS_16P"}
IDENTIFY_BY_PROM: Final = 0xD

_TOLERANCE_RELATIVE: Final = 0.10
_TOLERANCE_V: Final = 1.0
"""How far a calibration may be from nominal: real tables are within 6 %, a table in other units or of another type of
mezzanine is not."""


def interface_nibble(bias_interface: int, slot: int) -> int:
    """The four bits of the register `bias_interface` that belong to a slot."""
    return bias_interface >> (4 * slot) & 0xF


def mezzanine_name(nibble: int, magic: bytes | None) -> str:
    """Name of the mezzanine in a slot from its interface bits and, where those say so, the begin of its PROM."""
    if nibble == IDENTIFY_BY_PROM:
        return PROM_MAGIC.get(magic or b"", f"unknown mezzanine (PROM begins {(magic or b'').hex() or 'with nothing'})")
    return _BY_INTERFACE.get(nibble, f"unknown mezzanine (interface {nibble:#x})")


@dataclass(frozen=True, slots=True, order=True)
class BiasChannel:
    """Address of one bias output."""

    port: int
    slave: int
    slot: int
    channel: int

    def __str__(self) -> str:
        return f"bias:{self.port}.{self.slave}.{self.slot}.{self.channel}"


@dataclass(frozen=True, slots=True)
class BiasCurve:
    """Calibration of one output: DAC codes and the voltages they were measured to give, both ascending.

    Between two points the curve is a straight line; beyond the first and the last it is not defined.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise LimitError(f"a bias calibration needs two points or more, got {len(self.points)}")
        for (code, volts), (next_code, next_volts) in zip(self.points, self.points[1:], strict=False):
            if not (math.isfinite(volts) and math.isfinite(next_volts)):
                raise LimitError(f"bias calibration: {volts!r} V or {next_volts!r} V is not finite")
            if not (0 <= code < next_code and volts < next_volts):
                raise LimitError(
                    f"bias calibration does not ascend from ({code}, {volts} V) to ({next_code}, {next_volts} V)"
                )

    def check(self, kind: BiasKind, channel: str) -> None:
        """Refuse a calibration that cannot be one of this kind of mezzanine.

        Raises:
            LimitError: If a code does not fit the DAC or a voltage is far from nominal.
        """
        for code, volts in self.points:
            nominal = kind.nominal_volts(code)
            if code >> kind.bits or abs(volts - nominal) > _TOLERANCE_RELATIVE * nominal + _TOLERANCE_V:
                raise LimitError(
                    f"bias calibration gives {volts:.3f} V for code {code}, nominal for {kind.name} is {nominal:.3f} V",
                    device=channel,
                    do="the table belongs to another mezzanine or has other units",
                )

    def volts_for(self, code: int) -> float:
        """Voltage of a code.

        Raises:
            LimitError: If the code is outside the table.
        """
        low, high = self.points[0][0], self.points[-1][0]
        if not low <= code <= high:
            raise LimitError(f"code {code} is outside the bias calibration ({low} to {high})")
        place = min(bisect_right(self.points, (code, math.inf)), len(self.points) - 1)
        (code_0, volts_0), (code_1, volts_1) = self.points[place - 1], self.points[place]
        return volts_0 + (code - code_0) * (volts_1 - volts_0) / (code_1 - code_0)

    def code_for(self, volts: Volts) -> int:
        """Largest code whose voltage is not above the one given.

        Raises:
            LimitError: If the voltage is outside the table.
        """
        low, high = self.points[0][1], self.points[-1][1]
        if not low <= volts.value <= high:
            raise LimitError(f"{volts} is outside the bias calibration ({low:.4f} V to {high:.4f} V)")
        place = next(i for i in range(1, len(self.points)) if volts.value <= self.points[i][1])
        (code_0, volts_0), (code_1, volts_1) = self.points[place - 1], self.points[place]
        code = min(math.floor(code_0 + (volts.value - volts_0) * (code_1 - code_0) / (volts_1 - volts_0)), code_1)
        # Rounding in the line above may land one code too high or too low of a calibration point.
        if code < code_1 and self.volts_for(code + 1) <= volts.value:
            code += 1
        return code if self.volts_for(code) <= volts.value else code - 1

    def step_v(self, code: int) -> float:
        """One DAC step at a code, in volts (the larger one at a calibration point)."""
        places = [i for i in range(1, len(self.points)) if self.points[i - 1][0] <= code <= self.points[i][0]]
        return max(
            (self.points[i][1] - self.points[i - 1][1]) / (self.points[i][0] - self.points[i - 1][0]) for i in places
        )


def encode_bias(
    kind: BiasKind, channel: BiasChannel, request: Volts | None, limit: HardLimit | None, curve: BiasCurve | None
) -> SetOutput:
    """Sealed messages that set one bias output: the write, and the transfer that shows what the DAC has taken.

    Args:
        kind: The mezzanine that was identified.
        channel: The output.
        request: Voltage at the output, or None for the lowest the mezzanine can do (needs neither limit nor curve).
        limit: Hard limit of this output.
        curve: Calibration of this output.

    Raises:
        LimitError: If the request is not allowed, cannot be encoded or does not come out of its own bytes again.
    """
    name = str(channel)
    if not 0 <= channel.channel < kind.n_channels or not 0 <= channel.slot < 16:
        raise LimitError(f"{kind.name} has channels 0..{kind.n_channels - 1} in slots 0..15", device=name)
    spi_id = bias_dac(channel.slot, channel.channel // kind.channels_per_dac)
    output = channel.channel % kind.channels_per_dac

    def frames(code: int) -> tuple[bytes, ...]:
        if not kind.lowest_code <= code < 1 << kind.bits:
            raise LimitError(
                f"{request} needs code {code}, {kind.name} takes {kind.lowest_code} to {(1 << kind.bits) - 1}",
                device=name,
                do="switch off instead of setting less",
            )
        value = code.to_bytes(2, "big")
        return tuple(
            SpiRequest(spi_id, LTC2668_WRITE, b"\x00\x00" + bytes((command,)) + value + b"\x00\x00").to_bytes()
            for command in (0x30 + output, 0xF0 + output)
        )

    def code_in(payloads: tuple[bytes, ...]) -> int:
        write, echo = (SpiRequest.from_bytes(payload) for payload in payloads)
        word = parse_ltc2668(write)
        told = Ltc2668Word(0xF0 + output, word.code)
        if (write.spi_id, echo.spi_id) != (spi_id, spi_id) or word.command != 0x30 + output:
            raise LimitError(f"encoded for {write.spi_id:#06x} command {word.command:#04x}", device=name)
        if parse_ltc2668(echo) != told:
            raise LimitError("the transfer that reads the DAC back would change it", device=name)
        return word.code

    if request is None:
        return guard_lowest(
            channel=name, function=Function.SPI, lowest_code=kind.lowest_code, encode=frames, decode_code=code_in
        )
    if curve is None:
        raise LimitError(f"{request} refused: there is no bias calibration", device=name)
    table: BiasCurve = curve
    if isinstance(limit, HardLimit) and limit.v_max.value > kind.full_scale_v:
        raise LimitError(
            f"hard limit up to {limit.v_max} is above the {kind.full_scale_v} V that {kind.name} is made for",
            device=name,
        )
    table.check(kind, name)

    def decode(payloads: tuple[bytes, ...]) -> tuple[Volts, float]:
        code = code_in(payloads)
        return Volts(table.volts_for(code)), table.step_v(code)

    return guard(
        request,
        limit,
        channel=name,
        function=Function.SPI,
        encode=lambda volts: frames(table.code_for(volts)),
        decode=decode,
    )


def encode_supply_on(kind: BiasKind, lowest: Sequence[SetOutput]) -> SetOutput:
    """Sealed message that switches the bias supply on, the front-end modules staying on.

    Args:
        kind: The mezzanine that was identified.
        lowest: What brought every one of its outputs to the lowest.

    Raises:
        LimitError: If an output is missing.
    """
    power = register("power")
    return guard_enable(
        lowest,
        n_outputs=kind.n_channels,
        channel="bias supply",
        function=Function.REGISTERS,
        payload=power.write(POWER_FEM | POWER_BIAS).to_bytes(),
    )


def echo_matches(output: SetOutput, sampled: int) -> bool:
    """Whether the second transfer of `output` shows that the DAC took the first.

    The DAC has a 32-bit shift register and 24 bits are clocked, so the bytes come as: low byte of the transfer before,
    command, high byte. The first attempt fails whenever the low byte changes; the second one tells.

    Args:
        output: What was sent.
        sampled: The 24 bits that came back.
    """
    word = parse_ltc2668(SpiRequest.from_bytes(output.payloads[0]))
    first, second, third = sampled >> 16 & 0xFF, sampled >> 8 & 0xFF, sampled & 0xFF
    return (second, third, first) == (word.command, word.code >> 8, word.code & 0xFF)
