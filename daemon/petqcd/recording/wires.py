"""Recording wires: a thread of its own writes what taps tell, so that no device ever waits for a disk.

What waits to be written is bounded by bytes. A recorder that cannot keep up drops and says how much, at the place
where it is missing; a disk that fails ends a log and nothing else.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from petqc.formats.bundle import WIRES
from petqc.formats.wire_log import SUFFIX, WireEvent, WireLogWriter
from petqcd import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from petqc_drivers.transport.recording import Tap
    from petqc_drivers.transport.recording import WireEvent as Told

log = logging.getLogger(__name__)

QUEUE_BYTES: Final = 8 << 20
"""Most that may wait for the disk."""
EVERY_S: Final = 0.5
"""What was told is on the disk after this time and what a sync takes."""
CLOSE_S: Final = 5.0
"""For the disk to take what waits when the recording ends."""
_RECORD_BYTES: Final = 200
"""What a waiting record costs beside its payload."""
_TOO_SLOW: Final = "the recorder could not keep up with the wires"


class WireLogs:
    """One log for each wire, in the folder `wire` of a run. `tell` may be called from any thread.

    Args:
        folder: of the run.
        about: what the header of a tap's log says beside its name, transport and address.

    Attributes:
        remarks: what went wrong, for the record; complete after `close`.
    """

    def __init__(self, folder: Path, about: Callable[[Tap], Mapping[str, Any]]) -> None:
        self._folder = folder / WIRES
        self._folder.mkdir(exist_ok=True)
        self._about = about
        self._lock = threading.Lock()
        self._queue: deque[tuple[Tap, Told, bytes, tuple[int, int]]] = deque()
        self._queued = 0
        self._dropped: dict[Tap, list[int]] = {}
        self._logs: dict[Tap, str] = {}
        self._writers: dict[str, WireLogWriter | None] = {}
        self._used_by: dict[str, Tap] = {}
        self._is_over = False
        self._stop = threading.Event()
        self.remarks: list[str] = []
        self._thread = threading.Thread(target=self._work, name="wire recorder", daemon=True)
        self._thread.start()

    def tell(self, tap: Tap, event: Told, payload: bytes) -> None:
        """Something happened on a wire; takes note and returns."""
        size = len(payload) + _RECORD_BYTES
        with self._lock:  # the times in it, so that they rise
            at = clock.nanoseconds()
            if self._is_over:
                return
            if self._queued + size > QUEUE_BYTES:
                counts = self._dropped.setdefault(tap, [0, 0])
                counts[0] += 1
                counts[1] += len(payload)
                return
            self._queued += size
            self._queue.append((tap, event, payload, at))

    def close(self) -> None:
        """Write what waits and end every log; takes at most as long as the deadline."""
        self._stop.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            with self._lock:
                self._is_over = True
                self._queue.clear()
            self.remarks.append(f"The disk did not take the wire logs within {CLOSE_S:g} s; they end before the run.")

    def _work(self) -> None:
        ended = False
        while not ended:
            ended = self._stop.wait(EVERY_S)
            self._write(is_last=ended)
        for name, wire in self._writers.items():
            if wire is not None:
                self._on(name, partial(wire.close, clock.nanoseconds()))

    def _write(self, *, is_last: bool) -> None:
        with self._lock:
            waiting, self._queue, self._queued = self._queue, deque(), 0
            dropped, self._dropped = self._dropped, {}
            self._is_over |= is_last
        used = set()
        for tap, event, payload, at in waiting:
            name = self._log_of(tap, at)
            wire = self._writers[name]
            if wire is not None:
                self._on(name, partial(wire.add, WireEvent[event.upper()], payload, at))
                used.add(name)
            if event == "closed":  # the next connection to the same place is a further session on the same wire
                self._used_by.pop(name, None)
                del self._logs[tap]
        for tap, (records, n_bytes) in dropped.items():
            log.warning("%s: %d chunks of its wire were not recorded", tap.name, records)
            at = clock.nanoseconds()
            name = self._log_of(tap, at)
            wire = self._writers[name]
            if wire is not None:
                self._on(name, partial(wire.missed, records, n_bytes, _TOO_SLOW, at))
                used.add(name)
        for name in used:
            wire = self._writers[name]
            if wire is not None:
                self._on(name, wire.sync)

    def _log_of(self, tap: Tap, at: tuple[int, int]) -> str:
        """The name of a wire's log, made when the wire first says something.

        Two connections to one device at the same time are two wires; one after the other, two sessions on one.
        """
        if tap in self._logs:
            return self._logs[tap]
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", tap.name).strip(".-") or "wire"
        name, number = plain, 1
        while name in self._used_by:
            number += 1
            name = f"{plain}-{number}"
        self._logs[tap], self._used_by[name] = name, tap
        if name not in self._writers:
            self._writers[name] = None
            self._on(name, partial(self._make, name, tap, at))
        return name

    def _make(self, name: str, tap: Tap, at: tuple[int, int]) -> None:
        header = {"wire": name, "transport": tap.transport, "address": tap.address, **self._about(tap)}
        omits = {"omits": tap.omits} if tap.omits else {}
        self._writers[name] = WireLogWriter(self._folder / f"{name}{SUFFIX}", {**header, **omits}, at)

    def _on(self, name: str, function: Callable[[], None]) -> None:
        """Do something with a log; the first failure is its last."""
        try:
            function()
        except OSError as error:
            wire, self._writers[name] = self._writers[name], None
            if wire is not None:
                with suppress(OSError):
                    wire.close(clock.nanoseconds())
            self.remarks.append(f"The wire log {name} ends before the run: {error.strerror}.")
            log.warning("the wire log %s cannot be written: %s", name, error)
