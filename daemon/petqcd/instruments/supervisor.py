"""One instrument around the detector: a task of its own that connects, verifies, polls, serves commands, reconnects.

Nothing here waits for another device. Every exchange has a deadline in the driver, every command one here. Connecting
changes no output, whatever is found. Off never waits: not for the queue, not for a session, not for an answer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.device import Quality
from petqc_drivers.errors import DriverError, OvertakenError
from petqc_drivers.instrument import STALE_AFTER_S, BackOff
from petqc_drivers.uninterrupted import uninterrupted
from petqcd import clock
from petqcd.errors import RefusedError, UnreachableError
from petqcd.instruments.command_queue import Command, CommandQueue, Priority, Request
from petqcd.instruments.metrics import InstrumentMetrics
from petqcd.instruments.state import (
    HIDDEN_BY_MAINTENANCE,
    InstrumentState,
    believable,
    bias_of,
    reading_document,
    state_of,
    trip_document,
)
from petqcd.instruments.work import EndedForOthersError, Work
from petqcd.off.safe_state import OFF_DEADLINE_S, SafeOutcome, SafeState, brought_to_off
from petqcd.progress import Event
from petqcd.readout.supervisor import BiasState

if TYPE_CHECKING:
    from petqc_drivers.device import Reading
    from petqc_drivers.instrument import Instrument
    from petqc_drivers.trip import Trip
    from petqcd.config import InstrumentConfig
    from petqcd.metrics import Metrics
    from petqcd.progress import Bus

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 9.0
"""Opening, identity, set-up and the first poll; whatever is wrong has a name within ten seconds."""
POLL_DEADLINE_S = 9.0
"""Everything that one poll asks, with what the driver tries again; a reading is stale a second later."""
CLOSE_DEADLINE_S = 3.0
MOST_FAILURES, FAILURES_WITHIN_S = 3, 60.0
"""So many programming errors in so short a time, and the device is given up until the daemon is started again."""


class InstrumentSupervisor:
    """Owns one instrument. `run` is its task; all else is called from the event loop.

    Attributes:
        config: Its table in petqc.toml, or what the simulator told.
        driver: What talks to it; commands are given it, nobody else uses it.
        state: Where it is.
        detail: Why, if it is not as it should be.
        since_unix_s: Since when.
        maintenance: Who works at it and why, in words; empty: nobody.
        bias: What is known of its output; None: it has none.
    """

    def __init__(self, config: InstrumentConfig, bus: Bus, metrics: Metrics) -> None:
        self.config = config
        self.driver: Instrument = config.driver()
        self.state = InstrumentState.CONNECTING
        self.detail = ""
        self.maintenance = ""
        self.since_unix_s = clock.unix_s()
        self.bias = BiasState.UNKNOWN if isinstance(self.driver, BiasSource) else None
        self._bus = bus
        self._metrics = InstrumentMetrics(metrics, config)
        self._queue = CommandQueue()
        self._wake = asyncio.Event()
        self._work = Work(self.driver)
        self._switching_off = 0
        self._answers = False
        self._was_lost = False
        self._known = self.state, self.detail
        self._known_off = False
        self._poll_due_s = 0.0
        self._served_one = False
        self._back_off = BackOff()
        self._told: tuple[Reading, ...] = ()
        self._believed: tuple[Reading, ...] = ()
        self._publish()

    # -- what others ask -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of the device."""
        return self.config.name

    @property
    def answers(self) -> bool:
        """Whether it is connected, is the one that was configured, and answered its last poll."""
        return self._answers

    @property
    def is_lost(self) -> bool:
        """Whether it answered no more, or never, when last tried."""
        return self._was_lost and not self._answers

    @property
    def known_state(self) -> InstrumentState:
        """Where it is, whether or not somebody works at it."""
        return self._known[0]

    def someone_works(self, told: str) -> None:
        """Somebody works at it, in words; empty: nobody any more."""
        if told != self.maintenance:
            self.maintenance = told
            self._now(*self._known)

    @property
    def trip(self) -> Trip | None:
        """Of its output; None: it has none."""
        return self.driver.trip if isinstance(self.driver, BiasSource) else None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def readings(self) -> tuple[Reading, ...]:
        """The last ones, each as good as its age allows; empty before the first poll. No value is a NaN.

        The very same object as before says that nothing changed.
        """
        told = self.driver.readings()
        if told is not self._told:
            self._told, self._believed = told, tuple(believable(reading) for reading in told)
        return self._believed

    def belief(self) -> tuple[Quality, str]:
        """How far what it says can be believed as a whole, and why not."""
        if not self._answers:
            return Quality.BAD, self.detail or "it did not answer yet"
        return (Quality.UNCERTAIN, self.detail) if self.state is InstrumentState.TRIPPED else (Quality.GOOD, "")

    async def submit(self, command: Command, priority: Priority = Priority.COMMAND) -> Any:
        """Let the instrument do something when it is its turn; what the command returned.

        Raises:
            UnreachableError: it does not answer, or did not before the command's deadline.
            BusyError: too many requests wait.
            RefusedError: `stop` or `off` went first.
            DriverError: what the driver says.
        """
        if not self._answers or self._switching_off:
            why = "switching off goes first" if self._switching_off else self.detail or "it is being connected"
            raise UnreachableError(f"{self.name}: {command.what}: {why}")
        request = self._queue.put(command, priority)
        self._wake.set()
        try:
            return await request.done
        finally:
            request.done.cancel()

    def stop(self) -> None:
        """Hold: no command waits any more, and a ramp ends where it is as soon as its step has arrived."""
        self._queue.refuse_all(OvertakenError("it was stopped", device=self.name))
        if isinstance(self.driver, BiasSource):
            self.driver.hold()  # cancelling would switch off what is on its way up
        elif self._work.priority is Priority.COMMAND:
            self._work.end("it was stopped")

    async def off(self) -> SafeOutcome:
        """Output off, now, whatever else goes on and whether or not it is connected; the truth about what came of it.

        Raises:
            RefusedError: it has no output.
        """
        driver = self.driver
        if not isinstance(driver, BiasSource):
            raise RefusedError(f"{self.name}: a {self.config.kind} has no output to switch off")
        self._switching_off += 1
        # Its first step comes before those of what it overtakes, which then know that they need not switch off.
        switching = asyncio.create_task(brought_to_off(self.name, driver.off, OFF_DEADLINE_S), name=f"off {self.name}")
        try:
            self._queue.refuse_all(OvertakenError("switching off goes first", device=self.name))
            self._work.end("switching off went first")
            self._bias_is(BiasState.UNKNOWN)  # until it is confirmed
            outcome = await uninterrupted(switching)
        finally:
            self._switching_off -= 1
            self._poll_due_s = 0.0
            self._wake.set()
        self._known_off = outcome.state is SafeState.IN_SAFE_STATE
        if self._known_off:
            self._bias_is(BiasState.OFF_CONFIRMED)
            self._now(state_of(driver), self._causes())
        else:
            log.error("%s: %s", self.name, outcome.told)
            self._now(InstrumentState.UNKNOWN, outcome.told)
        self._publish()
        return outcome

    def document(self) -> dict[str, Any]:
        """Everything that is known, as plain types for JSON."""
        identity, driver, last_s = self.driver.identity, self.driver, self.driver.last_good_s
        source = driver if isinstance(driver, BiasSource) else None
        now_s = clock.monotonic_s()
        age_s = None if last_s is None else now_s - last_s
        return {
            "name": self.name,
            "kind": self.config.kind,
            "simulated": self.config.simulated,
            "address": self.config.address,
            "modules": list(self.config.modules),
            "state": str(self.state),
            "maintenance": self.maintenance,
            "detail": self.detail,
            "since": clock.utc_text(self.since_unix_s),
            "answers": self._answers,
            "last_answer_age_s": None if age_s is None else round(age_s, 3),
            "identity": None
            if identity is None
            else {"model": identity.model, "serial": identity.serial, "firmware": identity.firmware},
            "bias": None if self.bias is None else str(self.bias),
            "can_energise": self.config.can_energise,
            "commanded_v": None if source is None or source.commanded is None else source.commanded.value,
            "trip": None if source is None else trip_document(source.trip),
            "readings": [reading_document(reading, now_s) for reading in self.readings()],
            "waiting": self.waiting,
            "link": self.driver.link_counters,
        }

    def tick(self) -> None:
        """What grows old does so also while nothing is asked: called every second."""
        last_s = self.driver.last_good_s
        is_old = last_s is None or clock.monotonic_s() - last_s > STALE_AFTER_S
        if self.bias is not None and not self._answers and is_old:
            self._bias_is(BiasState.UNKNOWN)
        if not self._switching_off:
            self._refresh()

    # -- its task ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. A programming error is logged and the device begun anew; several give it up."""
        failed_s: list[float] = []
        try:
            while True:
                try:
                    await self._live()
                except Exception as error:
                    log.exception("%s: the supervisor failed", self.name)
                    self._answers = False
                    now_s = clock.monotonic_s()
                    failed_s = [at_s for at_s in failed_s if now_s - at_s < FAILURES_WITHIN_S] + [now_s]
                    self._lost(f"petqc failed: {error!r}")
                    if len(failed_s) >= MOST_FAILURES:
                        await asyncio.Event().wait()  # off still works: it needs no session
                    await self._wait(self._back_off.failed())
        finally:
            self._queue.refuse_all(UnreachableError(f"{self.name}: the daemon is stopping"))
            await self._close()

    async def _live(self) -> None:
        while True:
            if self._switching_off:
                await self._wait(None)
            elif self._answers:
                await self._serve_next()
            else:
                await self._connect()

    async def _connect(self) -> None:
        try:
            await self._work.do(Command("connecting", _connect_and_poll, CONNECT_DEADLINE_S))
        except EndedForOthersError:
            return
        except (DriverError, OSError, TimeoutError) as error:
            self._lost(_words(error))
            await self._close()
            await self._wait(self._back_off.failed())
            return
        self._answers = True
        self._back_off.connected()
        self._poll_due_s = clock.monotonic_s() + self.config.poll_s
        if self._was_lost:
            log.info("%s: answers again", self.name)
            self._was_lost = False
        self._refresh()

    async def _serve_next(self) -> None:
        now_s = clock.monotonic_s()
        first = self._queue.first
        is_due = now_s >= self._poll_due_s
        goes_before = first is Priority.PERMIT or (first is Priority.COMMAND and not self._served_one)
        if first is not None and (goes_before or not is_due):
            request = self._queue.get()
            self._served_one = True
            if request is not None:
                await self._serve(request)
        elif is_due:
            self._served_one = False
            await self._poll()
        else:
            await self._wait(self._poll_due_s - now_s)

    async def _poll(self) -> None:
        # The next one is due a period after this one was, unless this one is late by more than that.
        now_s = clock.monotonic_s()
        self._poll_due_s = max(self._poll_due_s + self.config.poll_s, now_s)
        try:
            await self._work.do(Command("poll", _poll, POLL_DEADLINE_S), Priority.POLL)
        except EndedForOthersError:
            return
        except OvertakenError:
            return  # switching off, by the driver itself
        except (DriverError, OSError, TimeoutError) as error:
            self._metrics.polled(failed=True)
            self._lost(_words(error))
            await self._close()
            await self._wait(self._back_off.failed())
            return
        self._metrics.polled(failed=False)
        self._refresh()

    async def _serve(self, request: Request) -> None:
        what = request.command.what
        try:
            result = await self._work.do(request.command, request.priority)
        except EndedForOthersError as error:
            request.refuse(OvertakenError(str(error), device=self.name))
        except TimeoutError as error:
            late = UnreachableError(f"{self.name}: {what}: not done in {request.command.deadline_s:g} s")
            request.refuse(error if isinstance(error, DriverError) else late)
        except Exception as error:  # noqa: BLE001 - goes to whoever commanded it
            request.refuse(error)
        else:
            request.finish(result)
        self._poll_due_s = min(self._poll_due_s, clock.monotonic_s())  # see at once what came of it
        self._refresh()

    async def _wait(self, seconds: float | None) -> None:
        """Until something is to be done, or the time is over."""
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self.driver.aclose()
        except (DriverError, OSError, TimeoutError) as error:
            log.warning("%s: closing: %s", self.name, error)

    # -- what is told --------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Note what the driver knows now."""
        if self._answers:
            bias = bias_of(self.driver)
            if bias is not None:
                self._known_off = bias is BiasState.OFF_CONFIRMED
                self._bias_is(bias)
            self._now(state_of(self.driver), self._causes())
        self._publish()

    def _causes(self) -> str:
        return "" if self.trip is None else "; ".join(one.cause for one in self.trip.causes)

    def _lost(self, why: str) -> None:
        """It does not answer as it must: told once."""
        self._answers = False
        log.log(logging.DEBUG if self._was_lost else logging.WARNING, "%s", why)
        if not self._was_lost:
            self._was_lost = True
            self._metrics.lost()
        self._queue.refuse_all(UnreachableError(f"{self.name}: {why}"))
        may_be_on = self.bias is not None and not self._known_off
        if may_be_on:
            self._bias_is(BiasState.UNKNOWN)
        self._now(InstrumentState.UNKNOWN if may_be_on else InstrumentState.FAULT, why)
        self._publish()

    def _bias_is(self, bias: BiasState) -> None:
        if bias is not self.bias:
            self.bias = bias
            self._bus.publish(Event("instrument", self.document()))

    def _now(self, state: InstrumentState, detail: str = "") -> None:
        self._known = state, detail
        if self.maintenance:
            state = InstrumentState.MAINTENANCE if state in HIDDEN_BY_MAINTENANCE else state
            detail = "; ".join(words for words in (self.maintenance, detail) if words)
        if (state, detail) == (self.state, self.detail):
            return
        is_news = state is not self.state
        self.state, self.detail = state, detail
        if is_news:
            self.since_unix_s = clock.unix_s()
        self._bus.publish(Event("instrument", self.document()))

    def _publish(self) -> None:
        self._metrics.publish(self)


async def _connect_and_poll(driver: Instrument) -> None:
    await driver.connect()
    await driver.stage()
    await driver.poll()


async def _poll(driver: Instrument) -> None:
    await driver.poll()


def _words(error: Exception) -> str:
    return str(error) or "no answer before the deadline"
