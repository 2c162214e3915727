"""What all instruments around the detector have in common: an identity, readings with quality and age.

A supervisor treats them alike: `connect` (opens, verifies who answers, looks, changes nothing), `stage` (sets it up to
measure), `poll` on its own period, `readings` at any time, `aclose`. What can energise something is a `BiasSource`
(`bias_source.py`). Every method has a deadline of its own and may be cancelled anywhere; the next question then waits
until the link is in step again.
"""

from __future__ import annotations

import asyncio
import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from petqc_drivers import ascii_line, plausible
from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import DeviceState, Quality, Reading
from petqc_drivers.errors import (
    DriverError,
    LinkLostError,
    OvertakenError,
    RemoteProtocolError,
    ReplyTimeoutError,
    StateError,
    WrongIdentityError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from petqc_drivers.transport.threaded import ThreadedLink

_Found = TypeVar("_Found")

CONNECT_S: Final = 3.0
"""To open a session."""
STALE_AFTER_S: Final = 10.0
"""A reading older than this is not what is."""
QUIET_S: Final = 0.15
"""A link is quiet if nothing came for so long."""
RESYNCHRONISE_S: Final = 2.0
_FIRST_BACK_OFF_S, _LAST_BACK_OFF_S, _JITTER = 0.5, 30.0, 0.2
_GOOD_TRAFFIC_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answered: None for what the device has no words for."""

    model: str
    serial: str | None = None
    firmware: str | None = None


class BackOff:
    """How long to wait before the next try to connect: doubling, with jitter, from the start after good traffic."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._next_s = _FIRST_BACK_OFF_S
        self._good_since: float | None = None

    def failed(self) -> float:
        """Seconds to wait after a failure."""
        now = monotonic_s()
        if self._good_since is not None and now - self._good_since >= _GOOD_TRAFFIC_S:
            self._next_s = _FIRST_BACK_OFF_S
        self._good_since = None
        wait_s, self._next_s = self._next_s, min(2 * self._next_s, _LAST_BACK_OFF_S)
        return wait_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER)

    def connected(self) -> None:
        """It answers; only some time of that makes the next wait short again."""
        self._good_since = monotonic_s()


class Instrument(ABC):
    """One instrument, as whoever supervises it sees it.

    Args:
        name: From the configuration.

    Attributes:
        state: Of the life cycle.
        identity: Who answered at the last connect.
        last_good_s: When it last answered, on the monotonic clock.
    """

    kind: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = DeviceState.DISCONNECTED
        self.identity: Identity | None = None
        self.last_good_s: float | None = None
        self._readings: dict[tuple[str, str], Reading] = {}
        self._aged: tuple[Reading, ...] = ()
        self._aged_until_s = -math.inf

    @abstractmethod
    async def connect(self) -> Identity:
        """Open a new session, verify who answers and look at its state; nothing is changed.

        Raises:
            ConnectError: Nobody can be reached.
            WrongIdentityError: It is another device than configured.
            DriverError: It does not answer as it should.
        """

    async def stage(self) -> None:  # noqa: B027 - not abstract
        """Set it up so that `poll` reads what it is there for, and read that back; energises nothing.

        Most read what they have without being set up: then this does nothing.

        Raises:
            DriverError: It did not take the settings.
        """

    async def poll(self) -> tuple[Reading, ...]:
        """Ask for everything that it measures.

        Raises:
            DriverError: It cannot be asked; readings then grow old.
        """
        if not self.is_open:
            raise StateError(f"poll while {self.state.value}", device=self.name, do="connect first")
        self._keep(await self._measured())
        return self.readings()

    def readings(self) -> tuple[Reading, ...]:
        """The last ones, each as good as its age allows; the very same object until one is renewed or grows old."""
        now = monotonic_s()
        if now > self._aged_until_s:
            self._aged = tuple(_aged(reading, now) for reading in self._readings.values())
            # Exactly as long as nothing more is stale; how old a stale one is, is told to the second.
            fresh_until = (r.at_monotonic_s + STALE_AFTER_S for r in self._aged if r.quality is not Quality.ABSENT)
            self._aged_until_s = min((until if until >= now else now + 1.0 for until in fresh_until), default=now)
        return self._aged

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """There is a session; whether somebody answers at its other end is another question."""

    @property
    @abstractmethod
    def link_counters(self) -> dict[str, int]:
        """What went over the link and what went wrong there."""

    @abstractmethod
    async def aclose(self) -> None:
        """End the session; outputs stay as they are. Safe at any time and more than once."""

    @abstractmethod
    async def _measure(self) -> list[Reading]:
        """Readings, fresh from the device."""

    def _keep(self, readings: Iterable[Reading]) -> None:
        """Readings that were just taken, in a poll or on the way of something longer."""
        for reading in readings:
            self._readings[reading.name, reading.node] = reading
        self._aged_until_s = -math.inf

    async def _measured(self) -> list[Reading]:
        """The same, sure to be answers to these questions."""
        return await self._measure()

    def _last_good(self) -> str:
        return "never" if self.last_good_s is None else f"{monotonic_s() - self.last_good_s:.1f} s ago"


