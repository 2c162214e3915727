"""The control connection: one question, one answer, with a deadline; a late answer never answers the next question."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Self

from petqc_drivers.caen_a5203 import picotdc, wire
from petqc_drivers.caen_a5203.registers import (
    CARD_BYTES,
    CARD_PAGE,
    FLASH_DUMMY_BYTES,
    FLASH_KEEP,
    FLASH_PAGE_SHIFT,
    FLASH_READ,
    BoardCard,
    Command,
    Register,
    StatusBit,
)
from petqc_drivers.clock import Awake, monotonic_s
from petqc_drivers.errors import (
    ConnectError,
    DeviceFaultError,
    LinkLostError,
    RemoteProtocolError,
    ReplyTimeoutError,
    VerifyError,
)
from petqc_drivers.transport.recording import Tap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_I2C_TRIES = 50
_CARD_TRIES = 3
_MOST_HELD = 1 << 16


@contextlib.contextmanager
def _told(where: str, device: str, within_s: float) -> Iterator[None]:
    """Say of a connection that is not to be had what a person can do.

    Raises:
        ConnectError: It is not.
    """
    try:
        yield
    except TimeoutError as error:
        do = "check that the board is powered and on this network"
        raise ConnectError(f"{where} did not answer within {within_s:g} s", device=device, do=do) from error
    except OSError as error:
        do = "check address and power; the board takes one client at a time"
        raise ConnectError(f"{where} cannot be reached: {error.strerror or error}", device=device, do=do) from error


async def open_stream(
    host: str, port: int, device: str, within_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection.

    Raises:
        ConnectError: Nothing answers there in time.
    """
    with _told(f"{host}:{port}", device, within_s):
        async with asyncio.timeout(within_s):
            return await asyncio.open_connection(host, port)


