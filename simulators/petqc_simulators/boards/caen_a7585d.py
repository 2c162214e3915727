"""The wire side of a CAEN A7585D, and the voltage that is truly there.

Source: the same as of the driver's file. Decided here: over its own voltage or current limit it switches off and keeps
the flag until it is switched on again; registers that nothing here acts on keep what they are told.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc_drivers.caen_a7585d import HIGHEST_V, LOWEST_V, Register
from petqc_simulators.boards.witness import BiasWitness

if TYPE_CHECKING:
    from collections.abc import Callable

READ_ONLY_FROM = 200
MOST_BYTES = 256
SAVE = 255


class CaenA7585dBoard:
    """The module.

    Args:
        serial: of register 254.
        load_ma: current that flows at a voltage.
        sensor_degc: what its temperature sensor feels.

    Attributes:
        output_v: the voltage that is truly at its output.
        witness: every set-point that it was ever told, and its output over time.
        reads_above: how many volts its monitor shows too much.
    """

    def __init__(
        self,
        serial: int = 10234,
        *,
        load_ma: Callable[[float], float] = lambda volts: volts / 100.0,
        sensor_degc: Callable[[], float] = lambda: 25.0,
    ) -> None:
        self.load_ma, self.sensor_degc = load_ma, sensor_degc
        self.witness = BiasWitness(1)
        self.elapsed_s = self.reads_above = 0.0
        self._serial = serial
        self.power_cycle()

    def power_cycle(self) -> None:
        """Off and on again: everything as from the shelf, its own limits too."""
        self._held = b""
        self.output_v = 0.0
        self.values: dict[int, float] = {
            Register.MODE: 0.0,
            Register.VOLTAGE: LOWEST_V,
            Register.RAMP_V_PER_S: 5.0,
            Register.MOST_V: HIGHEST_V,
            Register.MOST_MA: 10.0,
            Register.ENABLE: 0.0,
            Register.OVER_VOLTAGE: 0.0,
            Register.OVER_CURRENT: 0.0,
            Register.PRODUCT: 7585.0,
            Register.FIRMWARE: 1.4,
            Register.SERIAL: float(self._serial),
        }
        self.witness.note(self.elapsed_s, "supply", on=False)
        self.witness.note(self.elapsed_s, "wake", channel=0, volts=LOWEST_V)

    @property
    def is_on(self) -> bool:
        """Enabled."""
        return self.values[Register.ENABLE] != 0.0

    def receive(self, data: bytes) -> bytes:
        """Bytes from the line; its replies."""
        *lines, self._held = (self._held + data).split(b"\n")
        self._held = self._held[-MOST_BYTES:]
        return b"".join(self._answer(line.strip().decode("latin-1")) for line in lines if line.strip())

    def forget(self) -> None:
        """A serial line has no sessions."""

    def _answer(self, line: str) -> bytes:
        verb, _, rest = line.partition(",")
        with contextlib.suppress(ValueError):
            if verb == "AT+MACHINE":
                return b"OK\r\n"
            if verb == "AT+GET":
                return f"OK={self._get(int(rest)):.3f}\r\n".encode("ascii")
            if verb == "AT+SET":
                number, _, value = rest.partition(",")
                if int(number) == SAVE or (int(number) < READ_ONLY_FROM and np.isfinite(float(value))):
                    self._put(int(number), float(value))
                    return b"OK\r\n"
        return b"ERROR\r\n"

    def _get(self, register: int) -> float:
        match register:
            case Register.OUTPUT_V:
                return self.output_v + self.reads_above
            case Register.OUTPUT_MA:
                return self.load_ma(self.output_v)
            case Register.SENSOR_DEGC:
                return self.sensor_degc()
        return self.values.get(register, 0.0)

    def _put(self, register: int, value: float) -> None:
        self.values[register] = value
        if register == Register.VOLTAGE:
            self.witness.set_point(
                self.elapsed_s, 0, round(1000 * value), value, place=(0, 0, 0), is_supplied=self.is_on
            )
        if register == Register.ENABLE:
            self.witness.note(self.elapsed_s, "supply", on=self.is_on)
            self.values[Register.OVER_VOLTAGE] = self.values[Register.OVER_CURRENT] = 0.0

    def trip(self, register: Register = Register.OVER_CURRENT) -> None:
        """A protection acts: the output is disabled, and says why."""
        self.values[Register.ENABLE] = 0.0
        self.values[register] = 1.0
        self.witness.note(self.elapsed_s, "supply", on=False)

    def let_pass(self, seconds: float) -> None:
        """Let simulated time pass."""
        self.elapsed_s += seconds
        goal = min(max(self.values[Register.VOLTAGE], LOWEST_V), HIGHEST_V) if self.is_on else 0.0
        most_v = self.values[Register.RAMP_V_PER_S] * seconds if self.is_on else HIGHEST_V
        before_v = self.output_v
        self.output_v += min(max(goal - before_v, -most_v), most_v)
        for register, is_over in (
            (Register.OVER_VOLTAGE, self.output_v > self.values[Register.MOST_V] + 1e-6),
            (Register.OVER_CURRENT, self.load_ma(self.output_v) > self.values[Register.MOST_MA]),
        ):
            if self.is_on and is_over:
                self.trip(register)
        self.witness.outputs(self.elapsed_s, np.array([before_v]), np.array([self.output_v]), max(seconds, 1e-6))

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {"is_on": self.is_on, "output_v": round(self.output_v, 4), **self.witness.summary()}
