"""The wire side of a Hamamatsu C11204: bytes in, bytes out, and the voltage that is truly there.

Source: the same as of the driver's codec. What no public source says is decided here and written down: how fast the
output moves (`SLEW_V_PER_S`), that a set written with HST also becomes the present reference voltage, that HRE brings
back the stored one with the output off, and that what it is told outside of its range moves the output to an end of it.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc_drivers.hamamatsu_c11204 import wire
from petqc_drivers.hamamatsu_c11204.wire import Compensation, Function, Status
from petqc_simulators.boards.witness import BiasWitness

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SLEW_V_PER_S = 200.0
STABLE_V = 0.005
CR_WITHIN_S = 1.0
MOST_BYTES = 256
TRIP_MA, TRIP_AFTER_S = 3.0, 4.0
OUT_OF_SPEC_MA = 2.0
RESTORE_AFTER_S = 1.0
"""Not published either: how long it stays off before it restores its output by itself."""
SENSOR_RANGE_DEGC = (-30.0, 100.0)
NO_SENSOR_CODE = 1
_LONGEST_STEP_S = 0.01


class HamamatsuC11204Board:
    """The module.

    Args:
        model: C11204-01 or C11204-02.
        serial: what HGN says.
        load_ma: current that flows at a voltage.
        sensor_degc: what its temperature sensor feels; None if none is plugged.
        witness_path: file for what it was told and did.

    Attributes:
        output_v: the voltage that is truly at its output.
        witness: every set-point that it was ever told, and its output over time.
        refuses: error codes that it answers a command with, by mnemonic; without doing it.
        ignores: commands that it acknowledges and does not do.
        drops: commands that it neither answers nor does.
        drift_v: what its output is above where it should be; its monitor sees that.
        reads_above: how many volts its monitor shows too much.
        is_silent: it answers nothing.
    """

    def __init__(
        self,
        model: str = "C11204-02",
        *,
        serial: str = "SIM00001",
        load_ma: Callable[[float], float] = lambda volts: volts / 2.0e6 * 1e3,
        sensor_degc: Callable[[], float | None] = lambda: 25.0,
        witness_path: Path | None = None,
    ) -> None:
        self.model = wire.MODELS[model]
        self.serial = serial
        self.load_ma = load_ma
        self.sensor_degc = sensor_degc
        self.witness = BiasWitness(1, witness_path)
        self.refuses: dict[str, int] = {}
        self.ignores: set[str] = set()
        self.drops: set[str] = set()
        self.drift_v = self.reads_above = 0.0
        self.is_silent = False
        self.counters: Counter[str] = Counter()
        self.stored = Compensation(
            quadratic_above=0,
            quadratic_below=0,
            linear_above=round(54.0 / wire.MV_PER_K_PER_CODE),
            linear_below=round(54.0 / wire.MV_PER_K_PER_CODE),
            voltage=self.model.lowest_code,
            temperature=wire.code_of_degc(25.0),
        )
        self.elapsed_s = 0.0
        self._packet = bytearray()
        self._packet_age_s = 0.0
        self.power_cycle()

    def power_cycle(self) -> None:
        """Off and on again: what is stored stays, everything else is as from the shelf."""
        self.output_v = 0.0
        self.is_on = False
        self.is_compensating = False
        self.functions = Function.VOLTAGE_CONTROL
        self.reference = self.stored.voltage
        self.has_tripped = False
        self._over_current_s = self._off_for_s = 0.0
        self.witness.note(self.elapsed_s, "supply", on=False)
        self.witness.note(self.elapsed_s, "wake", channel=0, volts=round(wire.volts(self.reference), 5))

    # -- bytes ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> bytes:
        """Bytes from the line; its replies."""
        replies = b""
        for byte in data:
            if not self._packet and byte != wire.STX:
                if byte == wire.CR:
                    replies += self._error(3)
                continue
            if byte == wire.STX:
                self._packet.clear()
                self._packet_age_s = 0.0
            self._packet.append(byte)
            if byte == wire.CR:
                packet = bytes(self._packet)
                self._packet.clear()
                replies += self._answer(packet)
            elif len(self._packet) >= MOST_BYTES:
                self._packet.clear()
                replies += self._error(3)
        return b"" if self.is_silent else replies

    def _error(self, number: int) -> bytes:
        self.counters[f"error_{number}"] += 1
        return wire.frame(wire.ERROR_MNEMONIC, f"{number:04X}")

    def _answer(self, packet: bytes) -> bytes:
        # Between ETX and CR stand two digits, however long the rest is.
        if len(packet) < 7 or packet[-4] != wire.ETX:
            return self._error(3)
        if wire.checksum(packet[:-3]) != packet[-3:-1].upper():
            return self._error(4)
        mnemonic, data = packet[1:4].decode("latin-1"), packet[4:-4].decode("latin-1")
        if mnemonic not in wire.REQUEST_DIGITS:
            return self._error(5)
        if re.fullmatch("[0-9A-Fa-f]*", data) is None:
            return self._error(6)
        if len(data) != wire.REQUEST_DIGITS[mnemonic]:
            return self._error(7)
        if not self.model.tells_identity and mnemonic in {"HFI", "HGN"}:
            return self._error(5)
        self.counters[mnemonic] += 1
        if mnemonic in self.drops:
            return b""
        if mnemonic in self.refuses:
            return self._error(self.refuses[mnemonic])
        return wire.frame(mnemonic.lower(), self._do(mnemonic, data))

    def _do(self, mnemonic: str, data: str) -> str:
        is_done = mnemonic not in self.ignores
        match mnemonic:
            case "HBV":
                self._told(int(data, 16), is_done=is_done)
            case "HST":
                self._store(Compensation.from_data(data.upper()), is_done=is_done)
            case "HCM" if is_done:
                self.is_compensating = data != "0"
            case "HSC" if is_done:
                self.functions = Function(int(data, 16) & 3)
            case "HON" | "HOF" if is_done:
                self._switch(is_on=mnemonic == "HON" and not self.has_tripped)
            case "HRE" if is_done:
                self._switch(is_on=False)
                self.has_tripped = False
                self.reference = self.stored.voltage
            case _:
                pass
        return self._told_back(mnemonic)

    def _told_back(self, mnemonic: str) -> str:
        match mnemonic:
            case "HPO":
                setting = self.reference if self.model.tells_setting else 0
                return wire.digits(int(self.status()), setting, self.voltage_code, self.current_code, self.sensor_code)
            case "HGS":
                return wire.digits(int(self.status()))
            case "HGV":
                return wire.digits(self.voltage_code)
            case "HGC":
                return wire.digits(self.current_code)
            case "HGT":
                return wire.digits(self.sensor_code)
            case "HRT":
                return self.stored.data()
            case "HRC":
                return wire.digits(int(self.functions))
            case "HFI":
                return f"{self.model.name:<16}{'V2.1':<16}{'2018/06/21 ':<11}"
            case "HGN":
                return f"{self.serial:<16}"
            case _:
                return ""

    def _told(self, code: int, *, is_done: bool) -> None:
        self.witness.set_point(self.elapsed_s, 0, code, wire.volts(code), place=(0, 0, 0), is_supplied=self.is_on)
        if is_done:
            self.reference = code

    def _store(self, wanted: Compensation, *, is_done: bool) -> None:
        most_v = wire.volts(wanted.voltage) + max(wanted.most_added_v(), 0.0)
        self.witness.note(self.elapsed_s, "store", volts=round(wire.volts(wanted.voltage), 5), most_v=round(most_v, 5))
        if is_done:
            self.stored, self.reference = wanted, wanted.voltage

    def trip(self) -> None:
        """Its over-current protection acts."""
        self.has_tripped, self._off_for_s = True, 0.0
        self._switch(is_on=False)

    def _switch(self, *, is_on: bool) -> None:
        self.is_on = is_on
        self._over_current_s = 0.0
        self.witness.note(self.elapsed_s, "supply", on=is_on)

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def voltage_code(self) -> int:
        """Of the monitor."""
        return int(max(self.output_v + self.reads_above, 0.0) / wire.V_PER_CODE)

    @property
    def current_code(self) -> int:
        """Of the monitor."""
        return min(int(1e3 * max(self._current_ma(), 0.0) / self.model.ua_per_code), 0xFFFF)

    @property
    def sensor_code(self) -> int:
        """Of the sensor's input."""
        t_degc = self.sensor_degc()
        return NO_SENSOR_CODE if t_degc is None else wire.code_of_degc(t_degc)

    def _current_ma(self) -> float:
        return self.load_ma(self.output_v)

    def _target_v(self) -> float:
        if not self.is_on:
            return 0.0
        volts = wire.volts(self.reference)
        if self._compensates():
            volts += self.stored.added_v(wire.degc(self.sensor_code))
        return min(max(volts, self.model.lowest_v), wire.HIGHEST_V) + self.drift_v

    def _compensates(self) -> bool:
        t_degc = self.sensor_degc()
        low, high = wire.COMPENSATION_DEGC
        return self.is_compensating and t_degc is not None and low <= t_degc <= high

    def status(self) -> Status:
        """The status word now."""
        t_degc, status = self.sensor_degc(), Status(0)
        low, high = wire.COMPENSATION_DEGC
        is_restoring = self.has_tripped and Function.AUTO_RESTORE in self.functions
        is_moving = self.is_on and abs(self._target_v() - self.output_v) > STABLE_V
        for bit, holds in (
            (Status.HV_ON, self.is_on),
            (Status.OVER_CURRENT_PROTECTION, self.has_tripped),
            (Status.CURRENT_OUT_OF_SPEC, self._current_ma() > OUT_OF_SPEC_MA),
            (Status.SENSOR_CONNECTED, t_degc is not None and SENSOR_RANGE_DEGC[0] <= t_degc <= SENSOR_RANGE_DEGC[1]),
            (Status.TEMPERATURE_OUT_OF_RANGE, t_degc is not None and not low <= t_degc <= high),
            (Status.COMPENSATION_ACTIVE, self._compensates()),
            (Status.AUTO_RESTORE, is_restoring),
            (Status.VOLTAGE_SUPPRESSION, is_restoring and is_moving),
            (Status.VOLTAGE_CONTROL, is_moving),
            (Status.VOLTAGE_STABLE, self.is_on and not is_moving),
        ):
            if holds:
                status |= bit
        return status

    # -- time -------------------------------------------------------------------------------------------------------

    def let_pass(self, seconds: float) -> bytes:
        """Let simulated time pass; what it says by itself meanwhile."""
        said = b""
        if self._packet:
            self._packet_age_s += seconds
            if self._packet_age_s > CR_WITHIN_S:
                self._packet.clear()
                said = b"" if self.is_silent else self._error(2)
        while seconds > 0.0:
            step_s = min(seconds, _LONGEST_STEP_S)
            self._step(step_s)
            seconds -= step_s
        return said

    def _step(self, seconds: float) -> None:
        self.elapsed_s += seconds
        before_v, most_v = self.output_v, SLEW_V_PER_S * seconds
        self.output_v += min(max(self._target_v() - before_v, -most_v), most_v)
        self.witness.outputs(self.elapsed_s, np.array([before_v]), np.array([self.output_v]), seconds)
        if self.is_on and self._current_ma() > TRIP_MA:
            self._over_current_s += seconds
            if self._over_current_s > TRIP_AFTER_S:
                self.trip()
        else:
            self._over_current_s = 0.0
        if self.has_tripped and Function.AUTO_RESTORE in self.functions and not self.is_on:
            self._off_for_s += seconds
            if self._off_for_s > RESTORE_AFTER_S:
                self._switch(is_on=True)

    def forget(self) -> None:
        """A serial line has no sessions: half a packet stays where it is, for a second."""

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {
            "model": self.model.name,
            "serial": self.serial,
            "is_on": self.is_on,
            "output_v": round(self.output_v, 4),
            "reference_v": round(wire.volts(self.reference), 4),
            "current_ma": round(self._current_ma(), 5),
            "sensor_degc": self.sensor_degc(),
            "has_tripped": self.has_tripped,
            "is_compensating": self.is_compensating,
            **self.witness.summary(),
        }

    def close(self) -> None:
        """Close its files."""
        self.witness.close()
