"""The link to one unit of a system behind the daemon: commands through its socket, frames from its shared ring.

Acquisition mode, minimum frame and ring belong to the daemon and so to all its clients. This link switches the
acquisition on when frames are wanted and off afterwards, and notices when somebody else does.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.1, 2 and 3.6.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from petqc_drivers.clock import Awake, monotonic_s
from petqc_drivers.device import Quality, Reading
from petqc_drivers.errors import (
    ConnectError,
    DriverError,
    LinkLostError,
    LocalProtocolError,
    OvertakenError,
    ReplyTimeoutError,
    StateError,
)
from petqc_drivers.petsys.daqd_client import DaqdClient
from petqc_drivers.petsys.daqd_pump import ROOM_BYTES, RingPump
from petqc_drivers.petsys.daqd_ring import SHARED_MEMORY_FOLDER, SharedRing
from petqc_drivers.petsys.daqd_wire import (
    FrontEndCommand,
    Message,
    Pointers,
    PortCounters,
    Request,
    SharedMemoryInfo,
    acquisition_request,
    minimum_frame_request,
    parse_card_temperature_reply,
    parse_front_end_reply,
    parse_ports_reply,
    port_counters_request,
)
from petqc_drivers.petsys.frames import CLOCKS_PER_FRAME, FRAME_ID_MODULO
from petqc_drivers.petsys.link import CommandGate, LinkAccount, ago
from petqc_drivers.petsys.receive import FrameIntake, ReceiveAccount, warm_up
from petqc_drivers.petsys.registers import REGISTERS
from petqc_drivers.petsys.wire import SERIAL_MODULO, Command, Function, WireError, parse_memory_read_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from petqc_drivers.petsys.receive import Sink

_LOG = logging.getLogger(__name__)

SOCKET: Final = Path("/tmp/d.sock")  # noqa: S108 - where the vendor's daemon listens if not told otherwise
SHARED_MEMORY: Final = "/daqd_shm"
REPLY_TIMEOUT_S: Final = 0.4
"""The daemon itself waits about 0.31 s for a silent board before it says so (3.6)."""
TRIES: Final = 5
DAEMON_S: Final = 2.0
"""How long what the daemon does by itself may take; switching the acquisition on takes it 0.22 s."""
LIFT_MINIMUM_S: Final = 2.0
"""How long the daemon is left to drop old frames: longer than frames can stay anywhere on their way."""
_THREAD_S: Final = 2.0


class DaqdReadoutLink(CommandGate):
    """Link to one unit, by its place in the system.

    Args:
        path: Of the daemon's socket.
        unit: Port and slave of the unit.
        reply_timeout_s: How long to wait for one reply of the unit.
        tries: How often a command is sent before the unit counts as silent.
        shared_memory: Name of the ring to look for when the daemon is not there to tell it.
        uid: User the daemon must belong to; None for any.
        folder: Where shared memory is.
    """

    def __init__(
        self,
        path: Path = SOCKET,
        *,
        unit: tuple[int, int] = (0, 0),
        reply_timeout_s: float = REPLY_TIMEOUT_S,
        tries: int = TRIES,
        shared_memory: str = SHARED_MEMORY,
        uid: int | None = None,
        folder: Path = SHARED_MEMORY_FOLDER,
    ) -> None:
        self._path = Path(path)
        self._unit = unit
        self._reply_timeout_s = reply_timeout_s
        self._tries = tries
        self._uid = uid
        self._folder = folder
        self._shared_memory = shared_memory
        self._client = DaqdClient(self._path, shared_memory=shared_memory, uid=uid, unit=unit)
        self._turn = asyncio.Lock()
        self._epoch = 0
        self._serial = random.randrange(SERIAL_MODULO)  # noqa: S311 - tells this session's replies from another's
        self._waiting: asyncio.Task[bytes] | None = None
        self._counts: Counter[str] = Counter()
        self._pump: RingPump | None = None
        self._intake: FrameIntake | None = None
        self._ended: ReceiveAccount | None = None
        self._last_good_s: float | None = None
        self._lifting: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Address of the unit, for messages."""
        return f"unit {self._unit[0]}/{self._unit[1]} at {self._client.name}"

    @property
    def last_good_s(self) -> float | None:
        """When the unit last answered a command, monotonic."""
        return self._last_good_s

    @property
    def last_frame_s(self) -> float | None:
        """When a frame of the running acquisition last came, monotonic."""
        return None if self._intake is None else self._intake.last_frame_s

    async def open(self) -> None:
        """Connect, and see that the daemon answers and its ring can be read.

        Raises:
            ConnectError: If there is no daemon, it does not answer, or its shared memory is not as it should be.
        """
        await self.open_daemon()
        try:
            await self._check_port()
        except BaseException:
            await self._client.aclose()
            raise

    async def open_daemon(self) -> None:
        """Connect, and see that the daemon answers and its ring can be read, whatever units there are.

        Raises:
            ConnectError: If there is no daemon, it does not answer, or its shared memory is not as it should be.
        """
        await self.open_without_greeting()
        try:
            (await self._ring()).close()
            if (await self.pointers()).is_acquiring:
                _LOG.info("%s: another client left the acquisition on, or uses it", self._client.name)
        except BaseException:
            await self._client.aclose()
            raise

    async def _check_port(self) -> None:
        ports = await self.ports()
        if self._unit[0] not in ports:
            raise ConnectError(
                f"port {self._unit[0]} is not up; up are {', '.join(map(str, ports)) or 'none'}",
                device=self.name,
                do="check power and link of the unit",
            )

    async def open_without_greeting(self) -> None:
        """Connect only; for switching off, where the first message must be the one that counts."""
        await self._client.open()

    async def aclose(self) -> None:
        """End the thread and disconnect."""
        pump, self._pump, self._intake = self._pump, None, None
        await self._end_lifting()
        if pump is not None:
            await pump.aclose()
        await self._client.aclose()

    def at(self, port: int, slave: int) -> DaqdReadoutLink:
        """An unopened link of its own to another unit behind the same daemon."""
        return DaqdReadoutLink(
            self._path,
            unit=(port, slave),
            reply_timeout_s=self._reply_timeout_s,
            tries=self._tries,
            shared_memory=self._shared_memory,
            uid=self._uid,
            folder=self._folder,
        )

    # -- the daemon itself ------------------------------------------------------------------------------------------

    async def _ask(self, request: Request, what: str) -> bytes:
        return await self._client.ask(request, what=what, timeout_s=DAEMON_S)

    def _strange(self, error: WireError) -> LinkLostError:
        return LinkLostError(f"out of step: {error}", device=self._client.name, do="connect again")

    async def ports(self) -> tuple[int, ...]:
        """Ports of the DAQ card that are up; 0 alone if the daemon speaks to one board over UDP."""
        try:
            return parse_ports_reply(await self._ask(Request(Message.PORTS), "active ports"))
        except WireError as error:
            raise self._strange(error) from error

    async def pointers(self) -> Pointers:
        """State of the ring."""
        try:
            return Pointers.from_bytes(await self._ask(Request(Message.POINTERS), "pointers"))
        except WireError as error:
            raise self._strange(error) from error

    async def port_counters(self, port: int) -> PortCounters:
        """Link counters of a port of the DAQ card."""
        try:
            return PortCounters.from_bytes(await self._ask(port_counters_request(port), "port counters"))
        except WireError as error:
            raise self._strange(error) from error

    async def card_temperatures(self) -> tuple[float, ...]:
        """Temperatures of the DAQ cards in degC; 0 where there is none."""
        try:
            return parse_card_temperature_reply(await self._ask(Request(Message.CARD_TEMPERATURE), "card temperature"))
        except WireError as error:
            raise self._strange(error) from error

    async def way_readings(self, ports: Iterable[int]) -> list[Reading]:
        """Counters of these ports of the DAQ cards, and the temperatures of the cards.

        A daemon that speaks UDP to its board has neither, and says so with zeros.
        """
        readings: list[Reading] = []
        for port in ports:
            found = await self.port_counters(port)
            counts = {"port_tx": found.tx, "port_rx": found.rx, "port_rx_bad": found.rx_bad}
            is_counted, now_s = any(counts.values()), monotonic_s()
            quality, reason = (
                (Quality.GOOD, None) if is_counted else (Quality.ABSENT, "this kind of link counts nothing")
            )
            readings += [
                Reading(
                    name, f"port:{port}", float(n) if is_counted else None, "words", is_counted, quality, now_s, reason
                )
                for name, n in counts.items()
            ]
        now_s = monotonic_s()
        return readings + [
            Reading("temperature_card", f"card:{card}", value, "degC", True, Quality.GOOD, now_s)
            for card, value in enumerate(await self.card_temperatures())
            if value
        ]

    async def _ring(self) -> SharedRing:
        reply = await self._ask(Request(Message.SHARED_MEMORY), "shared memory info")
        try:
            info = SharedMemoryInfo.from_bytes(reply)
        except WireError as error:
            raise self._strange(error) from error
        return SharedRing(info, device=self._client.name, folder=self._folder)

    # -- commands ---------------------------------------------------------------------------------------------------

    def overtake(self) -> None:
        """Drop everything that waits to be sent or for a reply."""
        self._epoch += 1
        if self._waiting is not None:
            self._waiting.cancel()

    async def _exchange(self, function: int, payload: bytes, what: str, epoch: int, tries: int | None) -> bytes:
        tries = tries or self._tries
        async with self._turn:
            self._counts["commands"] += 1
            silent = "the unit gave no answer"
            for _ in range(tries):
                if epoch != self._epoch:
                    raise OvertakenError(f"{what} dropped because switching off went first", device=self.name)
                awake = Awake()
                try:
                    answer = await self._try(function, payload, what, epoch)
                except ReplyTimeoutError as error:
                    silent = error.what
                    continue
                if answer is not None and not awake.no_more:  # else what it says may be of long ago
                    self._last_good_s = monotonic_s()
                    return answer
        raise ReplyTimeoutError(
            f"no reply to {what} in {tries} tries: {silent}",
            device=self.name,
            last_good=ago(self._last_good_s),
            do="check power and link of the unit, then connect again",
        )

    async def _try(self, function: int, payload: bytes, what: str, epoch: int) -> bytes | None:
        self._serial = (self._serial + 1) % SERIAL_MODULO
        self._counts["tries"] += 1
        try:
            request = FrontEndCommand(*self._unit, Command(self._serial, function, payload)).to_request()
        except WireError as error:
            raise LocalProtocolError(f"{what}: {error}", device=self.name) from error
        # A task of its own, so that `overtake` can end the wait without cancelling whoever waits.
        asking = asyncio.create_task(self._client.ask(request, what=what, timeout_s=self._reply_timeout_s))
        self._waiting = asking
        try:
            await asyncio.wait({asking})
        finally:
            asking.cancel()
            self._waiting = None
        if asking.cancelled() or epoch != self._epoch:
            raise OvertakenError(f"{what} dropped because switching off went first", device=self.name)
        try:
            reply = parse_front_end_reply(asking.result())
        except WireError as error:
            raise ConnectError(str(error), device=self.name, do="correct the port number") from error
        if reply is None:
            return None
        if reply.short_serial != self._serial:
            self._counts["replies_malformed"] += 1
            return None
        return reply.payload

    # -- frames -----------------------------------------------------------------------------------------------------

    async def start_data(
        self,
        sink: Sink,
        *,
        min_frame: int,
        on_first: Callable[[], None],
        on_failure: Callable[[DriverError], None],
    ) -> None:
        """Switch the acquisition on and deliver whole frames to `sink`, from a thread, about every 10 ms.

        Switching on takes the daemon 0.22 s and empties the ring; frames from before that are dropped by their id.

        Args:
            sink: Called with (n,) uint64; must not block and must not call back into the link.
            min_frame: Frames before it are dropped and counted.
            on_first: Called in the event loop, once, when the first frame has come.
            on_failure: Called in the event loop, once, if delivery ends early.

        Raises:
            StateError: If frames are delivered already.
            ConnectError: If the ring cannot be read.
            LinkLostError: If the daemon does not switch on.
        """
        if self._pump is not None:
            raise StateError("an acquisition is running", device=self.name, do="stop it first")
        loop = asyncio.get_running_loop()
        ring = await self._ring()
        try:
            await asyncio.to_thread(warm_up)  # frames do not wait for a compiler
            min_frame, read = await self._switch_on(min_frame)

            def tell(function: Callable[..., None], *arguments: object) -> None:
                try:
                    loop.call_soon_threadsafe(function, *arguments)
                except RuntimeError:  # the loop is closed: nobody is left to be told
                    _LOG.debug("event loop gone, dropped %r", function)

            intake = FrameIntake(
                sink,
                min_frame=min_frame,
                device=self.name,
                on_first=lambda: tell(on_first),
                on_failure=lambda error: tell(on_failure, error),
                room_bytes=ROOM_BYTES,
            )
            self._ended, self._intake = None, intake
            self._pump = RingPump(self._path, ring, intake, read=read, uid=self._uid)
            self._lifting = asyncio.create_task(self._lift_minimum(), name=f"lift the minimum frame of {self.name}")
        except BaseException:
            self._intake = None
            ring.close()
            raise

    async def _switch_on(self, min_frame: int) -> tuple[int, int]:
        """Switch the acquisition on; the first frame to accept, and where reading begins."""
        await self._ask(acquisition_request(is_on=True), "acquisition on")
        now = await self._frame_now()
        if (now - min_frame) % FRAME_ID_MODULO < FRAME_ID_MODULO // 2:
            min_frame = now
        await self._ask(minimum_frame_request(min_frame), "minimum frame")
        pointers = await self.pointers()
        if not pointers.is_acquiring or pointers.waiting is None:
            raise LinkLostError(
                "the daemon was told to acquire and does not", device=self._client.name, do="restart the daemon"
            )
        return min_frame, pointers.read

    async def _lift_minimum(self) -> None:
        """Let the daemon pass every frame again, once the old ones are gone.

        It compares frame ids as they are: with a minimum, it would drop everything after they have wrapped.
        """
        try:
            await asyncio.sleep(LIFT_MINIMUM_S)
            await self._ask(minimum_frame_request(0), "no minimum frame")
        except DriverError as error:
            _LOG.warning("the minimum frame stays, data will end when frame ids wrap: %s", error)

    async def _end_lifting(self) -> None:
        lifting, self._lifting = self._lifting, None
        if lifting is not None:
            lifting.cancel()
            await asyncio.wait({lifting})

    async def _frame_now(self) -> int:
        """The frame that the unit is at: frames from before the acquisition was on must not be taken."""
        time_tag = REGISTERS["time_tag"]
        reply = await self.exchange(Function.REGISTERS, time_tag.read().to_bytes(), what=f"read {time_tag}")
        try:
            return time_tag.decode(parse_memory_read_reply(reply, time_tag.n_bytes)) // CLOCKS_PER_FRAME
        except WireError as error:
            raise self._strange(error) from error

    async def account(self) -> ReceiveAccount:
        """The account of the running acquisition.

        Raises:
            StateError: If there is none.
            LinkLostError: If the consumer blocks the thread.
        """
        if self._pump is None:
            raise StateError("no acquisition is running", device=self.name)
        return await self._pump.account(None, is_last=False, timeout_s=_THREAD_S)

    async def stop_data(self, failure: DriverError | None = None) -> ReceiveAccount:
        """Deliver what is in the ring, end the delivery, switch the acquisition off and return the account.

        Raises:
            StateError: If no acquisition is running.
            LinkLostError: If the consumer blocks the thread.
        """
        pump = self._pump
        if pump is None:
            if self._ended is None:
                raise StateError("no acquisition is running", device=self.name)
            ended, self._ended = self._ended, None  # it ended for a caller who was cancelled meanwhile
            return ended
        await self._end_lifting()
        self._ended = await pump.account(failure, is_last=True, timeout_s=_THREAD_S)
        self._pump = self._intake = None
        await pump.aclose()
        try:
            await self._ask(acquisition_request(is_on=False), "acquisition off")
        except DriverError as error:
            _LOG.warning("acquisition not switched off: %s", error)
        account, self._ended = self._ended, None
        return account

    def link_account(self) -> LinkAccount:
        """How the commands went since the link was made."""
        client = self._client.counters
        return LinkAccount(
            commands=self._counts["commands"],
            tries=self._counts["tries"],
            replies=client["replies"],
            replies_late=client["replies_late"],
            replies_malformed=self._counts["replies_malformed"],
            unknown_datagrams=0,
            foreign_datagrams=0,
        )
