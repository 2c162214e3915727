"""Runs: who may start one, what it goes through, and that it always ends as a stored record.

One run at a time; a second one is refused, not queued. A run is claimed in the history before it starts and stored
whole before anybody is told its verdict.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from petqc_drivers.errors import DriverError
from petqcd import clock, interlocks, records, resume
from petqcd.baselines import Baselines
from petqcd.board import close, switch_off
from petqcd.board_configuration import configuration_in_use
from petqcd.charts import chart
from petqcd.errors import BusyError, DaemonError, RefusedError
from petqcd.kinds import find_kind
from petqcd.procedure import Acquired, Bench, Job, environment
from petqcd.progress import Event, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from petqc.analysis import RunContext
    from petqc.formats.petsys_config import PetsysConfig
    from petqc.results import Run
    from petqcd.bias_limits import BiasLimits
    from petqcd.board import Board, OffOutcome
    from petqcd.board_configuration import InUse
    from petqcd.config import PetqcConfig
    from petqcd.kinds import RunKind
    from petqcd.metrics import Metrics
    from petqcd.procedure import Procedure
    from petqcd.progress import Bus
    from petqcd.store import Store
    from petqcd.supervisor import DeviceSupervisor, Endpoint

    MakeBoard = Callable[[Endpoint, PetsysConfig | None, BiasLimits | None], Board]

log = logging.getLogger(__name__)

ENDPOINT_DEADLINE_S = 130.0
"""For a simulator that is still being started; a real board's address is known at once."""
CONTINUE_DEADLINE_S = 8.0
"""The same, while somebody waits for the answer whether a run can be continued."""
STOP_DEADLINE_S = 25.0
"""For a run that was told to stop, until it is a stored record."""
_TOLD_COMMAND = "stopped by command"


@dataclass(slots=True)
class _Active:
    """The run that is going on."""

    run_id: str
    kind: RunKind
    settings: BaseModel
    started_unix_s: float
    started_s: float
    progress: Progress
    task: asyncio.Task[None] | None = None
    acquiring: asyncio.Task[None] | None = None
    stopped_because: str | None = None
    notes: list[str] = field(default_factory=list)


