"""A connection to the daemon: one message per write, replies read in the order of the requests.

Replies carry no mark by which they could be matched, so the order is everything. A reply that was not waited for long
enough is still owed: it is read and dropped before the next one counts. A reply of an impossible length makes the rest
of the stream meaningless and ends the connection.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.1 to 2.3, 3.6, 10.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import ConnectError, DriverError, LinkLostError, ReplyTimeoutError, WrongIdentityError
from petqc_drivers.petsys.daqd_ring import SHARED_MEMORY_FOLDER
from petqc_drivers.petsys.daqd_wire import reply_head_bytes, reply_rest_bytes
from petqc_drivers.petsys.wire import WireError
from petqc_drivers.transport.recording import Tap

if TYPE_CHECKING:
    from pathlib import Path

    from petqc_drivers.petsys.daqd_wire import Request

CONNECT_S: Final = 1.0
CONNECT_PAUSE_S: Final = 0.005
CLOSE_S: Final = 1.0
MAX_OWED: Final = 16
"""So many unanswered requests mean that the daemon does not answer at all; more are not sent."""
_MAX_PATH_BYTES: Final = 107
_OMITS: Final = "frames, which are in the .rawf, and the polling of the ring for them"
_CREDENTIALS: Final = struct.Struct("3i")


def connect_error(error: OSError, path: Path, shared_memory: str) -> ConnectError:
    """Why there is no connection, and what to do: a daemon that is gone is told from one that never was."""
    device = f"daemon {path}"
    if error.errno == errno.ENOENT:
        return ConnectError(
            "the socket does not exist, so no daemon runs", device=device, do="start the daemon, or correct the path"
        )
    if error.errno in {errno.ECONNREFUSED, errno.ENOTSOCK}:
        left = [str(path)]
        memory = SHARED_MEMORY_FOLDER / shared_memory.lstrip("/")
        if memory.exists():
            left.append(str(memory))
        return ConnectError(
            f"stale: nobody listens at {path}, it is left over from a daemon that is gone",
            device=device,
            do=f"see that no daemon runs, remove {' and '.join(left)}, start the daemon",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return ConnectError("the socket may not be used by this user", device=device, do="join the daemon's group")
    if error.errno == errno.EAGAIN or isinstance(error, TimeoutError):
        return ConnectError(
            f"the daemon did not take the connection within {CONNECT_S} s",
            device=device,
            do="is it stopped? restart it",
        )
    return ConnectError(f"no connection: {error}", device=device)


def check_peer(sock: socket.socket, path: Path, uid: int | None) -> int:
    """Process id of the daemon.

    Raises:
        WrongIdentityError: If it belongs to another user than it must.
    """
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    if uid is not None and user != uid:
        raise WrongIdentityError(
            f"process {process} that serves it belongs to user {user}, expected is {uid}",
            device=f"daemon {path}",
            do="end that process, or correct the expected user",
        )
    return int(process)


async def _connected(path: Path) -> socket.socket:
    """A connected socket.

    The daemon lets five connections wait to be taken; more are refused for the moment, which the event loop's own way
    to connect takes for success.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        while True:
            try:
                sock.connect(os.fspath(path))
            except BlockingIOError:
                await asyncio.sleep(CONNECT_PAUSE_S)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


@dataclass(slots=True)
class _Asked:
    type: int
    answer: asyncio.Future[bytes]


