"""Bytes of the Hamamatsu C11204-01 and -02 bias supplies: frames, commands, numbers. Pure.

Source: command reference K29-B61218 as four independent public programs have it (c11204ps, hamamatsu-c11204-01,
C11204-02 of Zethian, the CUBES firmware of ESS and KTH); sections named here are those of our summary: line and frame,
commands, conversions, status word, error codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntFlag
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import DriverError, LimitError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc_drivers.limits import Volts

STX, ETX, CR = 0x02, 0x03, 0x0D
LONGEST_REPLY: Final = 51
V_PER_CODE: Final = 1.812e-3
SENSOR_V_PER_CODE: Final = 1.907e-5
SENSOR_ZERO_V: Final = 1.035
SENSOR_V_PER_K: Final = -5.5e-3
MV_PER_K2_PER_CODE: Final = 1.507e-3
MV_PER_K_PER_CODE: Final = 5.225e-2
SETTING_DIGITS: Final = 4
COMPENSATION_DEGC: Final = (-20.0, 60.0)
"""Outside, the module leaves compensation by itself (status bit 4)."""
TEXT_NAME, TEXT_VERSION, TEXT_DATE, TEXT_SERIAL = 16, 16, 11, 16


@dataclass(frozen=True, slots=True)
class Model:
    """What differs between the models.

    ua_per_code: of the current monitor. lowest_v: lowest output. tells_identity: it knows HFI and HGN. tells_setting:
    the second number of HPO is the output-voltage setting.
    """

    name: str
    ua_per_code: float
    lowest_v: float
    tells_identity: bool
    tells_setting: bool

    @property
    def lowest_code(self) -> int:
        """The lowest code that is not below the lowest output."""
        return -int(-self.lowest_v / V_PER_CODE // 1)


HIGHEST_V: Final = 90.0
MODELS: Final[Mapping[str, Model]] = MappingProxyType(
    {
        model.name: model
        for model in (
            Model("C11204-01", 4.980, 50.0, tells_identity=False, tells_setting=True),
            Model("C11204-02", 5.194, 40.0, tells_identity=True, tells_setting=False),
        )
    }
)

REQUEST_DIGITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "HPO": 0,
        "HGS": 0,
        "HGV": 0,
        "HGC": 0,
        "HGT": 0,
        "HBV": 4,
        "HST": 24,
        "HRT": 0,
        "HCM": 1,
        "HON": 0,
        "HOF": 0,
        "HRE": 0,
        "HSC": 4,
        "HRC": 0,
        "HFI": 0,
        "HGN": 0,
    }
)
"""Characters of data that each request has."""
REPLY_DIGITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("HBV", "HST", "HCM", "HON", "HOF", "HRE", "HSC"), 0),
        **dict.fromkeys(("HGS", "HGV", "HGC", "HGT", "HRC"), 4),
        "HPO": 20,
        "HRT": 24,
        "HFI": TEXT_NAME + TEXT_VERSION + TEXT_DATE,
        "HGN": TEXT_SERIAL,
    }
)
"""Characters of data that each reply has."""
SETS_OUTPUT: Final = frozenset({"HBV", "HST", "HCM", "HON", "HSC"})
"""Commands that can raise an output or take a protection away: they exist only behind the encoder guard. HOF and HRE
are not among them; after HRE the output is off."""
_TEXTS: Final = frozenset({"HFI", "HGN"})

ERRORS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "UART error (parity, overrun, framing)",
        2: "no CR within a second of STX",
        3: "syntax: no STX, or too long",
        4: "checksum",
        5: "unknown command",
        6: "parameter with a character that is no hexadecimal digit",
        7: "parameter of the wrong length",
    }
)
ERROR_MNEMONIC: Final = "hxx"


class Status(IntFlag):
    """The status word."""

    HV_ON = 1 << 0
    OVER_CURRENT_PROTECTION = 1 << 1
    CURRENT_OUT_OF_SPEC = 1 << 2
    SENSOR_CONNECTED = 1 << 3
    TEMPERATURE_OUT_OF_RANGE = 1 << 4
    COMPENSATION_ACTIVE = 1 << 6
    AUTO_RESTORE = 1 << 10
    VOLTAGE_SUPPRESSION = 1 << 11
    VOLTAGE_CONTROL = 1 << 12
    VOLTAGE_STABLE = 1 << 14


class Function(IntFlag):
    """Power-supply functions of HSC and HRC. Bit order as of the encoder of the one public source."""

    VOLTAGE_CONTROL = 1 << 0
    AUTO_RESTORE = 1 << 1


class RefusedByDeviceError(DriverError):
    """The supply answered with an error code; it did nothing."""

    code = "refused-by-device"


def checksum(body: bytes) -> bytes:
    """Two upper-case digits over everything from STX to ETX."""
    return f"{sum(body) & 0xFF:02X}".encode("ascii")


def frame(mnemonic: str, data: str = "") -> bytes:
    """A whole frame, for a request (upper case) or a reply (lower case)."""
    body = bytes((STX,)) + (mnemonic + data).encode("ascii") + bytes((ETX,))
    return body + checksum(body) + bytes((CR,))


def parse_frame(raw: bytes) -> tuple[str, str]:
    """Mnemonic and data of a whole frame.

    Raises:
        RemoteProtocolError: It is none.
    """
    if len(raw) < 8 or raw[0] != STX or raw[-1] != CR or raw[-4] != ETX:
        raise RemoteProtocolError(f"no frame: {raw[:60]!r}")
    if checksum(raw[:-3]) != raw[-3:-1]:
        raise RemoteProtocolError(f"checksum {raw[-3:-1]!r} is not that of {raw[:60]!r}")
    try:
        text = raw[1:-4].decode("ascii")
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"a frame with characters that are none: {raw[:60]!r}") from error
    return text[:3], text[3:]


def end_of_frame(came: bytes) -> int | None:
    """How many bytes end with the first CR.

    Raises:
        RemoteProtocolError: More came than any reply has, and no CR.
    """
    end = came.find(CR)
    if end < 0:
        if len(came) > LONGEST_REPLY + 4:
            raise RemoteProtocolError(f"{len(came)} bytes without the end of a frame")
        return None
    return end + 1


def request(mnemonic: str, data: str = "") -> bytes:
    """A request; its length is checked, its meaning is not.

    Raises:
        LimitError: The data are of another length, or not as they must be written.
    """
    if len(data) != REQUEST_DIGITS[mnemonic] or re.fullmatch("[0-9A-F]*", data) is None:
        raise LimitError(f"{mnemonic} refused: {data!r} are not {REQUEST_DIGITS[mnemonic]} hexadecimal digits")
    return frame(mnemonic, data)


def parse_reply(mnemonic: str, raw: bytes) -> str:
    """Data of the reply to a request.

    Raises:
        RefusedByDeviceError: It is an error code.
        RemoteProtocolError: It is no reply to that request.
    """
    found, data = parse_frame(raw)
    if found == ERROR_MNEMONIC and re.fullmatch("[0-9A-F]{4}", data):
        number = int(data, 16)
        raise RefusedByDeviceError(f"{mnemonic}: error {number}, {ERRORS.get(number, 'not documented')}")
    if found != mnemonic.lower():
        raise RemoteProtocolError(f"{found!r} answers {mnemonic}")
    if len(data) != REPLY_DIGITS[mnemonic] or (mnemonic not in _TEXTS and not re.fullmatch("[0-9A-F]*", data)):
        raise RemoteProtocolError(f"reply to {mnemonic} has data {data[:60]!r}")
    return data


def words(data: str) -> tuple[int, ...]:
    """Unsigned numbers of four digits each."""
    return tuple(int(data[at : at + 4], 16) for at in range(0, len(data), 4))


def digits(*codes: int) -> str:
    """Numbers of four digits each.

    Raises:
        LimitError: One does not fit.
    """
    for code in codes:
        if type(code) is not int or not 0 <= code <= 0xFFFF:
            raise LimitError(f"{code!r} refused: not a number of 16 bits")
    return "".join(f"{code:04X}" for code in codes)


def signed(code: int) -> int:
    """A number of 16 bits as two's complement."""
    return code - 0x10000 if code & 0x8000 else code


