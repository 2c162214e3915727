"""A clock and trigger unit: registers, and the synchronisation that it spreads to the boards behind it.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.4, 4.2 and 5.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_drivers.petsys.registers import REGISTERS
from petqc_drivers.petsys.wire import (
    MEMORY_WRITE_OK,
    PROTOCOL_VERSION,
    Command,
    Function,
    MemoryRead,
    Reply,
    WireError,
    memory_read_reply,
    parse_memory_access,
)
from petqc_simulators.boards.registers import RegisterFile
from petqc_simulators.physics.emission import CLOCK_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqc_simulators.boards.petsys_febd import PetsysFebd
    from petqc_simulators.physics.detector import Block

FIRMWARE_VARIANT = 0x0002_0000_0000_0000
FEBD_VARIANT_MASK = 0x0000_FFFF_FFFF_FFFF
"""Of a FEB/D's firmware variant: without the bits that make it a trigger unit too."""
_SYNC = REGISTERS["sync"]
_SYNC_GENERATE, _SYNC_ACCEPT = 1, 2


class ClockTrigger:
    """The unit. Boards given to it lose their own trigger and follow its synchronisation if they were told to."""

    def __init__(self, boards: Sequence[PetsysFebd]) -> None:
        self.boards = list(boards)
        self.registers = RegisterFile()
        self.elapsed_s = self._synchronised_s = 0.0
        for name, value in (
            ("firmware_variant", FIRMWARE_VARIANT),
            ("firmware_revision", 0x2022_0104),
            ("protocol", PROTOCOL_VERSION),
            ("clock_locked", 1),
            ("trigger_regions", 32),
        ):
            self.registers.preset(name, value)
        self.registers.live("time_tag", lambda: int((self.elapsed_s - self._synchronised_s) / CLOCK_S))
        self.registers.live("uptime", lambda: int(self.elapsed_s / CLOCK_S))
        self.registers.listen("sync", self._on_sync)
        for board in self.boards:
            variant = board.registers.value("firmware_variant") & FEBD_VARIANT_MASK
            board.registers.preset("firmware_variant", variant)

    def _on_sync(self, value: int) -> None:
        if not value & _SYNC_GENERATE:
            return
        self._synchronised_s = self.elapsed_s
        for board in self.boards:
            if board.registers.value("sync") & _SYNC_ACCEPT:
                board.registers.write(_SYNC.address, bytes((_SYNC_ACCEPT | _SYNC_GENERATE,)))
                board.registers.preset("sync", _SYNC_ACCEPT)

    def handle(self, datagram: bytes) -> bytes | None:
        """The answer to a command; None for what this unit has not."""
        try:
            command = Command.from_bytes(datagram)
            if command.function != Function.REGISTERS:
                return None
            access = parse_memory_access(command.payload)
        except WireError:
            return None
        payload = MEMORY_WRITE_OK
        if isinstance(access, MemoryRead):
            payload = memory_read_reply(self.registers.read(access.address, access.count))
        else:
            self.registers.write(access.address, access.data)
        return Reply(command.serial, command.function, payload).to_bytes()

    def let_pass(self, seconds: float) -> None:
        """Let time pass."""
        self.elapsed_s += seconds

    def advance_blocks(self) -> list[Block]:
        """None: its own records are not simulated."""
        return []
