"""Datagrams: our receiver and its intake of frames against asyncio's DatagramProtocol, and a full gigabit recorded."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from figures import Figure

from petqc_drivers.petsys.frames import data_datagram, pack_frames
from petqc_drivers.petsys.receive import FrameIntake
from petqc_drivers.transport.udp import UdpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from figures import Size
    from numpy.typing import NDArray

EVENTS = {"1.4 kB": 170, "8 kB": 1010}
GIGABIT_BYTES_PER_S = 118e6
FILL_BYTES = 2 << 20
ROUNDS, WARM = 24, 8
"""How often the socket is filled and emptied, and how many of these are not counted: memory is in use by then."""
_SENDER = """
import socket, struct, sys, time
port, own, n, rate = (int(x) for x in sys.argv[1:])
blob = bytearray(sys.stdin.buffer.read())
words = (len(blob) - 1) // 8 << 36
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", own))
began = time.perf_counter()
for k in range(n):
    struct.pack_into("<Q", blob, 1, k | words)
    sock.sendto(blob, ("127.0.0.1", port))
    if not k % 8:
        early = began + k * len(blob) / rate - time.perf_counter()
        if early > 0:
            time.sleep(early)
print(time.perf_counter() - began)
"""


def datagram(events: int, frame: int = 0) -> bytes:
    return data_datagram(pack_frames(np.array([frame]), np.array([events]), np.arange(events, dtype=np.uint64)))


class Handler:
    """Every datagram is taken for frames, as in an acquisition."""

    def __init__(self, sink: Any) -> None:
        self.intake = FrameIntake(sink, min_frame=0, device="bench", on_first=lambda: None, on_failure=print)
        self.take = self.intake.take

    def datagram(self, first: int, body: memoryview) -> None:
        del first
        self.intake.datagram(body)

    def pause(self) -> float | None:
        due_s = self.intake.due_in_s()
        if due_s == 0.0:
            self.intake.flush()
        return due_s

    def failed(self, error: Exception) -> None:
        raise error


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.left, self.kept = 0, bytearray()
        self.done = asyncio.get_running_loop().create_future()

    def wait_for(self, n: int) -> asyncio.Future[None]:
        self.left, self.done = n, asyncio.get_running_loop().create_future()
        return self.done

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        self.kept += data[1:]
        if len(self.kept) > 1 << 20:
            self.kept.clear()
        self.left -= 1
        if self.left == 0:
            self.done.set_result(None)


class _Board:
    """A socket that waits for datagrams, and one that sends so many that they all fit into its buffer."""

    def __init__(self, blob: bytes) -> None:
        self.receiver, self.sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.receiver.setblocking(False)
        self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        for sock in (self.receiver, self.sender):
            sock.bind(("127.0.0.1", 0))
        self.n = FILL_BYTES // (2 * len(blob))
        self._blob, self._frame = blob, 0

    def fill(self) -> None:
        head = int.from_bytes(self._blob[1:9], "little")
        for _ in range(self.n):
            body = (head + self._frame).to_bytes(8, "little") + self._blob[9:]
            self.sender.sendto(self._blob[:1] + body, self.receiver.getsockname())
            self._frame += 1

    def close(self) -> None:
        self.receiver.close()
        self.sender.close()


def _ours_s(blob: bytes) -> float:
    """Processor seconds for a datagram."""
    with contextlib.closing(_Board(blob)) as board:
        handler = Handler(lambda _words: None)
        udp = UdpReceiver(board.sender.getsockname(), handler)
        took = 0.0
        for turn in range(ROUNDS):
            board.fill()
            began = time.thread_time()
            while not udp._burst(board.receiver):  # noqa: SLF001 - what its thread does, without the waiting
                pass
            took += (turn >= WARM) * (time.thread_time() - began)
        if udp.counters["datagrams"] != ROUNDS * board.n:
            raise RuntimeError(f"{udp.counters} of {ROUNDS * board.n}")
        return took / (ROUNDS - WARM) / board.n


def _asyncio_s(blob: bytes) -> float:
    async def drain() -> float:
        with contextlib.closing(_Board(blob)) as board:
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_datagram_endpoint(_Protocol, sock=board.receiver)
            took = 0.0
            for turn in range(ROUNDS):
                done = protocol.wait_for(board.n)
                board.fill()
                began = time.thread_time()
                await done
                took += (turn >= WARM) * (time.thread_time() - began)
            transport.close()
            return took / (ROUNDS - WARM) / board.n

    return asyncio.run(drain())


async def _gigabit(seconds: float, file: Any) -> tuple[int, int, float, float]:
    """Sent and recorded datagrams, seconds it took, processor seconds of this process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        own = probe.getsockname()[1]
    blob = datagram(EVENTS["8 kB"])
    n = int(seconds * GIGABIT_BYTES_PER_S / len(blob))

    def sink(words: NDArray[np.uint64]) -> None:
        file.write(words)

    handler = Handler(sink)
    udp = UdpReceiver(("127.0.0.1", own), handler)
    udp.open()
    port = udp._socket.getsockname()[1]  # type: ignore[union-attr]  # noqa: SLF001
    began = time.process_time()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _SENDER,
        str(port),
        str(own),
        str(n),
        str(int(GIGABIT_BYTES_PER_S)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    out, _ = await child.communicate(blob)
    await udp.call(handler.intake.flush, timeout_s=5.0)
    spent = time.process_time() - began
    frames = handler.intake.account(datagrams_rejected={}, kernel_drops=0, receive_buffer_bytes=0).frames_delivered
    await udp.aclose()
    return n, frames, float(out), spent


def figures(size: Size) -> Iterator[Figure]:
    for name, events in EVENTS.items():
        blob = datagram(events)
        turns = [(_ours_s(blob), _asyncio_s(blob)) for _ in range(10 * size.repeats)]
        ours, theirs = (statistics.median(t) for t in zip(*turns, strict=True))
        yield Figure(
            f"intake-{name.replace(' ', '')}",
            f"datagrams of {name} against DatagramProtocol",
            theirs / ours,
            "×",
            f"ours checks and joins every frame: {1e-3 / ours:.0f} k a second of a core; asyncio's only joins bytes: "
            f"{1e-3 / theirs:.0f} k",
            5.0,
        )
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "frames").open("wb", 1 << 20) as file:
        sent, recorded, took, spent = asyncio.run(_gigabit(0.2 if size.quick else 10.0, file))
    yield Figure(
        "gigabit-lost",
        "frames lost at a full gigabit, recorded",
        float(sent - recorded),
        "frames",
        f"{sent} datagrams of 8 kB in {took:.1f} s of {sent * 8.1e3 / GIGABIT_BYTES_PER_S:.1f} s asked for",
        0.0,
        is_least=False,
    )
    yield Figure(
        "gigabit-core",
        "core that it takes",
        spent / took,
        "of a core",
        "processor time of receiving and recording",
        1.0,
        is_least=False,
    )
