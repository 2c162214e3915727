"""The link to one board on UDP.

One command is outstanding at a time. A reply belongs to a command if it has its serial number, so what is left over
from a command that timed out or was cancelled can never be taken for the answer to a later one.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.4, 3.2 to 3.6.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Final

from petqc_drivers.clock import Awake, monotonic_s
from petqc_drivers.errors import ConnectError, DriverError, LinkLostError, OvertakenError, ReplyTimeoutError, StateError
from petqc_drivers.petsys.link import CommandGate, LinkAccount, ago
from petqc_drivers.petsys.receive import FrameIntake, ReceiveAccount
from petqc_drivers.petsys.wire import DATA_MARK, HANDSHAKE, REPLY_MARK, SERIAL_MODULO, Command, Reply, WireError
from petqc_drivers.transport.udp import RECEIVE_BUFFER_BYTES, UdpReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from petqc_drivers.device import Reading
    from petqc_drivers.petsys.receive import Sink
    from petqc_drivers.transport.datagrams import Datagrams

REPLY_TIMEOUT_S: Final = 0.25
"""How long a board may take to answer (the vendor's own figure, 3.6)."""
TRIES: Final = 5
HANDSHAKE_TRIES: Final = 5
HANDSHAKE_TIMEOUT_S: Final = 0.1
_THREAD_S: Final = 2.0


class UdpReadoutLink(CommandGate):
    """Link to one board on UDP.

    Args:
        peer: IPv4 address in digits, and port.
        reply_timeout_s: How long to wait for one reply.
        tries: How often a command is sent before the board counts as silent.
        receive_buffer_bytes: Asked of the kernel.
    """

    def __init__(
        self,
        peer: tuple[str, int],
        *,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
        tries: int = TRIES,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    ) -> None:
        self._peer = peer
        self._reply_timeout_s = reply_timeout_s
        self._tries = tries
        self._receiver = UdpReceiver(peer, self, receive_buffer_bytes=receive_buffer_bytes)
        self._turn = asyncio.Lock()
        self._epoch = 0
        self._serial = random.randrange(SERIAL_MODULO)  # noqa: S311 - tells this session's replies from the last one's
        self._waiting: tuple[int, asyncio.Future[bytes]] | None = None
        self._greeting: asyncio.Future[None] | None = None
        self._counts: Counter[str] = Counter()
        self._intake: FrameIntake | None = None
        self._ended: ReceiveAccount | None = None
        self._rejected_before: Counter[str] = Counter()
        self._drops_before = 0
        self._failure: DriverError | None = None
        self._last_good_s: float | None = None

    @property
    def name(self) -> str:
        """Address of the board, for messages."""
        return f"board {self._peer[0]}:{self._peer[1]}"

    @property
    def last_good_s(self) -> float | None:
        """When the board last answered a command, monotonic."""
        return self._last_good_s

    @property
    def last_frame_s(self) -> float | None:
        """When a frame of the running acquisition last came, monotonic."""
        return None if self._intake is None else self._intake.last_frame_s

    async def open(self) -> None:
        """Open the socket and greet the board.

        Raises:
            ConnectError: If nothing answers.
        """
        await self.open_without_greeting()
        self._greeting = asyncio.get_running_loop().create_future()
        try:
            for _ in range(HANDSHAKE_TRIES):
                self._receiver.send(HANDSHAKE)
                try:
                    async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                        await asyncio.shield(self._greeting)
                except TimeoutError:
                    continue
                return
        except BaseException:
            await self._receiver.aclose()
            raise
        finally:
            self._greeting = None
        stranger = self._receiver.foreign_sender
        await self._receiver.aclose()
        raise ConnectError(
            f"no answer to {HANDSHAKE_TRIES} greetings of {HANDSHAKE_TIMEOUT_S} s"
            + (f", but datagrams came from {stranger[0]}:{stranger[1]}" if stranger else ""),
            device=self.name,
            last_good=ago(self._last_good_s),
            do="check power, cable and address of the board",
        )

    async def open_without_greeting(self) -> None:
        """Open the socket only; for switching off, where the first message must be the one that counts."""
        if not self._receiver.is_open:
            self._receiver.open()
            self._failure = None

    async def aclose(self) -> None:
        """End the thread and close the socket."""
        self._drop_waiting(LinkLostError("the link was closed", device=self.name))
        await self._receiver.aclose()
        self._intake = None

    def _drop_waiting(self, error: DriverError) -> None:
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(error)

    def overtake(self) -> None:
        """Drop everything that waits to be sent or for a reply."""
        self._epoch += 1
        self._drop_waiting(OvertakenError("dropped because switching off goes first", device=self.name))

    async def _exchange(self, function: int, payload: bytes, what: str, epoch: int, tries: int | None) -> bytes:
        loop = asyncio.get_running_loop()
        tries = tries or self._tries
        async with self._turn:
            self._counts["commands"] += 1
            for _ in range(tries):
                if epoch != self._epoch:
                    raise OvertakenError(f"{what} dropped because switching off went first", device=self.name)
                if self._failure is not None:
                    raise self._failure
                self._serial = (self._serial + 1) % SERIAL_MODULO
                answer: asyncio.Future[bytes] = loop.create_future()
                self._waiting = (self._serial, answer)
                self._counts["tries"] += 1
                awake = Awake()
                try:
                    self._receiver.send(Command(self._serial, function, payload).to_bytes())
                    async with asyncio.timeout(self._reply_timeout_s):
                        reply = await answer
                except TimeoutError:
                    self._receiver.tap.timeout(what)
                    continue
                finally:
                    self._waiting = None
                if awake.no_more:  # what it says may be of long ago
                    continue
                self._last_good_s = monotonic_s()
                return reply
        raise ReplyTimeoutError(
            f"no reply to {what} in {tries} tries of {self._reply_timeout_s} s",
            device=self.name,
            last_good=ago(self._last_good_s),
            do="check power and cable of the board, then connect again",
        )

    def _answer(self, serial: int, payload: bytes) -> None:
        waiting = self._waiting
        if waiting is None or waiting[0] != serial or waiting[1].done():
            self._counts["replies_overdue"] += 1
            return
        self._counts["replies"] += 1
        waiting[1].set_result(payload)

    def _greeted(self) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_result(None)

    # What follows up to `pause` runs in the receive thread.

    def take(self, batch: Datagrams, begin: int, peer: int) -> int:
        """Take frames of a batch at once; how many datagrams. A board that was greeted may answer with any of them."""
        intake = self._intake
        return 0 if intake is None or self._greeting is not None else intake.take(batch, begin, peer)

    def datagram(self, first: int, body: memoryview) -> None:
        """Sort a datagram: frames stay in this thread, replies go to the event loop if one is waited for."""
        # Read once: the event loop ends the greeting as soon as it hears of this datagram.
        is_greeting = self._greeting is not None
        if is_greeting:
            self._receiver.post(self._greeted)
        intake = self._intake
        if first == DATA_MARK:
            if intake is None:
                self._counts["idle_datagrams"] += 1
            else:
                intake.datagram(body)
            return
        whole = bytes((first,)) + bytes(body)
        self._receiver.tap.received(whole)
        if first != REPLY_MARK:
            if not is_greeting:  # what a board answers to a greeting is not laid down
                self._counts["unknown_datagrams"] += 1
            return
        try:
            reply = Reply.from_bytes(whole)
        except WireError:
            self._counts["replies_malformed"] += 1
            return
        waiting = self._waiting
        if waiting is None or waiting[0] != reply.short_serial:
            # Not passed on: a flood of wrong replies must not fill the event loop's queue.
            self._counts["replies_late"] += 1
            return
        self._receiver.post(self._answer, reply.short_serial, reply.payload)

    def pause(self) -> float | None:
        """Hand over frames that have waited long enough."""
        intake = self._intake
        if intake is None:
            return None
        due_s = intake.due_in_s()
        if due_s is not None and due_s <= 0:
            intake.flush()
            return None
        return due_s

    def failed(self, error: DriverError) -> None:
        """The thread ended: whoever waits is told why."""
        self._receiver.tap.failed(str(error))
        self._failure = error
        self._receiver.post(self._drop_waiting, error)
        if self._intake is not None:
            self._intake.abort(error)

    # From here on the event loop again.

    def _rejected(self) -> Counter[str]:
        counters = self._receiver.counters
        return Counter(
            {
                "foreign-sender": counters["foreign"],
                "empty": counters["empty"],
                "truncated": counters["truncated"],
                "unknown-mark": self._counts["unknown_datagrams"],
                "malformed-reply": self._counts["replies_malformed"],
            }
        )

    async def start_data(
        self,
        sink: Sink,
        *,
        min_frame: int,
        on_first: Callable[[], None],
        on_failure: Callable[[DriverError], None],
    ) -> None:
        """Deliver whole frames from `min_frame` on to `sink`, from the receive thread, about every 10 ms.

        Args:
            sink: Called with (n,) uint64; must not block and must not call back into the link.
            min_frame: Frames before it are dropped and counted.
            on_first: Called in the event loop, once, when the first frame has come.
            on_failure: Called in the event loop, once, if delivery ends early.

        Raises:
            StateError: If frames are delivered already.
        """
        if self._intake is not None:
            raise StateError("an acquisition is running", device=self.name, do="stop it first")
        intake = FrameIntake(
            sink,
            min_frame=min_frame,
            device=self.name,
            on_first=lambda: self._receiver.post(on_first),
            on_failure=lambda error: self._receiver.post(on_failure, error),
        )

        is_wanted = True

        def begin() -> None:
            if is_wanted:
                self._rejected_before = self._rejected()
                self._drops_before = self._receiver.kernel_drops()
                self._ended = None
                self._intake = intake

        try:
            await self._receiver.call(begin, timeout_s=_THREAD_S)
        except BaseException:
            is_wanted = False
            self._intake = None
            raise

    def _account(self, intake: FrameIntake, failure: DriverError | None) -> ReceiveAccount:
        return intake.account(
            datagrams_rejected=dict(self._rejected() - self._rejected_before),
            kernel_drops=self._receiver.kernel_drops() - self._drops_before,
            receive_buffer_bytes=self._receiver.receive_buffer_bytes,
            failure=failure or self._failure,
        )

    async def account(self) -> ReceiveAccount:
        """The account of the running acquisition.

        Raises:
            StateError: If there is none.
            LinkLostError: If the consumer blocks the receive thread.
        """
        intake = self._intake
        if intake is None:
            raise StateError("no acquisition is running", device=self.name)
        return await self._receiver.call(lambda: self._account(intake, None), timeout_s=_THREAD_S)

    async def stop_data(self, failure: DriverError | None = None) -> ReceiveAccount:
        """Deliver what waits, end the delivery and return the account.

        Raises:
            StateError: If no acquisition is running.
            LinkLostError: If the consumer blocks the receive thread.
        """
        intake = self._intake
        if intake is None:
            if self._ended is None:
                raise StateError("no acquisition is running", device=self.name)
            ended, self._ended = self._ended, None  # it ended for a caller who was cancelled meanwhile
            return ended

        def end() -> ReceiveAccount:
            intake.flush()
            self._intake = None
            self._ended = self._account(intake, failure)
            return self._ended

        account = end() if not self._receiver.is_open else await self._receiver.call(end, timeout_s=_THREAD_S)
        self._ended = None
        return account

    async def way_readings(self, ports: Iterable[int]) -> list[Reading]:
        """Nothing: what is lost on an Ethernet is in the account of an acquisition."""
        del ports
        return []

    def link_account(self) -> LinkAccount:
        """How the commands went since the link was made."""
        counts = self._counts
        return LinkAccount(
            commands=counts["commands"],
            tries=counts["tries"],
            replies=counts["replies"],
            replies_late=counts["replies_late"] + counts["replies_overdue"],
            replies_malformed=counts["replies_malformed"],
            unknown_datagrams=counts["unknown_datagrams"],
            foreign_datagrams=self._receiver.counters["foreign"],
        )
