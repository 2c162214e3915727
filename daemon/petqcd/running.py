"""One run from its claim to its record: whatever happens at the board, it ends as a stored record."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from petqc_drivers.errors import DriverError
from petqcd import clock, records
from petqcd.charts import chart
from petqcd.errors import DaemonError, NobodyCameError, RefusedError
from petqcd.interlocks import readout_permits as interlocks
from petqcd.past import tell_past
from petqcd.procedure import Acquired, Bench, Job, environment
from petqcd.progress import Event, Progress
from petqcd.readiness import NO_HARD_LIMITS
from petqcd.readout.configuration import configuration_in_use
from petqcd.recording import run as recording
from petqcd.store.patience import once_there_is_room

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel

    from petqc.analysis import RunContext
    from petqc.formats.petsys_config import PetsysConfig
    from petqc.results import EnvironmentReading, Run, Spectrum
    from petqcd.baselines import Baselines, Held
    from petqcd.config import PetqcConfig
    from petqcd.interlocks.bias_limits import BiasLimits
    from petqcd.kinds import RunKind
    from petqcd.metrics import Metrics
    from petqcd.procedure import Procedure
    from petqcd.progress import Bus
    from petqcd.readout.board import Board, OffOutcome, ReadingLike
    from petqcd.readout.configuration import InUse
    from petqcd.readout.supervisor import DeviceSupervisor, Endpoint
    from petqcd.store import Store

    MakeBoard = Callable[[Endpoint, PetsysConfig | None, BiasLimits | None], Board]

log = logging.getLogger(__name__)

ENDPOINT_DEADLINE_S = 130.0
"""For a simulator that is still being started; a real board's address is known at once."""
STORE_PATIENCE_S = 900.0
"""For a store that is away when a run has ended; after that, its files are there to store it at the next start."""
CONTINUE_DEADLINE_S = 8.0
"""The same, while somebody waits for the answer whether a run can be continued."""
WAIT_SAYS_EVERY_S = 30.0
"""How often a run that waits for somebody says again for what, and for how long yet."""