class DaqdClient:
    """One connection to the daemon; belongs to one event loop.

    Args:
        path: Of the UNIX socket.
        shared_memory: Name of the ring to look for when explaining why there is no connection.
        uid: User the daemon must belong to; None for any.
        unit: What the connection is for, in recordings: port and slave.

    Attributes:
        counters: `requests`, `replies`, `replies_late` (after nobody waited for them any more).
    """

    def __init__(
        self, path: Path, *, shared_memory: str = "/daqd_shm", uid: int | None = None, unit: tuple[int, int] = (0, 0)
    ) -> None:
        self.path = path
        self._tap = Tap(f"readout-{unit[0]}-{unit[1]}", "daqd", os.fspath(path), omits=_OMITS)
        self.counters: Counter[str] = Counter()
        self._shared_memory = shared_memory
        self._uid = uid
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asked: asyncio.Queue[_Asked] = asyncio.Queue()
        self._owed = 0
        self._ended: DriverError | None = None

    @property
    def name(self) -> str:
        """The daemon's name in messages."""
        return f"daemon {self.path}"

    @property
    def is_open(self) -> bool:
        """Whether there is a connection and nothing has ended it."""
        return self._reader is not None and not self._reader.at_eof() and self._ended is None

    async def open(self) -> None:
        """Connect, if there is no good connection.

        Raises:
            ConnectError: If nobody answers there, or the socket is stale.
            WrongIdentityError: If the daemon belongs to another user than it must.
        """
        if self.is_open and self._owed < MAX_OWED:
            return
        await self.aclose()
        if len(bytes(self.path)) > _MAX_PATH_BYTES:
            raise ConnectError(f"the path is longer than {_MAX_PATH_BYTES} bytes", device=self.name)
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(sock=await _connected(self.path))
        except OSError as error:
            refused = connect_error(error, self.path, self._shared_memory)
            self._tap.failed(str(refused))
            raise refused from error
        self._reader, self._writer = reader, writer
        self._tap.opened()
        try:
            check_peer(writer.get_extra_info("socket"), self.path, self._uid)
        except BaseException:
            await self.aclose()
            raise
        self._ended, self._owed, self._asked = None, 0, asyncio.Queue()
        self._reading = asyncio.create_task(self._read(reader, self._asked), name=f"replies of {self.name}")

    async def aclose(self) -> None:
        """Disconnect; safe at any time. Does not stop an acquisition."""
        writer, self._writer, self._reader = self._writer, None, None
        reading, self._reading = self._reading, None
        self._end(LinkLostError("the connection was closed", device=self.name))
        self._tap.closed()
        if reading is not None:
            reading.cancel()
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await writer.wait_closed()
        if reading is not None:
            await asyncio.wait({reading})

    async def ask(self, request: Request, *, what: str, timeout_s: float) -> bytes:
        """Send a request and return its whole reply; nothing for a type that gets none.

        Raises:
            ReplyTimeoutError: If the reply does not come in time.
            LinkLostError: If there is no connection any more.
        """
        if self._writer is None:
            raise self._ended or LinkLostError("not connected", device=self.name, do="connect first")
        if self._ended is not None:
            raise self._ended
        if self._owed >= MAX_OWED:
            raise ReplyTimeoutError(
                f"{what} not sent: {self._owed} requests before it have no reply yet",
                device=self.name,
                do="the daemon hangs; restart it",
            )
        self.counters["requests"] += 1
        message = request.to_bytes()
        self._tap.sent(message)
        self._writer.write(message)
        if reply_head_bytes(request.type) == 0:
            return b""
        asked = _Asked(request.type, asyncio.get_running_loop().create_future())
        self._owed += 1
        self._asked.put_nowait(asked)
        try:
            async with asyncio.timeout(timeout_s):
                return await asked.answer
        except TimeoutError:
            self._tap.timeout(what)
            raise ReplyTimeoutError(
                f"no reply to {what} in {timeout_s} s",
                device=self.name,
                do="the daemon waits for a board that is silent, or hangs",
            ) from None

    def _end(self, error: DriverError) -> None:
        if self._ended is None:
            self._ended = error
        while not self._asked.empty():
            self._give_up(self._asked.get_nowait())

    def _give_up(self, asked: _Asked) -> None:
        if not asked.answer.done():
            asked.answer.set_exception(self._ended or LinkLostError("the connection ended", device=self.name))

    async def _read(self, reader: asyncio.StreamReader, queue: asyncio.Queue[_Asked]) -> None:
        while True:
            asked = await queue.get()
            try:
                reply = await reader.readexactly(reply_head_bytes(asked.type))
                rest = reply_rest_bytes(asked.type, reply)
                if rest:
                    reply += await reader.readexactly(rest)
            except (asyncio.IncompleteReadError, OSError, WireError) as error:
                ended = self._why(error)
                self._tap.failed(str(ended))
                self._end(ended)
                self._give_up(asked)
                return
            except asyncio.CancelledError:
                self._give_up(asked)
                raise
            self._owed -= 1
            self.counters["replies"] += 1
            self._tap.received(reply)
            if asked.answer.done():
                self.counters["replies_late"] += 1
            else:
                asked.answer.set_result(reply)

    def _why(self, error: Exception) -> DriverError:
        if isinstance(error, WireError):
            return LinkLostError(f"out of step: {error}", device=self.name, do="connect again")
        return LinkLostError("the daemon closed the connection", device=self.name, do="is it gone? start it again")
