"""The encoder guard of the source meters: nothing else makes messages that set their output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_drivers.keithley_smu import wire
from petqc_drivers.limits import Volts, guard, guard_enable, guard_lowest, guard_trim

if TYPE_CHECKING:
    from petqc_drivers.keithley_smu.wire import Model
    from petqc_drivers.limits import HardLimit, SetOutput


def set_voltage(request: Volts, limit: HardLimit | None, *, channel: str) -> SetOutput:
    """Sealed message for a voltage.

    Raises:
        LimitError: Refused.
    """
    return guard(
        request,
        limit,
        channel=channel,
        encode=lambda volts: (wire.level(wire.level_code(volts.value)),),
        decode=lambda payloads: (Volts(wire.V_STEP * wire.parse_level(payloads[0])), wire.V_STEP),
    )


def set_zero(*, channel: str) -> SetOutput:
    """Sealed message for 0 V."""
    return guard_lowest(
        channel=channel,
        lowest_code=0,
        encode=lambda code: (wire.level(code),),
        decode_code=lambda payloads: wire.parse_level(payloads[0]),
    )


def switch_on(zero: SetOutput, *, channel: str) -> SetOutput:
    """Sealed message that switches on, after the sealed one that brought the level to 0 V."""
    return guard_enable([zero], n_outputs=1, channel=channel, payload=wire.line(":OUTP ON;:OUTP?"))


def set_current_limit(nanoamps: int, *, most: int, model: Model, channel: str) -> SetOutput:
    """Sealed message for the current limit of the instrument itself.

    Raises:
        LimitError: More than configured, or nothing.
    """
    return guard_trim(
        nanoamps,
        lowest=1,
        highest=most,
        channel=channel,
        encode=lambda code: (wire.current_limit(model, code),),
        decode_code=lambda payloads: wire.parse_current_limit(payloads[0]),
    )
