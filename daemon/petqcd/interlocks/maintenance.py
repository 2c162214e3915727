"""Maintenance: somebody works at a device, so petqc energises nothing there until a person says that the work is over.

It forbids, so time alone does not end it: when it should have been over, people are called, and it still holds. It
outlives the daemon. The device goes on being watched, and what its work brings about (no answer, doubtful readings)
calls nobody; an output that is found on, and a trip, still do.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from petqcd import clock, small_file
from petqcd.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

FILE, SCHEMA = "maintenance.json", "petqc-maintenance/1"
SCANNER = "scanner"
"""In the place of a device: all of them."""
LONGEST_S = 7 * 86_400.0
HELD = frozenset({"link", "permit", "unsafe", "reading", "flood"})
"""Kinds of alarms that call nobody while their device is in maintenance; they are judged and shown."""
_DAMAGED = "maintenance.json is damaged: nobody knows who works where; look, then end this"


@dataclass(frozen=True, slots=True)
class Maintenance:
    """That somebody works at a device. due_unix_s: when it should be over."""

    device: str
    reason: str
    by: str
    since_unix_s: float
    due_unix_s: float

    def document(self) -> dict[str, Any]:
        """Plain types for people."""
        return {
            "device": self.device,
            "reason": self.reason,
            "by": self.by,
            "since": clock.utc_text(self.since_unix_s),
            "due": clock.utc_text(self.due_unix_s),
            "is_overdue": self.is_overdue,
        }

    @property
    def is_overdue(self) -> bool:
        """Whether it should be over."""
        return clock.unix_s() >= self.due_unix_s

    @property
    def told(self) -> str:
        """In one line."""
        of_all = "the whole scanner is" if self.device == SCANNER else f"{self.device} is"
        late = ", which is over" if self.is_overdue else ""
        return f"{of_all} in maintenance until {clock.utc_text(self.due_unix_s)[:16]}Z{late} ({self.by}): {self.reason}"


class InMaintenance:
    """Which devices are; everything is called from the event loop.

    Args:
        state_dir: where it is kept.

    Attributes:
        why_not_off: why a device may still be on, in words; empty: its output is known to be off, or it has none.
        is_on: whether a device is known to be on.
    """

    def __init__(self, state_dir: Path) -> None:
        self.why_not_off: Callable[[str], str] = lambda _device: "nobody said whether it is off"
        self.is_on: Callable[[str], bool] = lambda _device: True
        self._path = state_dir / FILE
        self._turn = asyncio.Lock()
        self._all: dict[str, Maintenance] = {}
        try:
            self._all = self._read()
        except (KeyError, TypeError, ValueError):
            log.error("%s", _DAMAGED)  # noqa: TRY400 - how it is damaged helps nobody
            now = clock.unix_s()
            self._all = {SCANNER: Maintenance(SCANNER, _DAMAGED, "petqc", now, now)}

    def all(self) -> list[Maintenance]:
        """Every one, the oldest first."""
        return sorted(self._all.values(), key=lambda one: one.since_unix_s)

    def of(self, device: str) -> Maintenance | None:
        """That of a device, or of the whole scanner; None: nobody works there."""
        return self._all.get(SCANNER) or self._all.get(device)

    async def begin(
        self, device: str, *, seconds: float, reason: str, by: str, is_disconnected: bool = False
    ) -> Maintenance:
        """Nothing energises it from now on; again, with other words or another time, is allowed.

        Args:
            device: by its name, or `SCANNER`.
            seconds: until it should be over.
            reason: what is done there.
            by: who says so.
            is_disconnected: that person has seen that its output is off by its own switch or plug, where nothing can
                be read back.

        Raises:
            RefusedError: it is on, or may be on; or the time is too long, or nobody says why.
        """
        if not 0 < seconds <= LONGEST_S:
            raise RefusedError(f"maintenance is for up to {LONGEST_S / 86_400:g} days, not {seconds!r} s")
        if not reason.strip():
            raise RefusedError("maintenance needs a reason: what is done there")
        doubt = self.why_not_off(device)
        if doubt and (self.is_on(device) or not is_disconnected):
            hint = "" if self.is_on(device) else "; or say that you have seen it disconnected (--disconnected)"
            raise RefusedError(f"{doubt}: switch it off first (petqc off){hint}")
        now = clock.unix_s()
        self._all[device] = found = Maintenance(device, reason.strip(), by, now, now + seconds)
        await self._write()
        return found

    async def end(self, device: str) -> Maintenance:
        """The work is over; energises nothing.

        Raises:
            RefusedError: it is in no maintenance.
        """
        found = self._all.pop(device, None)
        if found is None:
            raise RefusedError(f"{device} is not in maintenance")
        await self._write()
        return found

    async def _write(self) -> None:
        """Keep it over a restart; a disk that does not take it must not end what forbids."""
        async with self._turn:
            document = {"schema": SCHEMA, "devices": [asdict(one) for one in self._all.values()]}
            try:
                await asyncio.to_thread(small_file.write, self._path, document)
            except OSError as error:
                log.error("maintenance is not written, and is forgotten at a restart: %s", error)  # noqa: TRY400

    def _read(self) -> dict[str, Maintenance]:
        found = small_file.read_newest(self._path, SCHEMA)  # the one before may lack who works there now
        every = [Maintenance(**one) for one in found["devices"]] if found is not None else []
        return {one.device: one for one in every}
