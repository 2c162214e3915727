"""Rows of the fault matrix on UDP: frames through a relay that loses, doubles and shuffles them, or too many."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract import fault_line as faults
from tests.contract.fault_relay import DatagramRelay

from petqc_drivers.errors import LinkLostError
from petqc_drivers.petsys import frames
from petqc_drivers.petsys.frames import FRAME_ID_MODULO, frame_ids, scan_frames
from petqc_drivers.petsys.receive import RESTART_FRAMES, ReceiveAccount
from petqc_drivers.petsys.udp_link import UdpReadoutLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from numpy.typing import NDArray

GREETING = b"\xff" * 22
FRAMES = 20
"""In a datagram."""
DATAGRAMS = 300
"""With the fault on, but where it says another number."""


def block(first: int) -> NDArray[np.uint64]:
    """Frames without events, in order; ids wrap."""
    words = np.zeros((FRAMES, 2), np.uint64)
    words[:, 0] = (first + np.arange(FRAMES)) % FRAME_ID_MODULO | 2 << 36
    return words.ravel()


class Streaming:
    """A link with an acquisition behind a relay, and whoever sends the frames."""

    def __init__(self, relay: DatagramRelay, board: socket.socket, link: UdpReadoutLink) -> None:
        self.relay, self.link, self._board = relay, link, board
        self.ids: list[int] = []
        self.failures: list[Exception] = []

    def sink(self, words: NDArray[np.uint64]) -> None:
        """Keep which frames came."""
        self.ids += frame_ids(words, scan_frames(words).starts).tolist()

    async def send(self, first: int, datagrams: int, *, at_most_ahead: int = 16) -> None:
        """That many datagrams of frames that follow each other; no faster than the relay takes them."""
        before = self.relay.data
        for n in range(datagrams):
            self._board.sendto(frames.data_datagram(block(first + FRAMES * n)), self.relay._theirs.getsockname())
            if n % at_most_ahead == at_most_ahead - 1 or n == datagrams - 1:
                await self._taken(before + n + 1)

    async def _taken(self, datagrams: int) -> None:
        async with asyncio.timeout(10.0):
            while self.relay.data < datagrams:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def account(self) -> ReceiveAccount:
        """After everything on its way arrived."""
        before = -1
        while (now := self.link._receiver.counters["datagrams"]) != before:  # type: ignore[union-attr]
            before = now
            await asyncio.sleep(0.1)
        return await self.link.stop_data()


@contextlib.asynccontextmanager
async def streaming(
    first: int = 0, sink: Callable[[Any], None] | None = None, **given: Any
) -> AsyncIterator[Streaming]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as board:
        board.bind(("127.0.0.1", 0))
        greeter = threading.Thread(target=lambda: board.sendto(GREETING, board.recvfrom(4096)[1]), name="board")
        greeter.start()
        relay = DatagramRelay(board.getsockname(), lambda _data: False)
        with relay.running():
            link = UdpReadoutLink(relay.address, **given)
            try:
                await link.open()
                greeter.join(5.0)
                one = Streaming(relay, board, link)
                await link.start_data(
                    sink or one.sink, min_frame=first, on_first=lambda: None, on_failure=one.failures.append
                )
                yield one
            finally:
                await link.aclose()


@pytest.mark.parametrize(("share", "burst"), [(0.005, 1), (0.05, 1), (0.5, 1), (0.2, 32)])
def test_udp_01_what_is_lost_is_counted_exactly_as_the_relay_logged_it(share: float, burst: int) -> None:
    lost: list[bytes] = []

    async def main() -> None:
        async with streaming() as one:
            await one.send(0, 2)  # the first and the last one are never lost: what is between them is counted
            one.relay.data_fault = faults.lossy(random.Random(1), share, burst, lost)
            await one.send(2 * FRAMES, DATAGRAMS)
            one.relay.data_fault = None
            await one.send((DATAGRAMS + 2) * FRAMES, 1)
            account = await one.account()
            assert account.kernel_drops == 0
            assert account.frames_missing == FRAMES * len(lost)
            assert account.frames_delivered == FRAMES * (DATAGRAMS + 3 - len(lost))
            assert not one.failures

    asyncio.run(main())
    assert lost


@pytest.mark.parametrize("depth", [1, 8, 64])
def test_udp_02_doubled_and_shuffled_frames_come_once_and_in_order_or_are_counted(depth: int) -> None:
    async def main() -> None:
        async with streaming() as one:
            await one.send(0, 1)
            shuffled, doubled = faults.shuffled(random.Random(depth), depth), faults.doubled(0.0)
            passed: list[int] = []

            def fault(data: bytes) -> list[tuple[float, bytes]]:
                pieces = [two for _, piece in shuffled(data) for two in doubled(piece)]
                passed.append(len(pieces))
                return pieces

            one.relay.data_fault = fault
            await one.send(FRAMES, DATAGRAMS)
            one.relay.data_fault = None
            await one.send((DATAGRAMS + 1) * FRAMES, 1)
            account = await one.account()
            assert account.kernel_drops == 0
            assert one.ids == sorted(set(one.ids))
            assert account.frames_delivered == len(one.ids)
            # Each frame that the relay let through is delivered once, or was late; its double is late always.
            assert account.datagrams == sum(passed) + 2
            assert account.frames_rejected["late-or-duplicate"] == FRAMES * account.datagrams - len(one.ids)
            assert account.frames_missing == (DATAGRAMS + 2) * FRAMES - len(one.ids)
            assert not one.failures

    asyncio.run(main())


def test_udp_03_the_frame_counter_wraps_and_nothing_is_missing() -> None:
    first = FRAME_ID_MODULO - 50 * FRAMES

    async def main() -> None:
        async with streaming(first) as one:
            await one.send(first, 100)
            account = await one.account()
            assert (account.frames_delivered, account.frames_missing) == (100 * FRAMES, 0)
            assert (account.first_frame, account.last_frame) == (first, 50 * FRAMES - 1)

    asyncio.run(main())


@pytest.mark.parametrize("to", [0, 500_000, 1 << 35], ids=["restart", "back", "far ahead"])
def test_udp_03_a_counter_that_begins_elsewhere_ends_the_acquisition_without_a_huge_gap(to: int) -> None:
    async def main() -> None:
        async with streaming(1_000_000) as one:
            await one.send(1_000_000, 100)
            await one.send(to, RESTART_FRAMES // FRAMES + 50)
            async with asyncio.timeout(10.0):
                while not one.failures:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            account = await one.account()
            assert isinstance(account.failure, LinkLostError)
            assert "restarted" in str(account.failure)
            assert (account.frames_delivered, account.frames_missing) == (100 * FRAMES, 0)

    asyncio.run(main())


def test_udp_05_more_than_can_be_taken_is_counted_and_keeps_nobody_waiting() -> None:
    """The consumer takes its time; what the kernel had no room for is counted, and the event loop turns meanwhile."""
    sent = 2000
    turns = [0]

    async def main() -> None:
        busy = threading.Event()

        def sink(_words: NDArray[np.uint64]) -> None:
            busy.wait(0.02)

        async def turning() -> None:
            while True:
                await asyncio.sleep(0)
                turns[0] += 1

        async with streaming(sink=sink, receive_buffer_bytes=4096) as one:
            loop = asyncio.create_task(turning())
            await one.send(0, sent, at_most_ahead=100)
            busy.set()
            account = await one.account()
            loop.cancel()
            assert account.kernel_drops > 0
            assert account.datagrams + account.kernel_drops == sent
            assert account.frames_delivered == FRAMES * account.datagrams
            assert account.frames_missing <= FRAMES * account.kernel_drops

    asyncio.run(main())
    assert turns[0] > 1000
