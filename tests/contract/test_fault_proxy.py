"""The fault proxy itself: every kind of fault on every carrier does to the bytes what it says, and nothing else."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import threading
import time
import tty
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract import fault_line as faults
from tests.contract.fault_line import FaultyLine
from tests.contract.fault_relay import DatagramRelay, StreamRelay
from tests.contract.served_instruments import served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENOUGH_S = 5.0
LATE_S = 0.08
ASKED, REPLY = b"ask\n", b"reply\n"


class Answering:
    """An instrument that answers each line with the same."""

    def receive(self, data: bytes) -> bytes:
        return REPLY * data.count(b"\n")

    def let_pass(self, _seconds: float) -> bytes:
        return b""

    def forget(self) -> None:
        """It has nothing to forget."""

    def state(self) -> dict[str, Any]:
        return {}


class Client:
    """Whoever asks: a descriptor to read from and a way to send."""

    def __init__(self, descriptor: int, send: Callable[[bytes], object]) -> None:
        self.descriptor, self.send = descriptor, send

    def got(self, n_bytes: int, within_s: float = ENOUGH_S) -> bytes:
        """So many bytes, or fewer if no more came in time."""
        came, until_s = b"", time.monotonic() + within_s
        while len(came) < n_bytes and (left_s := until_s - time.monotonic()) > 0:
            if select.select([self.descriptor], [], [], left_s)[0]:
                came += os.read(self.descriptor, 4096)
        return came


@contextlib.contextmanager
def _answering(server: socket.socket, *, is_datagram: bool) -> Iterator[None]:
    stop = threading.Event()
    server.settimeout(0.02)

    def run() -> None:
        clients: list[socket.socket] = []
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                if is_datagram:
                    data, sender = server.recvfrom(4096)
                    server.sendto(Answering().receive(data), sender)
                    continue
                if not clients:
                    clients.append(server.accept()[0])
                    clients[0].settimeout(0.02)
                data = clients[0].recv(4096)
                if not data:
                    break
                clients[0].sendall(Answering().receive(data))
        for one in clients:
            one.close()

    thread = threading.Thread(target=run, name="answering")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(ENOUGH_S)
        server.close()


@pytest.fixture(params=["pty", "tcp", "tcp relay", "udp", "unix"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Client]]:
    carrier = request.param
    with contextlib.ExitStack() as stack:
        if carrier in {"pty", "tcp"}:
            line: Any = FaultyLine(Answering())
            address = stack.enter_context(
                served(line, f"pty:{tmp_path}/p" if carrier == "pty" else "tcp://127.0.0.1:0")
            )
            if carrier == "pty":
                descriptor = os.open(address, os.O_RDWR | os.O_NOCTTY)
                stack.callback(os.close, descriptor)
                tty.setraw(descriptor)
                yield line, Client(descriptor, lambda data: os.write(descriptor, data))
                return
            host, _, port = address.removeprefix("socket://").rpartition(":")
            client = stack.enter_context(socket.create_connection((host, int(port))))
            yield line, Client(client.fileno(), client.sendall)
            return
        is_datagram, is_unix = carrier == "udp", carrier == "unix"
        server = socket.socket(
            socket.AF_UNIX if is_unix else socket.AF_INET, socket.SOCK_DGRAM if is_datagram else socket.SOCK_STREAM
        )
        server.bind(str(tmp_path / "server") if is_unix else ("127.0.0.1", 0))
        if not is_datagram:
            server.listen()
        stack.enter_context(_answering(server, is_datagram=is_datagram))
        relay: Any
        if is_datagram:
            relay = DatagramRelay(server.getsockname())
        elif is_unix:
            relay = StreamRelay(tmp_path / "server", tmp_path / "relay")
        else:
            relay = StreamRelay(server.getsockname())
        stack.enter_context(relay.running())
        client = stack.enter_context(socket.socket(server.family, server.type))
        client.connect(str(tmp_path / "relay") if is_unix else relay.address)
        yield relay, Client(client.fileno(), client.sendall)


def test_every_kind_does_what_it_says(proxy: tuple[Any, Client]) -> None:
    line, client = proxy

    def asked(fault: Any, expected: bytes) -> float:
        line.fault = fault
        before_s = time.monotonic()
        client.send(ASKED)
        assert client.got(len(expected)) == expected
        took_s = time.monotonic() - before_s
        line.fault = None
        return took_s

    asked(None, REPLY)
    assert asked(faults.late(LATE_S), REPLY) >= LATE_S  # delay, and a late reply
    assert asked(faults.split(0.004), REPLY) >= 0.004 * (len(REPLY) - 1)
    asked(faults.doubled(0.0), 2 * REPLY)  # duplicate
    asked(faults.flipped(1, 2), b"raply\n")
    asked(faults.truncated(2), b"re")
    asked(faults.babbled(100), b"U" * 100)
    asked(faults.slow(random.Random(1), latency_s=0.02, jitter_s=0.01, bytes_per_s=2000.0), REPLY)
    merged = faults.merged()
    line.fault = merged
    client.send(ASKED)
    assert client.got(1, LATE_S) == b""
    asked(merged, 2 * REPLY)
    line.fault = faults.dropped()
    client.send(ASKED)
    assert client.got(1, LATE_S) == b""
    line.fault = None
    line.is_frozen = True
    client.send(ASKED)
    assert client.got(1, LATE_S) == b""
    line.is_frozen = False
    assert client.got(len(REPLY)) == REPLY  # what was asked is answered when it thaws
    asked(None, REPLY)
