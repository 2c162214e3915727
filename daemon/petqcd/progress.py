"""Live progress: what is going on now, told to any number of listeners without waiting for one of them."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from petqcd.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

QUEUE_LENGTH = 64
"""Events that may wait for a slow listener before it is dropped; a listener reads a few a second."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is. fraction: 0 to 1 of the whole run; counts: what was seen so far, by name.

    part: of a composed run, which part is going on, and of how many. so_far: figures of what was measured until now,
    as `petqcd.measurement.Measurement.so_far` gives them; None: there are none at this moment.
    """

    run_id: str
    kind: str
    stage: str
    fraction: float
    detail: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    part: str = ""
    so_far: Mapping[str, Any] | None = None

    @property
    def stopping(self) -> str:
        """What it means to stop the run here, in words that follow its id."""
        is_over = self.stage == "analyse"
        told = "has acquired: its record is being made, nothing is left to stop" if is_over else "is being stopped"
        return told + (", and no further part begins" if self.part else "")

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)


@dataclass(frozen=True)  # no slots: what is cached needs a place
class Event:
    """One thing to tell: name is `progress`, `finished` or `device`; data: plain types that nobody changes any more."""

    name: str
    data: dict[str, Any]

    @cached_property
    def json(self) -> str:
        """The data as JSON, written once for all who listen: all readings of a site are hundreds of kilobytes."""
        return json_text(self.data).decode()


class Bus:
    """Hands events to listeners; used from the event loop only.

    A listener that does not read is dropped, never waited for: its queue ends with None.
    """

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[Event | None]] = set()
        self._closed = False
        self.dropped = 0

    @property
    def has_listeners(self) -> bool:
        """Whether anybody would hear of an event."""
        return bool(self._listeners)

    def publish(self, event: Event) -> None:
        """Tell everybody who listens."""
        for queue in list(self._listeners):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._end(queue)
                self.dropped += 1

    def close(self) -> None:
        """End every listener's stream."""
        self._closed = True
        for queue in list(self._listeners):
            self._end(queue)

    @contextmanager
    def listen(self) -> Iterator[asyncio.Queue[Event | None]]:
        """A queue of events; None is its end."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE_LENGTH)
        self._listeners.add(queue)
        if self._closed:
            self._end(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    def _end(self, queue: asyncio.Queue[Event | None]) -> None:
        self._listeners.discard(queue)
        while queue.full():
            queue.get_nowait()
        queue.put_nowait(None)
