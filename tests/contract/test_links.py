"""Serial and VISA links against a peer that answers late, twice, never, without an end, or goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from tests.contract.hung_port import HungPort

from petqc_drivers.errors import (
    ConnectError,
    LinkLostError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyTimeoutError,
)
from petqc_drivers.transport import threaded
from petqc_drivers.transport.serial import SerialLine, serial_link
from petqc_drivers.transport.threaded import ThreadedLink
from petqc_drivers.transport.visa import VisaSession, visa_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def line(came: bytes) -> int | None:
    return came.find(b"\n") + 1 or None


class Peer:
    """Answers each line by what `answer` makes of it: pieces of bytes, or seconds to wait, None to close."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes], list[bytes | float | None]] = lambda asked: [b"re " + asked + b"\n"]
        self.asked: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._listen, name="peer")]
        self._threads[0].start()

    def _listen(self) -> None:
        self._server.settimeout(0.05)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._server.accept()
                thread = threading.Thread(target=self._serve, args=(client,), name="peer of one")
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(0.05)
        held = b""
        with client, contextlib.suppress(OSError):
            while not self._stop.is_set():
                try:
                    came = client.recv(4096)
                except TimeoutError:
                    continue
                if not came:
                    return
                held += came
                while b"\n" in held:
                    asked, _, held = held.partition(b"\n")
                    self.asked.append(asked)
                    for part in self.answer(asked):
                        if part is None:
                            return
                        if isinstance(part, float):
                            self._stop.wait(part)
                        else:
                            client.sendall(part)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        self._server.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture(params=["serial", "visa"])
def link(request: pytest.FixtureRequest, peer: Peer) -> ThreadedLink:
    if request.param == "serial":
        return serial_link("x", f"socket://127.0.0.1:{peer.port}", SerialLine(baud=9600))
    return visa_link("x", f"TCPIP::127.0.0.1::{peer.port}::SOCKET")


def session(link: ThreadedLink, work: Callable[[], object]) -> None:
    async def run() -> None:
        await link.open(2.0)
        try:
            await work()  # type: ignore[misc]
        finally:
            await link.aclose()

    asyncio.run(run())


async def ask(link: ThreadedLink, question: bytes, timeout_s: float = 2.0) -> bytes:
    return await link.exchange(question + b"\n", line, timeout_s)


def test_in_pieces_and_at_once(peer: Peer, link: ThreadedLink) -> None:
    peer.answer = lambda asked: [part for byte in b"re " + asked + b"\n" for part in (bytes((byte,)), 0.002)]

    async def work() -> None:
        for n in range(5):
            assert await ask(link, b"%d" % n) == b"re %d\n" % n

    session(link, work)
    assert link.counters["exchanges"] == 5


def test_silence_and_the_late_reply(peer: Peer, link: ThreadedLink) -> None:
    """What comes late is never the answer to the next question, once the link was brought in step."""
    peer.answer = lambda asked: [0.3 if asked == b"slow" else 0.0, b"re " + asked + b"\n"]

    async def work() -> None:
        await link.drain(0.05, 1.0)
        link.is_in_step = True
        assert await ask(link, b"a") == b"re a\n"
        assert link.is_in_step
        with pytest.raises(ReplyTimeoutError, match="no reply"):
            await ask(link, b"slow", 0.1)
        assert not link.is_in_step
        await link.drain(0.4, 3.0)
        assert await ask(link, b"b") == b"re b\n"

    session(link, work)
    assert link.counters["unasked_bytes"] == len(b"re slow\n")


def test_twice_and_more_than_asked(peer: Peer, link: ThreadedLink) -> None:
    peer.answer = lambda asked: [b"re " + asked + b"\nre " + asked + b"\n"]

    async def work() -> None:
        link.is_in_step = True
        assert await ask(link, b"a") == b"re a\n"
        await asyncio.sleep(0.05)
        assert await ask(link, b"b") == b"re b\n"

    session(link, work)
    assert link.counters["unasked_bytes"] >= len(b"re a\n")


def test_babble_is_bounded(peer: Peer, link: ThreadedLink) -> None:
    peer.answer = lambda _asked: [b"x" * 4096] * 20

    async def work() -> None:
        with pytest.raises(RemoteProtocolError, match="no reply ended in them"):
            await ask(link, b"a")

    session(link, work)
    assert link.counters["babble"] == 1


def test_a_drain_that_never_ends_ends(peer: Peer, link: ThreadedLink) -> None:
    peer.answer = lambda _asked: [part for _ in range(40) for part in (b"x", 0.02)]

    async def work() -> None:
        await link.send(b"a\n", 1.0)
        with pytest.raises(RemoteProtocolError, match="does not stop"):
            await link.drain(0.1, 0.4)

    session(link, work)


