"""Supplies of the modules of a FEB/D 8K: three rails on each of four buses, trimmed until they are what modules need.

This is the one place that sends to the devices that trim them. Every set-point passes the guard and is read back; the
voltage at every port in use is measured after each step. A rail that reaches its highest set-point, or comes out higher
than it may at any port, ends with the modules off.

What differs from the vendor's procedure, each time to the careful side: a bus error is never taken for one kind of
supply; a rail that is too low at the end of its range is an error also if the last step does not fall on the end; the
voltage has an upper bound; the ground level is subtracted once, not twice; without a module nothing is switched on.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.6, 4.7 and 5.2 (15,
25a); order and waits from the public vendor software of the same revision.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import Quality, Reading
from petqc_drivers.errors import DeviceFaultError, DriverError, RemoteProtocolError, VerifyError
from petqc_drivers.limits import SetOutput, guard_harmless, guard_trim
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.i2c import (
    I2cResult,
    I2cTransfer,
    i2c_read_register,
    i2c_release,
    i2c_write,
    parse_i2c_reply,
    spoken,
)
from petqc_drivers.petsys.registers import POWER_FEM
from petqc_drivers.petsys.sensors import adc_code, set_up_adc
from petqc_drivers.petsys.spi import SUPPLY_BUSES, supply_adc, supply_good_read
from petqc_drivers.petsys.wire import Function, WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOG = logging.getLogger(__name__)

Variant = Literal["TI", "Murata"]
RailName = Literal["vdd1", "vdd2", "vdd3"]

OVER_TARGET: Final = 1.10
"""A rail that is higher than this times its target at any port is an error. The vendor has no such bound; one step of a
ramp is a few per mille."""
GROUND_MAX_V: Final = 0.1
"""A port whose ground is higher is not used."""
VDD2_USED_V: Final = 1.5
"""A port whose VDD2 is not above this does without it."""
OFF_TRIES: Final = 2
SETTLE_S: Final = 0.05
MEASURE_PAUSE_S: Final = 0.001
GOOD_DEADLINE_S: Final = 1.0
_GOOD_PAUSE_S: Final = 0.1
_PORTS: Final = 4
_GROUND: Final = 3
_SWITCH: Final = 0xE0
"""Address of the switch that only the Murata supplies have; each of its two branches has trim DACs."""
_BRANCHES: Final = (0x04, 0x05)
_REFINE_STEP: Final = 1
_REFINE_STEP_AFTER: Final = 2


@dataclass(frozen=True, slots=True)
class Rail:
    """One rail: the voltage it is brought to, where it is measured, and the step of its ramp."""

    name: RailName
    target_v: float
    adc_channel: int
    divider: int
    step: int


VDD1: Final = Rail("vdd1", 1.35, 2, 1, 3)
VDD2: Final = Rail("vdd2", 2.75, 0, 2, 4)
VDD3: Final = Rail("vdd3", 3.25, 1, 2, 3)
RAILS: Final = (VDD1, VDD2, VDD3)


@dataclass(frozen=True, slots=True)
class Trim:
    """Where the trim of a rail is set, and its least and greatest value; the least is what it is switched on with."""

    chip: int
    register: int
    lowest: int
    highest: int
    branch: int | None = None


TRIMS: Final[dict[Variant, dict[RailName, Trim]]] = {
    "TI": {
        "vdd1": Trim(0x96, 0xF8, -30, 31),
        "vdd2": Trim(0x90, 0xF8, 37, 127),
        "vdd3": Trim(0x90, 0xF9, 69, 127),
    },
    "Murata": {
        "vdd1": Trim(0x90, 0xF8, 2, 127, branch=0x04),
        "vdd2": Trim(0x90, 0xF8, -23, 127, branch=0x05),
        "vdd3": Trim(0x90, 0xF9, 40, 127, branch=0x05),
    },
}
_SIGN: Final = 0x80


def _trim_byte(code: int) -> int:
    """Sign and seven bits."""
    return _SIGN | -code if code < 0 else code


def _trim_code(byte: int) -> int:
    return -(byte & ~_SIGN) if byte & _SIGN else byte


def _trim_write(bus: int, trim: Trim, code: int) -> I2cTransfer:
    return i2c_write(bus, trim.chip, trim.register, _trim_byte(code))


def encode_trim(bus: int, variant: Variant, rail: RailName, code: int) -> SetOutput:
    """Sealed message that trims a rail; its branch must be selected.

    Args:
        bus: 1..4.
        variant: Kind of supply on it.
        rail: Which rail.
        code: The trim.

    Raises:
        LimitError: If the trim is outside what this rail may have, or does not come out of its own bytes again.
    """
    trim = TRIMS[variant][rail]

    def decode_code(payloads: tuple[bytes, ...]) -> int:
        (payload,) = payloads
        on_bus, said = spoken(payload)
        ((chip, register, byte),) = said
        if (on_bus, chip, register) != (bus, trim.chip, trim.register):
            raise WireError(f"encoded for bus {on_bus}, device {chip:#04x}, register {register:#04x}")
        return _trim_code(byte)

    return guard_trim(
        code,
        lowest=trim.lowest,
        highest=trim.highest,
        channel=f"{rail} of bus {bus}",
        function=Function.I2C,
        encode=lambda wanted: (_trim_write(bus, trim, wanted).to_bytes(),),
        decode_code=decode_code,
    )


def _is_harmless(payload: bytes) -> bool:
    """Selects a branch, reads a register, or frees the bus; nothing that a trim DAC takes for a value."""
    _, said = spoken(payload)
    match said:
        case ():
            return True
        case ((address, branch),) if address == _SWITCH:
            return branch in _BRANCHES
        case ((chip, _), (asked, _)) if chip != _SWITCH:
            return not chip & 1 and asked == chip | 1
        case _:
            return False


def encode_look(transfer: I2cTransfer) -> SetOutput:
    """Sealed message that changes no trim: select a branch, read a register, free the bus.

    Raises:
        LimitError: If it is anything else.
    """
    return guard_harmless(
        transfer.to_bytes(), channel=f"supplies of bus {transfer.bus}", function=Function.I2C, is_harmless=_is_harmless
    )


@dataclass(frozen=True, slots=True)
class PortVoltages:
    """What was measured at one port, volts; the rails against its own ground."""

    ground_v: float
    rails_v: dict[RailName, float]

    @property
    def is_used(self) -> bool:
        """Whether a module is plugged there."""
        return self.ground_v < GROUND_MAX_V


@dataclass(slots=True)
class SupplyModule:
    """The supply on one bus: its kind, its ports in use and what its rails are trimmed to."""

    bus: int
    variant: Variant
    ports: frozenset[int]
    set_points: dict[RailName, int] = field(default_factory=dict)


async def _look(board: Board, transfer: I2cTransfer) -> I2cResult:
    return await _carry_out(board, encode_look(transfer), transfer)


async def _carry_out(board: Board, output: SetOutput, transfer: I2cTransfer) -> I2cResult:
    """Send one transfer; whether it was acknowledged is for the caller to judge.

    Raises:
        DeviceFaultError: If a line is held by somebody; the bus has been freed then.
        RemoteProtocolError: If the answer has the wrong length.
    """
    (reply,) = await board.send_sealed(output)
    try:
        result = parse_i2c_reply(transfer, reply)
    except WireError as error:
        raise RemoteProtocolError(f"{output.channel}: {error}", device=board.name) from error
    if result.is_bus_error:
        await board.send_sealed(encode_look(i2c_release(transfer.bus)))
        raise DeviceFaultError(f"{output.channel}: bus error", device=board.name, do="check the supply on this bus")
    return result


async def _set_trim(board: Board, module: SupplyModule, rail: Rail, code: int) -> None:
    """Trim a rail and read the trim back."""
    trim, bus = TRIMS[module.variant][rail.name], module.bus
    where = f"{rail.name} of bus {bus}"
    output = encode_trim(bus, module.variant, rail.name, code)
    if trim.branch is not None:
        selected = await _look(board, i2c_write(bus, _SWITCH, trim.branch, hold_first=True))
        if not selected.is_acknowledged:
            raise DeviceFaultError(f"{where}: the switch of the supply does not answer", device=board.name)
    written = await _carry_out(board, output, _trim_write(bus, trim, code))
    found = await _look(board, i2c_read_register(bus, trim.chip, trim.register))
    if not (written.is_acknowledged and found.is_acknowledged) or found.value is None:
        raise DeviceFaultError(f"{where}: the supply does not answer", device=board.name, do="check its seat")
    if _trim_code(found.value) != code:
        raise VerifyError(f"{where}: trim reads {_trim_code(found.value)} after writing {code}", device=board.name)
    module.set_points[rail.name] = code


async def measure(board: Board, bus: int) -> list[PortVoltages] | None:
    """Voltages at the four ports of a bus; None if its ADC does not answer.

    Raises:
        RemoteProtocolError: If the ADC answers for another channel.
    """
    spi_id, what = supply_adc(bus), f"supply ADC of bus {bus}"
    if not await set_up_adc(board, spi_id, what):
        return None
    found: list[PortVoltages] = []
    try:
        for port in range(_PORTS):
            ground_v = 2.5 * await adc_code(board, spi_id, 4 * port + _GROUND, what) / 4096
            rails_v: dict[RailName, float] = {}
            for rail in RAILS:
                code = await adc_code(board, spi_id, 4 * port + rail.adc_channel, what)
                rails_v[rail.name] = 2.5 * code / 4096 * rail.divider - ground_v
            found.append(PortVoltages(ground_v, rails_v))
    except WireError as error:
        raise RemoteProtocolError(f"{what}: {error}", device=board.name) from error
    await asyncio.sleep(MEASURE_PAUSE_S)
    return found


async def _measured(board: Board, bus: int) -> list[PortVoltages]:
    found = await measure(board, bus)
    if found is None:
        raise DeviceFaultError(f"the supply ADC of bus {bus} does not answer", device=board.name)
    return found


async def read_good(board: Board) -> dict[int, tuple[bool, bool, bool]]:
    """Which rails (VDD1, VDD2, VDD3) the supply of each bus calls good."""
    word = await board.spi(supply_good_read(), "good supplies")
    return {
        bus: (bool(word >> bus - 1 & 1), bool(word >> 4 + bus - 1 & 1), bool(word >> 8 + bus - 1 & 1))
        for bus in SUPPLY_BUSES
    }


async def find_supplies(board: Board) -> list[SupplyModule]:
    """The supplies of the buses that a module is plugged to.

    Raises:
        DeviceFaultError: If an ADC does not answer, a bus is stuck, or no module is plugged at all.
    """
    found: list[SupplyModule] = []
    for bus in SUPPLY_BUSES:
        ports = frozenset(port for port, volts in enumerate(await _measured(board, bus)) if volts.is_used)
        if not ports:
            continue
        answer = await _look(board, i2c_write(bus, _SWITCH, _BRANCHES[1], hold_first=True))
        found.append(SupplyModule(bus, "Murata" if answer.is_acknowledged else "TI", ports))
    if not found:
        raise DeviceFaultError(
            "no module is plugged to any of the four buses, so nothing was switched on",
            device=board.name,
            do="check the modules' cables",
        )
    return found


class TrimmedSupplies:
    """The supplies of the modules of one board, switched on and trimmed.

    Args:
        board: The board.
        modules: What is on its buses.
    """

    def __init__(self, board: Board, modules: Sequence[SupplyModule]) -> None:
        self._board = board
        self.modules = modules

    @classmethod
    async def power_up(cls, board: Board) -> TrimmedSupplies:
        """Switch the modules on and bring their rails to what they need; the ASICs should be held in reset.

        If anything fails on the way, or the task is cancelled, the modules are switched off.

        Raises:
            DeviceFaultError: If a supply does not answer, does not reach its voltage or exceeds it.
            VerifyError: If a trim reads back differently.
        """
        found = cls(board, await find_supplies(board))
        try:
            await found._set_lowest()
            await board.write_verified("power", POWER_FEM)
            await asyncio.sleep(SETTLE_S)
            await found._wait_good()
            for module in found.modules:
                for rail in RAILS:
                    await found._ramp(module, rail, rail.step)
                await found._ramp(module, VDD1, _REFINE_STEP)
            await found._wait_good()
        except BaseException:
            await found.power_down()
            raise
        _LOG.info("%s: supplies trimmed: %s", board.name, {m.bus: (m.variant, m.set_points) for m in found.modules})
        return found

    async def refine(self) -> None:
        """Bring VDD1 up again once the ASICs are configured and draw more.

        Raises:
            DeviceFaultError: As `power_up`; the modules are switched off then.
        """
        try:
            for module in self.modules:
                await self._ramp(module, VDD1, _REFINE_STEP_AFTER)
        except BaseException:
            await self.power_down()
            raise

    async def power_down(self) -> None:
        """Switch the modules off, then bring the trims to what they are switched on with; not interrupted half-way."""
        task, is_cancelled = asyncio.create_task(self._power_down(), name=f"modules off {self._board.name}"), False
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                is_cancelled = True
        task.result()
        if is_cancelled:
            raise asyncio.CancelledError

    async def _power_down(self) -> None:
        # With an epoch of its own: this is not dropped because switching the bias off went first.
        board = Board(self._board.link, tries=OFF_TRIES)
        try:
            await board.write_verified("power", 0)
            for module in self.modules:
                for rail in RAILS:
                    await _set_trim(board, module, rail, TRIMS[module.variant][rail.name].lowest)
        except DriverError as error:
            _LOG.warning("switching the modules off did not go well: %s", error)

    async def _set_lowest(self) -> None:
        for module in self.modules:
            for rail in RAILS:
                await _set_trim(self._board, module, rail, TRIMS[module.variant][rail.name].lowest)

    async def _wait_good(self) -> None:
        deadline_s = monotonic_s() + GOOD_DEADLINE_S
        while True:
            good = await read_good(self._board)
            bad = {
                module.bus: [rail.name for rail, is_good in zip(RAILS, good[module.bus], strict=True) if not is_good]
                for module in self.modules
                if not all(good[module.bus])
            }
            if not bad:
                return
            if monotonic_s() > deadline_s:
                raise DeviceFaultError(
                    "supplies not good after "
                    f"{GOOD_DEADLINE_S:g} s: "
                    + "; ".join(f"bus {bus}: {', '.join(rails)}" for bus, rails in bad.items()),
                    device=self._board.name,
                    do="check the supply modules and the front-end modules for a short",
                )
            await asyncio.sleep(_GOOD_PAUSE_S)

    async def _ramp(self, module: SupplyModule, rail: Rail, step: int) -> None:
        """Raise the trim until the rail is above its target at every port that uses it."""
        highest = TRIMS[module.variant][rail.name].highest
        code = module.set_points[rail.name]
        while True:
            await _set_trim(self._board, module, rail, code)
            ports = await self._ports(module)
            for other in RAILS:
                self._refuse_too_high(module, other, ports)
            volts = {port: v for port, v in _rail(ports, rail).items() if rail is not VDD2 or v > VDD2_USED_V}
            words = _words(volts)
            if all(v > rail.target_v for v in volts.values()):
                return
            if code == highest:
                raise DeviceFaultError(
                    f"{rail.name} of bus {module.bus} does not reach {rail.target_v} V at its highest trim {code}: "
                    f"{words}; switched off",
                    device=self._board.name,
                    do="check the modules on this bus for too high a current",
                )
            code = min(code + step, highest)

    def _refuse_too_high(self, module: SupplyModule, rail: Rail, ports: dict[int, PortVoltages]) -> None:
        volts, bound_v = _rail(ports, rail), OVER_TARGET * rail.target_v
        if any(v > bound_v for v in volts.values()):
            raise DeviceFaultError(
                f"{rail.name} of bus {module.bus} is too high at trim {module.set_points[rail.name]}: {_words(volts)}, "
                f"more than {bound_v:.3f} V; switched off",
                device=self._board.name,
                do="check the supply on this bus before switching on again",
            )

    async def _ports(self, module: SupplyModule) -> dict[int, PortVoltages]:
        """What is measured at the ports in use; they must be those that were found at first."""
        ports = await _measured(self._board, module.bus)
        used = frozenset(port for port, volts in enumerate(ports) if volts.is_used)
        if used != module.ports:
            raise DeviceFaultError(
                f"ports in use of bus {module.bus} changed from {sorted(module.ports)} to {sorted(used)}",
                device=self._board.name,
                do="check the modules' cables",
            )
        return {port: ports[port] for port in sorted(used)}


def _rail(ports: dict[int, PortVoltages], rail: Rail) -> dict[int, float]:
    return {port: volts.rails_v[rail.name] for port, volts in ports.items()}


def _words(volts: dict[int, float]) -> str:
    return ", ".join(f"port {port} {v:.3f} V" for port, v in volts.items())


async def read_supplies(board: Board, address: str) -> list[Reading]:
    """Voltages at every port of a FEB/D 8K, and which supplies call themselves good.

    Args:
        board: Where to read.
        address: Port and slave as they appear in the names of nodes, "0.0".
    """
    readings: list[Reading] = []

    def add(name: str, node: str, value: float | None, unit: str, quality: Quality, reason: str | None = None) -> None:
        now_s = monotonic_s()
        readings.append(Reading(name, node, value, unit, value is not None, quality, now_s, reason))

    good = await read_good(board)
    for bus in SUPPLY_BUSES:
        for rail, is_good in zip(RAILS, good[bus], strict=True):
            add("supply_good", f"supply:{address}.{bus}.{rail.name}", float(is_good), "", Quality.GOOD)
        found = await measure(board, bus)
        for port in range(_PORTS):
            node = f"module:{address}.{_PORTS * (bus - 1) + port}"
            if found is None:
                add("supply_ground", node, None, "V", Quality.BAD, "the supply ADC does not answer")
                continue
            volts = found[port]
            add("supply_ground", node, volts.ground_v, "V", Quality.GOOD)
            for rail in RAILS:
                if volts.is_used:
                    add(f"supply_{rail.name}", node, volts.rails_v[rail.name], "V", Quality.GOOD)
                else:
                    add(f"supply_{rail.name}", node, None, "V", Quality.ABSENT, "no module is plugged there")
    return readings
