"""What every run does at the board, whatever its kind: connect, configure and verify, then its own work, then off.

Whatever happens, the exit path starts with bias off; then the flow is stopped, what was taken is finalised, and the
run gets a verdict: measured, or invalid with the reason. A run kind is one file in `kinds/` (how: `kinds/__init__.py`).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from petqc_drivers.uninterrupted import uninterrupted
from petqcd import clock
from petqcd.acquisition import Pipeline
from petqcd.errors import DaemonError
from petqcd.interlocks import readout_permits as interlocks
from petqcd.measurement import count_frames
from petqcd.readout.board import Received, close, switch_off
from petqcd.readout.supervisor import BiasState
from petqcd.run_clock import RunClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel

    from petqc.analysis import RunContext
    from petqc.formats.petsys_config import PetsysConfig
    from petqc.results import EnvironmentReading, RawFile, Run, Spectrum
    from petqcd.acquisition import FrameWriter
    from petqcd.config import PetqcConfig
    from petqcd.readout.board import Board, OffOutcome, ReadingLike
    from petqcd.readout.supervisor import DeviceSupervisor

log = logging.getLogger(__name__)

T = TypeVar("T")

PROGRESS_EVERY_S = 0.25
TEMPERATURES_EVERY_S = 5.0
"""While bias is on and limits are given for them."""
STOP_DEADLINE_S = 3.0
COMPILES_AFTER_S = 10.0
"""Loading what is compiled takes seconds."""

STAGES: Mapping[str, tuple[float, str]] = {
    "connect": (0.0, "connecting to the board and verifying its identity"),
    "configure": (0.04, "configuring and reading back"),
    "bias": (0.14, "bias on"),
    "acquire": (0.2, "acquiring"),
    "off": (0.84, "bias off"),
    "analyse": (0.88, "analysing"),
    "store": (0.97, "storing"),
}
"""Where each stage begins in the whole run, and what it is called."""


@dataclass(slots=True)
class Acquired:
    """What a run has in its hands when the board is off again.

    frames_known: the driver gave its account. remarks: for the record. instruments_first, instruments_last: what stands
    around the detector, when the measurement began (with bias on, if it had any) and when it ended.
    """

    off: OffOutcome | None = None
    identity: str = ""
    received: Received = field(default_factory=Received)
    readings: list[ReadingLike] = field(default_factory=list)
    instruments_first: list[ReadingLike] = field(default_factory=list)
    instruments_last: list[ReadingLike] = field(default_factory=list)
    frames_known: bool = False
    frames_dropped: int = 0
    elapsed_s: float = 0.0
    remarks: list[str] = field(default_factory=list)
    drained: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """One run, as its kind is given it.

    folder: the run's folder, which exists. config: petqc.toml. board_config: what the board is configured with, of
    the calibration set `set_id` (None: the device's own configuration, whose hash is `root_hash` in either case).
    state_dir: where runs and calibration sets are. settings: of this run, [qc.KIND] with what the command gave.
    """

    run_id: str
    kind: str
    started_at: str
    folder: Path
    state_dir: Path
    config: PetqcConfig
    board_config: PetsysConfig
    set_id: str | None
    root_hash: str
    settings: BaseModel

    @property
    def sets(self) -> Path:
        """The folder of all calibration sets."""
        return self.state_dir / "sets"

    @property
    def calibration_ids(self) -> dict[str, str]:
        """SHA-256 of each file that turned raw data into numbers, by what it is, and the set that they belong to."""
        found = dict(self.board_config.file_hashes)
        return {**found, "set": self.set_id} if self.set_id is not None else found

    def about(self) -> dict[str, Any]:
        """JSON values that say in recordings which run made them."""
        return {
            "run_id": self.run_id,
            "scanner": self.config.scanner.name,
            "simulated": self.config.is_simulated,
            "config_hash": self.config.hash,
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """What a procedure works with.

    board: the connection to use, not connected yet. device: where its state is published. permits: of this device;
    `explicit command` and `hard limits configured` are given by the caller. tell: called with stage, fraction of the
    run, detail, counts, and what was seen so far. instruments: the last readings of what stands around the detector;
    asks nobody.
    """

    board: Board
    device: DeviceSupervisor
    permits: interlocks.Interlocks
    tell: Tell
    instruments: Callable[[], Sequence[ReadingLike]] = tuple


@dataclass(frozen=True, slots=True)
class FirstWord:
    """What somebody must tell before a run begins, and within how long; without it the run is missed."""

    waits_for: str
    within_s: float


class Tell(Protocol):
    """Where a run says where it is."""

    def __call__(
        self,
        stage: str,
        fraction: float,
        detail: str,
        counts: dict[str, int],
        so_far: Mapping[str, Any] | None = None,
    ) -> None:
        """See `petqcd.progress.Progress`."""


class Flow:
    """Frames that flow: `wait` is the only way to let time pass, so that a failure is never slept through."""

    def __init__(self, watch: asyncio.Task[None], broken: asyncio.Future[BaseException]) -> None:
        self._watch = watch
        self._broken = broken

    async def wait(self, seconds: float, event: asyncio.Event | None = None) -> None:
        """Let time pass; returns early once `event` is set.

        Raises:
            DriverError: the link or the flow failed.
            DaemonError: recording or processing failed.
        """
        waiting: set[asyncio.Future[Any]] = {self._watch, self._broken}
        told = asyncio.create_task(event.wait(), name="wait for a point") if event is not None else None
        try:
            done, _ = await asyncio.wait(waiting if told is None else {*waiting, told}, timeout=seconds,
                                         return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        finally:
            if told is not None:
                await settled(told, cancel=True)
        if self._watch in done:
            self._watch.result()
            raise DaemonError("the driver stopped watching the link")
        if self._broken in done:
            raise DaemonError(f"recording failed: {self._broken.result()}") from self._broken.result()


class Procedure(ABC):
    """A run at the board. `acquire` is run in its own task, which may be cancelled at any moment, once.

    What begins with `at_`, and `acquire`, runs on the event loop; all else may take its time and runs in a worker
    thread. `acquired` tells the outcome, also after a cancellation.
    """

    stages: ClassVar[Mapping[str, tuple[float, str]]] = STAGES
    """Where each stage begins in the whole run, and what it is called."""

    def __init__(self, job: Job, bench: Bench) -> None:
        self.job = job
        self.board, self.device, self.permits = bench.board, bench.device, bench.permits
        self.tell = bench.tell
        self._instruments = bench.instruments
        self.acquired = Acquired()
        self._pipeline: Pipeline | None = None
        self._connected = False
        self._flowing = False
        self._started_s = 0.0
        self._holding: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[Any] | None = None
        self.run_clock = RunClock(None)
        self._every: NDArray[np.int32] | None = None

    # -- what a kind says ---------------------------------------------------------------------------------------------

    @classmethod  # noqa: B027 - most kinds refuse nothing
    def refuse(cls, job: Job) -> None:
        """Refuse a run that continues another one and cannot, before it is claimed; its folder is not there yet.

        Raises:
            RefusedError: saying what differs.
        """

    @classmethod
    def first_word(cls, settings: BaseModel) -> FirstWord | None:
        """What a run with these settings waits for before it connects to anything; None: it begins at once."""
        del settings
        return None

    @abstractmethod
    async def at_board(self) -> None:
        """The kind's own work, once the board is configured."""

    def confirm(self, note: str) -> str | None:
        """Take note that a person did what the run waits for; what that was, None: it waits for nothing."""
        del note
        return None

    async def at_configure(self) -> None:
        """Configure the board and verify by reading back."""
        await self.board.configure()

    async def at_leave(self) -> None:  # noqa: B027 - most kinds leave nothing behind
        """Leave the board as the next one wants to find it; bias is off already."""

    @abstractmethod
    def prepare(self) -> None:
        """Compile, or load, everything that frames will need; frames do not wait for a compiler."""

    @abstractmethod
    def finalise(self, *, truncated: str | None) -> None:
        """Bring what is on the disk into its last form; truncated: why it ended early. Called on every way out."""

    @abstractmethod
    def conclude(self, context: RunContext) -> Run:
        """What was measured, with its verdict; called only when everything went well."""

    @property
    @abstractmethod
    def frames_kept(self) -> int:
        """Frames that went to the recording, stored or reduced."""

    def raw_files(self) -> tuple[RawFile, ...]:
        """What was taken, with hashes."""
        return ()

    def account(self) -> dict[str, int | float]:
        """What became of the data, as flat numbers."""
        return {}

    def inputs(self) -> dict[str, Any]:
        """What the analysis is told besides recordings, configuration and context, so that it can be made again.

        JSON values, see `petqc.recorded.kinds`; asked for when everything went well, before `conclude`.
        """
        return {}

    @property
    def frames_not_analysed_live(self) -> int:
        """Frames recorded that the analysis could not take while they came."""
        return 0

    def spectra_so_far(self) -> Sequence[Spectrum]:
        """What was counted while the run goes on."""
        return ()

    def notes(self, reason: str | None) -> list[str]:
        """Remarks for the record; reason: why the run could not measure, if it could not."""
        del reason
        return []

    @property
    def live_time_s(self) -> float | None:
        """Time covered by frames that were not lost, where that means something."""
        return None

    # -- what all kinds do --------------------------------------------------------------------------------------------

    async def get_ready(self) -> None:
        """What takes its time without the board; before anything is connected, for what is verified there grows old."""
        warm = asyncio.create_task(asyncio.to_thread(self._warm_up), name="warm up")
        try:
            await asyncio.wait({warm}, timeout=COMPILES_AFTER_S)
            if not warm.done():
                self.stage("connect", "compiling what frames need: minutes, once")
            await asyncio.shield(warm)
        finally:
            await uninterrupted(settled(warm))

    def _warm_up(self) -> None:
        from petqc_drivers.petsys import receive

        self.prepare()
        receive.warm_up()

    async def acquire(self) -> None:
        """Everything that needs the board.

        Raises:
            DriverError, DaemonError, QcError, OSError: what went wrong, after the board was made safe.
        """
        try:
            self.look_around(begins=True)
            self.stage("connect")
            self.acquired.identity = await self.board.connect()
            self._connected = True
            self.device.answered("identified")
            self._permit(interlocks.IDENTITY, self.acquired.identity, interlocks.CONNECTION_AGE_S)
            self.stage("configure")
            await self.at_configure()
            self._permit(interlocks.CONFIGURATION, "read back", interlocks.CONNECTION_AGE_S)
            self.device.answered("staged")
            await self.at_board()
        finally:
            await uninterrupted(self._end())

    async def at_bias_on(self, settle_s: float, overvoltage_share: float = 1.0) -> None:
        """Energise, if every permit is there, and wait.

        Args:
            settle_s: how long to wait.
            overvoltage_share: 1 is the voltage that the configuration is for.

        Raises:
            PermitError: a permit is missing; nothing was energised.
        """
        self.stage("bias")
        await self.at_environment()
        self._permit(interlocks.LINK, "temperatures were just read", 5.0)
        self.permits.require(clock.monotonic_s())
        await self.device.may_be_on()
        self.device.bias_is(BiasState.UNKNOWN)  # from here on until something is known again
        await self.board.bias_on(overvoltage_share)
        self.device.bias_is(BiasState.ON)
        self._hold()
        self.device.answered("armed")
        await asyncio.sleep(settle_s)
        self.look_around(begins=True)

    async def at_bias_changed(self, settle_s: float, overvoltage_share: float) -> None:
        """Another voltage on the connection that energised, once it has just answered; the driver guards every step.

        Raises:
            DaemonError: bias is not known to be on.
        """
        if self.device.state.bias is not BiasState.ON:
            raise DaemonError(f"another voltage refused: the bias is {self.device.state.bias}")
        await self.at_environment()
        self.permits.require_around()
        self.device.bias_is(BiasState.UNKNOWN)
        await self.board.bias_on(overvoltage_share)
        self.device.bias_is(BiasState.ON)
        await asyncio.sleep(settle_s)

    def _hold(self) -> None:
        """Read the temperatures again and again while bias is on, where limits are given for them."""
        if self.job.config.board.temperature is not None and self._holding is None:
            self._holding = asyncio.create_task(self._read_temperatures(), name="temperatures while bias is on")

    async def _read_temperatures(self) -> None:
        while True:
            await asyncio.sleep(TEMPERATURES_EVERY_S)
            try:
                self.device.temperatures(await self.board.read_environment())
            except Exception as error:  # noqa: BLE001 - what cannot be read grows old, and switches off by that
                log.warning("temperatures while bias is on: %s", error)

    async def at_bias_off(self) -> None:
        """Make sure that bias is off, for work that needs none.

        Raises:
            DaemonError: nobody confirms it.
        """
        outcome = await switch_off(self.board)
        self.device.bias_is(outcome.state)
        if outcome.state not in {BiasState.OFF_CONFIRMED, BiasState.OFF_COMMANDED}:
            raise DaemonError(outcome.told)

    def look_around(self, *, begins: bool = False) -> None:
        """Note what the instruments around the detector say now; begins: the measurement does."""
        found = list(self._instruments())
        self.acquired.instruments_last = found
        if begins:
            self.acquired.instruments_first = found

    async def at_environment(self) -> None:
        """Read temperatures and whatever else can be read."""
        found = await self.board.read_environment()
        self.acquired.readings += found
        self.device.temperatures(found)

    async def at_disk(self, work: Callable[..., T], *args: Any) -> T:
        """Let a worker thread do what belongs to the run's files, and wait for it.

        A run that is stopped meanwhile goes to bias off at once, and its files are finalised once the thread is done.
        """
        task = asyncio.create_task(asyncio.to_thread(work, *args), name="at the run's files")
        self._writing = task
        return await asyncio.shield(task)

    def all_channels(self) -> NDArray[np.int32]:
        """Absolute numbers of all channels of the board, rising; also once it is closed and does not know them."""
        import numpy as np

        if self._every is None or not self._every.size:
            self._every = np.array(sorted(self.board.channels), np.int32)
        return self._every

    @asynccontextmanager
    async def flow(
        self,
        writer: FrameWriter,
        process: Callable[[NDArray[np.uint64]], None] | None,
        *,
        queue_mib: int,
        after: Callable[[], None] | None = None,
    ) -> AsyncIterator[Flow]:
        """Frames flow from the board through a worker thread to `writer`, then `process`, until the block ends.

        after: called in a worker thread once the queue has run empty: after bias off, or before the next flow.
        """
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[BaseException] = loop.create_future()

        def note(error: BaseException) -> None:
            if not broken.done():
                broken.set_result(error)

        def failed(error: BaseException) -> None:
            loop.call_soon_threadsafe(note, error)

        await self._drain()
        pipeline = Pipeline(
            writer, process, count_frames, queue_bytes=queue_mib * 2**20, on_failure=failed, after=after
        )
        self._pipeline = pipeline
        pipeline.start()
        self._started_s = clock.monotonic_s()
        self._flowing = True
        is_ours = self.job.config.board.is_simulated
        self.run_clock = RunClock(self.board.time_tag if is_ours else None)
        await self.board.start(pipeline.sink)
        # Not before: behind the readout maker's daemon switching on takes 0.22 s, in which nothing could be measured.
        await self.run_clock.start()
        self.device.answered("running")
        watch = asyncio.create_task(self.board.wait_failed(), name="watch the link")
        try:
            yield Flow(watch, broken)
            await self.run_clock.read()
        finally:
            self.acquired.elapsed_s += self.run_clock.elapsed_s
            if told := self.run_clock.told():
                self.acquired.remarks.append(told)
            self.look_around()
            await settled(watch, cancel=True)
            broken.cancel()
        await self._stop()
        self._flowing = False

    def stage(self, stage: str, detail: str = "") -> None:
        """Tell that a stage begins, or what it does now."""
        fraction, begins_with = self.stages[stage]
        self.tell(stage, fraction, detail or begins_with, {})

    async def _end(self) -> None:
        """Bias off first; then stop the flow, read what the environment is now, close, let the queue run empty."""
        self.stage("off")
        holding, self._holding = self._holding, None
        if holding is not None:
            holding.cancel()  # waited for below: off waits for nothing
        if self._connected:
            self.acquired.off = await switch_off(self.board)
            self.device.bias_is(self.acquired.off.state)
        known = self.acquired.off is not None and self.acquired.off.state is not BiasState.UNKNOWN
        if self._flowing:
            try:
                await self._stop()
            except Exception as error:  # noqa: BLE001 - what ended the run is told; this came after it
                log.warning("stopping the flow: %s", error)
        if known:
            try:
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await self.at_leave()
            except Exception as error:  # noqa: BLE001 - the next run configures everything afresh
                log.warning("leaving the board: %s", error)
        if known and self._started_s:
            try:
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await self.at_environment()
            except Exception as error:  # noqa: BLE001 - the readings before the run stand, with their age
                log.warning("reading the environment after the run: %s", error)
        if holding is not None:
            await settled(holding, cancel=True)
        await close(self.board)
        if self._writing is not None:
            await settled(self._writing)
        await self._drain()
        self.permits.forget()
        self.device.idle()

    async def _stop(self) -> None:
        async with asyncio.timeout(STOP_DEADLINE_S):
            self.acquired.received += await self.board.stop()
        self.acquired.frames_known = True

    async def _drain(self) -> None:
        """Let the queue of a flow that is over run empty; after bias off, or before the next flow begins."""
        if (pipeline := self._pipeline) is not None:
            self.acquired.drained &= await self.at_disk(pipeline.finish)
            self._pipeline = None  # not before: whoever stops the run meanwhile waits for it again, on the way out
            self.acquired.frames_dropped += pipeline.counts().frames_dropped

    def _permit(self, name: str, source: str, max_age_s: float) -> None:
        self.permits.give(
            interlocks.Permit(name, True, interlocks.Quality.GOOD, clock.monotonic_s(), source, max_age_s=max_age_s)
        )


def environment(readings: Sequence[ReadingLike], now_s: float) -> list[EnvironmentReading]:
    """Readings as a run's document has them; the last one of each name and node counts."""
    from petqc.results import EnvironmentReading

    last: dict[tuple[str, str], Any] = {(r.name, r.node): r for r in readings}
    return [
        EnvironmentReading(
            r.name, r.node, r.value, r.unit, r.measured, str(r.quality), round(now_s - r.at_monotonic_s, 3), r.reason
        )
        for r in last.values()
    ]


async def settled(task: asyncio.Task[Any], *, cancel: bool = False) -> None:
    """Wait until a task of ours is over; whatever it came to was told elsewhere."""
    if cancel:
        task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
