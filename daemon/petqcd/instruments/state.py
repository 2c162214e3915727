"""What is known about one instrument, in the words that status, events, metrics and alarms use."""

from __future__ import annotations

import enum
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.device import OutputState, Quality
from petqcd import clock
from petqcd.readout.supervisor import BiasState

if TYPE_CHECKING:
    from petqc_drivers.device import Reading
    from petqc_drivers.instrument import Instrument
    from petqc_drivers.trip import Trip


class InstrumentState(enum.StrEnum):
    """Where a supervised instrument is."""

    CONNECTING = "connecting"
    """Since the start nothing is known yet."""
    ANSWERS = "answers"
    """It is polled; it has no output that could energise anything."""
    OFF = "off"
    RAMPING = "ramping"
    ON = "on"
    ADOPTED = "adopted"
    """Found on when connecting; nobody confirmed it."""
    TRIPPED = "tripped"
    FAULT = "fault"
    """It does not answer as it must; its output, if it has one, was off when last heard of."""
    UNKNOWN = "unknown"
    """It does not answer as it must, and its output may be on."""
    MAINTENANCE = "maintenance"
    """Somebody works at it, so nothing energises it; whether it answers is in its detail."""


STATE_CODE = {state: number for number, state in enumerate(InstrumentState)}
"""For metrics."""
HIDDEN_BY_MAINTENANCE = frozenset(
    {InstrumentState.CONNECTING, InstrumentState.ANSWERS, InstrumentState.OFF, InstrumentState.FAULT}
)
"""States that say no more than that somebody works there; what may be on, and a trip, is told as ever."""
_OF_OUTPUT = {
    OutputState.OFF: InstrumentState.OFF,
    OutputState.OFF_COMMANDED: InstrumentState.OFF,
    OutputState.RAMPING: InstrumentState.RAMPING,
    OutputState.ON: InstrumentState.ON,
    OutputState.ADOPTED: InstrumentState.ADOPTED,
    OutputState.UNKNOWN: InstrumentState.UNKNOWN,
}
_BIAS = {
    OutputState.OFF: BiasState.OFF_CONFIRMED,
    OutputState.OFF_COMMANDED: BiasState.OFF_COMMANDED,
    OutputState.RAMPING: BiasState.ON,
    OutputState.ON: BiasState.ON,
    OutputState.ADOPTED: BiasState.ON,
    OutputState.UNKNOWN: BiasState.UNKNOWN,
}


def state_of(driver: Instrument) -> InstrumentState:
    """Of an instrument that answers."""
    if not isinstance(driver, BiasSource):
        return InstrumentState.ANSWERS
    return InstrumentState.TRIPPED if driver.trip.causes else _OF_OUTPUT[driver.output]


def bias_of(driver: Instrument) -> BiasState | None:
    """Of an instrument that answers; None: it has no output."""
    return _BIAS[driver.output] if isinstance(driver, BiasSource) else None


def trip_document(trip: Trip) -> dict[str, Any]:
    """A trip as plain types: the first cause first."""
    now_s = clock.monotonic_s()
    return {
        "state": trip.state,
        "causes": [
            {"cause": one.cause, "at": clock.utc_text(clock.unix_s() - (now_s - one.at_monotonic_s))}
            for one in trip.causes
        ],
    }


def believable(reading: Reading) -> Reading:
    """It, or without its value if that is no number."""
    if reading.value is None or math.isfinite(reading.value):
        return reading
    return replace(reading, value=None, quality=Quality.BAD, reason=f"{reading.value!r} is no number")


def reading_document(reading: Reading, now_s: float) -> dict[str, Any]:
    """A reading as plain types, with its age at a moment of the monotonic clock."""
    return {
        "name": reading.name,
        "node": reading.node,
        "value": reading.value,
        "unit": reading.unit,
        "measured": reading.measured,
        "quality": str(reading.quality),
        "age_s": round(now_s - reading.at_monotonic_s, 3),
        "reason": reading.reason,
    }
