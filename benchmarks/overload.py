"""More frames than can be taken, for a minute: is everything counted, does the event loop turn, does memory stay flat.

    python benchmarks/overload.py [--seconds 60] [--ms 20] [--json OUT.json]
    chrt --rr 5 python benchmarks/overload.py     # as root, where others use the processors too

A process sends data datagrams to the driver's link as fast as it can; the consumer takes so many milliseconds for each
block, as a disk that is too slow would. What is sent must be received or counted as dropped, the one or the other; the
longest time that the event loop was late, and the memory after the first and the last second, are printed.

Late is also what waits for a processor that others use. That part is measured too, by the kernel, and is taken off in
`longest_lag_of_its_own_ms`: what is left is what this process itself does to its event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from petqc_drivers.petsys import frames
from petqc_drivers.petsys.udp_link import UdpReadoutLink

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

FRAMES = 40
"""In a datagram, empty ones."""
GREETING = b"\xff" * 22


def send(board: socket.socket, seconds: float, told: Connection) -> None:
    """Answer the greeting, and send from the first command on; how many datagrams went out is told at the end."""
    _, host = board.recvfrom(4096)
    board.sendto(GREETING, host)
    told.recv()
    words = np.zeros((FRAMES, 2), np.uint64)
    first, sent, ends = 0, 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        for _ in range(64):
            words[:, 0] = (first + np.arange(FRAMES)) | 2 << 36
            board.sendto(frames.data_datagram(words.ravel()), host)
            first, sent = first + FRAMES, sent + 1
    told.send(sent)


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def waited_for_processor_s() -> float:
    """How long this thread was ready to run and had no processor, since it began. Source: proc(5), schedstat."""
    return int(Path("/proc/thread-self/schedstat").read_text("ascii").split()[1]) / 1e9


async def measured(seconds: float, block_s: float) -> dict[str, float]:
    """What came of it."""
    board = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    board.bind(("127.0.0.1", 0))
    ours, theirs = multiprocessing.Pipe()
    sender = multiprocessing.get_context("fork").Process(target=send, args=(board, seconds, theirs))
    sender.start()
    link = UdpReadoutLink(board.getsockname())
    worst_s, worst_own_s, memory = 0.0, 0.0, []

    def sink(_words: NDArray[np.uint64]) -> None:
        time.sleep(block_s)

    try:
        await link.open()
        await link.start_data(sink, min_frame=0, on_first=lambda: None, on_failure=lambda _error: None)
        ours.send("go")
        ends = time.monotonic() + seconds
        while (now := time.monotonic()) < ends:
            waited_s = waited_for_processor_s()
            await asyncio.sleep(0.01)
            late_s = time.monotonic() - now - 0.01
            worst_s = max(worst_s, late_s)
            worst_own_s = max(worst_own_s, late_s - (waited_for_processor_s() - waited_s))
            memory.append(resident_mib())
        sent = await asyncio.to_thread(ours.recv)
        await asyncio.sleep(1.0)
        account = await link.stop_data()
    finally:
        await link.aclose()
        board.close()
        sender.join(10.0)
    if account.failure is not None:
        raise account.failure
    return {
        "seconds": seconds,
        "sent": sent,
        "received": account.datagrams,
        "dropped": account.kernel_drops,
        "unaccounted": sent - account.datagrams - account.kernel_drops,
        "longest_lag_ms": round(1e3 * worst_s, 1),
        "longest_lag_of_its_own_ms": round(1e3 * worst_own_s, 1),
        "memory_after_1_s_mib": round(memory[min(len(memory) - 1, 100)], 1),
        "memory_at_end_mib": round(memory[-1], 1),
    }


def main() -> int:
    """Run it and say what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--ms", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = asyncio.run(measured(given.seconds, given.ms / 1e3))
    text = json.dumps(found)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", "utf-8")
    return 0 if not found["unaccounted"] else 1


if __name__ == "__main__":
    sys.exit(main())