class _Incoming(asyncio.Protocol):
    """What came and was not looked at yet, so that it can be seen before a question is asked."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.held = bytearray()
        self.is_lost = False
        self._more = asyncio.Event()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.tap.opened()

    def data_received(self, data: bytes) -> None:
        self.tap.received(data)
        self.held += data
        self._more.set()
        if len(self.held) > _MOST_HELD and isinstance(self._transport, asyncio.Transport):
            self._transport.abort()  # it babbles

    def connection_lost(self, exc: Exception | None) -> None:
        self.tap.closed("" if exc is None else str(exc))
        self.is_lost = True
        self._more.set()

    async def wait(self, n_bytes: float) -> None:
        """Until so much came, or the connection is lost."""
        while len(self.held) < n_bytes and not self.is_lost:
            self._more.clear()
            await self._more.wait()


class Control:
    """The control socket of one board. One caller at a time has it.

    After a timeout, a lost connection, a cancelled question or bytes that nobody asked for, the connection is closed
    for good: what the board still had to say would answer the next question. The owner connects anew.

    Args:
        device: name for messages.
        incoming, transport: the open connection.
        reply_s: longest wait for an answer.
    """

    def __init__(self, device: str, incoming: _Incoming, transport: asyncio.Transport, reply_s: float) -> None:
        self._device = device
        self._incoming, self._transport = incoming, transport
        self._reply_s = reply_s
        self._lock = asyncio.Lock()
        self._heard_s: float | None = None
        self.is_open = True
        self.exchanges = 0

    @classmethod
    async def open(cls, device: str, host: str, port: int, reply_s: float) -> Self:
        """Connect.

        Raises:
            ConnectError: Nothing answers there.
        """
        loop = asyncio.get_running_loop()
        tap = Tap(device, "tcp", f"{host}:{port}")
        with _told(f"{host}:{port}", device, reply_s):
            async with asyncio.timeout(reply_s):
                transport, incoming = await loop.create_connection(lambda: _Incoming(tap), host, port)
        return cls(device, incoming, transport, reply_s)

    @property
    def heard_s_ago(self) -> float | None:
        """How long ago the board last answered; None: never."""
        return None if self._heard_s is None else monotonic_s() - self._heard_s

    async def read(self, register: Register) -> int:
        """The value of a register.

        Raises:
            LinkLostError: The connection is closed.
            ReplyTimeoutError: No answer in time.
        """
        return wire.parse_word(await self._ask(wire.read_register(register), 4, f"reading {register.name}"))

    async def write(self, register: Register, value: int) -> None:
        """Set a register.

        Raises:
            LinkLostError: The connection is closed.
            RemoteProtocolError: The board refused.
            ReplyTimeoutError: No answer in time.
        """
        request = wire.write_register(register, value)
        wire.check_write_reply(await self._ask(request, wire.WRITE_REPLY_BYTES, f"writing {register.name}"))

    async def write_verified(self, register: Register, value: int) -> None:
        """Set a register and read it back.

        Raises:
            VerifyError: It holds something else.
        """
        await self.write(register, value)
        found = await self.read(register)
        if found != value:
            raise VerifyError(
                f"{register.name} holds {found:#x} after {value:#x} was written",
                device=self._device,
                do="configure again; if it stays, the board or its firmware is faulty",
            )

    async def command(self, command: Command) -> None:
        """Write the command register."""
        await self.write(Register.COMMAND, command)

    async def card(self) -> BoardCard:
        """The identity card in the flash.

        Raises:
            RemoteProtocolError: There is none.
        """
        data = await self._flash(CARD_PAGE, CARD_BYTES)
        for _ in range(_CARD_TRIES - 1):
            if data.startswith(b"B\0"):
                break
            data = await self._flash(CARD_PAGE, CARD_BYTES)
        return BoardCard.from_bytes(data)

    async def _flash(self, page: int, n_bytes: int) -> bytes:
        address = page << FLASH_PAGE_SHIFT
        sent = [FLASH_READ, *(address >> shift & 0xFF for shift in (16, 8, 0)), *[0] * FLASH_DUMMY_BYTES]
        for byte in sent:
            await self.write(Register.SPI_DATA, FLASH_KEEP | byte)
        found = bytearray()
        for k in range(n_bytes):
            await self.write(Register.SPI_DATA, FLASH_KEEP if k < n_bytes - 1 else 0)
            found.append(await self.read(Register.SPI_DATA) & 0xFF)
        return bytes(found)

    async def tdc_steps(self, tdc: int, steps: Iterable[picotdc.Step]) -> None:
        """Write registers of a TDC in order; each is acknowledged on its bus.

        Raises:
            DeviceFaultError: The TDC does not acknowledge.
        """
        for step in steps:
            await self.write(Register.I2C_DATA, step.value)
            await self.write(Register.I2C_ADDRESS, picotdc.i2c_address(tdc, step.address))
            await self._i2c_done(tdc, step.address)
            if step.wait_s:
                await asyncio.sleep(step.wait_s)

    async def tdc_read(self, tdc: int, register: int) -> int:
        """A register of a TDC.

        Raises:
            DeviceFaultError: The TDC does not acknowledge.
        """
        await self.write(Register.I2C_ADDRESS, picotdc.i2c_address(tdc, register, read=True))
        await self._i2c_done(tdc, register)
        return await self.read(Register.I2C_DATA)

    async def _i2c_done(self, tdc: int, register: int) -> None:
        for _ in range(_I2C_TRIES):
            status = await self.read(Register.STATUS)
            if not status & StatusBit.I2C_BUSY:
                if not status & StatusBit.I2C_FAILED:
                    return
                break
            await asyncio.sleep(0.001)
        raise DeviceFaultError(
            f"TDC {tdc} does not acknowledge its register {register:#06x}",
            device=self._device,
            do="power the board off and on; if it stays, have it looked at",
        )

    async def check_step(self, register: Register, known: int) -> None:
        """Make sure that answers still belong to questions, by one whose answer is known.

        Raises:
            RemoteProtocolError: They do not; the connection is closed.
        """
        found = await self.read(register)
        if found != known:
            self._end()
            what = f"{register.name} was {known:#x} and is now {found:#x}: answers and questions are out of step"
            raise RemoteProtocolError(what, device=self._device)

    async def _ask(self, request: bytes, n_bytes: int, doing: str) -> bytes:
        async with self._lock:
            if not self.is_open:
                raise LinkLostError(f"{doing}: the connection is closed", device=self._device, do="connect again")
            awake = Awake()
            try:
                self._check_quiet(doing)
                async with asyncio.timeout(self._reply_s):
                    self._incoming.tap.sent(request)
                    self._transport.write(request)
                    await self._incoming.wait(n_bytes)
            except TimeoutError as error:
                self._incoming.tap.timeout(doing)
                self._end()
                raise ReplyTimeoutError(
                    f"{doing}: no answer within {self._reply_s:g} s",
                    device=self._device,
                    last_good=self._last_good(),
                    do="it is connected anew; check power and network if this comes again",
                ) from error
            except BaseException:
                self._end()
                raise
            if len(self._incoming.held) < n_bytes:
                self._end()
                raise LinkLostError(
                    f"{doing}: the board closed the connection",
                    device=self._device,
                    last_good=self._last_good(),
                    do="connect again; the board takes one client at a time",
                )
            if awake.no_more:  # what it says may be of long ago
                self._end()
                raise ReplyTimeoutError(f"{doing}: the host was suspended before the answer came", device=self._device)
            found = bytes(self._incoming.held[:n_bytes])
            del self._incoming.held[:n_bytes]
            self._check_quiet(doing)
            self._heard_s = monotonic_s()
            self.exchanges += 1
            return found

    def _check_quiet(self, doing: str) -> None:
        """Nothing may be there that nobody asked for.

        Raises:
            RemoteProtocolError: There is; the connection is closed.
        """
        held = len(self._incoming.held)
        if held:
            self._end()
            raise RemoteProtocolError(f"{doing}: {held} bytes came that nobody asked for", device=self._device)

    def _last_good(self) -> str:
        ago = self.heard_s_ago
        return "never" if ago is None else f"{ago:.1f} s ago"

    def _end(self) -> None:
        self.is_open = False
        self._transport.abort()

    async def close(self) -> None:
        """End the connection."""
        self._end()
        await self._incoming.wait(math.inf)
