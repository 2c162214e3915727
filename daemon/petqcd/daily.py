"""The daily run: connect, configure and verify, bias on, acquire, bias off, analyse.

Whatever happens, the exit path starts with bias off; then the flow is stopped, the recording is finalised, and the
run gets a verdict: measured, or invalid with the reason.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from petqcd import clock, interlocks
from petqcd.acquisition import Pipeline
from petqcd.board import Received, close, switch_off, uninterrupted
from petqcd.errors import DaemonError
from petqcd.measurement import count_frames
from petqcd.supervisor import BiasState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from petqc.results import EnvironmentReading
    from petqcd.board import Board, OffOutcome, ReadingLike
    from petqcd.config import DailyConfig
    from petqcd.measurement import Measurement
    from petqcd.supervisor import DeviceSupervisor

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.25
STOP_DEADLINE_S = 3.0

STAGES = {
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
    """What a run has in its hands when the board is off again. frames_known: the driver gave its account."""

    off: OffOutcome | None = None
    identity: str = ""
    received: Received = field(default_factory=Received)
    readings: list[ReadingLike] = field(default_factory=list)
    frames_known: bool = False
    frames_dropped: int = 0
    elapsed_s: float = 0.0
    drained: bool = True


class DailyRun:
    """The procedure at the board. `acquire` is run in its own task, which may be cancelled at any moment, once.

    Args:
        settings: [qc.daily].
        board: the connection to use, not connected yet.
        device: where the state of the device is published.
        permits: the permits of this device; `explicit command` and `hard limits configured` are given by the caller.
        measurement: recording, processing and histograms.
        tell: called with stage, fraction of the run, detail and counts.
        about: JSON values for the first line of the recording's manifest.
    """

    def __init__(
        self,
        settings: DailyConfig,
        board: Board,
        device: DeviceSupervisor,
        permits: interlocks.Interlocks,
        measurement: Measurement,
        tell: Callable[[str, float, str, dict[str, int]], None],
        about: dict[str, Any],
    ) -> None:
        self._settings = settings
        self._board = board
        self._device = device
        self._permits = permits
        self._measurement = measurement
        self._tell = tell
        self._about = about
        self.acquired = Acquired()
        self._pipeline: Pipeline | None = None
        self._started_s = 0.0

    async def acquire(self) -> None:
        """Everything that needs the board. The outcome is in `acquired`, also after a cancellation.

        Raises:
            DriverError, DaemonError, QcError, OSError: what went wrong, after the board was made safe.
        """
        connected = False
        flowing = False
        # Frames do not wait for a compiler, so everything is compiled before bias goes on.
        warm = asyncio.create_task(asyncio.to_thread(self._measurement.warm_up), name="warm up")
        try:
            self._stage("connect")
            self.acquired.identity = await self._board.connect()
            connected = True
            self._device.answered("identified")
            self._permit(interlocks.IDENTITY, self.acquired.identity, interlocks.CONNECTION_AGE_S)
            self._stage("configure")
            await self._board.configure()
            self._permit(interlocks.CONFIGURATION, "read back", interlocks.CONNECTION_AGE_S)
            self._device.answered("staged")
            await asyncio.shield(warm)
            await self._energise()
            flowing = True
            await self._flow()
            await self._stop()
            flowing = False
        finally:
            await uninterrupted(self._end(connected=connected, flowing=flowing))
            await uninterrupted(_settled(warm))

    async def _energise(self) -> None:
        self._stage("bias")
        await self._read_environment()
        self._permit(interlocks.LINK, "temperatures were just read", 5.0)
        self._permits.require(clock.monotonic_s())
        self._device.bias_is(BiasState.UNKNOWN)  # from here on until something is known again
        await self._board.bias_on()
        self._device.bias_is(BiasState.ON)
        self._device.answered("armed")
        await asyncio.sleep(self._settings.settle_s)

    async def _flow(self) -> None:
        """Let frames flow for the configured time, or until something fails."""
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[BaseException] = loop.create_future()

        def note(error: BaseException) -> None:
            if not broken.done():
                broken.set_result(error)

        def failed(error: BaseException) -> None:
            loop.call_soon_threadsafe(note, error)

        reference = await self._board.time_reference()
        await asyncio.to_thread(self._measurement.open_recording, reference, self._about)
        pipeline = Pipeline(
            self._measurement,
            self._measurement.process,
            count_frames,
            queue_bytes=self._settings.queue_mib * 2**20,
            on_failure=failed,
        )
        self._pipeline = pipeline
        pipeline.start()
        self._started_s = clock.monotonic_s()
        await self._board.start(pipeline.sink)
        self._device.answered("running")
        watch = asyncio.create_task(self._board.wait_failed(), name="watch the link")
        try:
            end_s = self._started_s + self._settings.seconds
            while (left_s := end_s - clock.monotonic_s()) > 0:
                waiting: set[asyncio.Future[Any]] = {watch, broken}
                done, _ = await asyncio.wait(waiting, timeout=min(left_s, PROGRESS_EVERY_S))
                if watch in done:
                    watch.result()
                    raise DaemonError("the driver stopped watching the link")
                if broken in done:
                    raise DaemonError(f"recording failed: {broken.result()}") from broken.result()
                self._acquiring(end_s)
        finally:
            self.acquired.elapsed_s = clock.monotonic_s() - self._started_s
            await _settled(watch, cancel=True)
            broken.cancel()

    async def _end(self, *, connected: bool, flowing: bool) -> None:
        """Bias off first; then stop the flow, read what the environment is now, close, finalise the recording."""
        self._stage("off")
        if connected:
            self.acquired.off = await switch_off(self._board)
            self._device.bias_is(self.acquired.off.state)
        known = self.acquired.off is not None and self.acquired.off.state is not BiasState.UNKNOWN
        if flowing:
            try:
                await self._stop()
            except Exception as error:  # noqa: BLE001 - what ended the run is told; this came after it
                log.warning("stopping the flow: %s", error)
        if known and self._started_s:
            try:
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await self._read_environment()
            except Exception as error:  # noqa: BLE001 - the readings before the run stand, with their age
                log.warning("reading the environment after the run: %s", error)
        await close(self._board)
        if self._pipeline is not None:
            self.acquired.drained = await asyncio.to_thread(self._pipeline.finish)
            self.acquired.frames_dropped = self._pipeline.counts().frames_dropped
        self._permits.forget()
        self._device.idle()

    async def _stop(self) -> None:
        async with asyncio.timeout(STOP_DEADLINE_S):
            self.acquired.received = await self._board.stop()
        self.acquired.frames_known = True

    async def _read_environment(self) -> None:
        found = await self._board.read_environment()
        self.acquired.readings += found
        self._device.temperatures(found)

    def _permit(self, name: str, source: str, max_age_s: float) -> None:
        self._permits.give(
            interlocks.Permit(name, True, interlocks.Quality.GOOD, clock.monotonic_s(), source, max_age_s=max_age_s)
        )

    def _stage(self, stage: str) -> None:
        fraction, detail = STAGES[stage]
        self._tell(stage, fraction, detail, {})

    def _acquiring(self, end_s: float) -> None:
        first, last = STAGES["acquire"][0], STAGES["off"][0]
        left_s = max(end_s - clock.monotonic_s(), 0.0)
        part = 1.0 - left_s / self._settings.seconds
        counts = self._measurement.counts()
        self._tell("acquire", first + part * (last - first), f"{left_s:.0f} s left", counts)


def environment(readings: Sequence[ReadingLike], now_s: float) -> list[EnvironmentReading]:
    """Readings as a run's document has them; the last one of each name and node counts."""
    from petqc.results import EnvironmentReading

    last: dict[tuple[str, str], Any] = {(r.name, r.node): r for r in readings}
    return [
        EnvironmentReading(
            r.name, r.node, r.value, r.unit, r.measured, str(r.quality), round(now_s - r.at_monotonic_s, 3)
        )
        for r in last.values()
    ]


async def _settled(task: asyncio.Task[Any], *, cancel: bool = False) -> None:
    """Wait until a task of ours is over; whatever it came to was told elsewhere."""
    if cancel:
        task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
