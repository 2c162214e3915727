"""Bias of a front-end board: which DAC, which code, behind the encoder guard.

This module alone makes messages for bias DACs, for the DAC of a DC-DC converter, and the one that switches the bias
supply on. The voltages are commanded, never measured: no mezzanine of this family has a read-back of its outputs that
this software knows how to read. A DAC of 16 outputs at least shows the code that it took; the others show nothing.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6, 4.9 and 7.5.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import LimitError
from petqc_drivers.limits import HardLimit, SetOutput, Volts, guard, guard_enable, guard_lowest
from petqc_drivers.petsys.mezzanines import CONVERTER_HEADROOM_V, CONVERTER_MAX_V, CONVERTER_MIN_V
from petqc_drivers.petsys.registers import POWER_BIAS, POWER_FEM, register
from petqc_drivers.petsys.spi import (
    AD5535_WRITE,
    LTC2668_WRITE,
    MAX5136_WRITE,
    Ltc2668Word,
    SpiRequest,
    bias_converter_dac,
    bias_dac,
    parse_ad5535,
    parse_ltc2668,
    parse_max5136,
    parse_spi_reply,
)
from petqc_drivers.petsys.wire import Function

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from petqc_drivers.limits import UntoldOutputs
    from petqc_drivers.petsys.mezzanines import BiasKind

_TOLERANCE_RELATIVE: Final = 0.10
_TOLERANCE_V: Final = 1.0
"""How far a calibration may be from nominal: real tables are within 6 %, a table in other units or of another type of
mezzanine is not."""


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


_WRITE_AND_UPDATE, _NOTHING = 0x30, 0xF0
"""Commands of the DAC of 16 outputs, with the output in the low bits: take this code, and change nothing."""


def _ltc2668_messages(spi_id: int, output: int, code: int) -> tuple[bytes, ...]:
    """The write, and the transfer that shows what the DAC has taken."""
    value = code.to_bytes(2, "big")
    return tuple(
        SpiRequest(spi_id, LTC2668_WRITE, b"\x00\x00" + bytes((command,)) + value + b"\x00\x00").to_bytes()
        for command in (_WRITE_AND_UPDATE + output, _NOTHING + output)
    )


def _ltc2668_code(spi_id: int, output: int, payloads: tuple[bytes, ...], name: str) -> int:
    write, echo = (SpiRequest.from_bytes(payload) for payload in payloads)
    word = parse_ltc2668(write)
    told = Ltc2668Word(_NOTHING + output, word.code)
    if (write.spi_id, echo.spi_id) != (spi_id, spi_id) or word.command != _WRITE_AND_UPDATE + output:
        raise LimitError(f"encoded for {write.spi_id:#06x} command {word.command:#04x}", device=name)
    if parse_ltc2668(echo) != told:
        raise LimitError("the transfer that reads the DAC back would change it", device=name)
    return word.code


def _ad5535_messages(spi_id: int, output: int, code: int) -> tuple[bytes, ...]:
    """The write; nothing can be read back."""
    word = (output << 14 | code) << 5
    return (SpiRequest(spi_id, AD5535_WRITE, b"\x00\x00" + word.to_bytes(3, "big") + b"\x00\x00").to_bytes(),)


def _ad5535_code(spi_id: int, output: int, payloads: tuple[bytes, ...], name: str) -> int:
    (payload,) = payloads
    write = SpiRequest.from_bytes(payload)
    word = parse_ad5535(write)
    if write.spi_id != spi_id or word.channel != output:
        raise LimitError(f"encoded for {write.spi_id:#06x} output {word.channel}", device=name)
    return word.code


def encode_bias(
    kind: BiasKind, channel: BiasChannel, request: Volts | None, limit: HardLimit | None, curve: BiasCurve | None
) -> SetOutput:
    """Sealed messages that set one bias output.

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
    messages, code_of = {"ltc2668": (_ltc2668_messages, _ltc2668_code), "ad5535": (_ad5535_messages, _ad5535_code)}[
        kind.dac
    ]

    def encode_code(code: int) -> tuple[bytes, ...]:
        if not kind.lowest_code <= code < 1 << kind.bits:
            raise LimitError(
                f"{request} needs code {code}, {kind.name} takes {kind.lowest_code} to {(1 << kind.bits) - 1}",
                device=name,
                do="switch off instead of setting less",
            )
        return messages(spi_id, output, code)

    def code_in(payloads: tuple[bytes, ...]) -> int:
        return code_of(spi_id, output, payloads, name)

    if request is None:
        return guard_lowest(
            channel=name, function=Function.SPI, lowest_code=kind.lowest_code, encode=encode_code, decode_code=code_in
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
        encode=lambda volts: encode_code(table.code_for(volts)),
        decode=decode,
    )


