"""SCPI of the Keithley 2450 and 2400 as far as an IV curve needs it. Pure.

Source: the public drivers of pymeasure 0.16 and QCoDeS 0.58 and what they send; section names are those of our summary.
A command is sent together with the question that reads it back, so that every message has exactly one reply line.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from petqc_drivers import ascii_line
from petqc_drivers.errors import LimitError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

V_STEP: Final = 1e-3
"""Set-points are multiples of a millivolt: no finer is needed, and no rounding of the instrument comes into it."""
HIGHEST_V: Final = 210.0
MOST_LINE_BYTES: Final = 4096
OVERFLOW: Final = 9.9e37
"""What stands for a reading that there is not."""
MAKER: Final = "KEITHLEY"
IDENTITY: Final = "*IDN?"
OUTPUT: Final = ":OUTP?"
INTERLOCK: Final = ":OUTP:INT:TRIP?"
"""1: the interlock line is asserted (a 2400: the output may go on), 0: it is open; "tripped" is the closed state.
Source: reference manual of the 2450 (2450-901-01), section 6; user's manual of the 2400 series, section 18."""
INTERLOCK_USED: Final = ":OUTP:INT:STAT?"
"""Of a 2400, whose interlock line counts only if this is 1."""
ERROR: Final = ":SYST:ERR?"
OFF: Final = ":OUTP OFF;:OUTP?;*IDN?"
"""Answered by `0` and the identity: no late reply to another question looks like that."""


@dataclass(frozen=True, slots=True)
class Model:
    """What differs. limit: header of the current limit; tripped: whether it holds the output back; read: V and I.

    interlock_can_be_unused: its interlock line may be switched off; that of the others always counts.
    """

    name: str
    limit: str
    tripped: str
    read: str
    set_up: tuple[str, ...]
    language: str | None
    interlock_can_be_unused: bool


MODELS: Final[Mapping[str, Model]] = MappingProxyType(
    {
        "2450": Model(
            "2450",
            ":SOUR:VOLT:ILIM",
            ":SOUR:VOLT:ILIM:TRIP?",
            ':READ? "defbuffer1",SOUR,READ',
            (":SOUR:VOLT:READ:BACK 1",),
            "*LANG?",
            interlock_can_be_unused=False,
        ),
        "2400": Model(
            "2400",
            ":SENS:CURR:PROT",
            ":SENS:CURR:PROT:TRIP?",
            ":READ?",
            (":FORM:ELEM VOLT,CURR",),
            None,
            interlock_can_be_unused=True,
        ),
    }
)

_NUMBER: Final = r"[-+]?\d{1,9}(?:\.\d{1,9})?(?:[eE][-+]?\d{1,2})?"
_NUMBERS: Final = re.compile(rf"{_NUMBER}(?:,{_NUMBER})*")
_LEVEL: Final = re.compile(r":SOUR:VOLT:LEV (?P<volts>[-+]\d{1,3}\.\d{3});:SOUR:VOLT:LEV\?\n")
_LIMIT: Final = re.compile(r"[A-Z:]+ (?P<amps>\d+)E-9;[A-Z:]+\?\n")


def line(message: str) -> bytes:
    """As it is sent."""
    return message.encode("ascii") + b"\n"


def level_code(volts: float) -> int:
    """Millivolts of a set-point, rounded towards zero."""
    code = round(volts / V_STEP)
    if abs(code) * V_STEP > abs(volts) + 1e-12:
        code -= int(math.copysign(1, code))
    return code


def level(code: int) -> bytes:
    """Set a voltage, in millivolts, and read it back.

    Raises:
        LimitError: More than any of these instruments gives.
    """
    if type(code) is not int or abs(code) * V_STEP > HIGHEST_V:
        raise LimitError(f"{code!r} mV refused: no level of a source meter")
    sign = "-" if code < 0 else "+"
    return line(f":SOUR:VOLT:LEV {sign}{abs(code) // 1000}.{abs(code) % 1000:03d};:SOUR:VOLT:LEV?")


def parse_level(message: bytes) -> int:
    """The millivolts that our own message means.

    Raises:
        LimitError: It is no such message.
    """
    found = _LEVEL.fullmatch(message.decode("ascii", "replace"))
    if found is None:
        raise LimitError(f"{message!r} sets no level")
    return round(float(found["volts"]) / V_STEP)


def current_limit(model: Model, nanoamps: int) -> bytes:
    """Set the current limit and read it back."""
    return line(f"{model.limit} {nanoamps}E-9;{model.limit}?")


def parse_current_limit(message: bytes) -> int:
    """The nanoamps that our own message means.

    Raises:
        LimitError: It is no such message.
    """
    found = _LIMIT.fullmatch(message.decode("ascii", "replace"))
    if found is None:
        raise LimitError(f"{message!r} sets no current limit")
    return int(found["amps"])


def end_of_line(came: bytes) -> int | None:
    """See `ascii_line.end_of_line`."""
    return ascii_line.end_of_line(came, MOST_LINE_BYTES)


def end_of_identity(came: bytes) -> int | None:
    """How many bytes end with the first line that tells the maker; late replies before it are passed over."""
    return ascii_line.end_of_line_that(lambda line: MAKER.encode() in line.upper(), came)


def text(raw: bytes) -> str:
    """The last line of what came, see `ascii_line.text`."""
    return ascii_line.text(ascii_line.last_line(raw))


def numbers(raw: bytes, n: int = 1) -> tuple[float | None, ...]:
    """The numbers of a reply; None for one that says that there is no reading.

    Raises:
        RemoteProtocolError: They are not so many, or no numbers.
    """
    found = text(raw)
    if _NUMBERS.fullmatch(found) is None or found.count(",") != n - 1:
        raise RemoteProtocolError(f"not {n} numbers: {found[:60]!r}")
    values = [float(part) for part in found.split(",")]
    return tuple(None if abs(value) >= OVERFLOW else value for value in values)


def identity(raw: bytes) -> tuple[str, str, str]:
    """Model, serial number and firmware.

    Raises:
        RemoteProtocolError: It is no identity.
    """
    parts = text(raw).split(";")[-1].split(",")
    if len(parts) != 4 or not parts[0].upper().startswith(MAKER):
        raise RemoteProtocolError(f"no identity: {raw[:80]!r}")
    return parts[1].upper().removeprefix("MODEL").strip(), parts[2].strip(), parts[3].strip()


def error(raw: bytes) -> tuple[int, str]:
    """Number and text of an entry of the error queue; 0 for none.

    Raises:
        RemoteProtocolError: It is none.
    """
    found = re.fullmatch(r"(?P<number>-?\d{1,5}),\s*\"(?P<text>.*)\"", text(raw))
    if found is None:
        raise RemoteProtocolError(f"no error entry: {raw[:60]!r}")
    return int(found["number"]), found["text"]
