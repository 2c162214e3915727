"""Which units there are behind a daemon: every port that is up, and down its chain as long as a unit has another.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.1 and 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import DeviceFaultError, DriverError, ReplyTimeoutError, WrongIdentityError
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.registers import BoardKind, board_kind
from petqc_drivers.petsys.wire import PROTOCOL_VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from petqc_drivers.petsys.daqd_link import DaqdReadoutLink
    from petqc_drivers.petsys.link import Address, ReadoutLink

MAX_SLAVES: Final = 32
TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class FoundUnit:
    """One unit, by what it says about itself.

    Attributes:
        port: Port of the DAQ card.
        slave: Position in the chain of that port.
        kind: FEB/D, clock and trigger unit, or both, and its modules.
        firmware_revision: Of the unit.
        has_next: Whether a further unit is chained to it.
    """

    port: int
    slave: int
    kind: BoardKind
    firmware_revision: int
    has_next: bool = False

    @property
    def address(self) -> Address:
        """Port and slave."""
        return self.port, self.slave

    def __str__(self) -> str:
        roles = [name for name, holds in (("FEB/D", self.kind.is_febd), ("trigger", self.kind.is_trigger)) if holds]
        return f"unit {self.port}/{self.slave}: {' with '.join(roles) or 'neither FEB/D nor trigger'}"


async def discover(link: DaqdReadoutLink) -> list[FoundUnit]:
    """All units, by port and slave; changes nothing on them.

    Args:
        link: An open link to any unit.

    Raises:
        DeviceFaultError: If no port is up, a unit that must be there does not answer, or a chain has no end.
        WrongIdentityError: If a unit speaks another protocol.
    """
    found, failures = await survey(link)
    if failures:
        raise failures[0]
    if not found:
        raise DeviceFaultError("no port is up", device=link.name, do="check power and links of the units")
    return found


async def survey(link: DaqdReadoutLink) -> tuple[list[FoundUnit], list[DriverError]]:
    """All units that can be found, and what was wrong: a chain is followed up to the first thing that is.

    Args:
        link: An open link to any unit.
    """
    found: list[FoundUnit] = []
    failures: list[DriverError] = []
    for port in await link.ports():
        try:
            async for unit in _chain(link, port):
                found.append(unit)  # noqa: PERF401 - what was found before a failure counts
        except DriverError as error:
            failures.append(error)
    return found, failures


async def _chain(link: DaqdReadoutLink, port: int) -> AsyncIterator[FoundUnit]:
    for slave in range(MAX_SLAVES):
        own = link.at(port, slave)
        try:
            await own.open_without_greeting()
            unit = await look(own, port, slave)
        except ReplyTimeoutError as error:
            before = f"unit {port}/{slave - 1} says that it is there" if slave else f"port {port} is up"
            raise DeviceFaultError(
                f"no answer, although {before}", device=own.name, do="check power and link of this unit"
            ) from error
        finally:
            await own.aclose()
        yield unit
        if not unit.has_next:
            return
    raise DeviceFaultError(f"the last possible unit of port {port} says that there is another", device=link.name)


async def look(link: ReadoutLink, port: int, slave: int) -> FoundUnit:
    """What a unit says about itself.

    Raises:
        ReplyTimeoutError: If it does not answer.
        WrongIdentityError: If it speaks another protocol.
    """
    board = Board(link, tries=TRIES)
    protocol = await board.read("protocol")
    if protocol != PROTOCOL_VERSION:
        raise WrongIdentityError(
            f"protocol {protocol:#x}, this driver speaks {PROTOCOL_VERSION:#x}",
            device=link.name,
            do="load the matching firmware",
        )
    kind = board_kind(await board.read("base_pcb"), await board.read("firmware_variant"))
    revision = await board.read("firmware_revision")
    return FoundUnit(port, slave, kind, revision, bool(await board.read("next_slave")))


def trigger_unit(units: Sequence[FoundUnit]) -> FoundUnit:
    """The one unit that has the clock and the trigger.

    Raises:
        WrongIdentityError: If there is none, or more than one.
    """
    triggers = [unit for unit in units if unit.kind.is_trigger]
    if len(triggers) != 1:
        names = ", ".join(f"{unit.port}/{unit.slave}" for unit in triggers) or "none"
        raise WrongIdentityError(
            f"exactly one trigger unit is needed among {len(units)} units, found: {names}",
            do="check the firmware of the boards, and the trigger unit's power and link",
        )
    return triggers[0]


def check_units(
    units: Sequence[FoundUnit], febds: Collection[Address] | None, trigger: Address | None, *, device: str
) -> FoundUnit:
    """See that the units are those expected, and fit each other; the trigger unit.

    Args:
        units: What was found.
        febds: The FEB/Ds that must be there, no more and no less; None for any.
        trigger: The trigger unit; None wherever it is.
        device: Name of the readout in messages.

    Raises:
        WrongIdentityError: If a unit is missing, or there that should not be, or units do not make a system.
    """
    found = {unit.address for unit in units if unit.kind.is_febd}
    if febds is not None and found != set(febds):
        raise WrongIdentityError(
            f"FEB/Ds missing: {_names(set(febds) - found)}; not expected: {_names(found - set(febds))}",
            device=device,
            do="check power and links of these units, or the configuration tables",
        )
    if not found:
        raise WrongIdentityError(f"no FEB/D among {len(units)} units", device=device)
    for unit in units:
        if not (unit.kind.is_febd or unit.kind.is_trigger):
            raise WrongIdentityError(f"{unit} (firmware {unit.kind.firmware_variant:#018x})", device=device)
    only = trigger_unit(units)
    if trigger is not None and only.address != trigger:
        raise WrongIdentityError(
            f"the trigger unit is {_names([only.address])} instead of {_names([trigger])}", device=device
        )
    if only.kind.is_febd and len(found) > 1:
        raise WrongIdentityError(
            f"unit {_names([only.address])} has its own trigger, which serves no other FEB/D ({len(found)} found)",
            device=device,
            do="load the firmware for a system with a clock and trigger unit",
        )
    return only


def _names(addresses: Collection[Address]) -> str:
    return ", ".join(f"{port}/{slave}" for port, slave in sorted(addresses)) or "none"
