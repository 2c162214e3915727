"""The link over real loopback sockets, against peers that answer late, twice, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.patience import PATIENT_S, SHORT_S

from petqc_drivers.errors import (
    ConnectError,
    LinkLostError,
    LocalProtocolError,
    OvertakenError,
    RemoteProtocolError,
    ReplyTimeoutError,
    StateError,
)
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys import frames, wire
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve, encode_bias
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.mezzanines import BIAS_32P
from petqc_drivers.petsys.udp_link import UdpReadoutLink
from petqc_drivers.petsys.wire import Function
from petqc_drivers.transport.udp import UdpReceiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from petqc_drivers.transport.datagrams import Datagrams

GREETING = b"\xff" * 22
READ = wire.MemoryRead(0x200, 1).to_bytes()


def answer(command: bytes, payload: bytes) -> bytes:
    """A reply, put together by hand."""
    return b"\x5a" + command[:16] + command[16:17] + payload


def value_reply(command: bytes, value: int = 1) -> bytes:
    return answer(command, bytes((0, value, 0)))


class Peer(asyncio.DatagramProtocol):
    """A board of a few lines: `script(number, command)` gives the datagrams to send back."""

    def __init__(self, script: Callable[[int, bytes], list[bytes]], *, greets: bool = True) -> None:
        self.script = script
        self.greets = greets
        self.commands: list[bytes] = []
        self.greetings = 0
        self.host: tuple[str, int] | None = None
        self.came = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.host = addr
        if data == GREETING:
            if self.greets:
                self.greetings += 1
                self.send(GREETING)
            return
        self.commands.append(data)
        self.came.set()
        for reply in self.script(len(self.commands), data):
            self.send(reply)

    def send(self, data: bytes) -> None:
        self.transport.sendto(data, self.host)

    @property
    def address(self) -> tuple[str, int]:
        return self.transport.get_extra_info("sockname")


@asynccontextmanager
async def linked(
    script: Callable[[int, bytes], list[bytes]],
    *,
    tries: int = 3,
    reply_timeout_s: float = PATIENT_S,
    greets: bool = True,
) -> AsyncIterator[tuple[Peer, UdpReadoutLink]]:
    loop = asyncio.get_running_loop()
    transport, peer = await loop.create_datagram_endpoint(
        lambda: Peer(script, greets=greets), local_addr=("127.0.0.1", 0)
    )
    link = UdpReadoutLink(peer.address, tries=tries, reply_timeout_s=reply_timeout_s)
    try:
        await link.open()
        yield peer, link
    finally:
        await link.aclose()
        transport.close()
        await asyncio.sleep(0)  # the transport closes its socket in the next turn of the loop


def good(_: int, command: bytes) -> list[bytes]:
    return [value_reply(command)]


async def read(link: UdpReadoutLink) -> bytes:
    return await link.exchange(Function.REGISTERS, READ, what="read 0x0200 clock_locked")


def test_a_command_is_answered():
    async def main():
        async with linked(good) as (peer, link):
            assert await read(link) == b"\x00\x01\x00"
            assert peer.commands[0][17:] == READ
            assert link.link_account().replies == 1
            assert link.last_good_s is not None

    asyncio.run(main())


def test_nobody_there_is_an_error_that_says_where_and_what_to_do():
    async def main():
        with pytest.raises(ConnectError) as caught:
            async with linked(good, greets=False):
                pass
        text = str(caught.value)
        assert "127.0.0.1" in text
        assert "no answer to 5 greetings" in text
        assert "last good answer never" in text
        assert "check power" in text

    asyncio.run(main())


def test_a_board_that_answers_from_another_port_is_told():
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))

            class Elsewhere(asyncio.DatagramProtocol):
                def datagram_received(self, data, addr):
                    other.sendto(data, addr)

            transport, _ = await loop.create_datagram_endpoint(Elsewhere, local_addr=("127.0.0.1", 0))
            link = UdpReadoutLink(transport.get_extra_info("sockname"))
            with pytest.raises(ConnectError, match=f"datagrams came from 127.0.0.1:{other.getsockname()[1]}"):
                await link.open()
            assert link.link_account().foreign_datagrams >= 1
            transport.close()
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_lost_reply_is_asked_for_again_with_a_new_serial():
    async def main():
        async with linked(lambda n, c: [] if n < 3 else [value_reply(c, 7)], reply_timeout_s=SHORT_S) as (peer, link):
            assert await read(link) == b"\x00\x07\x00"
            serials = [int.from_bytes(c[:16], "little") for c in peer.commands]
            assert [(s - serials[0]) % wire.SERIAL_MODULO for s in serials] == [0, 1, 2]
            account = link.link_account()
            assert (account.commands, account.tries, account.replies) == (1, 3, 1)

    asyncio.run(main())


def test_a_silent_board_is_an_error_with_the_register_and_the_last_good_time():
    async def main():
        async with linked(lambda n, c: [value_reply(c)] if n == 1 else [], reply_timeout_s=SHORT_S) as (peer, link):
            await read(link)
            with pytest.raises(ReplyTimeoutError) as caught:
                await read(link)
            assert len(peer.commands) == 1 + 3
            text = str(caught.value)
            assert "no reply to read 0x0200 clock_locked in 3 tries of 0.3 s" in text
            assert "last good answer 0." in text
            assert isinstance(caught.value, TimeoutError)

    asyncio.run(main())


def test_a_late_reply_never_answers_a_later_command():
    held: list[bytes] = []

    def script(n: int, command: bytes) -> list[bytes]:
        if n == 1:  # kept until the next command comes, then sent first, with another value
            held.append(value_reply(command, 99))
            return []
        return [*held, value_reply(command, 5)]

    async def main():
        async with linked(script, tries=1, reply_timeout_s=SHORT_S) as (_, link):
            with pytest.raises(ReplyTimeoutError):
                await read(link)
            assert await read(link) == b"\x00\x05\x00"
            assert link.link_account().replies_late == 1

    asyncio.run(main())


def test_doubled_replies_are_counted_and_never_taken_for_another():
    async def main():
        async with linked(lambda n, c: [value_reply(c, n)] * 3) as (_, link):
            for n in range(1, 50):
                assert await read(link) == bytes((0, n, 0))
            account = link.link_account()
            assert account.replies == 49
            assert account.replies_late >= 2 * 48  # the last two may still be on their way

    asyncio.run(main())


GARBAGE = [b"", b"\x5a", b"\x5a" + bytes(17), b"\x00", b"\x77" * 400, b"\xff" * 22, b"\xa5\x01\x02", b"\x5a" * 19]


def test_garbage_before_a_reply_is_counted_and_ignored():
    async def main():
        async with linked(lambda _, c: [*GARBAGE, value_reply(c, 3)]) as (peer, link):
            for _ in range(20):
                assert await read(link) == b"\x00\x03\x00"
            account = link.link_account()
            assert account.replies_malformed == 20 * 2
            # On a busy machine a greeting is sent twice; the answer to the second one is garbage, if it comes late.
            assert 20 * 3 <= account.unknown_datagrams <= 20 * 3 + peer.greetings - 1
            assert account.replies_late == 20

    asyncio.run(main())


def test_a_reply_of_the_wrong_shape_is_an_error_of_the_link_and_not_a_value():
    async def main():
        async with linked(lambda _, c: [answer(c, b"\x00\x01\x00\x00")]) as (_, link):
            with pytest.raises(RemoteProtocolError, match="read 0x0200 clock_locked: memory read of 1 bytes"):
                await Board(link).read("clock_locked")
            with pytest.raises(RemoteProtocolError, match="write 0x0202 gate_enable: memory write"):
                await Board(link).write("gate_enable", 0)

    asyncio.run(main())


def test_strangers_are_counted_and_not_heard():
    async def main():
        flowed = threading.Event()
        blocks: list[np.ndarray] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            async with linked(lambda _, _c: []) as (peer, link):

                def script(_: int, command: bytes) -> list[bytes]:
                    stranger.sendto(value_reply(command, 66), peer.host)
                    stranger.sendto(frames.data_datagram(block(500)), peer.host)
                    return [value_reply(command, 1)]

                peer.script = script
                await link.start_data(blocks.append, min_frame=0, on_first=flowed.set, on_failure=lambda _: None)
                assert await read(link) == b"\x00\x01\x00"
                account = await link.stop_data()
                assert account.datagrams_rejected == {"foreign-sender": 2}
                assert account.frames_received == 0
                assert not blocks
                assert link.link_account().foreign_datagrams == 2

    asyncio.run(main())


@pytest.mark.parametrize("moment", range(6))
def test_cancelled_in_mid_command_the_link_goes_on(moment):
    """The answer to the cancelled command comes during the next one and is not taken for its answer."""
    kept: list[bytes] = []

    def script(n: int, command: bytes) -> list[bytes]:
        if n == 1:
            kept.append(value_reply(command, 99))
            return []
        replies = [*kept, value_reply(command, 4)]
        kept.clear()
        return replies

    async def main():
        async with linked(script) as (peer, link):
            task = asyncio.create_task(read(link))
            for _ in range(moment):
                await asyncio.sleep(0)
            if moment == 5:
                await peer.came.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            kept_any = bool(peer.commands)
            assert (await read(link))[1] in ((4,) if kept_any else (4, 99))
            assert (await read(link))[1] == 4

    asyncio.run(main())


def test_one_command_at_a_time():
    async def main():
        outstanding: list[bytes] = []
        worst = 0

        async with linked(lambda _, _c: []) as (peer, link):

            def script(_: int, command: bytes) -> list[bytes]:
                nonlocal worst
                outstanding.append(command)
                worst = max(worst, len(outstanding))
                asyncio.get_running_loop().call_later(0.002, reply, command)
                return []

            def reply(command: bytes) -> None:
                outstanding.remove(command)
                peer.send(value_reply(command))

            peer.script = script
            await asyncio.gather(*(read(link) for _ in range(20)))
        assert worst == 1

    asyncio.run(main())


def test_switching_off_overtakes_what_waits():
    async def main():
        async with linked(lambda _, _c: []) as (peer, link):
            waiting = [asyncio.create_task(read(link)) for _ in range(5)]
            await peer.came.wait()
            began = link.epoch
            link.overtake()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(r, OvertakenError) for r in results)
            assert len(peer.commands) == 1
            peer.script = good
            assert await read(link) == b"\x00\x01\x00"
            with pytest.raises(OvertakenError):
                await link.exchange(Function.REGISTERS, READ, what="x", since=began)
            assert len(peer.commands) == 2

    asyncio.run(main())


def test_an_unsealed_set_output_never_leaves():
    channel = BiasChannel(0, 0, 0, 3)
    limit = HardLimit(channel=str(channel), v_min=Volts(1), v_max=Volts(40), max_step_v=1, slew_v_per_s=1)
    curve = BiasCurve(((0x0400, 0.9375), (0xFFFF, 60.0)))
    output = encode_bias(BIAS_32P, channel, Volts(30), limit, curve)

    async def main():
        async with linked(lambda _, c: [answer(c, bytes(5))]) as (peer, link):
            for payload in output.payloads:
                with pytest.raises(LocalProtocolError):
                    await link.exchange(output.function, payload, what="sneak")
            assert not peer.commands
            assert await link.set_output(output) == (bytes(5), bytes(5))
            assert [c[17:] for c in peer.commands] == list(output.payloads)

    asyncio.run(main())


def test_after_closing_the_link_says_so_and_can_be_opened_again():
    async def main():
        async with linked(good) as (_, link):
            await link.aclose()
            await link.aclose()
            with pytest.raises(ConnectError, match="closed"):
                await read(link)
            await link.open()
            assert await read(link) == b"\x00\x01\x00"

    asyncio.run(main())


def block(first: int, n: int = 100) -> np.ndarray:
    return frames.pack_frames(np.arange(first, first + n), np.ones(n, dtype=np.int64), np.arange(n, dtype=np.uint64))


@asynccontextmanager
async def streaming(
    sink: Callable[[np.ndarray], None], **given: float
) -> AsyncIterator[tuple[Peer, UdpReadoutLink, list[Exception]]]:
    failures: list[Exception] = []
    flowing = asyncio.Event()
    async with linked(good, **given) as (peer, link):
        await link.start_data(sink, min_frame=0, on_first=flowing.set, on_failure=failures.append)
        peer.send(frames.data_datagram(block(0)))
        async with asyncio.timeout(5):
            await flowing.wait()
        yield peer, link, failures


def test_frames_and_commands_at_the_same_time():
    async def main():
        blocks: list[np.ndarray] = []
        async with streaming(blocks.append) as (peer, link, failures):
            for i in range(1, 200):
                peer.send(frames.data_datagram(block(100 * i)))
                if i % 4 == 0:
                    assert await read(link) == b"\x00\x01\x00"
            account = await link.stop_data()
            assert (account.frames_delivered, account.gaps, account.kernel_drops) == (20_000, 0, 0)
            assert np.array_equal(
                np.concatenate(blocks),
                np.concatenate([block(100 * i) for i in range(200)]),
            )
            assert not failures
            assert account.receive_buffer_bytes > 212_992

    asyncio.run(main())


def test_a_lost_datagram_is_a_gap_and_nothing_else():
    async def main():
        async with streaming(lambda _: None) as (peer, link, _):
            for i in (1, 2, 4, 5, 8):
                peer.send(frames.data_datagram(block(100 * i)))
            await read(link)
            account = await link.stop_data()
            assert (account.gaps, account.frames_missing, account.frames_delivered) == (2, 300, 600)

    asyncio.run(main())


def test_frames_before_the_start_and_after_the_stop_go_nowhere():
    async def main():
        blocks: list[np.ndarray] = []
        async with streaming(blocks.append) as (peer, link, _):
            account = await link.stop_data()
            with pytest.raises(StateError):
                await link.stop_data()
            with pytest.raises(StateError):
                await link.account()
            peer.send(frames.data_datagram(block(100)))
            await read(link)
            assert account.frames_delivered == 100
            assert sum(len(b) for b in blocks) == 300

    asyncio.run(main())


def test_two_acquisitions_at_once_are_refused():
    async def main():
        async with streaming(lambda _: None) as (_, link, _):
            with pytest.raises(StateError, match="running"):
                await link.start_data(print, min_frame=0, on_first=lambda: None, on_failure=lambda _: None)
            assert (await link.account()).frames_received == 100

    asyncio.run(main())


@pytest.mark.parametrize("moment", range(4))
def test_starting_and_stopping_that_are_cancelled_lose_nothing(moment):
    async def main():
        async with linked(good) as (peer, link):

            async def start() -> None:
                await link.start_data(lambda _: None, min_frame=0, on_first=lambda: None, on_failure=lambda _: None)

            async def cancelled(work) -> bool:
                task = asyncio.create_task(work)
                for _ in range(moment):
                    await asyncio.sleep(0)
                task.cancel()
                return isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)

            await read(link)
            if await cancelled(start()):
                await start()
            peer.send(frames.data_datagram(block(0)))
            await read(link)
            if await cancelled(link.stop_data()):
                assert (await link.stop_data()).frames_delivered == 100
            with pytest.raises(StateError):
                await link.stop_data()

    asyncio.run(main())


def test_a_consumer_that_raises_is_told_and_commands_go_on():
    async def main():
        def sink(_: np.ndarray) -> None:
            raise RuntimeError("no room")

        async with streaming(sink) as (peer, link, failures):
            while not failures:
                await read(link)
            peer.send(frames.data_datagram(block(100)))
            await read(link)
            account = await link.stop_data()
            assert account.failure is failures[0]
            assert "no room" in str(account.failure)
            assert account.frames_rejected == {"sink-failed": 100, "after-failure": 100}

    asyncio.run(main())


def test_a_consumer_that_blocks_costs_a_deadline_and_not_the_event_loop():
    async def main():
        release = threading.Event()

        def sink(_: np.ndarray) -> None:
            release.wait(20)

        async with streaming(sink, reply_timeout_s=SHORT_S) as (_, link, _):
            try:
                with pytest.raises(LinkLostError, match="consumer of frames blocks"):
                    await link.stop_data()
                with pytest.raises(ReplyTimeoutError):
                    await read(link)
            finally:
                release.set()
            assert (await link.stop_data()).frames_delivered == 100

    asyncio.run(main())


def test_what_the_kernel_drops_is_counted():
    async def main():
        release = threading.Event()
        loop = asyncio.get_running_loop()
        entered = asyncio.Event()

        def sink(_: np.ndarray) -> None:
            loop.call_soon_threadsafe(entered.set)
            release.wait(20)

        transport, peer = await loop.create_datagram_endpoint(lambda: Peer(good), local_addr=("127.0.0.1", 0))
        link = UdpReadoutLink(peer.address, receive_buffer_bytes=4096)
        await link.open()
        await link.start_data(sink, min_frame=0, on_first=lambda: None, on_failure=lambda _: None)
        peer.send(frames.data_datagram(block(0)))
        async with asyncio.timeout(5):
            await entered.wait()  # from here on nobody reads the socket
        n = 100
        for i in range(1, n):
            peer.send(frames.data_datagram(block(100 * i)))
        release.set()
        await read(link)
        account = await link.stop_data()
        assert account.kernel_drops > 0
        assert account.kernel_drops + account.datagrams == n
        assert account.frames_delivered == 100 * account.datagrams
        await link.aclose()
        transport.close()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_a_flood_of_replies_to_nobody_leaves_the_event_loop_alone():
    async def main():
        async with linked(good) as (peer, link):
            await read(link)
            for n in range(3000):
                peer.send(b"\x5a" + n.to_bytes(16, "little") + b"\x00\x00\x01\x00")
                if n % 200 == 0:
                    assert await read(link) == b"\x00\x01\x00"
            assert await read(link) == b"\x00\x01\x00"
            account = link.link_account()
            assert account.replies == account.commands

    asyncio.run(main())


class Counting:
    """A handler that counts."""

    def __init__(self) -> None:
        self.datagrams = 0

    def take(self, _batch: Datagrams, _begin: int, _peer: int) -> int:
        return 0

    def datagram(self, _first: int, _body: memoryview) -> None:
        self.datagrams += 1

    def pause(self) -> float | None:
        return None

    def failed(self, error: Exception) -> None:
        raise error


def test_what_arrived_before_a_call_is_received_before_it():
    """The moment between the last look at the socket and the look at the calls must not lose anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as board:
        board.bind(("127.0.0.1", 0))
        handler = Counting()
        seen: list[int] = []

        class Interrupted(UdpReceiver):
            """Just after the socket was found empty, three datagrams come and then somebody calls."""

            armed = True

            def _burst(self, sock: socket.socket) -> bool:
                is_empty = super()._burst(sock)
                if self.armed:
                    self.armed = False
                    for _ in range(3):
                        board.sendto(b"\xa5data", sock.getsockname())
                    self._calls.append(lambda: seen.append(handler.datagrams))
                    self._poke()
                return is_empty

        async def main():
            receiver = Interrupted(board.getsockname(), handler)
            receiver.open()
            try:
                for _ in range(3):  # a round of the thread each
                    await receiver.call(lambda: None, timeout_s=5)
            finally:
                await receiver.aclose()

        asyncio.run(main())
        assert seen == [3]
