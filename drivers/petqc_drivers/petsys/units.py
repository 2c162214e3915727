"""Which units there are behind a daemon: every port that is up, and down its chain as long as a unit has another.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.1 and 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import DeviceFaultError, ReplyTimeoutError, WrongIdentityError
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.registers import BoardKind, board_kind
from petqc_drivers.petsys.wire import PROTOCOL_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqc_drivers.petsys.daqd_link import DaqdReadoutLink

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
    """

    port: int
    slave: int
    kind: BoardKind
    firmware_revision: int

    def __str__(self) -> str:
        roles = [name for name, holds in (("FEB/D", self.kind.is_febd), ("trigger", self.kind.is_trigger)) if holds]
        return f"unit {self.port}/{self.slave}: {' with '.join(roles) or 'neither FEB/D nor trigger'}"


async def discover(link: DaqdReadoutLink) -> list[FoundUnit]:
    """All units, by port and slave; changes nothing on them.

    Args:
        link: An open link to any unit.

    Raises:
        DeviceFaultError: If a unit that must be there does not answer, or a chain has no end.
        WrongIdentityError: If a unit speaks another protocol.
    """
    found: list[FoundUnit] = []
    for port in await link.ports():
        has_next, slave = True, 0
        while has_next:
            if slave == MAX_SLAVES:
                raise DeviceFaultError(
                    f"the last possible unit of port {port} says that there is another", device=link.name
                )
            unit, has_next = await _look(link, port, slave)
            found.append(unit)
            slave += 1
    return found


async def _look(link: DaqdReadoutLink, port: int, slave: int) -> tuple[FoundUnit, bool]:
    own = link.at(port, slave)
    try:
        await own.open_without_greeting()
        board = Board(own, tries=TRIES)
        protocol = await board.read("protocol")
        if protocol != PROTOCOL_VERSION:
            raise WrongIdentityError(
                f"protocol {protocol:#x}, this driver speaks {PROTOCOL_VERSION:#x}",
                device=own.name,
                do="load the matching firmware",
            )
        kind = board_kind(await board.read("base_pcb"), await board.read("firmware_variant"))
        unit = FoundUnit(port, slave, kind, await board.read("firmware_revision"))
        return unit, bool(await board.read("next_slave"))
    except ReplyTimeoutError as error:
        before = f"unit {port}/{slave - 1} says that it is there" if slave else f"port {port} is up"
        raise DeviceFaultError(
            f"no answer, although {before}", device=own.name, do="check power and link of this unit"
        ) from error
    finally:
        await own.aclose()


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
