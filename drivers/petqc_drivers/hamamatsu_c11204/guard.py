"""The encoder guard of the C11204: nothing else makes bytes that set its output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_drivers.errors import LimitError
from petqc_drivers.hamamatsu_c11204 import wire
from petqc_drivers.limits import Volts, guard, guard_enable, guard_lowest, guard_trim

if TYPE_CHECKING:
    from petqc_drivers.hamamatsu_c11204.wire import Compensation, Model
    from petqc_drivers.limits import HardLimit, SetOutput


def set_voltage(request: Volts, limit: HardLimit | None, *, channel: str, added: Compensation | None) -> SetOutput:
    """Sealed HBV.

    Args:
        request: Reference voltage.
        limit: Hard limit of that channel.
        channel: The device.
        added: The stored set if compensation is on; the most it can add must be inside the limit, too.

    Raises:
        LimitError: Refused.
    """
    _check_compensated(request, limit, channel, added)

    def decode(payloads: tuple[bytes, ...]) -> tuple[Volts, float]:
        mnemonic, data = wire.parse_frame(payloads[0])
        if mnemonic != "HBV" or len(data) != wire.SETTING_DIGITS:
            raise LimitError(f"{request} came out as {payloads[0]!r}", device=channel)
        return Volts(wire.volts(int(data, 16))), wire.V_PER_CODE

    return guard(
        request,
        limit,
        channel=channel,
        encode=lambda v: (wire.request("HBV", wire.digits(wire.code_below(v.value))),),
        decode=decode,
    )


def set_lowest(model: Model, *, channel: str) -> SetOutput:
    """Sealed HBV with the lowest output."""
    return guard_lowest(
        channel=channel,
        lowest_code=model.lowest_code,
        encode=lambda code: (wire.request("HBV", wire.digits(code)),),
        decode_code=_own_number,
    )


def switch_on(lowest: SetOutput, *, channel: str) -> SetOutput:
    """Sealed HON, after the sealed message that brought the output to its lowest."""
    return guard_enable([lowest], n_outputs=1, channel=channel, payload=wire.request("HON"))


def store_compensation(wanted: Compensation, limit: HardLimit | None, *, channel: str) -> SetOutput:
    """Sealed HST: its voltage is what the supply wakes up with, and the most it can give is inside the limit.

    Raises:
        LimitError: Refused.
    """
    voltage = Volts(wire.volts(wanted.voltage))
    _check_compensated(voltage, limit, channel, wanted)

    def decode(payloads: tuple[bytes, ...]) -> tuple[Volts, float]:
        mnemonic, data = wire.parse_frame(payloads[0])
        if mnemonic != "HST" or wire.Compensation.from_data(data) != wanted:
            raise LimitError(f"{wanted} came out as {payloads[0]!r}", device=channel)
        return Volts(wire.volts(wire.Compensation.from_data(data).voltage)), wire.V_PER_CODE

    return guard(
        voltage, limit, channel=channel, encode=lambda _v: (wire.request("HST", wanted.data()),), decode=decode
    )


def set_mode(*, is_compensating: bool, channel: str) -> SetOutput:
    """Sealed HCM."""
    return guard_trim(
        int(is_compensating),
        lowest=0,
        highest=1,
        channel=channel,
        encode=lambda code: (wire.request("HCM", str(code)),),
        decode_code=_own_number,
    )


def set_functions(functions: wire.Function, *, channel: str) -> SetOutput:
    """Sealed HSC; restoring by itself after over-current is refused, for nothing may re-arm by itself."""
    return guard_trim(
        int(functions),
        lowest=0,
        highest=int(wire.Function.AUTO_RESTORE) - 1,
        channel=channel,
        encode=lambda code: (wire.request("HSC", wire.digits(code)),),
        decode_code=_own_number,
    )


def _own_number(payloads: tuple[bytes, ...]) -> int:
    return int(wire.parse_frame(payloads[0])[1], 16)


def _check_compensated(request: Volts, limit: HardLimit | None, channel: str, added: Compensation | None) -> None:
    if added is None or limit is None:
        return
    highest = Volts(request.value + max(added.most_added_v(), 0.0))
    if highest > limit.v_max:
        raise LimitError(
            f"{request} refused: compensation can make {highest} of it, the hard limit ends at {limit.v_max}",
            device=channel,
        )
