"""A readout that is connected: its units found and identified, their readings taken, nothing on them changed.

What needs a configured readout is in `readout`, which builds on this.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.4, 5.1 and 5.2.
"""

from __future__ import annotations

import functools
import logging
import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from petqc_drivers.device import DeviceState, OutputState, Reading
from petqc_drivers.errors import (
    LocalProtocolError,
    StateError,
    WrongIdentityError,
)
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.boards_off import worst
from petqc_drivers.petsys.bring_up import BringUp, only
from petqc_drivers.petsys.febd import FrontEndBoard, SystemIdentity
from petqc_drivers.petsys.link import LinkAccount
from petqc_drivers.petsys.link_counters import read_clock_links, read_counters, trigger_links
from petqc_drivers.petsys.tmp104 import read_chain
from petqc_drivers.petsys.units import FoundUnit, check_units

if TYPE_CHECKING:
    from petqc_drivers.petsys.link import Address, ReadoutLink
    from petqc_drivers.petsys.module_eeprom import ModuleEeprom
    from petqc_drivers.petsys.settings import (
        ReadoutSettings,
    )

_LOG = logging.getLogger(__name__)


class ConnectedReadout(ABC):
    """The part of a readout's life that needs a connection only. Places are named by port and slave of the unit.

    Attributes:
        settings: As given.
        state: Where it is in its life cycle.
        identity: Once connected.
        configured: Once configured; None again if what the ASICs hold is not known any more.
    """

    def __init__(self, settings: ReadoutSettings) -> None:
        self.settings = settings
        self.state = DeviceState.DISCONNECTED
        self.identity: SystemIdentity | None = None
        self._done: BringUp | None = None
        self._febds = {a: FrontEndBoard(a, settings.new_link(a), settings) for a in sorted(self._known_febds())}
        self._links: dict[Address, ReadoutLink] = {a: febd.link for a, febd in self._febds.items()}
        self._clock: ReadoutLink | None = None

    @abstractmethod
    def _known_febds(self) -> set[Address]:
        """FEB/Ds that are known before anything was asked, so that they can be switched off."""

    @abstractmethod
    async def _find_units(self) -> list[FoundUnit]:
        """Reach the system and look which units there are."""

    @abstractmethod
    async def _end_acquisition(self) -> None:
        """End the acquisition if one runs: no frames may flow while the connection is made anew."""

    @property
    def name(self) -> str:
        """The readout's name in messages."""
        return self.settings.name

    @property
    def configured(self) -> BringUp | None:
        """What was found and set when configuring, with what was changed since."""
        if self._done is None or any(febd.configured is None for febd in self._febds.values()):
            return None
        return self._done

    @property
    def bias_states(self) -> dict[Address, OutputState]:
        """What is known about the bias outputs of each board."""
        return {address: febd.supply.state for address, febd in self._febds.items()}

    @property
    def bias_state(self) -> OutputState:
        """What is known about the bias outputs of all boards: of the board that is worst."""
        return worst(self.bias_states.values()) if self._febds else OutputState.UNKNOWN

    @property
    def link_account(self) -> LinkAccount:
        """How the commands went, of all units."""
        return functools.reduce(
            operator.add, (link.link_account() for link in self._links.values()), LinkAccount(0, 0, 0, 0, 0, 0, 0)
        )

    @property
    def _trigger_unit(self) -> Board | None:
        """The clock and trigger unit; None if the only FEB/D is that itself."""
        trigger = self._identity("reach the trigger unit").trigger
        return None if trigger.kind.is_febd else Board(self._links[trigger.address])

    def _require(self, *states: DeviceState, to: str, do: str) -> None:
        if self.state not in states:
            raise StateError(f"cannot {to} while {self.state.value}", device=self.name, do=do)

    def _identity(self, to: str) -> SystemIdentity:
        if self.identity is None or self.state in {DeviceState.DISCONNECTED, DeviceState.CONNECTING}:
            raise StateError(f"cannot {to} while {self.state.value}", device=self.name, do="connect first")
        return self.identity

    def _clock_board(self, to: str) -> Board:
        self._identity(to)
        assert self._clock is not None  # noqa: S101 - set with the identity; for the type checker
        return Board(self._clock)

    def _febd(self, port: int, slave: int) -> FrontEndBoard:
        febd = self._febds.get((port, slave))
        if febd is None:
            raise LocalProtocolError(f"there is no FEB/D {port}/{slave}", device=self.name)
        return febd

    # -- connecting -------------------------------------------------------------------------------------------------

    async def connect(self) -> SystemIdentity:
        """Reach all units and see that they are the right ones; changes nothing on them.

        Raises:
            ConnectError: If nothing answers.
            DeviceFaultError: If a unit that must be there does not answer.
            WrongIdentityError: If units are missing, others are there, or one is not what it must be.
        """
        if self.identity is not None and self.state in {
            DeviceState.IDENTIFIED,
            DeviceState.STAGED,
            DeviceState.RUNNING,
        }:
            return self.identity
        await self._end_acquisition()
        self.state, self._done = DeviceState.CONNECTING, None
        try:
            self.identity = await self._identify(await self._find_units())
        except BaseException:
            self.state = DeviceState.DISCONNECTED
            await self._close_links()
            raise
        self.state = DeviceState.IDENTIFIED
        _LOG.info("%s: %s; bias %s", self.name, self.identity, self.bias_state.value)
        return self.identity

    async def _identify(self, units: list[FoundUnit]) -> SystemIdentity:
        trigger = check_units(units, self.settings.expected_febds, self.settings.expected_trigger, device=self.name)
        found = {unit.address: unit for unit in units}
        self._check_none_is_lost({unit.address for unit in units if unit.kind.is_febd})
        self._links |= {a: self.settings.new_link(a) for a in found if a not in self._links}
        febds: dict[Address, FrontEndBoard] = {}
        for address, unit in sorted(found.items()):
            await self._links[address].open_without_greeting()
            if unit.kind.is_febd:
                febds[address] = self._febds.get(address) or self._new_febd(address)
                febds[address].forget()
        self._febds = febds
        identities = {address: await febd.identify(found[address]) for address, febd in febds.items()}
        # The time tag counts that is read at the beginning of the chain which the trigger unit is in (5.2).
        self._clock = self._links[trigger.port, 0]
        return SystemIdentity(identities, trigger)

    def _new_febd(self, address: Address) -> FrontEndBoard:
        return FrontEndBoard(address, self._links[address], self.settings)

    def _check_none_is_lost(self, found: set[Address]) -> None:
        """A board that has bias outputs of ours must not be missing, or it would be forgotten."""
        needed = {(c.port, c.slave): f"{c} is configured" for c in sorted(self.settings.bias, reverse=True)}
        needed |= {a: "its bias was switched on" for a, febd in self._febds.items() if febd.supply.is_ours}
        for address in sorted(set(needed) - found):
            raise WrongIdentityError(
                "there is no FEB/D {}/{}, but {}".format(*address, needed[address]),
                device=self.name,
                do="check power and link of this unit",
            )

    # -- readings ---------------------------------------------------------------------------------------------------

    async def read_temperatures(self) -> list[Reading]:
        """Temperatures of ASICs and SiPMs of all boards; of the modules in use, or before configuring of all.

        Raises:
            StateError: If it is not connected.
            DriverError: If a board does not answer.
        """
        self._identity("read temperatures")
        return [reading for febd in self._febds.values() for reading in await febd.read_temperatures()]

    async def read_sensor_chain(self, board: Address | None = None) -> list[float]:
        """Temperatures in degC of the serial chain of sensors that older boards have.

        Args:
            board: Port and slave; by default the only FEB/D.

        Raises:
            StateError: If it is not connected.
            DriverError: If there is no chain, or the board does not answer.
        """
        self._identity("read the chain of sensors")
        return await read_chain((only(self._febds) if board is None else self._febd(*board)).board())

    async def read_supplies(self) -> list[Reading]:
        """Supplies of the modules: whether they call themselves good, and where it is measured, their voltages.

        Raises:
            StateError: If it is not connected.
            DriverError: If a board does not answer.
        """
        self._identity("read the supplies")
        return [reading for febd in self._febds.values() for reading in await febd.read_supplies()]

    @property
    def module_eeproms(self) -> dict[tuple[int, int, int], ModuleEeprom]:
        """What the EEPROMs of modules say (type, serial number), of modules whose temperatures were read.

        By port, slave and module.
        """
        return {
            (*address, module): found.eeprom
            for address, febd in self._febds.items()
            for module, found in febd.sensors.items()
            if found.eeprom is not None
        }

    async def read_counters(self) -> list[Reading]:
        """Counters of the links of all units, of those of the ASICs in use lane by lane, and of the way to the units.

        Raises:
            StateError: If it is not connected.
            DriverError: If a unit does not answer.
        """
        identity, trigger = self._identity("read counters"), self._trigger_unit
        readings: list[Reading] = []
        for febd in self._febds.values():
            readings += await febd.read_counters(has_trigger_links=trigger is not None)
        if trigger is not None:
            node = f"{identity.trigger.port}.{identity.trigger.slave}"
            readings += await read_counters(trigger, node, [])
            ports = self._done.trigger_ports.values() if self._done is not None else ()
            readings += await read_clock_links(trigger, node, trigger_links(sorted(ports)))
        assert self._clock is not None  # noqa: S101 - set with the identity; for the type checker
        return readings + await self._clock.way_readings(sorted({port for port, _ in self._links}))

    async def read_time_tag(self) -> int:
        """Clocks of 5 ns since the units were synchronised.

        Raises:
            StateError: If it is not connected.
        """
        return await self._clock_board("read the time tag").read("time_tag")

    async def _close_links(self) -> None:
        for link in self._links.values():
            await link.aclose()
