"""The daemon's side of the small file of outputs: written before one may be on, and when it is known to be off.

A trip outlives the daemon also where its output does not, as that of a simulator that lives with it: such trips have a
small file of their own, for whoever acts without the daemon has nothing to reach there.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from petqcd import clock, small_file
from petqcd.errors import RefusedError
from petqcd.off import outputs
from petqcd.places import TRIPPED

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from petqcd.off.outputs import Output

log = logging.getLogger(__name__)

SCHEMA = "petqc-tripped/1"


class KeptOutputs:
    """What is known of every output that outlives the daemon; everything is called from the event loop.

    Args:
        state_dir: of the daemon.
        configured: the outputs there are now.

    Attributes:
        warning: what was wrong with the file of the process before; empty: nothing.
        can_write: whether the last write worked.
    """

    def __init__(self, state_dir: Path, configured: Iterable[Output]) -> None:
        last = outputs.read(state_dir)
        self.warning = last.why
        self.can_write = True
        self._state_dir = state_dir
        before = {one.name: one for one in last.outputs}
        now = {one.name: one for one in configured}
        for name, one in now.items():
            was = before.get(name)
            if was is not None:
                now[name] = replace(one, state=was.state, volts=was.volts, at=was.at, trip=was.trip)
        self._configured = frozenset(now)
        # What is not configured any more and was left on is still there, for those who switch everything off.
        self._all = {**{name: one for name, one in before.items() if one.may_be_on and name not in now}, **now}
        self._tripped, self._trips_unread = _tripped_before(state_dir)
        # Out of the configuration and in again is no reset either.
        self._tripped |= {name: one.trip for name, one in before.items() if one.trip and name not in self._all}
        self._is_written = False
        self._turn = asyncio.Lock()

    def __getitem__(self, name: str) -> Output | None:
        """One of them; None: it does not outlive the daemon, or is none."""
        return self._all.get(name)

    def tripped(self, name: str) -> str:
        """Why a device was tripped when the process before ended; empty: it was not. What cannot be read counts."""
        one = self._all.get(name)
        if one is not None and one.trip:
            return one.trip
        return self._tripped.get(name, "" if one is not None else self._trips_unread)

    def retired(self) -> list[Output]:
        """Those that are configured no more and may be on."""
        return [one for name, one in self._all.items() if self.is_retired(name) and one.may_be_on]

    def is_retired(self, name: str) -> bool:
        """Whether it is configured no more."""
        return name not in self._configured

    async def forget(self, name: str) -> None:
        """Nothing is known of it any more, also after a restart.

        Raises:
            RefusedError: that could not be written.
        """
        one = self._all.pop(name)
        self._is_written = False
        await self.commit()
        if not self.can_write:
            self._all[name] = one
            raise RefusedError(f"{name} stays known: the state directory does not take that it is forgotten")

    def note(self, name: str, state: str, volts: float | None, trip: str = "") -> None:
        """What is known of one now; `commit` writes it."""
        one = self._all.get(name)
        if one is not None and (one.state, one.volts, one.trip) != (state, volts, trip):
            self._all[name] = replace(one, state=state, volts=volts, trip=trip, at=clock.utc_text())
            self._is_written = False
        beside = trip if one is None else ""
        if self._tripped.get(name, "") != beside:
            self._tripped = {other: why for other, why in self._tripped.items() if other != name}
            self._tripped |= {name: beside} if beside else {}
            self._is_written = False

    async def commit(self) -> None:
        """Write what is not written yet; a disk that does not take it is remembered, and told by a permit."""
        async with self._turn:
            if self._is_written:
                return
            every, tripped = list(self._all.values()), self._tripped
            try:
                await asyncio.to_thread(outputs.write, self._state_dir, every)
                await asyncio.to_thread(_write_tripped, self._state_dir, tripped)
            except OSError as error:
                if self.can_write:
                    log.error("what is known of the outputs is not written: %s", error)  # noqa: TRY400 - it says it all
                self.can_write = False
                return
            self.can_write = True
            self._is_written = every == list(self._all.values()) and tripped == self._tripped

    async def may_be_on(self, name: str) -> None:
        """Write down that an output may be on from now on, before it is.

        Raises:
            RefusedError: it could not be written, so it must not go on.
        """
        one = self._all.get(name)
        if one is None:
            return
        self.note(name, "unknown", None)
        await self.commit()
        if not self.can_write:
            raise RefusedError(f"{name} stays off: the state directory does not take that it is on")


def _tripped_before(state_dir: Path) -> tuple[dict[str, str], str]:
    """What the process before left tripped, by device; and why that is not known, if it is not."""
    path = state_dir / TRIPPED
    try:
        found = small_file.read_newest(path, SCHEMA)  # the one before may lack the last trip
        return {} if found is None else {str(name): str(why) for name, why in found["tripped"].items()}, ""
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}, f"what was tripped cannot be read: {path} is damaged"


def _write_tripped(state_dir: Path, tripped: dict[str, str]) -> None:
    path = state_dir / TRIPPED
    if tripped or path.exists():
        small_file.write(path, {"schema": SCHEMA, "tripped": tripped})