# The converter's DAC pulls the voltage down: the higher the code, the lower the output (4.9).
_REFERENCE_V: Final = 2.495
_FEEDBACK_OHM, _TO_REFERENCE_OHM, _TO_DAC_OHM = 100_000.0, 5_431.0, 27_000.0
_CONVERTER_DAC_V, _CONVERTER_CODES = 5.0, 65_536
_CONVERTER_OUTPUTS: Final = (0, 1)


def converter_volts(code: int) -> float:
    """Output of the DC-DC converter of a BIAS_32P_AG for a code of its DAC."""
    dac_v = code * _CONVERTER_DAC_V / _CONVERTER_CODES
    current = (_REFERENCE_V - dac_v) / _TO_DAC_OHM + _REFERENCE_V / _TO_REFERENCE_OHM
    return _REFERENCE_V + _FEEDBACK_OHM * current


def converter_code(volts: float) -> int:
    """Least code whose output is not above a voltage."""
    current = (volts - _REFERENCE_V) / _FEEDBACK_OHM - _REFERENCE_V / _TO_REFERENCE_OHM
    code = math.ceil((_REFERENCE_V - _TO_DAC_OHM * current) * _CONVERTER_CODES / _CONVERTER_DAC_V)
    # Rounding in the line above may land one code off.
    if converter_volts(code - 1) <= volts:
        return code - 1
    return code if converter_volts(code) <= volts else code + 1


def converter_name(port: int, slave: int, slot: int) -> str:
    """What messages call the DC-DC converter of a slot."""
    return f"bias-converter:{port}.{slave}.{slot}"


def converter_target(highest_output: Volts | None) -> Volts:
    """What the converter must give for the highest output: a little more than that, or the least it can.

    Args:
        highest_output: Highest set-point of the slot; None if all are at their lowest.
    """
    least = Volts(CONVERTER_MIN_V)
    return least if highest_output is None else max(least, Volts(highest_output.value + CONVERTER_HEADROOM_V))


