"""The wire side of a Keithley 2450 or 2400 source meter over SCPI, with a SiPM array at its terminals.

Nothing here knows sockets or clocks: `receive` answers lines, `let_pass` lets time pass. What was never verified
publicly: a reading with the output off gives an overflow here, and no error.
Source: Keithley source meter reference; SCPI rules and needed subset.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from petqc_simulators.boards.scpi import NOT_ALLOWED, OUT_OF_RANGE, ScpiError, ScpiParser, boolean, number
from petqc_simulators.boards.witness import BiasWitness

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_simulators.physics.leakage import SipmLoad

Model = Literal["2450", "2400"]
OVERFLOW: Final = "9.900000E+37"
MOST_V: Final = 210.0
MOST_A: Final = 1.05
SETTLE_S: Final = 0.005
"""Time constant of the output on its way to a new level."""
OPEN_V: Final = 42.0
"""The most that a 2450 gives with its interlock open ..."""
OPEN_ON_V: Final = 21.0
"""... and the highest level with which it then switches on. Source: 2450-901-01, :OUTPut[1]:INTerlock:TRIPped?"""
NOISE_A: Final = 2.0e-11
"""Of a reading of one power line cycle on a low range."""
_NAMES: Final = {"VOLT": "VOLT", "VOLTAGE": "VOLT", "CURR": "CURR", "CURRENT": "CURR"}


class KeithleySmu:
    """One source meter.

    Args:
        load: what is at its terminals.
        model: which one.
        serial: eight digits.
        seed: of its noise.

    Attributes:
        interlock_is_closed: what is at its interlock line.
        parser: what was received, errors.
        told_v: every level that it was told, in order: what a judge of the outputs looks at.
        highest_v: highest voltage at the terminals.
        witness: the same over time, for the judge of all bias sources.
    """

    def __init__(self, load: SipmLoad, *, model: Model = "2450", serial: str = "04425111", seed: int = 1) -> None:
        self.load = load
        self.model = model
        self.serial = serial
        self.told_v: list[float] = []
        self.highest_v = 0.0
        self.witness = BiasWitness(1)
        self._elapsed_s = 0.0
        self._rng = np.random.default_rng([2450, seed])
        self.parser = ScpiParser(
            no_error='0,"No error;0;0 0"' if model == "2450" else '0,"No error"',
            error_tail=";1;2026/01/01 00:00:00" if model == "2450" else "",
        )
        self._volts = 0.0
        self.interlock_is_closed = True
        self.interlock_is_used = model == "2450"
        self._reset()
        self._table()

    def _reset(self) -> None:
        self.is_on = False
        self.level_v, self.level_a = 0.0, 0.0
        self.limit_a = 1.05e-4
        self.range_v, self.range_a = 20.0, 1e-4
        self.is_voltage_source = True
        self._sense = "CURR"
        self._nplc = 1.0
        self._auto = {"SOUR": True, "SENS": True}
        self._elements = ["VOLT", "CURR", "RES", "TIME", "STAT"]
        self._other: dict[str, str] = {}
        self.witness.note(self._elapsed_s, "supply", on=False)
        self.witness.note(self._elapsed_s, "wake", channel=0, volts=self.level_v)

    # -- the output -------------------------------------------------------------------------------------------------

    @property
    def volts(self) -> float:
        """What is at the terminals."""
        return self._volts

    def let_pass(self, seconds: float) -> None:
        """Let the output go towards its level, as far as the current limit lets it."""
        self._elapsed_s += seconds
        before_v = self._volts
        if self.is_on and self._may_not_go_on and self.model == "2400":
            self._set_output("0")
        goal = self._limited(self.level_v) if self.is_on and self.is_voltage_source else 0.0
        self._volts = goal + (self._volts - goal) * math.exp(-seconds / SETTLE_S)
        if abs(self._volts - goal) < 1e-6:
            self._volts = goal
        self.highest_v = max(self.highest_v, abs(self._volts))
        before, now = np.array([before_v]), np.array([self._volts])
        self.witness.outputs(self._elapsed_s, before, now, max(seconds, 1e-6))

    @property
    def is_limiting(self) -> bool:
        """Whether the current limit holds the output back."""
        return self.is_on and abs(self.load.current_a(self.level_v)) > self.limit_a

    @property
    def _may_not_go_on(self) -> bool:
        return self.interlock_is_used and not self.interlock_is_closed

    def _limited(self, volts: float) -> float:
        if self._may_not_go_on:
            volts = max(-OPEN_V, min(OPEN_V, volts))
        if abs(self.load.current_a(volts)) <= self.limit_a:
            return volts
        low, high = 0.0, volts
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if abs(self.load.current_a(middle)) <= self.limit_a else (low, middle)
        return low

    def current_a(self) -> float:
        """A reading of the current."""
        noise = NOISE_A / math.sqrt(self._nplc) + 1e-4 * abs(self.load.current_a(self._volts))
        return float(self.load.current_a(self._volts) + noise * self._rng.standard_normal())

    # -- what it understands ----------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> bytes:
        """Answers to the lines that are whole with these bytes."""
        return self.parser.receive(data)

    def forget(self) -> None:
        """The client has gone; the output stays as it is."""
        self.parser.forget()

    def _table(self) -> None:
        p = self.parser
        p.query("*IDN", lambda _: f"KEITHLEY INSTRUMENTS{self._inc},MODEL {self.model},{self.serial},{self._firmware}")
        p.command("*RST", lambda _: self._reset())
        p.command("*CLS", lambda _: p.clear())
        p.command("*WAI", lambda _: None)
        p.command("*TRG", lambda _: None)
        p.query("*OPC", lambda _: "1")
        p.query("*ESR", lambda _: p.read_events())
        p.query("*STB", lambda _: "4" if p.errors else "0")
        if self.model == "2450":
            p.query("*LANG", lambda _: "SCPI")
        p.query(":SYSTem:ERRor[:NEXT]", lambda _: p.next_error())
        p.command(":SYSTem:CLEar", lambda _: p.errors.clear())
        p.setting(":OUTPut[:STATe]", self._set_output, lambda: str(int(self.is_on)))
        p.query(":OUTPut:INTerlock:TRIPped", lambda _: str(int(not self._may_not_go_on)))
        if self.model == "2400":
            p.setting(":OUTPut:INTerlock[:STATe]", self._use_interlock, lambda: str(int(self.interlock_is_used)))
        p.setting(":SOURce:FUNCtion[:MODE]", self._set_source, lambda: "VOLT" if self.is_voltage_source else "CURR")
        p.setting(":SOURce:VOLTage[:LEVel][:IMMediate][:AMPLitude]", self._set_level, lambda: f"{self.level_v:.6E}")
        p.setting(":SOURce:VOLTage:RANGe", self._set_range_v, lambda: f"{self.range_v:.6E}")
        p.setting(":SOURce:CURRent[:LEVel]", self._set_amps, lambda: f"{self.level_a:.6E}")
        limit = ":SOURce:VOLTage:ILIMit[:LEVel]" if self.model == "2450" else ":SENSe:CURRent[:DC]:PROTection[:LEVel]"
        p.setting(limit, self._set_limit, lambda: f"{self.limit_a:.6E}")
        trip = ":SOURce:VOLTage:ILIMit[:LEVel]:TRIPped" if self.model == "2450" else ":SENSe:CURRent:PROTection:TRIPped"
        p.query(trip, lambda _: str(int(self.is_limiting)))
        p.setting(":SENSe:FUNCtion[:ON]", self._set_sense, self._sensed)
        p.setting(":SENSe:CURRent[:DC]:NPLCycles", self._set_nplc, lambda: f"{self._nplc:.6E}")
        p.setting(":SENSe:CURRent[:DC]:RANGe[:UPPer]", self._set_range_a, lambda: f"{self.range_a:.6E}")
        for header, key in ((":SOURce:VOLTage:RANGe:AUTO", "SOUR"), (":SENSe:CURRent[:DC]:RANGe:AUTO", "SENS")):
            p.setting(header, self._auto_setter(key), lambda key=key: str(int(self._auto[key])))  # type: ignore[misc]
        for header in (
            ":SOURce:VOLTage:DELay",
            ":SOURce:VOLTage:DELay:AUTO",
            ":SOURce:VOLTage:READ:BACK",
            ":SENSe:CURRent[:DC]:RSENse",
            ":SENSe:COUNt",
            ":SENSe:AZERo[:STATe]",
            ":OUTPut:SMODe",
            ":ROUTe:TERMinals",
        ):
            self._remember(header)
        p.command(":FORMat:ELEMents", self._set_elements)
        for header in (":READ", ":MEASure", ":MEASure[:CURRent][:DC]", ":FETCh"):
            p.query(header, self._read)
        for header in (":INITiate[:IMMediate]", ":ABORt"):
            p.command(header, lambda _: None)
        self._buffers()

    def _buffers(self) -> None:
        p = self.parser
        p.command(":TRACe:MAKE", lambda _: None)
        p.command(":TRACe:CLEar", lambda _: None)
        p.command(":TRACe:DELete", lambda _: None)
        p.query(":TRACe:POINts", lambda _: "100000")
        p.query(":TRACe:ACTual", lambda _: "0")

    def _remember(self, header: str) -> None:
        def write(text: str) -> None:
            self._other[header] = text

        self.parser.setting(header, write, lambda: self._other.get(header, "0"))

    @property
    def _inc(self) -> str:
        return " INC." if self.model == "2400" else ""

    @property
    def _firmware(self) -> str:
        return "1.7.12b" if self.model == "2450" else "C34 Sep 21 2016 15:30:00/A02  /S/K"

    def _set_output(self, text: str) -> None:
        is_on = boolean(text)
        if is_on and self._may_not_go_on and (self.model == "2400" or abs(self.level_v) > OPEN_ON_V):
            raise ScpiError(NOT_ALLOWED)
        self.is_on = is_on
        self.witness.note(self._elapsed_s, "supply", on=self.is_on)

    def _use_interlock(self, text: str) -> None:
        self.interlock_is_used = boolean(text)

    def _set_source(self, text: str) -> None:
        kind = _NAMES.get(text.upper())
        if kind is None:
            raise ScpiError(OUT_OF_RANGE)
        if self.is_on:
            raise ScpiError(NOT_ALLOWED)
        self.is_voltage_source = kind == "VOLT"

    def _set_level(self, text: str) -> None:
        volts = number(text, -MOST_V, MOST_V)
        if not self._auto["SOUR"] and abs(volts) > 1.05 * self.range_v:
            raise ScpiError(OUT_OF_RANGE)
        self.level_v = volts
        self.told_v.append(volts)
        code = round(1e3 * volts)
        self.witness.set_point(self._elapsed_s, 0, code, volts, place=(0, 0, 0), is_supplied=self.is_on)

    def _set_amps(self, text: str) -> None:
        self.level_a = number(text, -MOST_A, MOST_A)

    def _set_limit(self, text: str) -> None:
        self.limit_a = number(text, 1e-9, MOST_A)

    def _set_range_v(self, text: str) -> None:
        wanted = number(text, -MOST_V, MOST_V)
        self.range_v = next(r for r in (0.02, 0.2, 2.0, 20.0, 200.0) if abs(wanted) <= 1.05 * r)
        self._auto["SOUR"] = False

    def _set_range_a(self, text: str) -> None:
        wanted = number(text, -MOST_A, MOST_A)
        self.range_a = next(10.0**k for k in range(-8, 1) if abs(wanted) <= 1.05 * 10.0**k)
        self._auto["SENS"] = False

    def _auto_setter(self, key: str) -> Callable[[str], None]:
        def write(text: str) -> None:
            self._auto[key] = boolean(text)

        return write

    def _set_sense(self, text: str) -> None:
        name = text.strip("'\"").upper().partition(":")[0]
        if _NAMES.get(name) is None:
            raise ScpiError(OUT_OF_RANGE)
        self._sense = _NAMES[name]

    def _sensed(self) -> str:
        return f'"{self._sense}:DC"'

    def _set_nplc(self, text: str) -> None:
        self._nplc = number(text, 0.01, 10.0)

    def _set_elements(self, text: str) -> None:
        names = [name.strip().upper()[:4].rstrip("I") for name in text.split(",")]
        self._elements = [n for n in names if n in {"VOLT", "CURR", "RES", "TIME", "STAT"}]
        if not self._elements:
            raise ScpiError(OUT_OF_RANGE)

    def _read(self, asked: str) -> str:
        amps = f"{self.current_a():.6E}" if self.is_on else OVERFLOW
        volts = f"{self._volts:.6E}" if self.is_on else OVERFLOW
        if self.model == "2450":
            reading = amps if self._sense == "CURR" else volts
            return f"{volts},{reading}" if "SOUR" in asked.upper() else reading
        values = {"VOLT": volts, "CURR": amps, "RES": OVERFLOW, "TIME": f"{self._elapsed_s:.6E}"}
        status = f"{8 if self.is_limiting else 0:.6E}"
        return ",".join(values.get(name, status) for name in self._elements)

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {
            "model": self.model,
            "is_on": self.is_on,
            "level_v": self.level_v,
            "volts": round(self._volts, 6),
            "highest_v": round(self.highest_v, 6),
            "lines": self.parser.lines,
            "is_limiting": self.is_limiting,
        }
