"""A simulated timing board on its two TCP sockets, beside a detector whose photons it sees."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from petqc_drivers.errors import RemoteProtocolError
from petqc_simulators.physics.blocks import BLOCK_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from petqc_simulators.boards.caen_a5203 import CaenA5203Board
    from petqc_simulators.physics.detector import Detector
    from petqc_simulators.physics.fast_outputs import FastOutputs

_READ_BYTES = 1 << 16
MOST_UNSENT_BYTES = 4 << 20
"""A client that does not read loses events beyond that, as a board's memory is finite."""
MOST_LAG_S = 4 * BLOCK_S


class TimingBoardServer:
    """Serves one board until `close`; both sockets take one client at a time, the last one.

    Args:
        board: what answers.
        outputs: the edges that it sees.
        detector: whose time passes with the wall clock; None: somebody else lets it pass and calls `block`.

    Attributes:
        control_port, data_port: where it listens.
        bytes_dropped: of events, for clients that did not read.
        slipped_s: simulated time that passed later than the wall clock asked for.
    """

    def __init__(self, board: CaenA5203Board, outputs: FastOutputs, detector: Detector | None) -> None:
        self.board = board
        self._outputs = outputs
        self._detector = detector
        self._data: asyncio.StreamWriter | None = None
        self._control: asyncio.StreamWriter | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.control_port = self.data_port = 0
        self.bytes_dropped = 0
        self.slipped_s = 0.0

    @contextlib.asynccontextmanager
    async def serving(self, host: str, control_port: int = 0, data_port: int = 0) -> AsyncIterator[TimingBoardServer]:
        """Listen and let time pass; port 0 takes any free one."""
        servers = [
            await asyncio.start_server(self._controlled, host, control_port),
            await asyncio.start_server(self._listened, host, data_port),
        ]
        self.control_port, self.data_port = (server.sockets[0].getsockname()[1] for server in servers)
        clock = None if self._detector is None else asyncio.create_task(self._clock(self._detector))
        try:
            yield self
        finally:
            if clock is not None:
                clock.cancel()
                await asyncio.wait({clock})
            for server in servers:
                server.close()
            for writer in self._clients.values():
                writer.close()
            if self._clients:
                await asyncio.wait(tuple(self._clients))

    def block(self, seconds: float) -> None:
        """A block of the detector has passed: send what the board made of it."""
        sent = self.board.advance(seconds, *self._outputs.take())
        if not sent or self._data is None:
            return
        if self._data.transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            self.bytes_dropped += len(sent)
            return
        self._data.write(sent)

    async def _clock(self, detector: Detector) -> None:
        due = time.monotonic()
        while True:
            await asyncio.to_thread(detector.advance)
            self.block(BLOCK_S)
            due += BLOCK_S
            late = time.monotonic() - due
            if late > MOST_LAG_S:
                self.slipped_s += late
                due += late
            await asyncio.sleep(max(-late, 0.0))

    async def _controlled(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        before, self._control = self._control, writer
        self.board.forget()
        async with self._client(writer, before):
            while data := await reader.read(_READ_BYTES):
                writer.write(self.board.handle(data))
                await writer.drain()

    async def _listened(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        before, self._data = self._data, writer
        async with self._client(writer, before):
            while await reader.read(_READ_BYTES):
                pass
        if self._data is writer:
            self._data = None

    @contextlib.asynccontextmanager
    async def _client(self, writer: asyncio.StreamWriter, before: asyncio.StreamWriter | None) -> AsyncIterator[None]:
        if before is not None:
            before.close()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler is a task; for the type checker
        self._clients[task] = writer
        try:
            with contextlib.suppress(OSError, RemoteProtocolError):
                yield
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del self._clients[task]
