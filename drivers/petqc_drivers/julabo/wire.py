"""Lines of a Julabo circulator: commands, replies, status. Pure.

Source: manuals of LC6, Magnum 91, SC2500, FL601 and F38-ME (remote control), and two public clients (dvg-devices and
julabo). ASCII lines; a command ends with CR, a reply with CR LF or LF; only `in` commands, `version` and `status` are
answered. XON and XOFF may stand between any two characters.
"""

from __future__ import annotations

import math
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from petqc_drivers import ascii_line
from petqc_drivers.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

AFTER_OUT_S: Final = 0.25
"""Least time between an `out` command and the next one."""
AFTER_IN_S: Final = 0.01
"""Least time between a reply and the next command."""
MOST_LINE_BYTES: Final = 120
XON_XOFF: Final = b"\x11\x13"
MAKER: Final = "JULABO"

NUMBERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "in_pv_00": "bath temperature",
        "in_pv_01": "heater power, %",
        "in_pv_02": "external Pt100",
        "in_pv_03": "temperature of the safety sensor",
        "in_pv_04": "setting of the safety switch",
        "in_pv_05": "pump pressure, bar",
        "in_sp_00": "set point 1",
        "in_sp_01": "set point 2",
        "in_sp_02": "set point 3",
        "in_sp_03": "high warning",
        "in_sp_04": "low warning",
        "in_sp_06": "unit: 0 Celsius, 1 Fahrenheit",
        "in_sp_07": "pump stage",
        "in_mode_01": "which set point is used, 0 to 2",
        "in_mode_02": "self-tuning",
        "in_mode_03": "external input",
        "in_mode_04": "internal or external control",
        "in_mode_05": "running",
        "in_par_06": "Xp",
        "in_par_07": "Tn",
        "in_par_08": "Tv",
        "in_hil_00": "most cooling, %",
        "in_hil_01": "most heating, %",
    }
)
"""Questions that a number answers."""
SETTINGS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        **{f"out_sp_0{n}": ("{:.2f}", f"in_sp_0{n}") for n in (0, 1, 2, 3, 4)},
        "out_sp_07": ("{:.0f}", "in_sp_07"),
        "out_mode_01": ("{:.0f}", "in_mode_01"),
        "out_mode_05": ("{:.0f}", "in_mode_05"),
        "out_par_06": ("{:.1f}", "in_par_06"),
        "out_par_07": ("{:.0f}", "in_par_07"),
        "out_par_08": ("{:.0f}", "in_par_08"),
    }
)
"""Commands that set a number: how it is written, and the question that reads it back."""

STATUS_TEXTS: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "MANUAL STOP",
        1: "MANUAL START",
        2: "REMOTE STOP",
        3: "REMOTE START",
        -1: "LOW LEVEL ALARM",
        -3: "EXCESS TEMPERATURE WARNING",
        -4: "LOW TEMPERATURE WARNING",
        -8: "INVALID COMMAND",
        -9: "COMMAND NOT ALLOWED IN CURRENT OPERATING MODE",
        -10: "VALUE TOO SMALL",
        -11: "VALUE TOO LARGE",
        -13: "VALUE EXCEEDS TEMPERATURE LIMITS",
    }
)
"""Common ones; texts differ between models, and any negative number is a fault."""
RUNNING: Final = frozenset({1, 3})
REMOTE: Final = frozenset({2, 3})
REFUSALS: Final = frozenset({-8, -9, -10, -11, -13})
"""What it says about the last command rather than about itself."""

_NUMBER: Final = re.compile(r"[-+]?\d{1,6}(\.\d{1,6})?")
_STATUS: Final = re.compile(r"(?P<number>-?\d{2})\s*(?P<text>[A-Za-z][^\x00-\x1f]*)?")
_ABSENT: Final = re.compile(r"-{2,}[-.\s]*")


def line(command: str, *, rs485_address: int | None = None) -> bytes:
    """A command as it is sent.

    Args:
        command: Name, and parameter behind a space.
        rs485_address: Of the circulator on a bus of several.
    """
    prefix = "" if rs485_address is None else f"A{rs485_address:03d}_"
    return f"{prefix}{command}\r".encode("ascii")


def setting(command: str, value: float) -> str:
    """A command with its number; nothing is rounded into a limit.

    Raises:
        LocalProtocolError: The command is none, or the number not finite.
    """
    if command not in SETTINGS or isinstance(value, bool) or not math.isfinite(value):
        raise LocalProtocolError(f"{command} with {value!r} cannot be sent")
    return f"{command} {SETTINGS[command][0].format(value)}"


def plain(came: bytes) -> bytes:
    """Without flow control."""
    return came.translate(None, XON_XOFF)


def end_of_line(came: bytes) -> int | None:
    """See `ascii_line.end_of_line`."""
    return ascii_line.end_of_line(came, MOST_LINE_BYTES)


def end_of_version(came: bytes) -> int | None:
    """How many bytes end with the first line that tells the maker; late replies before it are passed over."""
    return ascii_line.end_of_line_that(lambda line: MAKER.encode() in plain(line).upper(), came)


def text(raw: bytes) -> str:
    """A reply without flow control and its end, see `ascii_line.text`."""
    return ascii_line.text(plain(raw))


def number(raw: bytes) -> float | None:
    """The number of a reply; None where it has dashes because nothing is connected.

    Raises:
        RemoteProtocolError: It is no number.
    """
    found = text(raw)
    if _ABSENT.fullmatch(found):
        return None
    if _NUMBER.fullmatch(found) is None:
        raise RemoteProtocolError(f"no number: {found[:60]!r}")
    return float(found)


def status(raw: bytes) -> tuple[int, str]:
    """Number and text of a status; negative is a fault.

    Raises:
        RemoteProtocolError: It is no status.
    """
    found = _STATUS.fullmatch(text(raw))
    if found is None:
        raise RemoteProtocolError(f"no status: {raw[:60]!r}")
    return int(found["number"]), (found["text"] or "").strip()
