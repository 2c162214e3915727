"""Runs: who may start one, how one is stopped, and what becomes of those that a dead daemon left behind.

One run at a time; a second one is refused, not queued. A run is claimed in the history before it starts and stored
whole before anybody is told its verdict.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from petqcd import records, resume
from petqcd.baselines import Baselines
from petqcd.composing import Composing, composed
from petqcd.errors import BusyError, RefusedError
from petqcd.interlocks import readout_permits as interlocks
from petqcd.kinds import find_kind
from petqcd.progress import Event
from petqcd.readout.board import close, switch_off
from petqcd.running import Running, Services

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from petqc.results import Run, Spectrum
    from petqcd.config import PetqcConfig
    from petqcd.metrics import Metrics
    from petqcd.progress import Bus, Progress
    from petqcd.readout.board import OffOutcome, ReadingLike
    from petqcd.readout.supervisor import DeviceSupervisor
    from petqcd.running import MakeBoard
    from petqcd.store import Store, StoredRun

log = logging.getLogger(__name__)

STOP_DEADLINE_S = 25.0
"""For a run that was told to stop, until it is a stored record."""
_TOLD_COMMAND = "stopped by command"


class RunManager:
    """Starts, stops and finishes runs; everything is called from the event loop.

    Args:
        config: the daemon's configuration.
        store: the history.
        bus: where progress is told.
        metrics: where results are published.
        device: the readout board's supervisor.
        make_board: makes an unconnected board; the real one is `petqcd.readout.petsys_board.PetsysBoard`.
        instruments: the last readings of what stands around the detector; asks nobody.
        run_volts: the voltage for runs of each supply that has one.
        instrument_tables: what petqc.toml, or the simulator, says of each instrument.
    """

    def __init__(
        self,
        config: PetqcConfig,
        store: Store,
        bus: Bus,
        metrics: Metrics,
        device: DeviceSupervisor,
        make_board: MakeBoard,
        instruments: Callable[[], Sequence[ReadingLike]] = tuple,
        run_volts: Callable[[], Mapping[str, float]] = dict,
        instrument_tables: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        self._services = Services(
            config,
            store,
            bus,
            metrics,
            device,
            make_board,
            interlocks.Interlocks(),
            Baselines(config, store, metrics),
            instruments,
            run_volts,
            instrument_tables,
        )
        self._active: Running | Composing | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.refuses: Callable[[], str | None] = lambda: None
        """What else stands in the way of a new run, for people."""
        self.ended: Callable[[str], None] = lambda _kind: None
        """Told the kind of each run once it is over."""

    @property
    def progress(self) -> Progress | None:
        """Where the run is that is going on, if one is."""
        return self._active.progress if self._active is not None else None

    def spectra_so_far(self) -> Sequence[Spectrum]:
        """What the run that is going on has counted; empty: none is, or it has nothing to show."""
        return () if self._active is None else self._active.spectra_so_far()

    @property
    def services(self) -> Services:
        """What runs work with."""
        return self._services

    async def start(
        self,
        kind: str,
        *,
        source: str,
        parameters: Mapping[str, Any] | None = None,
        remark: str = "",
        occasion: tuple[str, str, int] | None = None,
    ) -> str:
        """Start a run on an explicit command; returns its id once its claim is stored.

        Args:
            kind: one of `petqcd.kinds`.
            source: who commands it.
            parameters: settings of the kind that take the place of the configured ones.
            remark: for the record.
            occasion: job, local day and attempt of the schedule, claimed with the run.

        Raises:
            RefusedError: no such kind or parameter, one is going on, or hard limits are not configured.
            StoreError: it could not be claimed.
        """
        found = find_kind(kind)
        settings = found.settings_of(self._services.config, parameters or {})
        if self._closing:
            raise RefusedError("the daemon is stopping")
        why = self.refuses()
        if why is not None:
            raise RefusedError(why)
        if self._active is not None:
            raise BusyError(f"run {self._active.run_id} is going on; wait for it or abort it")
        make = Composing if found.is_composed else Running
        active = make(self._services, found, settings, source, self._tell, remark=remark)
        self._active = active  # before the first await: two commands at once must not both pass
        try:
            await active.claim(occasion=occasion)
        except BaseException:
            self._active = None
            raise
        self._services.metrics.set("petqc_run_active", 1)
        self._task = asyncio.create_task(self._run(active), name=f"run {active.run_id}")
        return active.run_id

    def abort(self, reason: str = _TOLD_COMMAND) -> str:
        """Stop the run that is going on: bias off first, then it becomes an invalid record. Returns its id.

        Raises:
            RefusedError: none is going on.
        """
        active = self._going_on()
        active.stop(reason)
        return active.run_id

    def confirm(self, note: str) -> tuple[str, str]:
        """Tell the run that is going on that what it waits for is done; its id, and what that was.

        Raises:
            RefusedError: none is going on, or it waits for nothing.
        """
        active = self._going_on()
        return active.run_id, active.confirm(note)

    async def off(self) -> OffOutcome:
        """Bias off, now; needs no permit, overtakes a run that is going on.

        Raises:
            UnreachableError: it is not known where the board answers.
        """
        if self._active is not None and self._task is not None:
            self.abort("bias was switched off by command")
        device = self._services.device
        endpoint = await device.endpoint(1.0)
        board = self._services.make_board(endpoint, None, None)  # off depends on no file and on no limit
        try:
            outcome = await switch_off(board)
        finally:
            await close(board)
        device.bias_is(outcome.state)
        return outcome

    async def wait(self) -> None:
        """Wait until no run is going on."""
        if self._active is not None and self._task is not None:
            await asyncio.wait({self._task})

    async def aclose(self) -> None:
        """Stop what is going on and wait until it is a stored record."""
        self._closing = True
        active, task = self._active, self._task
        if active is None or task is None:
            return
        self.abort("the daemon was stopped")
        done, _ = await asyncio.wait({task}, timeout=STOP_DEADLINE_S)
        if not done:
            log.error("run %s did not end within %g s", active.run_id, STOP_DEADLINE_S)
            task.cancel()
            await asyncio.wait({task})

    async def recover(self) -> list[str]:
        """Make a record of every run that a dead daemon left behind; returns their ids. Called once, at start."""
        found = []
        left = await asyncio.to_thread(self._services.store.running)
        for line in reversed(left):  # a composed run was claimed before its parts, and is made of their records
            parts = await asyncio.to_thread(self._services.store.parts_of, line.sequence)
            run = await asyncio.to_thread(records.concluded, self._services.store.state_dir / line.folder, line.run_id)
            if run is None:
                run = await (self._recovered_whole(line, parts) if parts else self._recovered(line))
                log.warning("run %s was interrupted and is now a record", line.run_id)
            else:
                log.warning("run %s was concluded and is now stored", line.run_id)
            await self._services.finish(run, 0.0)
            found.append(line.run_id)
        return found[::-1]

    async def _recovered(self, line: StoredRun) -> Run:
        services = self._services
        folder = services.store.state_dir / line.folder
        folder.mkdir(parents=True, exist_ok=True)
        told = await asyncio.to_thread(records.finalise_left_behind, folder)
        notes = ("The daemon died in mid-run.", *told)
        context = replace(
            services.context(line.run_id, line.kind, line.started_at, notes=notes),
            raw_files=await asyncio.to_thread(resume.hashed, folder, resume.RECORDING),
        )
        return await asyncio.to_thread(records.invalid, context, records.DIED)

    async def _recovered_whole(self, line: StoredRun, parts: list[StoredRun]) -> Run:
        from petqc.results import Run, RunPart

        def make() -> Run:
            runs = [Run.load(self._services.store.folder_of(part.run_id)) for part in parts]
            at = datetime.fromisoformat(line.started_at).timestamp()
            those = [RunPart(run.run_id, run.kind, run.verdict, run.sentence) for run in runs]
            return composed(self._services, line.run_id, line.kind, at, those, runs, records.DIED)

        return await asyncio.to_thread(make)

    def _going_on(self) -> Running | Composing:
        if self._active is None:
            raise RefusedError("no run is going on")
        return self._active

    async def _run(self, active: Running | Composing) -> None:
        """One run to its end; the news of it comes when the next one could start."""
        event: Event | None = None
        try:
            event = await active.run()
        finally:
            if self._active is active:
                self._active = None
            self._services.metrics.set("petqc_run_active", 0)
            self._services.metrics.set("petqc_run_progress_ratio", 0)
            if event is not None:
                self._services.bus.publish(event)
            self.ended(active.progress.kind)

    def _tell(self, progress: Progress) -> None:
        self._services.metrics.set("petqc_run_progress_ratio", progress.fraction)
        self._services.bus.publish(Event("progress", progress.document()))