@dataclass(frozen=True, slots=True)
class Services:
    """What every run works with.

    config: the daemon's. store: the history. bus: where progress is told. metrics: where results are published. device:
    the readout board's supervisor; permits: of this device. make_board: makes an unconnected board; the real one is
    `petqcd.readout.petsys_board.PetsysBoard`. instruments: the last readings of what stands around the detector.
    run_volts: the voltage for runs of each supply that has one. instrument_tables: what
    petqc.toml, or the simulator, says of each instrument.
    """

    config: PetqcConfig
    store: Store
    bus: Bus
    metrics: Metrics
    device: DeviceSupervisor
    make_board: MakeBoard
    permits: interlocks.Interlocks
    baselines: Baselines
    instruments: Callable[[], Sequence[ReadingLike]] = tuple
    run_volts: Callable[[], Mapping[str, float]] = dict
    instrument_tables: Callable[[], Sequence[Mapping[str, Any]]] = tuple

    async def begin(
        self,
        run_id: str,
        kind: str,
        started_unix_s: float,
        part_of: int | None = None,
        occasion: tuple[str, str, int] | None = None,
    ) -> int:
        """Claim a run in the history, and its occasion in the schedule; its sequence."""
        return await self.store.begin_run(
            run_id,
            kind=kind,
            scanner=self.config.scanner.name,
            simulated=self.config.is_simulated,
            started_at=clock.utc_text(started_unix_s),
            config_hash=self.config.hash,
            part_of=part_of,
            occasion=occasion,
        )

    async def miss(self, run: Run, occasion: tuple[str, str, int]) -> None:
        """Store that a scheduled run never happened."""
        await self.store.miss_run(run, occasion)
        self.metrics.run_stored(run, finished_unix_s=clock.unix_s(), duration_s=0.0)

    async def finish(self, run: Run, duration_s: float) -> int:
        """Files first, then the durable record, then the news. Returns the sequence."""
        folder = self.store.folder_of(run.run_id)
        reference = await asyncio.to_thread(self.baselines.current, run.kind) if "reference" in run.baselines else None
        await asyncio.to_thread(tell_past, run, self.store, nuclide=self.config.nuclide, reference=reference)

        def write() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.glob("*.rawf.partial")):  # a full disk did not let it be finalised
                run.notes += records.finalise_left_behind(folder)
            records.write_files(run, folder)

        await once_there_is_room(write, f"run {run.run_id}", patience_s=STORE_PATIENCE_S)
        # Checks, or a calibration set, are what was measured.
        is_cut = run.verdict == "invalid" and not run.checks and run.calibration_set is None
        await asyncio.to_thread(recording.seal, folder, run.sentence.rstrip(".") if is_cut else None)
        sequence = await self.store.finish_run(run, patience_s=STORE_PATIENCE_S)
        self.metrics.run_stored(run, finished_unix_s=clock.unix_s(), duration_s=duration_s)
        self.metrics.set("petqc_store_last_commit_timestamp_seconds", self.store.last_commit_unix_s)
        return sequence

    def _replayed(self) -> tuple[str, ...]:
        """That the frames are older than the run, where they are."""
        from petqc.results import REPLAYED

        replays = self.config.board.replays
        told = f"{REPLAYED}the frames are those of {replays}, and say nothing about the detector today."
        return (told,) if replays else ()

    def _environment(self, acquired: Acquired) -> tuple[EnvironmentReading, ...]:
        """Readings of the board, and of the instruments when the measurement began and when it ended."""
        now_s = clock.monotonic_s()
        first, last = acquired.instruments_first, acquired.instruments_last or list(self.instruments())
        unchanged = {id(r) for r in last}
        before = [r for r in first if id(r) not in unchanged]
        return tuple(r for some in (before, last, acquired.readings) for r in environment(some, now_s))

    def context(
        self,
        run_id: str,
        kind: str,
        started_at: str,
        *,
        procedure: Procedure | None = None,
        account: dict[str, int | float] | None = None,
        notes: tuple[str, ...] = (),
        held: Held | None = None,
        with_source: bool = False,
    ) -> RunContext:
        """What is known about a run that ends now; with_source: a source is in the scanner, as configured."""
        from petqc.analysis import RunContext
        from petqc.software import software

        acquired = procedure.acquired if procedure is not None else Acquired()
        live_s = procedure.live_time_s if procedure is not None else None
        identity = acquired.identity
        shape, about = self.config.source if with_source else ("none", "")
        return RunContext(
            run_id=run_id,
            kind=kind,
            scanner=self.config.scanner.name,
            started_at=started_at,
            finished_at=clock.utc_text(),
            simulated=self.config.is_simulated,
            software=software() | ({"board": identity} if identity else {}),
            config_hash=self.config.hash,
            calibration_ids=procedure.job.calibration_ids if procedure is not None else {},
            raw_files=procedure.raw_files() if procedure is not None else (),
            environment=self._environment(acquired),
            limits=self.config.limit_overrides(),
            baselines={} if held is None else held.values,
            baseline_errors={} if held is None else held.errors,
            account=account or {},
            # Frames flow some milliseconds before the clock of the flow can be read.
            elapsed_s=max(acquired.elapsed_s, live_s or 0.0) if procedure is not None else None,
            live_time_s=live_s,
            source=shape,
            notes=(*self._replayed(), *((f"Source: {about}.",) if about else ()), *notes),
        )


def new_run_id(kind: str, started_unix_s: float) -> str:
    """A name that no other run has, beginning with its time."""
    return f"{clock.compact_utc(started_unix_s)}-{kind}-{secrets.token_hex(3)}"


def finished(run: Run, sequence: int) -> Event:
    """The news of a run that is stored."""
    told: dict[str, Any] = {"run_id": run.run_id, "verdict": str(run.verdict), "sequence": sequence}
    return Event("finished", {**told, "sentence": run.sentence})


def lost(run_id: str, error: Exception) -> Event:
    """The news of a run that could not be stored."""
    log.error("run %s could not be stored", run_id, exc_info=error)
    code = error.code if isinstance(error, DaemonError) else DaemonError.code
    return Event("lost", {"run_id": run_id, "code": code, "error": str(error)})


