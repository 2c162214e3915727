"""The trimmed supplies of the modules of a FEB/D 8K: three rails on each of four buses, four ports a bus.

A trim makes a voltage, the modules' current lowers it on the way, and the monitor measures it at each port. What the
trims do in numbers is not documented; the curves here are such that each rail is too low at the trim it is switched on
with, and reaches its target well inside the range of the vendor's ramp, loaded or not.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6 and 4.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from petqc_drivers.petsys.spi import SUPPLY_BUSES, SUPPLY_GOOD, supply_adc
from petqc_simulators.boards.i2c_bus import BusSwitch, Ds44xx, I2cBus
from petqc_simulators.boards.spi_devices import Max111xx, WordOut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from petqc_simulators.boards.spi_devices import SpiDevice

PORTS = 4
"""Ports for modules on each bus."""
RAILS = ("vdd1", "vdd2", "vdd3")
TARGET_V = {"vdd1": 1.35, "vdd2": 2.75, "vdd3": 3.25}
MOST_V = {rail: 1.15 * volts for rail, volts in TARGET_V.items()}
"""More than this at a module is an over-voltage. How much modules bear is not documented."""
GOOD_SHARE = 0.8
"""A supply calls itself good above this share of its target."""
_FULL_V, _CODES = 2.5, 4096
_MONITOR = {0: ("vdd2", 2.0), 1: ("vdd3", 2.0), 2: ("vdd1", 1.0)}
"""Rail, and divider before the ADC, by the low two bits of the ADC channel; 3 is the ground of the port."""
_GROUND_V = 0.004
_DROOP_V = {"vdd1": 0.060, "vdd2": 0.030, "vdd3": 0.020}
"""Lost on the way to a module that draws its full current; half of it as the bus's own, half as the port's."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Voltage of a rail at one trim without load, and per step of the trim."""

    at: int
    volts: float
    volts_per_step: float

    def __call__(self, code: int) -> float:
        """Voltage at a trim."""
        return self.volts + (code - self.at) * self.volts_per_step


CURVES: dict[str, dict[str, Curve]] = {
    "TI": {
        "vdd1": Curve(-30, 1.22, 0.0055),
        "vdd2": Curve(37, 2.50, 0.0060),
        "vdd3": Curve(69, 3.05, 0.0070),
    },
    "Murata": {
        "vdd1": Curve(2, 1.22, 0.0028),
        "vdd2": Curve(-23, 2.50, 0.0040),
        "vdd3": Curve(40, 3.05, 0.0050),
    },
}