def encode_converter(name: str, slot: int, request: Volts | None, limits: Iterable[HardLimit] = ()) -> SetOutput:
    """Sealed messages that set both outputs of the DC-DC converter of a BIAS_32P_AG, which feeds all its channels.

    It never gives more than what the highest hard limit of its channels needs.

    Args:
        name: The converter, see `converter_name`.
        slot: Its slot.
        request: Its output, or None for the least it can do.
        limits: Hard limits of the channels it feeds.

    Raises:
        LimitError: If the request is not allowed or does not come out of its own bytes again.
    """
    spi_id = bias_converter_dac(slot)
    controls = tuple(0x30 | 1 << output for output in _CONVERTER_OUTPUTS)

    def encode_code(code: int) -> tuple[bytes, ...]:
        value = code.to_bytes(2, "big")
        return tuple(
            SpiRequest(spi_id, MAX5136_WRITE, b"\xff" + bytes((control,)) + value + b"\xff").to_bytes()
            for control in controls
        )

    def code_in(payloads: tuple[bytes, ...]) -> int:
        requests = [SpiRequest.from_bytes(payload) for payload in payloads]
        words = [parse_max5136(found) for found in requests]
        codes = {word.code for word in words}
        if {found.spi_id for found in requests} != {spi_id} or tuple(word.control for word in words) != controls:
            raise LimitError("encoded for another device or other outputs", device=name)
        if len(codes) != 1:
            raise LimitError("encoded with two different codes", device=name)
        return codes.pop()

    def decode(payloads: tuple[bytes, ...]) -> tuple[Volts, float]:
        code = code_in(payloads)
        return Volts(converter_volts(code)), converter_volts(code) - converter_volts(code + 1)

    if request is None:
        return guard_lowest(
            channel=name,
            function=Function.SPI,
            lowest_code=converter_code(CONVERTER_MIN_V),
            encode=encode_code,
            decode_code=code_in,
        )
    bound = min(Volts(CONVERTER_MAX_V), converter_target(max((limit.v_max for limit in limits), default=None)))
    if request == Volts(CONVERTER_MIN_V):
        return encode_converter(name, slot, None)
    if not bound.value > CONVERTER_MIN_V:
        raise LimitError(f"{request} refused: no output it feeds may go that high", device=name)
    step_v = CONVERTER_MAX_V - CONVERTER_MIN_V
    return guard(
        request,
        HardLimit(channel=name, v_min=Volts(CONVERTER_MIN_V), v_max=bound, max_step_v=step_v, slew_v_per_s=step_v),
        channel=name,
        function=Function.SPI,
        encode=lambda volts: encode_code(converter_code(volts.value)),
        decode=decode,
    )


def encode_supply_on(n_outputs: int, lowest: Sequence[SetOutput], untold: Sequence[UntoldOutputs] = ()) -> SetOutput:
    """Sealed message that switches the bias supply on, the front-end modules staying on.

    Args:
        n_outputs: What the supply feeds: the outputs of every mezzanine, and converters.
        lowest: What brought every one of them to the lowest.
        untold: Outputs beside these that can be told nothing before.

    Raises:
        LimitError: If an output is missing, or could start above its limit.
    """
    power = register("power")
    return guard_enable(
        lowest,
        n_outputs=n_outputs,
        channel="bias supply",
        function=Function.REGISTERS,
        payload=power.write(POWER_FEM | POWER_BIAS).to_bytes(),
        untold=untold,
    )


class Shown(enum.Enum):
    """What a bias DAC showed of the code it was told."""

    NOTHING = "this DAC shows nothing"
    TAKEN = "the code it was told"
    REPEATED = "the transfer that reads it back, which was carried out twice"
    OTHER = "something else"


def check_echo(output: SetOutput, replies: Sequence[bytes]) -> Shown:
    """Whether the replies show that the DAC took its code.

    The DAC of 16 outputs has a 32-bit shift register and 24 bits are clocked, so the bytes come as: low byte of the
    transfer before, command, high byte. The first attempt fails whenever the low byte changes; the second one tells.
    A transfer whose answer was late is sent again; if the board carries out both, the second one that reads back shows
    the first one and not what was written.

    Args:
        output: What was sent.
        replies: What came back, one for each of its messages.

    Raises:
        WireError: If a reply has not the length its transfer asked for.
    """
    requests = [SpiRequest.from_bytes(payload) for payload in output.payloads]
    sampled = [parse_spi_reply(reply, request.n_sampled) for request, reply in zip(requests, replies, strict=True)]
    if requests[0].timing != LTC2668_WRITE:
        return Shown.NOTHING
    low, command, high = sampled[-1] >> 16 & 0xFF, sampled[-1] >> 8 & 0xFF, sampled[-1] & 0xFF
    shown = Ltc2668Word(command, high << 8 | low)
    if shown == parse_ltc2668(requests[0]):
        return Shown.TAKEN
    return Shown.REPEATED if shown == parse_ltc2668(requests[-1]) else Shown.OTHER
