"""Faults of a whole board or instrument: it trips, lies, is stuck, is another one, loses its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from petqc_drivers.caen_a7585d import Register
from petqc_drivers.petsys.wire import PROTOCOL_VERSION
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.julabo import JulaboBoard
from petqc_simulators.boards.keithley_smu import KeithleySmu
from petqc_simulators.boards.petsys_febd import PetsysFebd
from petqc_simulators.boards.sr620 import Sr620
from petqc_simulators.profile import ProfileError
from petqc_simulators.timed_faults import TimedFaults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from petqc_simulators.faults import Fault, FaultKind

_OTHER_SERIAL = "98765432"
_LOW_LEVEL = -1
"""Alarm of a circulator whose bath is low: it stops."""


class DeviceFaults(TimedFaults):
    """The faults of all devices of one simulator; a `FaultHandler`.

    Args:
        now_s: seconds since the synchronisation of the readout.
        devices: by node: `unit:PORT.SLAVE` a board, `device:NAME` an instrument.
    """

    def __init__(self, now_s: Callable[[], float], devices: Mapping[str, Any]) -> None:
        super().__init__(now_s)
        self._devices = dict(devices)
        self._undo: dict[int, Callable[[], None]] = {}

    def why_not(self, kind: FaultKind) -> str:
        """Whether any device can have it."""
        return "" if any(_can(kind.id, device) for device in self._devices.values()) else "no device here can have it"

    def _place(self, fault: Fault) -> str:
        can = [node for node, device in self._devices.items() if _can(fault.kind.id, device)]
        where = fault.where or (can[0] if can else "")
        if where not in can:
            raise ProfileError(f"fault {fault}: {where or 'no device'} cannot have it; can: {', '.join(can) or 'none'}")
        return where

    def is_stuck(self, node: str) -> bool:
        """Its readings are."""
        return bool(self._timed) and any(fault.kind.id == "D02" for _, fault in self._acting(node))

    def look(self, node: str) -> None:
        """Let those begin and end whose time has come; from the thread of the device."""
        if not self._timed:
            return
        acting = dict(self._acting(node))
        for number, fault in acting.items():
            if number not in self._undo:
                self._undo[number] = _break(fault, self._devices[node])
        for number in [n for n in self._undo if self._timed[n].place == node and n not in acting]:
            self._undo.pop(number)()


def _can(kind: str, device: Any) -> bool:
    match kind:
        case "D01":
            return isinstance(device, HamamatsuC11204Board | CaenA7585dBoard | JulaboBoard)
        case "D02":
            return not isinstance(device, PetsysFebd)
        case "D03":
            return isinstance(device, HamamatsuC11204Board | CaenA7585dBoard | JulaboBoard)
        case "D04":
            return isinstance(device, HamamatsuC11204Board | CaenA7585dBoard | JulaboBoard | KeithleySmu | Sr620)
        case "D05":
            return isinstance(device, PetsysFebd | Sr620)
        case _:
            return isinstance(device, PetsysFebd)


def _nothing() -> None:
    """What a trip leaves for somebody to reset."""


def _break(fault: Fault, device: Any) -> Callable[[], None]:
    """Let a fault act on a device; what ends it."""
    match fault.kind.id:
        case "D01" if isinstance(device, JulaboBoard):
            return _set(device, "alarm", _LOW_LEVEL)
        case "D01":
            device.trip()
            return _nothing
        case "D03":
            return _set(device, "reads_above", fault.size)
        case "D04" if isinstance(device, CaenA7585dBoard):
            return _put(device.values, Register.SERIAL, float(_OTHER_SERIAL))
        case "D04" if isinstance(device, JulaboBoard):
            return _set(device, "version", "JULABO TOPTECH MC VERSION 2.8")
        case "D04":
            return _set(device, "serial", _OTHER_SERIAL)
        case "D05" if isinstance(device, Sr620):
            return _set(device, "reference_lost", True)
        case "D05":
            return _preset(device, "clock_locked", 0)
        case "D06":
            return _preset(device, "protocol", PROTOCOL_VERSION + int(fault.size))
        case _:
            return _nothing  # stuck readings are made where replies are


def _set(device: Any, name: str, value: Any) -> Callable[[], None]:
    before = getattr(device, name)
    setattr(device, name, value)
    return lambda: setattr(device, name, before)


def _put(values: dict[int, float], key: int, value: float) -> Callable[[], None]:
    before = values[key]
    values[key] = value
    return lambda: values.__setitem__(key, before)


def _preset(board: PetsysFebd, register: str, value: int) -> Callable[[], None]:
    before = board.registers.value(register)
    board.registers.preset(register, value)
    return lambda: board.registers.preset(register, before)
