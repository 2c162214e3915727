"""Many datagrams at once: what comes of them is, bit for bit, what comes of them one by one."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petqc_drivers.errors import SinkFailedError
from petqc_drivers.petsys import frames, intake_kernel
from petqc_drivers.petsys.frames import FRAME_ID_MODULO
from petqc_drivers.petsys.receive import BATCH_WORDS, MAX_JUMP_FRAMES, FrameIntake
from petqc_drivers.petsys.udp_link import UdpReadoutLink
from petqc_drivers.petsys.wire import DATA_MARK, HANDSHAKE
from petqc_drivers.transport import datagrams
from petqc_drivers.transport.datagrams import SLOTS, Datagrams, address_word

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from petqc_drivers.petsys.receive import ReceiveAccount

    Words = NDArray[np.uint64]

PEER, STRANGER = ("127.0.0.1", 9), ("127.0.0.1", 10)
WAITED_FOR = 77
"""Serial number of the command that is outstanding."""
BATCH = Datagrams()

Sent = tuple[bytes, tuple[str, int]]
"""A datagram, and who sent it."""


def laid(sent: list[Sent]) -> Datagrams:
    """As a call leaves them."""
    BATCH.n = 0
    for datagram, sender in sent:
        BATCH.lay(datagram, sender)
    return BATCH


def refused(*_: Any) -> int:
    """A system that does not know the call."""
    ctypes.set_errno(errno.ENOSYS)
    return -1


WAYS: dict[str, Callable[[], Any]] = {
    "many": datagrams._system_call,
    "no name for it": lambda: None,
    "refused": lambda: refused,
}


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the call, without it, and where the system refuses it."""
    monkeypatch.setattr(datagrams, "_system_call", WAYS[request.param])
    return request.param


def of_frames(first: int, steps: list[int], n_events: list[int], lost: list[bool], rng: np.random.Generator) -> Words:
    ids = (first + np.cumsum(steps)) % FRAME_ID_MODULO
    counts = np.array(n_events)
    words = rng.integers(0, 1 << 63, counts.sum()).astype(np.uint64)
    return frames.pack_frames(ids, counts, words, np.array(lost))


