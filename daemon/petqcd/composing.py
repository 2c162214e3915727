"""A run that is composed of others, such as the day's: each part a run of its own, one after the other.

A part that cannot run, or fails, does not keep the others from running. Only two things end a composed run early: a
command, and outputs that are not known to be off after a part, for then nothing may be energised.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from petqcd import clock
from petqcd.errors import RefusedError
from petqcd.kinds import all_kinds, find_kind
from petqcd.progress import Event, Progress
from petqcd.readout.supervisor import BiasState
from petqcd.running import Running, Services, finished, lost, new_run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel

    from petqc.results import Run, RunPart, Spectrum
    from petqcd.kinds import Part, RunKind

_IS_OFF = (BiasState.OFF_CONFIRMED, BiasState.OFF_COMMANDED)


class Composing:
    """A composed run that is going on; the same calls as `Running`."""

    def __init__(
        self,
        services: Services,
        kind: RunKind,
        settings: BaseModel,
        source: str,
        told: Callable[[Progress], None],
        *,
        remark: str = "",
    ) -> None:
        self._services = services
        self._remark = remark
        self._kind = kind
        self._source = source
        self._told = told
        self._parts: Sequence[Part] = kind.parts(settings)
        self._given = [
            of_part.settings_of(services.config, {**of_part.unattended, **part.settings})
            for of_part, part in ((find_kind(part.kind), part) for part in self._parts)
        ]
        self._started_unix_s = clock.unix_s()
        self._started_s = clock.monotonic_s()
        self._now: Running | None = None
        self._stopped_because: str | None = None
        self._sequence: int | None = None
        self.run_id = new_run_id(kind.name, self._started_unix_s)
        self.progress = Progress(self.run_id, kind.name, "connect", 0.0, "starting")

    async def claim(self, occasion: tuple[str, str, int] | None = None) -> int:
        """Claim the whole in the history, and its occasion; its parts are claimed when they begin."""
        self._sequence = await self._services.begin(
            self.run_id, self._kind.name, self._started_unix_s, occasion=occasion
        )
        return self._sequence

    def stop(self, reason: str) -> None:
        """Stop the part that is going on, and begin no other."""
        if self._stopped_because is None:
            self._stopped_because = reason
        if self._now is not None:
            self._now.stop(reason)

    def confirm(self, note: str) -> str:
        """Tell the part that is going on that what it waits for is done.

        Raises:
            RefusedError: it waits for nothing.
        """
        if self._now is None:
            raise RefusedError(f"run {self.run_id} does not wait for anybody")
        return self._now.confirm(note)

    def spectra_so_far(self) -> Sequence[Spectrum]:
        """Those of the part that is going on."""
        return () if self._now is None else self._now.spectra_so_far()

    async def run(self) -> Event:
        """Go through all parts; `finished` with the verdict of the whole."""
        try:
            stored: list[Run] = []
            parts: list[RunPart] = []
            ended = ""
            for number in range(len(self._parts)):
                ended = self._stopped_because or self._unsafe(number, parts)
                parts.append(_missed(self._parts[number], ended) if ended else await self._one(number, stored))
            return await self._store(parts, stored, self._stopped_because or ended)
        except Exception as error:  # noqa: BLE001 - told in the log and to everybody who waits
            return lost(self.run_id, error)

    def _unsafe(self, number: int, parts: Sequence[RunPart]) -> str:
        """Why no further part may begin; empty: nothing forbids it."""
        from petqc.limits import Status

        state = self._services.device.state
        # A part that never began has left nothing behind: what comes next is as good as the first one.
        if all(part.verdict is Status.MISSED for part in parts) or state.bias in _IS_OFF:
            return ""
        return f"after {self._parts[number - 1].kind} the bias outputs of {state.name} are {state.bias}"

    async def _one(self, number: int, stored: list[Run]) -> RunPart:
        """One part, to its record; a part that is refused is a record, too."""
        from petqc.limits import Status
        from petqc.results import RunPart

        def tell(progress: Progress) -> None:
            self._tell(number, progress)

        part = self._parts[number]
        running = self._now = Running(self._services, find_kind(part.kind), self._given[number], self._source, tell)
        try:
            try:
                await running.claim(self._sequence)
            except RefusedError as error:
                started_unix_s = clock.unix_s()
                await self._services.begin(running.run_id, part.kind, started_unix_s, self._sequence)
                event = await running.refused(str(error))
            else:
                event = await running.run()
        finally:
            self._now = None
        self._services.bus.publish(event)
        if running.stored is None:
            return RunPart(running.run_id, part.kind, Status.INVALID, f"Not stored: {event.data['error']}.")
        run = running.stored
        stored.append(run)
        return RunPart(run.run_id, run.kind, run.verdict, run.sentence)

    async def _store(self, parts: Sequence[RunPart], stored: Sequence[Run], ended: str) -> Event:
        run = await asyncio.to_thread(
            composed, self._services, self.run_id, self._kind.name, self._started_unix_s, parts, stored, ended
        )
        said = [f"Started by {self._source}.", *([self._remark] if self._remark else [])]
        run.notes += [note for note in said if note not in run.notes]
        return finished(run, await self._services.finish(run, clock.monotonic_s() - self._started_s))

    def _tell(self, number: int, of_part: Progress) -> None:
        n = len(self._parts)
        self.progress = replace(
            of_part,
            run_id=self.run_id,
            kind=self._kind.name,
            fraction=round((number + of_part.fraction) / n, 4),
            part=f"{of_part.kind}, part {number + 1} of {n}" if n > 1 else "",
        )
        self._told(self.progress)


def composed(
    services: Services,
    run_id: str,
    kind: str,
    started_unix_s: float,
    parts: Sequence[RunPart],
    stored: Sequence[Run],
    ended: str,
) -> Run:
    """The record of a composed run; writes nothing but makes its folder."""
    from petqc.composed import compose

    services.store.folder_of(run_id).mkdir(parents=True, exist_ok=True)
    context = services.context(run_id, kind, clock.utc_text(started_unix_s))
    return compose(context, parts, stored, {name: kind.title for name, kind in all_kinds().items()}, ended=ended)


def _missed(part: Part, why: str) -> RunPart:
    from petqc.limits import Status
    from petqc.results import RunPart

    return RunPart(None, part.kind, Status.MISSED, f"Not begun: {why}.")
