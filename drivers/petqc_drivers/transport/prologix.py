"""GPIB through an adapter of the Prologix kind: `GPIB0::16::INSTR via PRLGX-TCPIP::HOST::1234::INTFC`.

The adapter takes lines: what begins with ++ is for itself, all else goes to the instrument that is addressed. Both
halves of an address are VISA's own names, `PRLGX-ASRL::/dev/serial/by-id/...::INTFC` for one on USB.

Instruments of one bus share its adapter, so one session is kept for all of them and each has short turns: an instrument
that says nothing keeps the others waiting for one turn of reading and no longer. pyvisa-py has this adapter, too, but
keeps the bus for as long as a read lasts, asks once for a reply that is not there yet, and takes a closed connection
for silence.

Source: Prologix GPIB-ETHERNET user manual, commands; escapes in data.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.clock import monotonic_s
from petqc_drivers.errors import ConnectError, LinkLostError, LocalProtocolError, ReplyTimeoutError
from petqc_drivers.transport.serial import SerialLine, TtyPort
from petqc_drivers.transport.tcp import SocketPort

if TYPE_CHECKING:
    from petqc_drivers.transport.threaded import BlockingPort

VIA: Final = " via "
TURN_MS: Final = 50
"""How long the adapter waits for an instrument to speak before another one has its turn."""
_STUCK_S: Final = 2.0
"""An adapter that does not end a turn in this time is lost, with all instruments behind it."""
_LINE: Final = SerialLine(baud=115_200)
_SETUP: Final = ("savecfg 0", "mode 1", "auto 0", "eoi 1", "eos 2", "eot_enable 0", f"read_tmo_ms {TURN_MS}")
_INSTRUMENT: Final = re.compile(r"GPIB\d*::(?P<primary>\d+)(?:::(?P<secondary>\d+))?::INSTR", re.IGNORECASE)
_ADAPTER: Final = re.compile(
    r"PRLGX-(?:TCPIP\d*::(?P<host>[^:]+|\[[^]]+\])::(?P<port>\d+)|ASRL\d*::(?P<path>/[^:]+))::INTFC", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Place:
    """An instrument behind an adapter. address: as ++addr takes it. adapter: VISA's name of it."""

    address: str
    adapter: str


def place(resource: str) -> Place:
    """Where that resource is.

    Raises:
        LocalProtocolError: If it is nowhere.
    """
    instrument, _, adapter = resource.partition(VIA)
    found = _INSTRUMENT.fullmatch(instrument)
    if found is None or _ADAPTER.fullmatch(adapter) is None or int(found["primary"]) > 30:
        raise LocalProtocolError(
            f"{resource!r} is no instrument behind an adapter",
            do="write GPIB0::16::INSTR via PRLGX-TCPIP::HOST::1234::INTFC",
        )
    second = found["secondary"]
    return Place(found["primary"] if second is None else f"{found['primary']} {second}", adapter)


def escaped(data: bytes) -> bytes:
    """A message as a line for the adapter: its last LF ends the line, and whatever else could end it is escaped."""
    message = data.removesuffix(b"\n").removesuffix(b"\r")
    return re.sub(rb"([\x1b\r\n+])", b"\x1b\\1", message) + b"\n"