def _aged(reading: Reading, now: float) -> Reading:
    age_s = now - reading.at_monotonic_s
    if age_s <= STALE_AFTER_S or reading.quality is Quality.ABSENT:
        return reading
    return replace(reading, value=None, quality=Quality.BAD, reason=f"stale: {age_s:.0f} s old")


class LinkedInstrument(Instrument):
    """An instrument behind a request-reply link of its own.

    Args:
        name: From the configuration.
        link: To it; nobody else uses it.
        reply_timeout_s: For one exchange.
    """

    def __init__(self, name: str, link: ThreadedLink, *, reply_timeout_s: float) -> None:
        super().__init__(name)
        self._link = link
        self._reply_timeout_s = reply_timeout_s
        self._turn = asyncio.Lock()
        self._is_switching_off = False

    # -- what a supervisor calls ------------------------------------------------------------------------------------

    async def connect(self) -> Identity:
        """See `Instrument.connect`."""
        self.state = DeviceState.CONNECTING
        try:
            async with self._turn:
                await self._link.open(CONNECT_S)
                self.identity = await self._resynchronise()
                await self._observe_in_step()
        except BaseException:
            self.state = DeviceState.FAULTED
            await self._link.aclose()
            raise
        self.state = DeviceState.IDENTIFIED
        return self.identity

    async def _observe_in_step(self) -> None:
        """Look, and then make sure who it is; once more from the beginning if replies may have been to others."""
        for _ in range(2):
            before = self._link.counters["unasked_bytes"]
            await self._observe()
            try:
                await self._confirm()
            except RemoteProtocolError:
                if not self._link.is_open:
                    raise
            else:
                if self._link.is_in_step and self._link.counters["unasked_bytes"] == before:
                    return
            await self._resynchronise()
        raise self._never_quiet()

    def _never_quiet(self) -> RemoteProtocolError:
        return RemoteProtocolError("bytes keep coming that nobody asked for", device=self.name)

    async def _measured(self) -> list[Reading]:
        """What it measures, and then who it is.

        Replies that do not repeat the question could be another one's. So nothing is believed if anything came
        meanwhile that nobody asked for; it is then asked once more from the beginning. A value that jumped is asked for
        once more, too.

        Raises:
            DriverError: It failed, or bytes came that nobody asked for, twice; it must be connected again.
        """
        before = {(one.name, one.node): one for one in self.readings()}
        found = await self._measured_by_itself()
        doubtful = plausible.jumped(before, found)
        return plausible.read_again(found, await self._measured_by_itself(), doubtful) if doubtful else found

    async def _measured_by_itself(self) -> list[Reading]:
        try:
            found = await self._measured_in_step() or await self._measured_in_step()
        except (ReplyTimeoutError, RemoteProtocolError, LinkLostError, WrongIdentityError):
            await self._give_up()
            raise
        if found is None:
            await self._give_up()
            raise self._never_quiet()
        return found

    async def _measured_in_step(self) -> list[Reading] | None:
        before = self._link.counters["unasked_bytes"]
        found = await self._measure()
        return found if await self._in_step_since(before) else None

    async def _in_step_since(self, unasked_bytes: int) -> bool:
        """Make sure who answers; whether nothing came that nobody asked for since that counter was so much."""
        await self._make_sure()
        return self._link.counters["unasked_bytes"] == unasked_bytes

    async def _make_sure(self) -> None:
        async with self._turn:
            await (self._confirm() if self._link.is_in_step else self._resynchronise())

    async def _sure(self, look: Callable[[], Awaitable[_Found]], follows: Callable[[_Found], bool]) -> _Found:
        """What `look` finds; where something follows from it, made sure that replies were to these questions.

        Raises:
            DriverError: It could not be asked, or twice nobody could be sure.
        """
        for _ in range(2):
            if not self._link.is_in_step:
                await self._make_sure()
            before = self._link.counters["unasked_bytes"]
            found = await look()
            if not follows(found):
                return found
            try:
                if await self._in_step_since(before):
                    return found
            except (ReplyTimeoutError, RemoteProtocolError):
                if not self._link.is_open:
                    raise
                self._link.is_in_step = False
        raise self._never_quiet()

    async def _give_up(self) -> None:
        """It must be connected again; but switching off interrupts whatever goes on, and goes on with the link."""
        if not self._is_switching_off:
            self.state = DeviceState.FAULTED
            await self._link.aclose()

    @property
    def is_open(self) -> bool:
        """See `Instrument.is_open`."""
        return self._link.is_open

    @property
    def link_counters(self) -> dict[str, int]:
        """What went over the link and what went wrong there."""
        return dict(self._link.counters)

    async def aclose(self) -> None:
        """End the session; outputs stay as they are. Safe at any time and more than once."""
        self.state = DeviceState.DISCONNECTED
        await self._link.aclose()

    # -- what a driver does -----------------------------------------------------------------------------------------

    @abstractmethod
    async def _identify(self) -> Identity:
        """Ask who it is and compare with the configuration; through `_exchange` only."""

    async def _confirm(self) -> None:
        """Ask something whose answer is known and no other's, to see that replies still belong to questions."""
        await self._identify()

    @abstractmethod
    async def _observe(self) -> None:
        """Look at its state after connecting; through `_exchange` only."""

    async def _ask(self, request: bytes, whole: Callable[[bytes], int | None]) -> bytes:
        """An exchange that changes nothing, in its turn; asked once more if the link fell out of step.

        Raises:
            DriverError: It failed both times, or the session ended.
        """
        async with self._turn:
            try:
                return await self._in_step_exchange(request, whole)
            except (ReplyTimeoutError, RemoteProtocolError):
                if not self._link.is_open:  # what ended it is what to tell
                    raise
                return await self._in_step_exchange(request, whole)

    async def _tell(self, request: bytes, whole: Callable[[bytes], int | None]) -> bytes:
        """An exchange that changes something, in its turn; never repeated.

        Raises:
            DriverError: It failed; what the device made of it must be read back.
        """
        async with self._turn:
            return await self._in_step_exchange(request, whole)

    async def _in_step_exchange(self, request: bytes, whole: Callable[[bytes], int | None]) -> bytes:
        if not self._link.is_in_step:
            await self._resynchronise()
        reply = await self._exchange(request, whole)
        if not self._link.is_in_step:
            raise RemoteProtocolError("more came than was asked for", device=self.name)
        return reply

    async def _exchange(self, request: bytes, whole: Callable[[bytes], int | None]) -> bytes:
        """An exchange whatever the step."""
        self._check_turn()
        reply = await self._link.exchange(request, whole, self._reply_timeout_s)
        self.last_good_s = monotonic_s()
        return reply

    def _last_line(self, raw: bytes) -> bytes:
        """The line that ends a reply before which late ones were passed over: those were not asked for, and count."""
        line = ascii_line.last_line(raw)
        passed_over = raw[: raw.rindex(line)].strip() if line else b""
        self._link.counters["unasked_bytes"] += len(passed_over)
        return line

    async def _resynchronise(self) -> Identity:
        """Wait until nothing comes any more, then make sure who answers.

        Raises:
            DriverError: It cannot be; the device is faulted, and must be connected again.
        """
        self._check_turn()
        self._link.counters["resynchronised"] += 1
        try:
            await self._link.drain(QUIET_S, RESYNCHRONISE_S)
            identity = await self._identify()
        except DriverError:
            self.state = DeviceState.FAULTED
            await self._link.aclose()
            raise
        self._link.is_in_step = True
        return identity

    def _check_turn(self) -> None:
        """Refuse an exchange that must not be made now."""
        if self._is_switching_off:
            raise OvertakenError("switching off goes first", device=self.name)