def volts(code: int) -> float:
    """Set-point and monitor."""
    return code * V_PER_CODE


def code_below(wanted_v: float) -> int:
    """The highest code that means no more than this voltage."""
    code = int(wanted_v / V_PER_CODE)
    # The quotient may be off by its last digit on either side.
    while volts(code + 1) <= wanted_v:
        code += 1
    while code > 0 and volts(code) > wanted_v:
        code -= 1
    return code


def degc(code: int) -> float:
    """Of the sensor."""
    return (code * SENSOR_V_PER_CODE - SENSOR_ZERO_V) / SENSOR_V_PER_K


def code_of_degc(temperature_degc: float) -> int:
    """Nearest code of a temperature.

    Raises:
        LimitError: It has none.
    """
    code = round((SENSOR_ZERO_V + SENSOR_V_PER_K * temperature_degc) / SENSOR_V_PER_CODE)
    if not 0 <= code <= 0xFFFF:
        raise LimitError(f"{temperature_degc} °C refused: outside of what the supply can be told")
    return code


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensation:
    """The stored set: `above` and `below` the reference temperature, quadratic and linear; all as codes.

    quadratic_above, quadratic_below: ΔT'1 and ΔT'2. linear_above, linear_below: ΔT1 and ΔT2. voltage: Vb.
    temperature: Tb.
    """

    quadratic_above: int
    quadratic_below: int
    linear_above: int
    linear_below: int
    voltage: int
    temperature: int

    @classmethod
    def from_data(cls, data: str) -> Compensation:
        """From the data of HST or HRT."""
        found = words(data)
        return cls(
            quadratic_above=signed(found[0]),
            quadratic_below=signed(found[1]),
            linear_above=signed(found[2]),
            linear_below=signed(found[3]),
            voltage=found[4],
            temperature=found[5],
        )

    @classmethod
    def of(cls, *, voltage: Volts, at_degc: float, mv_per_k: float, mv_per_k2: float = 0.0) -> Compensation:
        """The same curve above and below a temperature; the voltage is rounded down.

        Raises:
            LimitError: A number does not fit.
        """
        quadratic, linear = round(mv_per_k2 / MV_PER_K2_PER_CODE), round(mv_per_k / MV_PER_K_PER_CODE)
        if not all(-0x8000 <= code <= 0x7FFF for code in (quadratic, linear)):
            raise LimitError(f"{mv_per_k} mV/K, {mv_per_k2} mV/K² refused: outside of what the supply can be told")
        return cls(
            quadratic_above=quadratic,
            quadratic_below=quadratic,
            linear_above=linear,
            linear_below=linear,
            voltage=code_below(voltage.value),
            temperature=code_of_degc(at_degc),
        )

    def document(self) -> dict[str, float]:
        """In units, for people and JSON."""
        return {
            "volts": volts(self.voltage),
            "at_degc": degc(self.temperature),
            "mv_per_k_above": MV_PER_K_PER_CODE * self.linear_above,
            "mv_per_k_below": MV_PER_K_PER_CODE * self.linear_below,
            "mv_per_k2_above": MV_PER_K2_PER_CODE * self.quadratic_above,
            "mv_per_k2_below": MV_PER_K2_PER_CODE * self.quadratic_below,
        }

    def data(self) -> str:
        """As HST has it."""
        four = (self.quadratic_above, self.quadratic_below, self.linear_above, self.linear_below)
        return digits(*(code & 0xFFFF for code in four), self.voltage, self.temperature)

    def added_v(self, temperature_degc: float) -> float:
        """What compensation adds to the reference voltage. Source: conversions, "Vo = ..."."""
        warmer_k = temperature_degc - degc(self.temperature)
        is_above = warmer_k >= 0
        quadratic = self.quadratic_above if is_above else self.quadratic_below
        linear = self.linear_above if is_above else self.linear_below
        return 1e-3 * (MV_PER_K2_PER_CODE * quadratic * warmer_k**2 + MV_PER_K_PER_CODE * linear * warmer_k)

    def most_added_v(self) -> float:
        """The most it can add at any temperature at which the module compensates.

        A parabola is highest at an end of its range or at its vertex, and each side of Tb has its own.
        """
        low, high = COMPENSATION_DEGC
        base = degc(self.temperature)
        places = [low, high, min(max(base, low), high)]
        for quadratic, linear in (
            (self.quadratic_above, self.linear_above),
            (self.quadratic_below, self.linear_below),
        ):
            if quadratic:
                vertex = base - MV_PER_K_PER_CODE * linear / (2 * MV_PER_K2_PER_CODE * quadratic)
                if low < vertex < high:
                    places.append(vertex)
        return max(self.added_v(place) for place in places)


@dataclass(frozen=True, slots=True)
class Poll:
    """What HPO tells: status, the setting (of a -01), and the monitors, as codes."""

    status: Status
    setting: int
    voltage: int
    current: int
    temperature: int

    @classmethod
    def from_data(cls, data: str) -> Poll:
        """From the data of a reply."""
        found = words(data)
        return cls(Status(found[0]), *found[1:])