class SupplyBus:
    """One bus with its supply.

    Args:
        variant: kind of supply, TI, Murata or "" for none.
        loads: current of the module at each port, as a share of the most; None where no module is plugged.
        is_on: whether the modules are switched on.
        on_change: is told of a trim: rail and code.
    """

    def __init__(
        self,
        variant: str,
        loads: Callable[[int], float | None],
        is_on: Callable[[], bool],
        on_change: Callable[[str, int], None],
    ) -> None:
        self.variant = variant
        self._loads = loads
        self._is_on = is_on
        self._on_change = on_change
        self._trims: dict[str, tuple[Ds44xx, int]] = {}
        self.i2c = self._wire()

    def _dac(self, address: int, rails: dict[int, str]) -> Ds44xx:
        def on_set(register: int, code: int) -> None:
            if register in rails:
                self._on_change(rails[register], code)

        chip = Ds44xx(address, on_set)
        self._trims |= {rail: (chip, register) for register, rail in rails.items()}
        return chip

    def _wire(self) -> I2cBus:
        if self.variant == "TI":
            return I2cBus([self._dac(0x96, {0xF8: "vdd1"}), self._dac(0x90, {0xF8: "vdd2", 0xF9: "vdd3"})])
        if self.variant == "Murata":
            first, second = self._dac(0x90, {0xF8: "vdd1"}), self._dac(0x90, {0xF8: "vdd2", 0xF9: "vdd3"})
            return I2cBus(switch=(BusSwitch(), {0: [first], 1: [second]}))
        return I2cBus()

    def code(self, rail: str) -> int:
        """The trim of a rail."""
        chip, register = self._trims[rail]
        return chip.code(register)

    def volts(self, rail: str, port: int | None = None) -> float:
        """Voltage of a rail, at the supply or at a port with a module."""
        if not self.variant or not self._is_on():
            return 0.0
        loads = [load for load in map(self._loads, range(PORTS)) if load is not None]
        lost = sum(loads) / PORTS
        if port is not None:
            lost += self._loads(port) or 0.0
        return CURVES[self.variant][rail](self.code(rail)) - _DROOP_V[rail] * lost / 2.0

    def has_module(self, port: int) -> bool:
        """Whether a module is plugged to a port."""
        return self._loads(port) is not None

    def too_high(self) -> list[tuple[str, int, float]]:
        """Rail, port and voltage wherever a module has more than it bears."""
        return [
            (rail, port, volts)
            for rail in RAILS
            for port in range(PORTS)
            if self.has_module(port) and (volts := self.volts(rail, port)) > MOST_V[rail]
        ]

    def is_good(self, rail: str) -> bool:
        """What the supply says of itself."""
        return self.volts(rail) > GOOD_SHARE * TARGET_V[rail]

    def monitor_code(self, channel: int) -> int:
        """12-bit code of the monitor: rails against the board's ground, and the module's ground, which it ties down."""
        port, which = divmod(channel, PORTS)
        if not self.has_module(port):
            return _CODES - 1 if which not in _MONITOR else 0
        volts = _GROUND_V
        divider = 1.0
        if which in _MONITOR:
            rail, divider = _MONITOR[which]
            volts = self.volts(rail, port) + (_GROUND_V if self._is_on() else 0.0)
        return min(max(round(volts / divider * _CODES / _FULL_V), 0), _CODES - 1)


def _load_of_port(loads: Callable[[int], float | None], first: int, port: int) -> float | None:
    return loads(first + port)


class Supplies8k:
    """The supplies of all four buses.

    Args:
        variants: kind of supply on each bus, TI, Murata or "" for none.
        loads: current of the module at each of the 16 places, see `SupplyBus`.
        is_on: whether the modules are switched on.
        note: is told of every trim, and of every module that gets more than it bears.

    Attributes:
        buses: by number.
        spi: monitors, and the register of good supplies, by SPI id.
    """

    def __init__(
        self,
        variants: Sequence[str],
        loads: Callable[[int], float | None],
        is_on: Callable[[], bool],
        note: Callable[..., None],
    ) -> None:
        self._note = note
        self._reported: set[tuple[int, str, int]] = set()
        self.buses: dict[int, SupplyBus] = {}
        self.spi: dict[int, SpiDevice] = {SUPPLY_GOOD: WordOut(self._good_word)}
        for bus, variant in zip(SUPPLY_BUSES, variants, strict=True):
            of_place = partial(_load_of_port, loads, PORTS * (bus - 1))
            found = SupplyBus(variant, of_place, is_on, partial(self._trimmed, bus))
            self.buses[bus] = found
            self.spi[supply_adc(bus)] = Max111xx(found.monitor_code)

    def _trimmed(self, bus: int, rail: str, code: int) -> None:
        self._note("trim", bus=bus, rail=rail, code=code, volts=round(self.buses[bus].volts(rail), 4))
        self.look()

    def look(self) -> None:
        """Report modules that get more than they bear, once each time that they do; to be called after any change."""
        found = {
            (bus, rail, port): volts for bus, supply in self.buses.items() for rail, port, volts in supply.too_high()
        }
        for (bus, rail, port), volts in found.items():
            if (bus, rail, port) not in self._reported:
                self._note("over_voltage", bus=bus, rail=rail, port=port, volts=round(volts, 4), most_v=MOST_V[rail])
        self._reported = set(found)

    def _good_word(self) -> int:
        """VDD1, VDD2 and VDD3 in the low, middle and high four bits, one bit for each bus."""
        return sum(
            self.buses[bus].is_good(rail) << (4 * i + bus - 1) for i, rail in enumerate(RAILS) for bus in self.buses
        )
