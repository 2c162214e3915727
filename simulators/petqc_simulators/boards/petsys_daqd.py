"""The client side of the vendor's daemon in front of simulated units: one thread, a UNIX socket, a shared ring.

It is as strict as the original: a request that does not come in one piece ends the connection, unknown requests get no
reply, and while one client's command waits, all clients wait.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.1 and 2.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from petqc_drivers.petsys.daqd_wire import (
    COINCIDENCE_FILTER_BYTES,
    HEADER_BYTES,
    POINTER_MODULO,
    RING_SLOTS,
    FrontEndCommand,
    Message,
    PortCounters,
    SharedMemoryInfo,
    card_temperature_reply,
    front_end_reply,
    parse_acquisition,
    parse_header,
    parse_minimum_frame,
    parse_set_read_pointer,
    ports_reply,
    status_reply,
)
from petqc_drivers.petsys.frames import FRAME_ID_MODULO
from petqc_drivers.petsys.wire import Reply, WireError
from petqc_simulators.boards.frame_ring import FrameRing
from petqc_simulators.link_faults import COMMANDS, LinkFaults
from petqc_simulators.physics.blocks import BLOCK_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from petqc_simulators.physics.blocks import Block

TICK_S = BLOCK_S / 2
LONGEST_STEP_S = 4 * BLOCK_S
"""Most simulated time that passes in one go, a quarter of what the ring holds; if the machine is busy, time slips
rather than fill the ring at once."""
MOST_LAG = 4
"""Blocks that may be due before the clock stands still for them."""
MOST_WAITING = RING_SLOTS * 3 // 4
"""Frames in the ring for which the clock stands still, too: its client is as busy as everything else here ..."""
PATIENCE_S = 2.0
"""... unless it has taken nothing for so long; then frames that find no room are dropped, as by the original."""
LATE_TICK_S = 0.0005
"""How often to look for a block that is due."""
SWITCH_ON_S = 0.22
SILENT_UNIT_S = 0.31
PAYLOAD_WITHIN_S = 1.0
"""A header without its payload ends the connection; the original would wait for ever, and all clients with it."""
_STATE_EVERY_S = 0.5
_TYPES = frozenset(Message)
_BACKLOG = 5


class Unit(Protocol):
    """What stands behind an address: a front-end board, or a clock and trigger unit."""

    def handle(self, datagram: bytes) -> bytes | None:
        """The answer to a command, mark included; None if there is none."""

    def let_pass(self, seconds: float) -> None:
        """Let time pass for the clocks."""

    def traffic(self) -> tuple[int, int]:
        """What was sent to it and those chained behind it, and what they sent."""


class DaqdServer:
    """Serves units until `stop` is called; not for several threads, but for `stop`.

    Args:
        units: By port and slave. A single unit answers at every address, as behind a daemon on UDP.
        path: Of the socket, which must not exist.
        shared_memory: Name of the ring, which must not exist either.
        speed: Simulated per wall second.
        folder: Where shared memory is; the system's by default.
        links: Faults of the ways to the units.
        frames: Gives the frames of all units together that ended since the last call.

    Attributes:
        address: unix:PATH.
        ring: The frame ring.
        slipped_s: Simulated time that passed later than the wall clock asked for.
        counters: Requests by type, those of `unknown` types, `closed` connections whose request was cut.
    """

    unsent = 0

    def __init__(
        self,
        units: Mapping[tuple[int, int], Unit],
        path: Path,
        shared_memory: str = "/daqd_shm",
        *,
        speed: float = 1.0,
        folder: Path | None = None,
        frames: Callable[[], list[Block]],
        lag: Callable[[], int] = lambda: 0,
        links: LinkFaults | None = None,
    ) -> None:
        self.units = dict(units)
        self._frames = frames
        self._lag = lag
        self._links = links or LinkFaults(lambda: 0.0, is_behind_daemon=True)
        self.speed = speed
        self.slipped_s = 0.0
        self.address = f"unix:{path}"
        self.is_acquiring = False
        self.counters: Counter[str] = Counter()
        self._path = path
        self._clients: dict[int, socket.socket] = {}
        self._busy: tuple[float, Callable[[], None]] | None = None
        self._until = self._taken = time.monotonic()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(os.fspath(path))
            path.chmod(0o660)
            try:
                self.ring = FrameRing(shared_memory) if folder is None else FrameRing(shared_memory, folder)
            except BaseException:
                path.unlink()
                raise
        except BaseException:
            self._socket.close()
            raise
        self._socket.listen(_BACKLOG)
        self._socket.setblocking(False)
        self._wake_read, self._wake_write = os.pipe()

    @property
    def n_clients(self) -> int:
        """Open connections."""
        return len(self._clients)

    def stop(self) -> None:
        """Make `run` return; safe from a signal handler or another thread, and more than once."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Remove socket and shared memory."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._socket.close()
        self._path.unlink(missing_ok=True)
        self.ring.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {
            "is_acquiring": self.is_acquiring,
            "requests": dict(self.counters),
            "acquisitions": [asdict(account) for account in self.ring.accounts],
        }

    def run(self, *, watch: int | None = None, each_state: Callable[[], None] | None = None) -> None:
        """Serve until `stop`, or until the file descriptor `watch` reaches its end."""
        self._until = ticked = state_due = time.monotonic()
        while True:
            now = time.monotonic()
            tick_s = TICK_S if not self._lag() else LATE_TICK_S
            due = ticked + tick_s if self._busy is None else min(ticked + tick_s, self._busy[0])
            sources = [self._wake_read, *([] if watch is None else [watch])]
            if self._busy is None:
                sources += [self._socket.fileno(), *self._clients]
            readable, _, _ = select.select(sources, [], [], max(due - now, 0.0))
            if self._wake_read in readable:
                return
            if watch is not None and watch in readable and not os.read(watch, 4096):
                return
            for number in readable:
                if number == self._socket.fileno():
                    self._accept()
                elif self._busy is None and number in self._clients:
                    self._serve(self._clients[number])
            now = time.monotonic()
            if self._busy is not None and now >= self._busy[0]:
                (_, finish), self._busy = self._busy, None
                finish()
            if now - ticked >= tick_s:
                self._let_pass(now)
                self._take_frames()
                # From its end, so that commands are answered also where frames take all the time there is.
                ticked = time.monotonic()
            if each_state is not None and now >= state_due:
                state_due = now + _STATE_EVERY_S
                each_state()

    def _let_pass(self, now: float) -> None:
        seconds, self._until = (now - self._until) * self.speed, now
        is_waited_for = self.is_acquiring and self.ring.waiting > MOST_WAITING and now - self._taken < PATIENCE_S
        longest = LONGEST_STEP_S * max(self.speed, 1.0) if self._lag() < MOST_LAG and not is_waited_for else 0.0
        if seconds > longest:
            self.slipped_s += seconds - longest
            seconds = longest
        for unit in self.units.values():
            unit.let_pass(seconds)

    def _take_frames(self) -> None:
        for block in self._frames():
            if self.is_acquiring:
                self.ring.put(self._links.of_block(block))

    # -- requests ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            client, _ = self._socket.accept()
            client.setblocking(False)
            self._clients[client.fileno()] = client

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client.fileno(), None)
        client.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            header = client.recv(HEADER_BYTES)
            if not header:
                self._drop(client)
                return
            kind, length = parse_header(header)
            # The vendor's client sends header and payload apart, and the original waits for the payload's first bytes.
            if length:
                select.select([client.fileno(), self._wake_read], [], [], PAYLOAD_WITHIN_S)
            payload = client.recv(length) if length else b""
            if len(payload) == length:
                self._do(client, kind, payload)
                return
        except (OSError, WireError):
            pass
        self.counters["closed"] += 1
        self._drop(client)

    def _reply(self, client: socket.socket, reply: bytes, head: int | None = None) -> None:
        """Send, in two pieces as the original does where a reply has a length in front."""
        try:
            if head is not None:
                client.sendall(reply[:head])
            client.sendall(reply[head or 0 :])
        except OSError:
            self._drop(client)

    def _later(self, seconds: float, finish: Callable[[], None]) -> None:
        self._busy = (time.monotonic() + seconds, finish)

    def _do(self, client: socket.socket, kind: int, payload: bytes) -> None:
        # By type only those that there are: a client may make up 65536 others.
        self.counters[f"{kind:#04x}" if kind in _TYPES else "unknown"] += 1
        match kind:
            case Message.ACQUISITION:
                self._acquisition(client, is_on=parse_acquisition(payload))
            case Message.SHARED_MEMORY:
                self._reply(client, SharedMemoryInfo(self.ring.name).to_bytes(), 32)
            case Message.POINTERS:
                self._reply(client, self.ring.pointers(is_acquiring=self.is_acquiring).to_bytes())
            case Message.SET_READ_POINTER:
                pointer = parse_set_read_pointer(payload)
                self.ring.release(pointer % POINTER_MODULO)
                self._taken = time.monotonic()
                self._reply(client, payload)
            case Message.FRONT_END:
                self._front_end(client, FrontEndCommand.from_payload(payload))
            case Message.PORTS:
                self._reply(client, ports_reply(sum({1 << port for port, _ in self.units})))
            case Message.PORT_COUNTERS:
                self._reply(client, self._port_counters(int.from_bytes(payload, "little")).to_bytes())
            case Message.SORTER | Message.IDLE_TIME:
                self._reply(client, status_reply(0))
            case Message.GATE:
                self._reply(client, status_reply(-1))
            case Message.COINCIDENCE_FILTER:
                if len(payload) != COINCIDENCE_FILTER_BYTES:
                    raise WireError("coincidence filter settings of another length")
                self._reply(client, status_reply(-1))
            case Message.MINIMUM_FRAME:
                self.ring.minimum_frame = parse_minimum_frame(payload) % FRAME_ID_MODULO
                self._reply(client, status_reply(0))
            case Message.CARD_TEMPERATURE:
                self._reply(client, card_temperature_reply((0.0, 0.0, 0.0, 0.0)))
            case _:  # no reply
                pass

    def _port_counters(self, port: int) -> PortCounters:
        """Of the link to the first unit of a port; on UDP, where there is one unit, nobody counts."""
        first = self.units.get((port, 0))
        tx, rx = (0, 0) if first is None or len(self.units) == 1 else first.traffic()
        return PortCounters(tx, rx, 0)

    def _acquisition(self, client: socket.socket, *, is_on: bool) -> None:
        self.is_acquiring = False
        self.ring.clear()
        if not is_on:
            self._reply(client, bytes(2))
            return

        def begin() -> None:
            self.ring.begin()
            self.is_acquiring = True
            self._taken = time.monotonic()
            self._reply(client, bytes(2))

        self._later(SWITCH_ON_S, begin)

    def _front_end(self, client: socket.socket, given: FrontEndCommand) -> None:
        self._let_pass(time.monotonic())
        unit = self.units.get((given.port, given.slave))
        if len(self.units) == 1:
            unit = next(iter(self.units.values()))
        late_s = self._links.late_s(COMMANDS)
        answer = None if unit is None or late_s is None else unit.handle(given.command.to_bytes())
        if answer is not None:
            reply = front_end_reply(Reply.from_bytes(answer))
            if late_s:
                self._later(late_s, lambda: self._reply(client, reply, 2))
            else:
                self._reply(client, reply, 2)
        else:
            self._later(SILENT_UNIT_S, lambda: self._reply(client, front_end_reply(None)))
