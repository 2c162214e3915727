"""A clock and trigger unit: registers, and the synchronisation that it spreads to the boards behind it.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.4, 4.2 and 5.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_drivers.petsys.wire import (
    MEMORY_WRITE_OK,
    PROTOCOL_VERSION,
    Command,
    Function,
    MemoryRead,
    memory_read_reply,
    parse_memory_access,
)
from petqc_simulators.boards.command_account import CommandAccount
from petqc_simulators.boards.hardware_trigger import REGIONS_OF_BOARD
from petqc_simulators.boards.registers import RegisterFile, WordMemory
from petqc_simulators.physics.emission import CLOCK_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from petqc_simulators.boards.petsys_febd import PetsysFebd

FIRMWARE_VARIANT = 0x0002_0000_0000_0000
FEBD_VARIANT_MASK = 0x0000_FFFF_FFFF_FFFF
"""Of a FEB/D's firmware variant: without the bits that make it a trigger unit too."""
TRIGGER_PORTS = 16
LANES = 4
_SYNC_GENERATE, _SYNC_ACCEPT = 1, 2
_SYNC_LINK, _GATE_LINK, _TRIGGER_IN_LINK = range(3)
_SYNC_VALUE, _GATE_VALUE = 0x8000, 0x8001
_PORT_STATUS = 128
"""Links of the trigger unit from here on are the state of its ports; below, lane + 4 port."""
_TRAINING = 7
"""Stage of the trigger link calibration in which both ends find the sampling point; a link that has never been through
it is not locked."""


class ClockTrigger(CommandAccount):
    """The unit. Boards given to it lose their own trigger and follow its synchronisation if they were told to.

    The board that comes k-th is plugged into trigger port k. on_sync is called with the simulated time whenever the
    unit is synchronised, before the boards are.

    Attributes:
        registers: its register file.
        commands: commands that were answered.
        regions: which regions may be in coincidence, rows of bits.
    """

    def __init__(self, boards: Sequence[PetsysFebd], on_sync: Callable[[float], None] | None = None) -> None:
        if len(boards) > TRIGGER_PORTS:
            raise ValueError(f"{len(boards)} boards at {TRIGGER_PORTS} trigger ports")
        super().__init__()
        self.boards = list(boards)
        self._tell_sync = on_sync
        self.regions = WordMemory(1)
        self._trained: set[RegisterFile] = set()
        self.registers = RegisterFile()
        self.elapsed_s = self._synchronised_s = 0.0
        for name, value in (
            ("firmware_variant", FIRMWARE_VARIANT),
            ("firmware_revision", 0x2022_0104),
            ("protocol", PROTOCOL_VERSION),
            ("clock_locked", 1),
            ("trigger_regions", REGIONS_OF_BOARD * TRIGGER_PORTS),
        ):
            self.registers.preset(name, value)
        self.registers.live("time_tag", lambda: int((self.elapsed_s - self._synchronised_s) / CLOCK_S))
        for name in ("uptime", "pll_lock_time", "upstream_uptime"):
            self.registers.live(name, lambda: int(self.elapsed_s / CLOCK_S))
        for name in ("upstream_tx", "upstream_rx"):
            self.registers.live(name, lambda: self.commands)
        self.registers.listen("sync", self._on_sync)
        self._give_links(self.registers, self._trigger_link)
        for port, board in enumerate(self.boards):
            self._give_links(board.registers, lambda link, port=port: self._board_link(port, link))  # type: ignore[misc]
            variant = board.registers.value("firmware_variant") & FEBD_VARIANT_MASK
            board.registers.preset("firmware_variant", variant)

    def _give_links(self, registers: RegisterFile, look: Callable[[int], int | None]) -> None:
        """Let a unit's link registers tell what `look` finds at the selected link: its value, None if not locked."""
        registers.live("link_locked", lambda: look(registers.value("link_select")) is not None)
        registers.live("link_value", lambda: look(registers.value("link_select")) or 0)

        def on_stage(stage: int) -> None:
            if stage == _TRAINING:
                self._trained.add(registers)

        registers.listen("trigger_link_calibration", on_stage)

    def _is_trained(self, port: int) -> bool:
        return port < len(self.boards) and {self.registers, self.boards[port].registers} <= self._trained

    def _board_link(self, port: int, link: int) -> int | None:
        values = {_SYNC_LINK: _SYNC_VALUE, _GATE_LINK: _GATE_VALUE, _TRIGGER_IN_LINK: port}
        return values.get(link) if self._is_trained(port) else None

    def _trigger_link(self, link: int) -> int | None:
        port, lane = divmod(link, LANES) if link < _PORT_STATUS else (link - _PORT_STATUS, 0)
        if not self._is_trained(port) or not self.registers.value("trigger_ports") >> port & 1:
            return None
        return port * TRIGGER_PORTS + lane if link < _PORT_STATUS else port

    def _on_sync(self, value: int) -> None:
        if not value & _SYNC_GENERATE:
            return
        self._synchronised_s = self.elapsed_s
        if self._tell_sync is not None:
            self._tell_sync(self.elapsed_s)
        for board in self.boards:
            if board.registers.value("sync") & _SYNC_ACCEPT:
                board.synchronise(is_in_step=True)
            else:
                board.fall_out_of_step()

    def handle(self, datagram: bytes) -> bytes | None:
        """The answer to a command; None for what this unit has not."""
        return self.reply_to(datagram, self._answer)

    def _answer(self, command: Command) -> bytes | None:
        if command.function == Function.TRIGGER_REGIONS:
            return self.regions.answer(command.payload)
        if command.function != Function.REGISTERS:
            return None
        access = parse_memory_access(command.payload)
        if isinstance(access, MemoryRead):
            return memory_read_reply(self.registers.read(access.address, access.count))
        self.registers.write(access.address, access.data)
        return MEMORY_WRITE_OK

    def traffic(self) -> tuple[int, int]:
        """Commands that came so far, and replies that went."""
        return self.commands, self.commands

    def let_pass(self, seconds: float) -> None:
        """Let time pass."""
        self.elapsed_s += seconds
