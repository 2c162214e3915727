"""The data connection: events as they come, to whoever takes them, and what was not understood counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from petqc_drivers.caen_a5203.control import open_stream
from petqc_drivers.caen_a5203.events import StreamParser
from petqc_drivers.clock import monotonic_s
from petqc_drivers.transport.recording import Tap

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_drivers.caen_a5203.events import ListEvents, ServiceEvent

_LOG = logging.getLogger(__name__)
_READ_BYTES = 1 << 16


@dataclass(slots=True)
class StreamAccount:
    """What came on the data socket since the last start.

    windows: events with hits. hits. service: service events. bytes_skipped, events_damaged: not understood.
    refused: windows that a consumer raised on.
    """

    windows: int = 0
    hits: int = 0
    service: int = 0
    bytes_skipped: int = 0
    events_damaged: int = 0
    refused: int = 0


class DataStream:
    """The data socket of one board, read until `close`.

    Attributes:
        account: What came since the last start.
        sinks: Given every batch of windows with hits, in the event loop; one that raises is counted, and goes on.
        service, service_s: The last service event, and when it came on the monotonic clock.
        lost: Why nothing comes any more.
    """

    def __init__(self, device: str, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tap = Tap(f"{device}-data", "tcp", address)
        self._tap.opened()
        self.account = StreamAccount()
        self.sinks: tuple[Callable[[ListEvents], None], ...] = ()
        self.service: ServiceEvent | None = None
        self.service_s: float | None = None
        self.lost: str | None = None
        self._device = device
        self._writer = writer
        self._task = asyncio.create_task(self._pump(reader), name=f"{device} data")

    @classmethod
    async def open(cls, device: str, host: str, port: int, within_s: float) -> Self:
        """Connect.

        Raises:
            ConnectError: Nothing answers there.
        """
        return cls(device, f"{host}:{port}", *await open_stream(host, port, device, within_s))

    def begin(self, *sinks: Callable[[ListEvents], None]) -> None:
        """From now on: another account, and these consumers."""
        self.account, self.sinks, self.service_s, self.service = StreamAccount(), sinks, None, None

    async def _pump(self, reader: asyncio.StreamReader) -> None:
        parser = StreamParser()
        while True:
            try:
                data = await reader.read(_READ_BYTES)
            except OSError as error:
                self.lost = f"the data connection broke: {error}"
                self._tap.failed(self.lost)
                return
            if not data:
                self.lost = "the board closed the data connection"
                self._tap.failed(self.lost)
                return
            self._tap.received(data)
            skipped, damaged = parser.bytes_skipped, parser.events_damaged
            batch = parser.feed(data)
            for service in batch.service:
                self.service, self.service_s = service, monotonic_s()
            self.account.service += len(batch.service)
            self._take(batch.lists)
            self.account.bytes_skipped += parser.bytes_skipped - skipped
            self.account.events_damaged += parser.events_damaged - damaged

    def _take(self, events: ListEvents) -> None:
        self.account.windows += events.trigger_id.size
        self.account.hits += events.channel.size
        if not events.trigger_id.size:
            return
        for sink in self.sinks:
            try:
                sink(events)
            except Exception:  # noqa: BLE001 - whatever a consumer does wrong, the stream goes on and it is counted
                if not self.account.refused:
                    _LOG.exception("%s: a consumer of events failed; further ones are counted", self._device)
                self.account.refused += events.trigger_id.size

    async def close(self) -> None:
        """End the connection."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self._writer.close()
        self._tap.closed()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
