"""A chain of temperature sensors on a serial line, each passing on what it is told and adding its own.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.8 (function 0x04).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MARK, _ENUMERATE, _SET_UP, _CONVERT, _READ = 0x55, 0x8C, 0xF2, 0xF3, 0xF1
_FIRST_ADDRESS = 0x90
MOST_SENSORS = 15


class Tmp104Chain:
    """The chain of a board.

    Args:
        sensors: how many; without any the line is open and nothing comes back.
        degc: the temperature of each.
    """

    def __init__(self, sensors: int, degc: Callable[[int], float]) -> None:
        if not 0 <= sensors <= MOST_SENSORS:
            raise ValueError(f"a chain has 0..{MOST_SENSORS} sensors, not {sensors}")
        self.sensors = sensors
        self._degc = degc
        self._taken = [0] * sensors

    def answer(self, payload: bytes) -> bytes | None:
        """What comes back on the line; None if nothing does."""
        if not self.sensors or len(payload) < 3 or payload[1] != _MARK:
            return None
        if payload[2:] == bytes((_ENUMERATE, _FIRST_ADDRESS)):
            return payload[:3] + bytes((_FIRST_ADDRESS + self.sensors,))
        if payload[2] == _SET_UP and len(payload) == 4:
            return payload
        if payload[2] == _CONVERT:
            self._taken = [min(max(round(self._degc(i)), -128), 127) for i in range(self.sensors)]
        elif payload[2] != _READ:
            return None
        # The first byte says how many bytes the board waits for, the mark and the command among them.
        n_back = min(max(payload[0] - 2, 0), self.sensors)
        return payload[:3] + bytes(value & 0xFF for value in self._taken[:n_back])
