"""Mnemonics of the SRS SR620 as far as time intervals need them. Pure.

Source: SR620 manual pages and sr620py 1.5; section names are those of our summary.
"""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag
from typing import Final

from petqc_drivers import ascii_line
from petqc_drivers.errors import LocalProtocolError, RemoteProtocolError

MOST_LINE_BYTES: Final = 256
SIZES: Final = tuple(m * 10**e for e in range(7) for m in (1, 2, 5))[:19]
"""Samples of a measurement that it takes: 1, 2, 5 … 1e6."""
IDENTITY: Final = "*IDN?"
SETUP: Final = "STUP?"
ERRORS: Final = "ERRS?"
STATUS: Final = "*ESR?"
MEASURE: Final = "MEAS?0;XJIT?"
"""Measures, and tells mean and jitter; an input without edges is answered by nothing."""
SETUP_FIELDS: Final = 8


class Mode(IntEnum):
    """What is measured."""

    TIME = 0
    WIDTH = 1
    RISE_FALL = 2
    FREQUENCY = 3
    PERIOD = 4
    PHASE = 5
    COUNT = 6


class Errors(IntFlag):
    """The error status byte."""

    PRINT = 1 << 0
    NO_CLOCK = 1 << 1
    AUTOLEVEL_A = 1 << 2


class SetupByte(IntFlag):
    """The byte of STUP? that has the clock."""

    AUTOMATIC = 1 << 0
    CLOCK_EXTERNAL = 1 << 6
    CLOCK_5_MHZ = 1 << 7


EXECUTION_ERROR, COMMAND_ERROR = 1 << 4, 1 << 5
"""Bits of the standard event status."""
_NUMBER: Final = re.compile(r"[-+]?\d{1,9}(?:\.\d{1,9})?(?:[eE][-+]?\d{1,2})?")


def line(message: str) -> bytes:
    """As it is sent."""
    return message.encode("ascii") + b"\n"


def set_up(*, size: int, is_clock_external: bool) -> str:
    """The settings of a time interval from A to B, each as a command of its own.

    Raises:
        LocalProtocolError: A number of samples that it does not take.
    """
    if size not in SIZES:
        raise LocalProtocolError(f"{size!r} samples: it takes 1, 2, 5, 10 … 1000000")
    return f"AUTM0;MODE{Mode.TIME:d};SRCE0;ARMM1;SIZE{size};JTTR0;CLCK{is_clock_external:d};CLKF0"


def end_of_line(came: bytes) -> int | None:
    """See `ascii_line.end_of_line`."""
    return ascii_line.end_of_line(came, MOST_LINE_BYTES)


def end_of_identity(came: bytes) -> int | None:
    """How many bytes end with the first line that tells who it is; late replies before it are passed over."""
    return ascii_line.end_of_line_that(lambda line: b"SR620" in line.upper(), came)


def text(raw: bytes) -> str:
    """The last line of what came, see `ascii_line.text`."""
    return ascii_line.text(ascii_line.last_line(raw))


def numbers(raw: bytes, n: int = 1, separator: str = ";") -> tuple[float, ...]:
    """The numbers of a reply.

    Raises:
        RemoteProtocolError: They are not so many, or no numbers.
    """
    parts = [part.strip() for part in text(raw).split(separator)]
    if len(parts) != n or any(_NUMBER.fullmatch(part) is None for part in parts):
        raise RemoteProtocolError(f"not {n} numbers: {raw[:60]!r}")
    return tuple(float(part) for part in parts)


def identity(raw: bytes) -> tuple[str, str, str]:
    """Model, serial number and firmware.

    Raises:
        RemoteProtocolError: It is no identity.
    """
    parts = [part.strip() for part in text(raw).split(",")]
    if len(parts) != 4:
        raise RemoteProtocolError(f"no identity: {raw[:80]!r}")
    return parts[1], parts[2], parts[3]


def setup(raw: bytes) -> tuple[Mode, int, SetupByte]:
    """Mode, samples and clock of STUP?.

    Raises:
        RemoteProtocolError: It is no setup.
    """
    parts = text(raw).split(",")
    if len(parts) < SETUP_FIELDS or any(re.fullmatch(r"\d{1,3}", part.strip()) is None for part in parts):
        raise RemoteProtocolError(f"no setup: {raw[:60]!r}")
    fields = [int(part) for part in parts]
    if fields[0] not in list(Mode) or fields[4] >= len(SIZES):
        raise RemoteProtocolError(f"a setup that cannot be: {raw[:60]!r}")
    return Mode(fields[0]), SIZES[fields[4]], SetupByte(fields[7] & 0xFF)