def mixture(seed: int, n: int, *, first: int = 1000, spoil: float = 0.3) -> list[Sent]:
    """Datagrams of a board: mostly frames that follow each other, and everything else that can come."""
    rng = np.random.default_rng(seed)
    sent: list[Sent] = []
    last = first - 1
    for _ in range(n):
        k = int(rng.integers(1, 12))
        steps = np.where(rng.random(k) < 0.9, 1, rng.integers(1, 50, k))
        words = of_frames(last, steps.tolist(), rng.integers(0, 9, k).tolist(), (rng.random(k) < 0.1).tolist(), rng)
        datagram, sender = b"\xa5" + words.tobytes(), PEER
        if rng.random() >= spoil:
            last = int(last + steps.sum()) % FRAME_ID_MODULO
        else:
            kind = int(rng.integers(13))
            n_bytes = len(datagram)
            if kind == 0:  # a reply that is waited for
                datagram = b"\x5a" + WAITED_FOR.to_bytes(16, "little") + b"\x00" + rng.bytes(4)
            elif kind == 1:  # one that is late
                datagram = b"\x5a" + (WAITED_FOR + 1).to_bytes(16, "little") + b"\x00\x00"
            elif kind == 2:  # one that is cut
                datagram = b"\x5a" + rng.bytes(int(rng.integers(0, 18)))
            elif kind == 3:
                datagram = b""
            elif kind == 4:  # garbage
                datagram = rng.bytes(int(rng.integers(1, 400)))
            elif kind == 5:  # garbage that says it is frames
                datagram = b"\xa5" + rng.bytes(8 * int(rng.integers(0, 50)))
            elif kind == 6:
                sender = STRANGER
            elif kind == 7:  # cut anywhere
                datagram = datagram[: int(rng.integers(1, n_bytes))]
            elif kind == 8:  # cut between words
                datagram = datagram[: 1 + 8 * int(rng.integers(0, (n_bytes - 1) // 8))]
            elif kind == 9:  # a count that is wrong
                datagram = datagram[:9] + bytes((datagram[9] ^ 1,)) + datagram[10:]
            elif kind == 10:  # what came before, once more
                datagram = next((d for d, who in reversed(sent) if d[:1] == b"\xa5" and who == PEER), b"")
            elif kind == 11:  # an id out of nowhere
                datagram = b"\xa5" + of_frames(last + 2 * MAX_JUMP_FRAMES, [1], [2], [False], rng).tobytes()
            else:  # more behind the end
                datagram += rng.bytes(int(rng.integers(1, 20)))
        sent.append((datagram, sender))
    return sent


class OneByOne(UdpReadoutLink):
    """Looks at every datagram by itself."""

    def take(self, batch: Datagrams, begin: int, peer: int) -> int:
        del batch, begin, peer
        return 0


def received(
    kind: type[UdpReadoutLink],
    sent: list[Sent],
    slots: int,
    *,
    min_frame: int = 990,
    sink: Callable[[Words], None] | None = None,
) -> tuple[list[Words], ReceiveAccount, dict[str, int], dict[str, int], list[Any]]:
    """Blocks, account, what the link and the socket counted, and what went to the event loop, in this order."""
    link = kind(PEER)
    blocks: list[Words] = []
    posts: list[Any] = []
    link._receiver.post = lambda _function, *given: posts.append(given)
    link._waiting = (WAITED_FOR, None)
    intake = FrameIntake(
        sink or blocks.append,
        min_frame=min_frame,
        device="board",
        on_first=lambda: posts.append("first frame"),
        on_failure=lambda error: posts.append(repr(error)),
    )
    link._intake = intake
    for at in range(0, len(sent), slots):
        link._receiver._give(laid(sent[at : at + slots]))
    intake.flush()
    account = replace(link._account(intake, None), duration_s=0.0, failure=None)
    assert account.frames_received == account.frames_delivered + sum(account.frames_rejected.values())
    return blocks, account, +link._counts, +link._receiver.counters, posts


def assert_same(sent: list[Sent], **given: Any) -> ReceiveAccount:
    wanted = received(OneByOne, sent, 1, **given)
    for slots in (1, 3, SLOTS):
        found = received(UdpReadoutLink, sent, slots, **given)
        assert [block.tobytes() for block in found[0]] == [block.tobytes() for block in wanted[0]]
        assert found[1:] == wanted[1:]
    return wanted[1]


@pytest.mark.parametrize("seed", range(6))
def test_any_mixture_at_once_is_what_it_is_one_by_one(seed):
    sent = mixture(seed, 400)
    account = assert_same(sent)
    assert account.frames_delivered > 500
    assert account.gaps > 0
    assert account.frames_lost_by_board > 0
    assert account.frames_partly_lost_by_board > 0
    assert account.frames_rejected["late-or-duplicate"] > 0
    assert set(account.words_rejected) == {"ragged-end", "frame-cut", "frame-inconsistent"}
    assert set(account.datagrams_rejected) == {"foreign-sender", "empty", "unknown-mark", "malformed-reply"}


@given(st.integers(0, 1 << 32), st.integers(0, 60), st.integers(-20, 20), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_at_once_is_what_it_is_one_by_one(seed, n, first, spoil):
    """Also about the end of frame ids, and with frames that are older than the start."""
    first %= FRAME_ID_MODULO
    assert_same(mixture(seed, n, first=first, spoil=spoil), min_frame=(first - 5) % FRAME_ID_MODULO)


def long_ones(n: int) -> list[Sent]:
    rng = np.random.default_rng(5)
    return [
        (b"\xa5" + of_frames(10 * k, [1] * 10, [int(m)] * 10, [False] * 10, rng).tobytes(), PEER)
        for k, m in enumerate(rng.integers(0, 800, n))
    ]


def test_blocks_end_at_the_same_datagram():
    sent = long_ones(200)
    assert sum(len(d) for d, _ in sent) > 4 * 8 * BATCH_WORDS
    assert_same(sent, min_frame=0)
    blocks = received(UdpReadoutLink, sent, SLOTS, min_frame=0)[0]
    assert np.concatenate(blocks).tobytes() == b"".join(d[1:] for d, _ in sent)
    for block in blocks:
        assert block.flags.writeable  # the consumer's own
        block[:] = 0
    again = received(UdpReadoutLink, sent, SLOTS, min_frame=0)[0]
    assert np.concatenate(again).any()


def test_a_consumer_that_fails_in_the_middle_of_a_batch_gets_nothing_more():
    def sink(_: Words) -> None:
        raise OSError("disk full")

    account = assert_same(long_ones(60), min_frame=0, sink=sink)
    assert account.frames_delivered == 0
    assert account.frames_rejected["sink-failed"] + account.frames_rejected["after-failure"] == 600
    assert account.frames_rejected["after-failure"] % 10 == 0
    assert SinkFailedError.__name__ in received(UdpReadoutLink, long_ones(60), SLOTS, min_frame=0, sink=sink)[4][1]


def test_a_datagram_of_which_the_system_cut_the_end_is_counted_and_dropped():
    link = UdpReadoutLink(PEER)
    blocks: list[Words] = []
    link._intake = FrameIntake(
        blocks.append, min_frame=0, device="board", on_first=lambda: None, on_failure=lambda _: None
    )
    whole = [datagram for datagram, _ in long_ones(3)]
    batch = laid([])
    for datagram, flags in zip(whole, (0, socket.MSG_TRUNC, 0), strict=True):
        batch.lay(datagram, PEER, flags)
    link._receiver._give(batch)
    link._intake.flush()
    assert link._receiver.counters == {"datagrams": 2, "truncated": 1}
    assert b"".join(block.tobytes() for block in blocks) == whole[0][1:] + whole[2][1:]


def gather_twin(
    batch: Datagrams, begin: int, due: int, most: int, used: int, enough: int, *, is_first: bool
) -> tuple[list[Words], int, int, Counter[str]]:
    """The datagrams that are taken, first and last frame, and what is in them: the general way, of numpy."""
    taken: list[Words] = []
    first = last = 0
    tally: Counter[str] = Counter()
    for i in range(begin, batch.n):
        size = int(batch.sizes[i])
        is_plain = batch.sender(i) == PEER and batch.flags[i] == 0 and batch.marks[i] == DATA_MARK
        if used >= enough or not is_plain or size % 8 != 1:
            break
        words = np.frombuffer(batch.body(i), np.uint64)
        scan = frames.scan_frames(words)
        if scan.reason is not None or not len(scan.starts):
            break
        ids = frames.frame_ids(words, scan.starts)
        ahead = (np.diff(ids, prepend=due - 1) - 1) % FRAME_ID_MODULO
        if (ahead >= most).any():
            break
        if not taken:
            first = int(ids[0])
            ahead[0] *= not is_first
        events, is_lost = frames.frame_event_counts(words, scan.starts), frames.frame_lost_mask(words, scan.starts)
        tally += Counter(
            datagrams=1,
            bytes=size,
            frames_received=len(ids),
            events=int(events.sum()),
            gaps=np.count_nonzero(ahead),
            frames_missing=int(ahead.sum()),
            frames_lost_by_board=np.count_nonzero(is_lost & (events == 0)),
            frames_partly_lost_by_board=np.count_nonzero(is_lost & (events > 0)),
        )
        last = int(ids[-1])
        due, used = (last + 1) % FRAME_ID_MODULO, used + len(words)
        taken.append(words.copy())
    return taken, first, last, tally


@given(st.integers(0, 1 << 32), st.booleans(), st.integers(0, 300), st.sampled_from([20, MAX_JUMP_FRAMES]))
@settings(max_examples=100, deadline=None)
def test_the_kernel_and_its_plain_twin(seed, is_first, enough, most):
    rng = np.random.default_rng(seed)
    first = int(rng.choice([1000, FRAME_ID_MODULO - 10]))
    batch = laid(mixture(seed, SLOTS, first=first, spoil=0.1))
    if seed % 5 == 0:
        batch.flags[int(rng.integers(SLOTS))] = socket.MSG_TRUNC
    begin, used, due = int(rng.integers(0, 3)), int(rng.integers(0, 50)), first - int(rng.integers(0, 4))
    out = np.full(enough + batch.words.shape[1], 7, np.uint64)
    span, tally = np.full(3, 7), np.full(len(intake_kernel.TALLY), 7)
    n = intake_kernel.gather(
        *(batch.words, batch.marks, batch.sizes, batch.flags, batch.senders, begin, batch.n, address_word(PEER)),
        *(due, is_first, most, out, used, enough, span, tally),
    )
    taken, *ends, counts = gather_twin(batch, begin, due, most, used, enough, is_first=is_first)
    joined = np.concatenate([np.zeros(0, np.uint64), *taken])
    assert (n, span.tolist()) == (len(taken), [len(joined), *ends])
    assert tally.tolist() == [7 + counts[name] for name in intake_kernel.TALLY]
    wanted = np.full(len(out), 7, np.uint64)
    wanted[used : used + len(joined)] = joined
    assert out.tobytes() == wanted.tobytes()


def test_datagrams_come_in_order_with_their_senders(way):
    """More than one call holds, of every length, from two senders, the longest that there is among them."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for each in (sock, one, other):
            each.bind(("127.0.0.1", 0))
        rng = np.random.default_rng(1)
        sent = [(rng.bytes(n), one if n % 3 else other) for n in (*range(2 * SLOTS), 65_507, 0, 1)]
        for datagram, sender in sent:
            sender.sendto(datagram, sock.getsockname())
        batch, found, calls = Datagrams(), [], 0
        while len(found) < len(sent):
            batch.receive(sock)
            calls += 1
            for i in range(batch.n):
                size = int(batch.sizes[i])
                whole = bytes(batch.marks[i : i + 1]) + bytes(batch.body(i)) if size else b""
                found.append((whole, batch.sender(i)))
                assert batch.senders[i] == address_word(batch.sender(i))
                assert batch.flags[i] == 0
        assert found == [(datagram, sender.getsockname()) for datagram, sender in sent]
        assert calls == (3 if way == "many" else len(sent))
        with pytest.raises(BlockingIOError):
            batch.receive(sock)
        assert batch.n == 0


def test_a_real_socket_gives_what_a_mixture_is_one_by_one(way):
    """Frames, replies, garbage and strangers by a socket, with the driver's own thread."""
    del way
    sent = mixture(3, 300)
    answers: list[tuple[int, bytes]] = []
    blocks: list[Words] = []

    async def main() -> tuple[ReceiveAccount, UdpReadoutLink]:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as board,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        ):
            board.bind(("127.0.0.1", 0))
            board.settimeout(5.0)
            link = UdpReadoutLink(board.getsockname())

            def greet() -> tuple[str, int]:
                data, host = board.recvfrom(100)
                assert data == HANDSHAKE
                board.sendto(b"hello", host)
                return host

            greeting = asyncio.create_task(asyncio.to_thread(greet))
            await link.open()
            host = await greeting
            try:
                link._answer = lambda serial, payload: answers.append((serial, payload))
                link._waiting = (WAITED_FOR, asyncio.get_running_loop().create_future())
                await link.start_data(blocks.append, min_frame=990, on_first=lambda: None, on_failure=lambda _: None)
                for datagram, who in sent:
                    (stranger if who == STRANGER else board).sendto(datagram, host)
                account = await link.stop_data()
                assert account.kernel_drops == 0
                return account, link
            finally:
                link._waiting = None
                await link.aclose()

    account, link = asyncio.run(main())
    wanted_blocks, wanted, counts, counters, posts = received(OneByOne, sent, 1)
    assert np.concatenate(blocks).tobytes() == np.concatenate(wanted_blocks).tobytes()
    assert replace(account, duration_s=0.0, receive_buffer_bytes=0) == wanted
    assert answers == [post for post in posts if post != "first frame"]
    assert link.link_account().replies_late == counts["replies_late"]
    assert link._receiver.counters["foreign"] == counters["foreign"]


def test_a_reply_in_the_middle_of_frames_is_heard_at_the_first_try(way):
    """Every command is answered between datagrams that the board sends as fast as it can."""
    del way
    n_commands, around = 30, 60

    def board_of(board: socket.socket) -> None:
        data, host = board.recvfrom(100)
        board.sendto(data, host)
        sent = 0
        for _ in range(n_commands):
            command = board.recv(2048)
            reply = b"\x5a" + command[:17] + b"\x00\x01\x00"
            for place in range(2 * around):
                if place == around:
                    board.sendto(reply, host)
                words = of_frames(8 * sent - 1, [1] * 8, [2] * 8, [False] * 8, np.random.default_rng(sent))
                board.sendto(b"\xa5" + words.tobytes(), host)
                sent += 1

    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as board:
            board.bind(("127.0.0.1", 0))
            board.settimeout(10.0)
            link = UdpReadoutLink(board.getsockname(), reply_timeout_s=5.0, tries=1)
            sending = asyncio.create_task(asyncio.to_thread(board_of, board))
            blocks: list[Words] = []
            try:
                await link.open()
                await link.start_data(blocks.append, min_frame=0, on_first=lambda: None, on_failure=lambda _: None)
                for _ in range(n_commands):
                    assert await link.exchange(0, b"\x00\x00\x00\x00\x02", what="read") == b"\x00\x01\x00"
                await sending
                account = await link.stop_data()
            finally:
                await link.aclose()
        assert link.link_account().tries == n_commands
        assert (account.datagrams, account.kernel_drops) == (2 * around * n_commands, 0)
        assert (account.frames_delivered, account.gaps) == (8 * account.datagrams, 0)

    asyncio.run(main())
