"""Clients that read or ask too slowly are let go, whoever reads at a tolerable pace is not."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from petqcd.web import slow_clients
from petqcd.web.server import Connections, make_server, tcp_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

ANSWER = b"x" * (16 << 20)
"""More than the system takes for somebody who does not read."""
DEADLINE_S = 60


async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
    headers = [(b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


async def served(work: Callable[[int], object], most: int = 100) -> None:
    listening = tcp_socket("127.0.0.1", 0)
    server = make_server(app, connections=Connections(20, lambda: None), most=most)  # type: ignore[arg-type]
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await server.ready.wait()
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.to_thread(work, listening.getsockname()[1])
    finally:
        server.should_exit = True
        await serving
        listening.close()


def connected(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.settimeout(DEADLINE_S)
    found.connect(("127.0.0.1", port))
    return found


def read_to_the_end(connection: socket.socket, most: int = 1 << 16) -> int:
    """Bytes until the other end closes or breaks off."""
    n = 0
    try:
        while data := connection.recv(most):
            n += len(data)
    except ConnectionResetError:
        pass
    return n


def test_who_does_not_read_is_let_go_and_who_reads_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "LOOK_S", 1.0)

    def work(port: int) -> None:
        with connected(port) as lazy, connected(port) as keen:
            for one in (lazy, keen):
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert read_to_the_end(keen) > len(ANSWER)
            lazy.recv(1)
            _closed(lazy)
            assert read_to_the_end(lazy) < len(ANSWER)

    asyncio.run(served(work))


def test_an_answer_that_takes_longer_than_a_request_may_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "LOOK_S", 0.1)
    monkeypatch.setattr(slow_clients, "REQUEST_S", 0.3)

    def work(port: int) -> None:
        with connected(port) as patient:
            patient.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            n = 0
            for _ in range(100):
                n += len(patient.recv(1 << 12))
                time.sleep(0.01)
            assert n + read_to_the_end(patient) > len(ANSWER)

    asyncio.run(served(work))


def _closed(connection: socket.socket) -> None:
    """Wait, without reading, until the other end has given it up: what is sent then is answered by a reset."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    assert poll.poll(1000 * DEADLINE_S), "it was not let go"


def test_a_request_that_does_not_end_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "LOOK_S", 0.1)
    monkeypatch.setattr(slow_clients, "REQUEST_S", 0.3)

    def work(port: int) -> None:
        with connected(port) as silent, connected(port) as slow, connected(port) as half:
            slow.sendall(b"GET / HT")
            half.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
            assert read_to_the_end(silent) == 0
            read_to_the_end(slow)

    asyncio.run(served(work))


def test_who_asks_nothing_makes_room_and_who_is_answered_does_not() -> None:
    most = 10

    def work(port: int) -> None:
        with ExitStack() as stack:
            reads = stack.enter_context(connected(port))
            reads.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            head = reads.recv(1)
            idle = [stack.enter_context(connected(port)) for _ in range(3 * most)]
            half = idle[-1]
            half.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
            keen = stack.enter_context(connected(port))
            keen.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert keen.recv(12) == b"HTTP/1.1 200"
            assert len(head) + read_to_the_end(reads) > len(ANSWER)
            assert all(read_to_the_end(one) == 0 for one in idle[:most])

    asyncio.run(served(work, most))


@pytest.mark.parametrize("look_s", [0.3, 60.0])
def test_where_all_have_asked_whoever_reads_slowest_makes_room(monkeypatch: pytest.MonkeyPatch, look_s: float) -> None:
    """However long ago they were looked at."""
    monkeypatch.setattr(slow_clients, "TO_JUDGE_S", 0.2)
    monkeypatch.setattr(slow_clients, "LOOK_S", look_s)
    monkeypatch.setattr(slow_clients, "LEAST_BYTES_PER_S", -1.0)  # not to be let go for that
    most = 10

    def work(port: int) -> None:
        with ExitStack() as stack:
            unread = [_asked(stack, port) for _ in range(most - 2)]  # the last place is for whoever comes
            for one in unread:
                assert one.recv(12) == b"HTTP/1.1 200"  # its answer is there
            keen = _asked(stack, port)
            n = len(keen.recv(12))
            end_s = time.monotonic() + 0.4
            while time.monotonic() < end_s:  # it reads, and is not at the end
                n += len(keen.recv(1 << 12))
                time.sleep(0.001)
            others = []
            for _ in range(3):  # not one of them is told that there is no room
                others.append(_asked(stack, port))
                assert others[-1].recv(12) == b"HTTP/1.1 200"
            assert n + read_to_the_end(keen) > len(ANSWER)
            assert sum(_is_closed(one) for one in [*unread, *others]) == 3  # one for each, who reads is not among them
            assert 12 + read_to_the_end(others[-1]) > len(ANSWER)

    asyncio.run(served(work, most))


def _is_closed(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def _asked(stack: ExitStack, port: int) -> socket.socket:
    found = stack.enter_context(connected(port))
    found.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return found