def test_the_other_end_goes_away(peer: Peer, link: ThreadedLink) -> None:
    peer.answer = lambda _asked: [None]

    async def work() -> None:
        with pytest.raises(LinkLostError, match="closed the connection"):
            await ask(link, b"a", 0.3)
        peer.answer = lambda asked: [b"re " + asked + b"\n"]
        await link.open(2.0)
        assert await ask(link, b"b") == b"re b\n"

    session(link, work)


def test_cancelled_anywhere_it_is_out_of_step_and_goes_on(peer: Peer, link: ThreadedLink) -> None:
    peer.answer = lambda asked: [0.2 if asked.startswith(b"x") else 0.0, b"re " + asked + b"\n"]

    async def work() -> None:
        for n in range(3):
            task = asyncio.create_task(ask(link, b"x%d" % n))
            await asyncio.sleep(0.03 * n)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not link.is_in_step
            await link.drain(0.3, 3.0)
            assert await ask(link, b"y%d" % n) == b"re y%d\n" % n

    session(link, work)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    async def work() -> None:
        tcp = serial_link("x", f"socket://127.0.0.1:{port}", SerialLine(baud=9600))
        with pytest.raises(ConnectError):
            await tcp.open(1.0)
        tty = serial_link("x", "/dev/no-such-port", SerialLine(baud=9600))
        with pytest.raises(ConnectError, match="/dev/no-such-port"):
            await tty.open(1.0)
        with pytest.raises(LinkLostError, match="no session"):
            await ask(tcp, b"a")
        visa = visa_link("x", f"TCPIP::127.0.0.1::{port}::SOCKET")
        with pytest.raises(ConnectError):
            await visa.open(1.0)

    asyncio.run(work())


def test_a_pseudo_terminal_is_opened_again_whatever_the_line_has() -> None:
    ours, theirs = os.openpty()
    path = os.ttyname(theirs)
    os.close(theirs)
    port = serial_link("x", path, SerialLine(baud=4800, data_bits=7, parity="even", rts_cts=True))
    try:
        for _ in range(3):
            session(port, lambda: asyncio.sleep(0))
    finally:
        os.close(ours)


def test_addresses_that_are_none() -> None:
    for address in ("COM1", "loop://", "socket://there", "socket://there:1/x", "tcp://there:1"):
        with pytest.raises(LocalProtocolError):
            serial_link("x", address, SerialLine(baud=9600))
    for resource in ("there", "PXI0::1::INSTR", "TCPIP", "ASRL/dev/ttyS0::INSTR"):
        with pytest.raises(LocalProtocolError):
            visa_link("x", resource)


def test_a_reply_that_came_while_the_loop_was_held_up(
    peer: Peer, link: ThreadedLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came in time: nobody is abandoned because the loop looked too late."""
    monkeypatch.setattr(threaded, "_GRACE_S", 0.05)
    peer.answer = lambda asked: [0.1, b"re " + asked + b"\n"]

    async def work() -> None:
        asked = asyncio.ensure_future(ask(link, b"a", 0.5))
        await asyncio.sleep(0.01)
        time.sleep(0.7)  # noqa: ASYNC251
        assert await asked == b"re a\n"

    session(link, work)
    assert not link.counters["abandoned"]


def test_a_library_that_never_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left behind with its thread, twice at most, and nobody waits for it."""
    monkeypatch.setattr(threaded, "_GRACE_S", 0.05)
    comes_back = threading.Event()

    closed: list[float] = []
    link = ThreadedLink("x", lambda _timeout_s: HungPort(comes_back, closed))

    async def work() -> None:
        for _ in range(threaded.MOST_ABANDONED):
            await link.open(1.0)
            with pytest.raises(ReplyTimeoutError, match="did not come back"):
                await ask(link, b"a", 0.05)
        with pytest.raises(ConnectError, match="never came back"):
            await link.open(1.0)
        comes_back.set()
        while len(closed) < threaded.MOST_ABANDONED:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await link.open(1.0)
        await link.aclose()

    asyncio.run(work())
    assert link.counters["abandoned"] == threaded.MOST_ABANDONED


def test_a_session_of_the_visa_library(peer: Peer) -> None:
    """pyvisa-py itself, over the only one of its interfaces that needs no instrument."""
    peer.answer = lambda asked: [] if asked == b"silent" else [b"re " + asked + b"\n"]
    resource = f"TCPIP::127.0.0.1::{peer.port}::SOCKET"
    link = ThreadedLink("x", lambda timeout_s: VisaSession(resource, b"\n", timeout_s))

    async def work() -> None:
        assert await ask(link, b"a") == b"re a\n"
        with pytest.raises(ReplyTimeoutError):
            await ask(link, b"silent", 0.2)
        await link.drain(0.05, 1.0)
        assert await ask(link, b"b") == b"re b\n"

    session(link, work)