class Running:
    """A run that is going on; everything is called from the event loop.

    Args:
        services: what it works with.
        kind: of the run.
        settings: of the kind.
        source: who commands it.
        told: called with every step of progress.
        remark: for the record.
    """

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
        self._kind = kind
        self._remark = remark
        self._settings = settings
        self._source = self._command = source
        self._told = told
        self._started_unix_s = clock.unix_s()
        self._started_s = clock.monotonic_s()
        self._limits: BiasLimits | None = None
        self._acquiring: asyncio.Task[Any] | None = None
        self._stopped_because: str | None = None
        self._at_work: Procedure | None = None
        self._first: asyncio.Future[str] | None = None
        self._waits_for = ""
        self._is_missed = False
        self.run_id = new_run_id(kind.name, self._started_unix_s)
        self.progress = Progress(self.run_id, kind.name, "connect", 0.0, "starting")
        self.stored: Run | None = None
        """The record, once it is stored."""

    async def claim(self, part_of: int | None = None, occasion: tuple[str, str, int] | None = None) -> int:
        """Claim it in the history, and its occasion in the schedule; returns its sequence.

        Raises:
            RefusedError: something stands in its way; nothing was claimed.
            StoreError: it could not be claimed.
        """
        if self._kind.needs_bias:
            self._limits = self._hard_limits()
        if getattr(self._settings, "resume", ""):
            await self._refuse_to_continue()
        self._permit(self._command)
        return await self._services.begin(self.run_id, self._kind.name, self._started_unix_s, part_of, occasion)

    def stop(self, reason: str) -> None:
        """Stop it: bias off first, then it becomes an invalid record."""
        if self._stopped_because is None:
            self._stopped_because = reason
            if self._acquiring is not None:
                self._acquiring.cancel()

    def confirm(self, note: str) -> str:
        """Tell it that what it waits for is done; what that was.

        Raises:
            RefusedError: it waits for nothing.
        """
        if (first := self._first) is not None and not first.done() and self._stopped_because is None:
            first.set_result(note)
            return self._waits_for
        waits_for = None if self._at_work is None else self._at_work.confirm(note)
        if waits_for is None:
            raise RefusedError(f"run {self.run_id} does not wait for anybody")
        return waits_for

    def spectra_so_far(self) -> Sequence[Spectrum]:
        """What was counted so far, while frames come."""
        at_work = self._at_work if self.progress.so_far is not None else None
        return () if at_work is None else at_work.spectra_so_far()

    async def run(self) -> Event:
        """Go through it; `finished` with its verdict, or `lost`: a store that refuses is the only way without."""
        folder = self._services.store.folder_of(self.run_id)
        procedure: Procedure | None = None
        reason: str | None = None
        try:
            try:
                await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
                await self._first_word()
                endpoint = await self._endpoint()
                procedure = self._at_work = await asyncio.to_thread(self._procedure, endpoint)
                await self._stoppable(asyncio.create_task(procedure.get_ready(), name=f"get ready {self.run_id}"))
                self._permit(self._command)  # it is no older for what petqc itself had to do first
                kinds = {str(table["name"]): str(table["kind"]) for table in self._services.instrument_tables()}
                async with recording.recording(procedure, self._services.instruments, kinds):
                    await self._stoppable(asyncio.create_task(procedure.acquire(), name=f"acquire {self.run_id}"))
            except asyncio.CancelledError:
                raise
            except NobodyCameError as error:
                reason, self._is_missed = str(error), True
            except Exception as error:  # noqa: BLE001 - whatever it is, the run becomes a record that says so
                reason = self._reason(error)
            run = await self._conclude(procedure, reason)
            return await self.store(run)
        except Exception as error:  # noqa: BLE001 - told in the log and to everybody who waits
            return lost(self.run_id, error)

    async def refused(self, reason: str) -> Event:
        """Make a record of a run that was claimed and could not even begin."""
        try:
            folder = self._services.store.folder_of(self.run_id)
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            return await self.store(await self._conclude(None, reason))
        except Exception as error:  # noqa: BLE001 - told in the log and to everybody who waits
            return lost(self.run_id, error)

    async def store(self, run: Run) -> Event:
        """Store the record; the news of it."""
        sequence = await self._services.finish(run, clock.monotonic_s() - self._started_s)
        self.stored = run
        return finished(run, sequence)

    async def _first_word(self) -> None:
        """Where the kind waits for somebody before it begins: until they tell. Nothing is connected, nothing is on.

        Raises:
            NobodyCameError: nobody told in time.
        """
        word = self._kind.procedure.first_word(self._settings)
        if word is None:
            return
        self._waits_for = word.waits_for
        self._first = asyncio.get_running_loop().create_future()
        self._tell("confirm", 0.0, f"tell when {word.waits_for}: petqc confirm", {})
        await self._stoppable(asyncio.create_task(self._told_within(word.within_s), name="wait for somebody"))
        note = self._first.result()
        told = f"Confirmed at {clock.utc_text()}: {word.waits_for}" + (f" ({note})" if note else "") + "."
        self._remark = f"{self._remark} {told}".strip()
        # The command is as old as the wait; who tells now may start runs, and commands this one.
        self._command = f"{self._source}, confirmed"
        self._permit(self._command)

    async def _told_within(self, seconds: float) -> None:
        assert self._first is not None  # noqa: S101 - for the type checker
        end_s = clock.monotonic_s() + seconds
        while (left_s := end_s - clock.monotonic_s()) > 0:
            await asyncio.wait({self._first}, timeout=min(left_s, WAIT_SAYS_EVERY_S))
            if self._first.done():
                return
            left_min = max(end_s - clock.monotonic_s(), 0.0) / 60.0
            self._tell("confirm", 0.0, f"tell within {left_min:.0f} min that {self._waits_for}: petqc confirm", {})
        self._first.cancel()
        raise NobodyCameError(f"nobody told within {seconds:g} s that {self._waits_for}")

    async def _endpoint(self) -> Endpoint:
        """Where the board answers; gives up when the run is stopped."""
        wanted = self._services.device.endpoint(ENDPOINT_DEADLINE_S)
        waiting = asyncio.create_task(wanted, name="wait for the board")
        await self._stoppable(waiting)
        return waiting.result()

    async def _stoppable(self, task: asyncio.Task[Any]) -> None:
        """Wait for a task that `stop` may cancel; a cancellation of ours cancels it too. Raises what it raised."""
        self._acquiring = task
        if self._stopped_because is not None:
            task.cancel()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        finally:
            self._acquiring = None
        if task.cancelled():
            raise RefusedError(self._stopped_because or "stopped")
        task.result()

    async def _refuse_to_continue(self) -> None:
        """Let the kind say, before the run is claimed, what stands in the way of continuing another one."""
        endpoint = await self._services.device.endpoint(CONTINUE_DEADLINE_S)

        def ask() -> None:
            self._kind.procedure.refuse(self._job(self._in_use(endpoint)))

        await asyncio.to_thread(ask)

    def _in_use(self, endpoint: Endpoint) -> InUse:
        s = self._services
        return configuration_in_use(endpoint.config_ini, s.store.sets, s.config.board.name)

    def _job(self, in_use: InUse) -> Job:
        store = self._services.store
        return Job(
            run_id=self.run_id,
            kind=self._kind.name,
            started_at=clock.utc_text(self._started_unix_s),
            folder=store.folder_of(self.run_id),
            state_dir=store.state_dir,
            config=self._services.config,
            board_config=in_use.config,
            set_id=in_use.set_id,
            root_hash=in_use.root_hash,
            settings=self._settings,
        )

    def _procedure(self, endpoint: Endpoint) -> Procedure:
        """The kind's procedure, with a board that is not connected yet; reads files."""
        job = self._job(self._in_use(endpoint))
        recording.begin(job, self._context_before(job), self._services.instrument_tables())
        board = self._services.make_board(endpoint, job.board_config, self._limits)
        return self._kind.procedure(job, self._bench(board))

    def _context_before(self, job: Job) -> RunContext:
        """What is known of the run before it acquires: all that a recording says of it if it is cut; reads files."""
        s, kind = self._services, job.kind
        accepted, _ = s.baselines.holding(kind, job.calibration_ids)
        return replace(
            s.context(
                job.run_id,
                kind,
                job.started_at,
                held=s.baselines.held(accepted, kind, self._started_unix_s, job.calibration_ids),
                with_source=self._kind.needs_source,
            ),
            calibration_ids=job.calibration_ids,
        )

    def _bench(self, board: Board) -> Bench:
        s = self._services
        return Bench(board, s.device, s.permits, self._tell, s.instruments)

    def _reason(self, error: Exception) -> str:
        if self._stopped_because is not None:
            return self._stopped_because
        log.warning("run %s: %s", self.run_id, error, exc_info=not hasattr(error, "code"))
        detail = str(error) or type(error).__name__
        device = self._services.device
        ended = device.ended_because(self._started_s)
        if ended and self._services.config.board.simulator is not None and ended not in detail:
            detail += f" ({ended})"
        if isinstance(error, DriverError | ConnectionError | TimeoutError):
            device.failed(detail)
        return detail

    async def _conclude(self, procedure: Procedure | None, reason: str | None) -> Run:
        """Finalise what was taken, then analyse, or say why there is nothing to analyse."""
        self._tell("analyse", 0.88, "finalising what was taken", {})
        s, kind = self._services, self._kind.name
        notes = [f"Started by {self._source}.", *([self._remark] if self._remark else [])]
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
                log.exception("finalising what run %s took", self.run_id)
                reason = reason or f"the recording could not be finalised: {records.first_line(error)}"
            account |= self._received(procedure, notes)
            if not procedure.acquired.drained:
                reason = reason or "the recorder did not keep up; frames waiting for it were dropped"
            notes += [*procedure.notes(reason), *procedure.acquired.remarks]
        calibration_ids = {} if procedure is None else procedure.job.calibration_ids
        accepted, ended = await asyncio.to_thread(s.baselines.holding, kind, calibration_ids)
        context = s.context(
            self.run_id,
            kind,
            clock.utc_text(self._started_unix_s),
            procedure=procedure,
            account=account,
            notes=(*notes, *([ended] if ended else [])),
            held=await asyncio.to_thread(
                s.baselines.held, accepted, kind, self._started_unix_s, calibration_ids
            ),
            with_source=self._kind.needs_source,
        )  # fmt: skip
        if procedure is not None:
            await asyncio.to_thread(recording.keep_told, procedure, context, is_whole=reason is None)
        if reason is not None and off is not None and off.state.value == "unknown":
            reason = f"{reason}; {off.told}"
        if self._is_missed:
            return await asyncio.to_thread(records.missed, context, reason or "nobody came")
        if reason is not None or procedure is None:
            return await asyncio.to_thread(records.invalid, context, reason or "nothing was measured")
        self._tell("analyse", 0.9, "analysing", {})
        try:
            run = await asyncio.to_thread(procedure.conclude, context)
        except Exception as error:
            log.exception("analysing run %s", self.run_id)
            return await asyncio.to_thread(
                records.invalid, context, f"the analysis failed: {records.first_line(error)}"
            )
        acceptance = await asyncio.to_thread(s.baselines.current, kind, is_acceptance=True)
        run.baselines = {b.role: b.digest() for b in (accepted, acceptance) if b is not None}
        await asyncio.to_thread(
            chart, run, s.store, nuclide=s.config.nuclide, reference=accepted, acceptance=acceptance
        )
        if self._stopped_because is not None:
            run.notes.append(f"Told to stop ({self._stopped_because}) when all was acquired: analysed all the same.")
        return run

    def _received(self, procedure: Procedure, notes: list[str]) -> dict[str, int | float]:
        """The account of frames, and the equation it must fulfil."""
        acquired, metrics = procedure.acquired, self._services.metrics
        received = acquired.received
        recorded, dropped = procedure.frames_kept, acquired.frames_dropped
        if acquired.frames_known and received.frames != recorded + dropped:
            notes.append(f"Frames do not add up: {received.frames} received, {recorded} recorded, {dropped} dropped.")
        metrics.add("petqc_frames_received_total", received.frames)
        metrics.add("petqc_frames_recorded_total", recorded)
        metrics.add("petqc_frames_dropped_total", dropped)
        metrics.add("petqc_frames_lost_total", received.frames_lost)
        metrics.add("petqc_datagrams_rejected_total", received.datagrams_rejected)
        metrics.add("petqc_frames_not_analysed_live_total", procedure.frames_not_analysed_live)
        return {
            "frames_received": received.frames,
            "frames_recorded": recorded,
            "frames_dropped": dropped,
            "frames_missing": received.frames_lost,
            "datagrams_rejected": received.datagrams_rejected,
            **received.counters,
        }

    def _hard_limits(self) -> BiasLimits | None:
        """Of the board's own outputs; None where supplies bias the detector, which have limits of their own."""
        found = self._services.config.board.bias
        if found is None and not self._services.run_volts():
            raise RefusedError(f"{self._services.device.state.name}: {NO_HARD_LIMITS}")
        return found

    def _permit(self, source: str) -> None:
        """Give what a command gives; source: whose."""
        self._services.permits.forget()
        self._give(interlocks.COMMAND, source)
        if self._limits is not None or (self._kind.needs_bias and self._services.run_volts()):
            self._give(interlocks.LIMITS, "[device.bias]")

    def _give(self, name: str, source: str) -> None:
        now_s, age_s = clock.monotonic_s(), interlocks.CONNECTION_AGE_S
        permit = interlocks.Permit(name, True, interlocks.Quality.GOOD, now_s, source, max_age_s=age_s)
        self._services.permits.give(permit)

    def _tell(
        self,
        stage: str,
        fraction: float,
        detail: str,
        counts: dict[str, int],
        so_far: Mapping[str, Any] | None = None,
    ) -> None:
        self.progress = replace(
            self.progress,
            stage=stage,
            fraction=max(round(fraction, 4), self.progress.fraction),
            detail=detail,
            counts=counts,
            so_far=so_far,
        )
        self._told(self.progress)