class RunManager:
    """Starts, stops and finishes runs; everything is called from the event loop.

    Args:
        config: the daemon's configuration.
        store: the history.
        bus: where progress is told.
        metrics: where results are published.
        device: the readout board's supervisor.
        make_board: makes an unconnected board; the real one is `petqcd.petsys_board.PetsysBoard`.
    """

    def __init__(
        self,
        config: PetqcConfig,
        store: Store,
        bus: Bus,
        metrics: Metrics,
        device: DeviceSupervisor,
        make_board: MakeBoard,
    ) -> None:
        self._config = config
        self._store = store
        self._bus = bus
        self._metrics = metrics
        self._device = device
        self._make_board = make_board
        self._permits = interlocks.Interlocks()
        self._baselines = Baselines(config, store, metrics)
        self._active: _Active | None = None
        self._closing = False

    @property
    def progress(self) -> Progress | None:
        """Where the run is that is going on, if one is."""
        return self._active.progress if self._active is not None else None

    async def start(self, kind: str, *, source: str, parameters: Mapping[str, Any] | None = None) -> str:
        """Start a run on an explicit command; returns its id once its claim is stored.

        Args:
            kind: one of `petqcd.kinds`.
            source: who commands it.
            parameters: settings of the kind that take the place of the configured ones.

        Raises:
            RefusedError: no such kind or parameter, one is going on, or hard limits are not configured.
            StoreError: it could not be claimed.
        """
        found = find_kind(kind)
        settings = found.settings_of(self._config, parameters or {})
        if self._closing:
            raise RefusedError("the daemon is stopping")
        if self._active is not None:
            raise BusyError(f"run {self._active.run_id} is going on; wait for it or abort it")
        started_unix_s = clock.unix_s()
        run_id = f"{clock.compact_utc(started_unix_s)}-{kind}-{secrets.token_hex(3)}"
        progress = Progress(run_id, kind, "connect", 0.0, "starting")
        active = _Active(run_id, found, settings, started_unix_s, clock.monotonic_s(), progress)
        self._active = active  # before the first await: two commands at once must not both pass
        try:
            limits = self._limits() if found.needs_bias else None
            if getattr(settings, "resume", ""):
                await self._refuse_to_continue(active)
            self._permits.forget()
            self._give(interlocks.COMMAND, source)
            if limits is not None:
                self._give(interlocks.LIMITS, "[device.bias]")
            await self._store.begin_run(
                run_id,
                kind=kind,
                scanner=self._config.scanner.name,
                simulated=self._config.board.is_simulated,
                started_at=clock.utc_text(started_unix_s),
                config_hash=self._config.hash,
            )
        except BaseException:
            self._active = None
            raise
        self._metrics.set("petqc_run_active", 1)
        active.task = asyncio.create_task(self._run(active, limits), name=f"run {run_id}")
        return run_id

    def abort(self, reason: str = _TOLD_COMMAND) -> str:
        """Stop the run that is going on: bias off first, then it becomes an invalid record. Returns its id.

        Raises:
            RefusedError: none is going on.
        """
        active = self._active
        if active is None:
            raise RefusedError("no run is going on")
        if active.stopped_because is None:
            active.stopped_because = reason
            if active.acquiring is not None:
                active.acquiring.cancel()
        return active.run_id

    async def off(self) -> OffOutcome:
        """Bias off, now; needs no permit, overtakes a run that is going on.

        Raises:
            UnreachableError: it is not known where the board answers.
        """
        active = self._active
        if active is not None and active.task is not None:
            self.abort("bias was switched off by command")
        endpoint = await self._device.endpoint(1.0)
        board = self._make_board(endpoint, None, None)  # off depends on no file and on no limit
        try:
            outcome = await switch_off(board)
        finally:
            await close(board)
        self._device.bias_is(outcome.state)
        return outcome

    async def wait(self) -> None:
        """Wait until no run is going on."""
        active = self._active
        if active is not None and active.task is not None:
            await asyncio.wait({active.task})

    async def aclose(self) -> None:
        """Stop what is going on and wait until it is a stored record."""
        self._closing = True
        active = self._active
        if active is None or active.task is None:
            return
        self.abort("the daemon was stopped")
        done, _ = await asyncio.wait({active.task}, timeout=STOP_DEADLINE_S)
        if not done:
            log.error("run %s did not end within %g s", active.run_id, STOP_DEADLINE_S)
            active.task.cancel()
            await asyncio.wait({active.task})

    async def recover(self) -> list[str]:
        """Make a record of every run that a dead daemon left behind; returns their ids. Called once, at start."""
        found = []
        for line in await asyncio.to_thread(self._store.running):
            folder = self._store.state_dir / line.folder
            folder.mkdir(parents=True, exist_ok=True)
            told = await asyncio.to_thread(records.finalise_left_behind, folder)
            context = replace(
                self._context(
                    line.run_id,
                    line.kind,
                    line.started_at,
                    clock.utc_text(),
                    notes=("The daemon died in mid-run.", *told),
                ),
                raw_files=await asyncio.to_thread(resume.hashed, folder, resume.RECORDING),
            )
            run = await asyncio.to_thread(
                records.invalid, context, "the daemon stopped in mid-run, the run was interrupted"
            )
            await self._finish(run, folder, duration_s=0.0, count=True)
            log.warning("run %s was interrupted and is now a record", line.run_id)
            found.append(line.run_id)
        return found

    async def _run(self, active: _Active, limits: BiasLimits | None) -> None:
        """One run from its claim to its record; the only way out without a record is a store that refuses."""
        folder = self._store.folder_of(active.run_id)
        procedure: Procedure | None = None
        reason: str | None = None
        try:
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            try:
                endpoint = await self._endpoint(active)
                procedure = await asyncio.to_thread(self._procedure, active, endpoint, limits)
                await self._stoppable(active, asyncio.create_task(procedure.acquire(), name=f"acquire {active.run_id}"))
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the run becomes a record that says so
                reason = self._reason(active, error)
            run = await self._conclude(active, procedure, reason)
            sequence = await self._finish(run, folder, duration_s=clock.monotonic_s() - active.started_s, count=True)
            told: dict[str, Any] = {"run_id": run.run_id, "verdict": str(run.verdict), "sequence": sequence}
            self._done(active, Event("finished", {**told, "sentence": run.sentence}))
        except Exception as error:
            log.exception("run %s could not be stored", active.run_id)
            code = error.code if isinstance(error, DaemonError) else DaemonError.code
            self._done(active, Event("lost", {"run_id": active.run_id, "code": code, "error": str(error)}))
        finally:
            if self._active is active:
                self._active = None
                self._metrics.set("petqc_run_active", 0)

    def _done(self, active: _Active, event: Event) -> None:
        if self._active is active:
            self._active = None
        self._metrics.set("petqc_run_active", 0)
        self._metrics.set("petqc_run_progress_ratio", 0)
        self._bus.publish(event)

    async def _endpoint(self, active: _Active) -> Endpoint:
        """Where the board answers; gives up when the run is stopped."""
        waiting = asyncio.create_task(self._device.endpoint(ENDPOINT_DEADLINE_S), name="wait for the board")
        await self._stoppable(active, waiting)
        return waiting.result()

    async def _stoppable(self, active: _Active, task: asyncio.Task[Any]) -> None:
        """Wait for a task that `abort` may cancel; a cancellation of ours cancels it too. Raises what it raised."""
        active.acquiring = task
        if active.stopped_because is not None:
            task.cancel()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        finally:
            active.acquiring = None
        if task.cancelled():
            raise RefusedError(active.stopped_because or "stopped")
        task.result()

    async def _refuse_to_continue(self, active: _Active) -> None:
        """Let the kind say, before the run is claimed, what stands in the way of continuing another one."""
        endpoint = await self._device.endpoint(CONTINUE_DEADLINE_S)

        def ask() -> None:
            active.kind.make.refuse(self._job(active, self._in_use(endpoint)))

        await asyncio.to_thread(ask)

    def _in_use(self, endpoint: Endpoint) -> InUse:
        return configuration_in_use(endpoint.config_ini, self._store.sets, self._config.board.name)

    def _job(self, active: _Active, in_use: InUse) -> Job:
        return Job(
            run_id=active.run_id,
            kind=active.kind.name,
            started_at=clock.utc_text(active.started_unix_s),
            folder=self._store.folder_of(active.run_id),
            state_dir=self._store.state_dir,
            config=self._config,
            board_config=in_use.config,
            set_id=in_use.set_id,
            root_hash=in_use.root_hash,
            settings=active.settings,
        )

    def _procedure(self, active: _Active, endpoint: Endpoint, limits: BiasLimits | None) -> Procedure:
        """The kind's procedure, with a board that is not connected yet; reads files."""

        def tell(stage: str, fraction: float, detail: str, counts: dict[str, int]) -> None:
            self._tell(active, stage, fraction, detail, counts)

        job = self._job(active, self._in_use(endpoint))
        board = self._make_board(endpoint, job.board_config, limits)
        return active.kind.make(job, Bench(board, self._device, self._permits, tell))

    def _reason(self, active: _Active, error: Exception) -> str:
        if active.stopped_because is not None:
            return active.stopped_because
        log.warning("run %s: %s", active.run_id, error, exc_info=not hasattr(error, "code"))
        detail = str(error) or type(error).__name__
        ended = self._device.ended_because(active.started_s)
        if ended and self._config.board.simulator is not None and ended not in detail:
            detail += f" ({ended})"
        if isinstance(error, DriverError | ConnectionError | TimeoutError):
            self._device.failed(detail)
        return detail

    async def _conclude(self, active: _Active, procedure: Procedure | None, reason: str | None) -> Run:
        """Finalise what was taken, then analyse, or say why there is nothing to analyse."""
        self._tell(active, "analyse", 0.88, "finalising what was taken", {})
        notes = list(active.notes)
        account: dict[str, int | float] = {}
        off: OffOutcome | None = None
        if procedure is not None:
            off = procedure.acquired.off
            if off is not None:
                notes.append(f"After the run: {off.told}.")
            try:
                await asyncio.to_thread(procedure.finalise, truncated=reason)
                account = procedure.account()
            except Exception as error:
                log.exception("finalising what run %s took", active.run_id)
                reason = reason or f"the recording could not be finalised: {records.first_line(error)}"
            account |= self._received(procedure, notes)
            if not procedure.acquired.drained:
                reason = reason or "the recorder did not keep up; frames waiting for it were dropped"
            notes += procedure.notes(reason)
        calibration_ids = {} if procedure is None else procedure.job.calibration_ids
        accepted, ended = await asyncio.to_thread(self._baselines.holding, active.kind.name, calibration_ids)
        context = self._context(
            active.run_id,
            active.kind.name,
            clock.utc_text(active.started_unix_s),
            clock.utc_text(),
            procedure=procedure,
            account=account,
            notes=(*notes, *([ended] if ended else [])),
            baselines=await asyncio.to_thread(
                self._baselines.values, accepted, active.kind.name, active.started_unix_s, calibration_ids
            ),
        )
        if reason is not None and off is not None and off.state.value == "unknown":
            reason = f"{reason}; {off.told}"
        if reason is not None or procedure is None:
            return await asyncio.to_thread(records.invalid, context, reason or "nothing was measured")
        self._tell(active, "analyse", 0.9, "analysing", {})
        try:
            run = await asyncio.to_thread(procedure.conclude, context)
        except Exception as error:
            log.exception("analysing run %s", active.run_id)
            return await asyncio.to_thread(
                records.invalid, context, f"the analysis failed: {records.first_line(error)}"
            )
        acceptance = await asyncio.to_thread(self._baselines.current, active.kind.name, is_acceptance=True)
        run.baselines = {b.role: b.digest() for b in (accepted, acceptance) if b is not None}
        await asyncio.to_thread(
            chart, run, self._store, nuclide=self._config.nuclide, reference=accepted, acceptance=acceptance
        )
        return run

    def _received(self, procedure: Procedure, notes: list[str]) -> dict[str, int | float]:
        """The account of frames, and the equation it must fulfil."""
        acquired = procedure.acquired
        received = acquired.received
        recorded, dropped = procedure.frames_kept, acquired.frames_dropped
        if acquired.frames_known and received.frames != recorded + dropped:
            notes.append(f"Frames do not add up: {received.frames} received, {recorded} recorded, {dropped} dropped.")
        self._metrics.add("petqc_frames_received_total", received.frames)
        self._metrics.add("petqc_frames_recorded_total", recorded)
        self._metrics.add("petqc_frames_dropped_total", dropped)
        self._metrics.add("petqc_frames_lost_total", received.frames_lost)
        self._metrics.add("petqc_datagrams_rejected_total", received.datagrams_rejected)
        return {
            "frames_received": received.frames,
            "frames_recorded": recorded,
            "frames_dropped": dropped,
            "frames_missing": received.frames_lost,
            "datagrams_rejected": received.datagrams_rejected,
            **received.counters,
        }

    async def _finish(self, run: Run, folder: Path, *, duration_s: float, count: bool) -> int:
        """Files first, then the durable record, then the news. Returns the sequence."""
        await asyncio.to_thread(records.write_files, run, folder)
        sequence = await self._store.finish_run(run)
        finished_unix_s = clock.unix_s()
        if count:
            self._metrics.run_stored(run, finished_unix_s=finished_unix_s, duration_s=duration_s)
        self._metrics.set("petqc_store_last_commit_timestamp_seconds", self._store.last_commit_unix_s)
        return sequence

    def _context(
        self,
        run_id: str,
        kind: str,
        started_at: str,
        finished_at: str,
        *,
        procedure: Procedure | None = None,
        account: dict[str, int | float] | None = None,
        notes: tuple[str, ...] = (),
        baselines: Mapping[str, Mapping[str, float]] | None = None,
    ) -> RunContext:
        from petqc.analysis import RunContext

        simulator = self._config.board.simulator
        acquired = procedure.acquired if procedure is not None else Acquired()
        identity = acquired.identity
        return RunContext(
            run_id=run_id,
            kind=kind,
            scanner=self._config.scanner.name,
            started_at=started_at,
            finished_at=finished_at,
            simulated=self._config.board.is_simulated,
            software=records.software() | ({"board": identity} if identity else {}),
            config_hash=self._config.hash,
            calibration_ids=procedure.job.calibration_ids if procedure is not None else {},
            raw_files=procedure.raw_files() if procedure is not None else (),
            environment=tuple(environment(acquired.readings, clock.monotonic_s())),
            limits=self._config.limit_overrides(),
            baselines=baselines or {},
            account=account or {},
            elapsed_s=acquired.elapsed_s if procedure is not None else None,
            live_time_s=procedure.live_time_s if procedure is not None else None,
            source="none" if simulator is not None and simulator.source == "none" else self._config.qc.daily.source,
            notes=(*self._about_source(), *notes),
        )

    def _about_source(self) -> tuple[str, ...]:
        simulator = self._config.board.simulator
        name = f"simulated {simulator.source}" if simulator is not None else self._config.qc.daily.source_name
        return (f"Source: {name}.",) if name else ()

    def _limits(self) -> BiasLimits:
        if self._config.board.bias is None:
            raise RefusedError(
                f"{self._device.state.name}: hard limits are not configured (add [device.bias] with v_min, v_max, "
                "max_step_v and slew_v_per_s)"
            )
        return self._config.board.bias

    def _give(self, name: str, source: str) -> None:
        now_s, age_s = clock.monotonic_s(), interlocks.CONNECTION_AGE_S
        self._permits.give(interlocks.Permit(name, True, interlocks.Quality.GOOD, now_s, source, max_age_s=age_s))

    def _tell(self, active: _Active, stage: str, fraction: float, detail: str, counts: dict[str, int]) -> None:
        active.progress = Progress(active.run_id, active.kind.name, stage, round(fraction, 4), detail, counts)
        self._metrics.set("petqc_run_progress_ratio", fraction)
        self._bus.publish(Event("progress", active.progress.document()))
