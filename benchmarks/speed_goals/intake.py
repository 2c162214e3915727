"""Datagrams: our receiver and its intake of frames against asyncio's DatagramProtocol, and a full gigabit recorded."""

from __future__ import annotations

import asyncio
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
        self.room = self.intake.room

    def datagram(self, first: int, n_bytes: int) -> None:
        del first
        self.intake.accept(n_bytes)

    def pause(self) -> float | None:
        due_s = self.intake.due_in_s()
        if due_s == 0.0:
            self.intake.flush()
        return due_s

    def failed(self, error: Exception) -> None:
        raise error


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, n: int) -> None:
        self.left, self.kept = n, bytearray()
        self.done = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        self.kept += data[1:]
        if len(self.kept) > 1 << 20:
            self.kept.clear()
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


def _filled(blob: bytes) -> tuple[socket.socket, socket.socket, int]:
    """A socket in which so many datagrams wait, and the one that sent them."""
    receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    receiver.setblocking(False)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    for sock in (receiver, sender):
        sock.bind(("127.0.0.1", 0))
    n = FILL_BYTES // (2 * len(blob))
    for k in range(n):
        sender.sendto(
            blob[:1] + (int.from_bytes(blob[1:9], "little") + k).to_bytes(8, "little") + blob[9:],
            receiver.getsockname(),
        )
    return receiver, sender, n


def _ours_s(blob: bytes) -> float:
    receiver, sender, n = _filled(blob)
    with receiver, sender:
        handler = Handler(lambda _words: None)
        udp = UdpReceiver(sender.getsockname(), handler)
        began = time.thread_time()
        while not udp._burst(receiver):  # noqa: SLF001 - what its thread does, without the waiting
            pass
        took = time.thread_time() - began
        if udp.counters["datagrams"] != n:
            raise RuntimeError(f"{udp.counters} of {n}")
    return took / n


def _asyncio_s(blob: bytes) -> float:
    async def drain() -> float:
        receiver, sender, n = _filled(blob)
        with sender:
            began = time.thread_time()
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_datagram_endpoint(lambda: _Protocol(n), sock=receiver)
            await protocol.done
            took = time.thread_time() - began
            transport.close()
        return took / n

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
