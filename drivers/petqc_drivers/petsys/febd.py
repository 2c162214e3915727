"""One front-end board (FEB/D) of a readout: what it is, what is on it, and its own part of what the readout does.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.4, 5.1 and 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from petqc_drivers.errors import StateError, WrongIdentityError
from petqc_drivers.petsys.bias_prom import identify_mezzanines
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.bring_up import only
from petqc_drivers.petsys.frames import CLOCK_HZ
from petqc_drivers.petsys.link_counters import FEBD_LINKS, read_clock_links, read_counters, read_power_good
from petqc_drivers.petsys.power_8k import read_supplies
from petqc_drivers.petsys.sensors import ModuleSensors, read_temperatures
from petqc_drivers.petsys.supply import BiasSupply
from petqc_drivers.petsys.wire import PROTOCOL_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc_drivers.device import Reading
    from petqc_drivers.petsys.asic import AsicConfiguration
    from petqc_drivers.petsys.bring_up import BoardBringUp
    from petqc_drivers.petsys.link import Address, ReadoutLink
    from petqc_drivers.petsys.registers import BoardKind
    from petqc_drivers.petsys.settings import ExpectedBoard, ReadoutSettings
    from petqc_drivers.petsys.units import FoundUnit

Changes = dict[tuple[int, int | None], "AsicConfiguration"]
"""Configurations to write, by chip and channel (None: the global one)."""


@dataclass(frozen=True, slots=True)
class BoardIdentity:
    """What a board says about itself, on this connection."""

    kind: BoardKind
    protocol: int
    firmware_revision: int
    uptime_s: float
    mezzanines: tuple[str, ...]
    """Bias mezzanine of each slot."""

    def __str__(self) -> str:
        return (
            f"base board {self.kind.base_pcb:#06x}, firmware {self.kind.firmware_variant:#018x} revision "
            f"{self.firmware_revision:#x}, bias {', '.join(self.mezzanines) or 'none'}"
        )


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """What the units of a readout say about themselves, on this connection.

    Attributes:
        boards: The FEB/Ds, by port and slave.
        trigger: The unit that has the clock and the trigger, which may be the only FEB/D.
    """

    boards: Mapping[Address, BoardIdentity]
    trigger: FoundUnit

    @property
    def board(self) -> BoardIdentity:
        """Of the only FEB/D.

        Raises:
            StateError: If there are several.
        """
        return only(self.boards)

    def __str__(self) -> str:
        if self.trigger.kind.is_febd:
            return str(self.board)
        boards = [f"FEB/D {port}/{slave}: {board}" for (port, slave), board in sorted(self.boards.items())]
        return "; ".join([*boards, f"{self.trigger} revision {self.trigger.firmware_revision:#x}"])


class FrontEndBoard:
    """One FEB/D.

    Args:
        address: Its port and slave.
        link: The way to it.
        settings: Of the readout.

    Attributes:
        address: As given.
        link: As given.
        supply: Its bias supply.
        identity: Once identified.
        configured: Once configured.
    """

    def __init__(self, address: Address, link: ReadoutLink, settings: ReadoutSettings) -> None:
        self.address = address
        self.link = link
        self.identity: BoardIdentity | None = None
        self.configured: BoardBringUp | None = None
        self.supply = BiasSupply(
            link,
            lambda: settings.new_link(address),
            {c: one for c, one in settings.bias.items() if (c.port, c.slave) == address},
            address=address,
            settle_s=settings.settle_s,
            starts_with={s: v for (port, slave, s), v in settings.bias_starts_with.items() if (port, slave) == address},
            expected={
                s: kind for (port, slave, s), kind in settings.bias_mezzanines.items() if (port, slave) == address
            },
            prom_tolerance_v=settings.prom_tolerance_v,
        )
        self._expected = settings.expected
        self._sensors: dict[int, ModuleSensors] = {}

    @property
    def name(self) -> str:
        """The board's name in messages."""
        return self.link.name

    @property
    def node(self) -> str:
        """Port and slave as they appear in the names of nodes."""
        return "{}.{}".format(*self.address)

    @property
    def kind(self) -> BoardKind:
        """What kind of board it is.

        Raises:
            StateError: If it was not identified.
        """
        if self.identity is None:
            raise StateError("the board was not identified", device=self.name, do="connect first")
        return self.identity.kind

    @property
    def chips(self) -> list[int]:
        """Chips in use; none before it is configured."""
        return sorted(self.configured.chips) if self.configured is not None else []

    @property
    def sensors(self) -> Mapping[int, ModuleSensors]:
        """Sensors by module, of modules whose temperatures were read."""
        return self._sensors

    def board(self) -> Board:
        """Access to it in which every command begins its own epoch."""
        return Board(self.link)

    def forget(self) -> None:
        """Forget what was known of it on an earlier connection, but for what its bias supply was told."""
        self.identity = self.configured = None
        self._sensors.clear()

    async def identify(self, unit: FoundUnit) -> BoardIdentity:
        """See that it is the right board and what is on it; changes nothing.

        Raises:
            WrongIdentityError: If it is another board or firmware.
        """
        check_identity(unit, self._expected, device=self.name)
        board = self.board()
        uptime_s = await board.read("uptime") / CLOCK_HZ
        mezzanines = await identify_mezzanines(board, unit.kind.bias_slots)
        self.supply.identified(mezzanines)
        self.identity = BoardIdentity(unit.kind, PROTOCOL_VERSION, unit.firmware_revision, uptime_s, mezzanines)
        await self.supply.observe(board)
        return self.identity

    def changes(
        self, chips: Mapping[int, Mapping[str, int]], channels: Mapping[tuple[int, int], Mapping[str, int]]
    ) -> Changes:
        """What would differ with these fields.

        Raises:
            StateError: If it is not configured.
            LocalProtocolError: If a chip or field does not exist, must not be set, or a value does not fit.
        """
        if self.configured is None:
            raise StateError("cannot reconfigure a board that is not configured", device=self.name)
        return self.configured.changes(chips, channels)

    async def write(self, changes: Changes) -> None:
        """Write configurations and read each back; if one is not taken, what the ASICs hold is not known any more.

        Raises:
            DriverError: If the board or an ASIC does not take it.
        """
        held, board = self.configured, self.board()
        if held is None:
            raise StateError("cannot reconfigure a board that is not configured", device=self.name)
        try:
            for (chip, channel), wanted in changes.items():
                await board.asic_write(chip, self.kind.asics_per_module, channel, wanted)
        except BaseException:
            # Half of it may have been taken: what was read back before does not stand any more.
            self.configured = None
            raise
        self.configured = held.with_changes(changes)

    async def read_temperatures(self) -> list[Reading]:
        """Of the modules in use, or before configuring of all."""
        modules: list[int] | range = range(self.kind.modules)
        if self.configured is not None:
            modules = sorted({chip // self.kind.asics_per_module for chip in self.chips})
        return await read_temperatures(self.board(), self.kind, self.node, modules, self._sensors)

    async def read_supplies(self) -> list[Reading]:
        """Supplies of the modules."""
        board = self.board()
        if self.kind.has_trimmed_supplies:
            return await read_supplies(board, self.node)
        return await read_power_good(board, self.kind, self.node)

    async def read_counters(self, *, has_trigger_links: bool) -> list[Reading]:
        """Counters of its links; has_trigger_links: it is plugged to a clock and trigger unit."""
        readings = await read_counters(self.board(), self.node, self.chips)
        if has_trigger_links:
            readings += await read_clock_links(self.board(), self.node, FEBD_LINKS)
        return readings


def check_identity(unit: FoundUnit, expected: ExpectedBoard, *, device: str) -> None:
    """See that a FEB/D is one that is expected, and known.

    Raises:
        WrongIdentityError: If it is not.
    """
    kind, revision = unit.kind, unit.firmware_revision
    if expected.base_pcb is not None and kind.base_pcb != expected.base_pcb:
        raise WrongIdentityError(f"base board {kind.base_pcb:#06x} instead of {expected.base_pcb:#06x}", device=device)
    if expected.firmware_variant is not None and kind.firmware_variant != expected.firmware_variant:
        raise WrongIdentityError(
            f"firmware {kind.firmware_variant:#018x} instead of {expected.firmware_variant:#018x}", device=device
        )
    if expected.firmware_revisions is not None:
        low, high = expected.firmware_revisions
        if not low <= revision <= high:
            raise WrongIdentityError(
                f"firmware revision {revision:#x} is not within {low:#x} to {high:#x}", device=device
            )
    if kind.modules == 0 or kind.asics_per_module == 0:
        raise WrongIdentityError(
            f"base board {kind.base_pcb:#06x} or module {kind.module:#06x} is not known", device=device
        )