class _Bus:
    """One session with an adapter, shared by the links of its instruments."""

    def __init__(self, adapter: str, timeout_s: float) -> None:
        self.users = 0
        self.is_lost = False
        self.turn = threading.Lock()
        self._name = adapter
        found = _ADAPTER.fullmatch(adapter)
        if found is None:
            raise LocalProtocolError(f"{adapter!r} is no adapter")
        self._port: BlockingPort = (
            TtyPort(found["path"], _LINE)
            if found["path"]
            else SocketPort(found["host"].strip("[]"), int(found["port"]), timeout_s)
        )
        try:
            self._tell(*_SETUP, "ver")
            self._fence = self._line(timeout_s)
        except BaseException:
            self._port.close()
            raise

    def _line(self, timeout_s: float) -> bytes:
        """Its first line: who it is, which afterwards marks the end of every turn."""
        came, until = b"", monotonic_s() + timeout_s
        while not came.endswith(b"\n"):
            if monotonic_s() >= until:
                raise ConnectError(f"{self._name}: no adapter answers ({came[:40]!r})", do="check address and cable")
            came += self._port.read(0.05)
        if b"GPIB" not in came:
            raise ConnectError(f"{self._name}: {came[:60]!r} is no GPIB adapter", do="check the address")
        return came

    def _tell(self, *commands: str) -> None:
        self._port.write(b"".join(f"++{one}\n".encode("ascii") for one in commands), _STUCK_S)

    def write(self, address: str, data: bytes, timeout_s: float) -> None:
        """Hand a message over to an instrument, in turn."""
        with _Turn(self, timeout_s):
            self._tell(f"addr {address}")
            self._port.write(escaped(data), timeout_s)

    def read(self, address: str, timeout_s: float) -> bytes:
        """What an instrument says in one turn; empty if it says nothing."""
        with _Turn(self, timeout_s):
            self._tell(f"addr {address}", "read eoi", "ver")
            came, until = b"", monotonic_s() + _STUCK_S
            while not came.endswith(self._fence):
                if monotonic_s() >= until or len(came) > 1 << 20:
                    self.lost()
                    raise LinkLostError(f"{self._name}: it does not end its turn", do="switch the adapter off and on")
                came += self._port.read(0.05)
            return came.removesuffix(self._fence)

    def device_clear(self, address: str) -> None:
        """Make an instrument forget what it was about to say."""
        with _Turn(self, _STUCK_S):
            self._tell(f"addr {address}", "clr")

    def lost(self) -> None:
        """Nobody uses this session any more; the next one to open makes another."""
        self.is_lost = True
        self._port.close()

    def close(self) -> None:
        """End the session."""
        self._port.close()


class _Turn:
    """The bus for one turn."""

    def __init__(self, bus: _Bus, timeout_s: float) -> None:
        self._bus, self._timeout_s = bus, timeout_s

    def __enter__(self) -> None:
        if not self._bus.turn.acquire(timeout=max(self._timeout_s, _STUCK_S)):
            raise ReplyTimeoutError("its bus is not free", do="check adapter and instruments of that bus")
        if self._bus.is_lost:
            self._bus.turn.release()
            raise LinkLostError("the session with its adapter ended", do="check the adapter")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, LinkLostError) and not self._bus.is_lost:
            self._bus.lost()
        self._bus.turn.release()


_BUSES: Final[dict[str, _Bus]] = {}
_GUARD: Final = threading.Lock()


class PrologixPort:
    """One instrument behind an adapter."""

    longest_wait_s = TURN_MS / 1000.0

    def __init__(self, where: Place, timeout_s: float) -> None:
        self._address = where.address
        with _GUARD:
            bus = _BUSES.get(where.adapter)
            if bus is None or bus.is_lost:
                bus = _BUSES[where.adapter] = _Bus(where.adapter, timeout_s)
            bus.users += 1
        self._bus, self._adapter = bus, where.adapter

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of it."""
        self._bus.write(self._address, data, timeout_s)

    def read(self, timeout_s: float) -> bytes:
        """What has come in one turn."""
        return self._bus.read(self._address, timeout_s)

    def clear(self) -> bytes:
        """Nothing comes unasked."""
        return b""

    def device_clear(self) -> bool:
        """Make the instrument forget what it was about to say."""
        self._bus.device_clear(self._address)
        return True

    def close(self) -> None:
        """The last one to go ends the session with the adapter."""
        with _GUARD:
            self._bus.users -= 1
            if self._bus.users == 0:
                self._bus.close()
                if _BUSES.get(self._adapter) is self._bus:
                    del _BUSES[self._adapter]
