"""Temperature sensors on a serial chain (TMP104), which older boards have; asked only on request.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.8 (function 0x04);
what a reply must look like from the public vendor software of the same revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import RemoteProtocolError
from petqc_drivers.petsys.wire import Function, WireError

if TYPE_CHECKING:
    from petqc_drivers.petsys.board import Board

_MARK: Final = 0x55
ENUMERATE: Final = bytes((3, _MARK, 0x8C, 0x90))
SET_UP: Final = bytes((3, _MARK, 0xF2, 0x63))
_CONVERT, _READ = 0xF3, 0xF1


def convert_command(n_sensors: int) -> bytes:
    """Let all sensors of the chain measure."""
    return bytes((n_sensors + 2, _MARK, _CONVERT))


def read_command(n_sensors: int) -> bytes:
    """Read all sensors of the chain."""
    return bytes((n_sensors + 2, _MARK, _READ))


def parse_enumeration(reply: bytes) -> int:
    """How many sensors the chain has.

    Raises:
        WireError: If the chain is open or a sensor is broken.
    """
    if len(reply) < len(ENUMERATE):
        raise WireError(f"the chain of sensors is open: {len(reply)} bytes came back")
    if reply[1] != _MARK or reply[3] & 0xF0 != ENUMERATE[3]:
        raise WireError(f"a sensor of the chain is broken: {reply.hex()} came back")
    return reply[3] & 0x0F


def parse_temperatures(reply: bytes, n_sensors: int) -> list[float]:
    """Temperatures in degC, in the order of the chain: whole degrees.

    Raises:
        WireError: If the reply is short.
    """
    if len(reply) < 3 + n_sensors:
        raise WireError(f"{n_sensors} sensors answered with {len(reply)} bytes instead of {3 + n_sensors}")
    return [float(int.from_bytes(reply[i : i + 1], "big", signed=True)) for i in range(3, 3 + n_sensors)]


async def read_chain(board: Board) -> list[float]:
    """Temperatures of the chain of a board, in degC.

    Raises:
        RemoteProtocolError: If there is no chain, or a sensor of it does not answer.
    """
    what = "chain of temperature sensors"
    try:
        n_sensors = parse_enumeration(await board.exchange(Function.TMP104, ENUMERATE, what))
        await board.exchange(Function.TMP104, SET_UP, what)
        await board.exchange(Function.TMP104, convert_command(n_sensors), what)
        reply = await board.exchange(Function.TMP104, read_command(n_sensors), what)
        return parse_temperatures(reply, n_sensors)
    except WireError as error:
        raise RemoteProtocolError(f"{what}: {error}", device=board.name) from error
