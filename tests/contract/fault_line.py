"""A line with faults between a simulated instrument and whoever talks to it, on a socket and a pseudo-terminal alike.

It stands where an instrument stands (`InstrumentServer` serves it), passes requests on at once and does to replies what
its `fault` says. A fault makes of one reply pieces with the seconds after which each comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from petqc_simulators.instrument_server import WireSide

    Pieces = list[tuple[float, bytes]]
    Fault = Callable[[bytes], Pieces]


class FaultyLine:
    """One line.

    Args:
        inner: the instrument.
        speed: simulated seconds per second.
        has_sessions: what is on its way ends with the connection, as TCP of the instrument's own does; a serial line
            behind a socket goes on.

    Attributes:
        fault: what is done to replies; None: nothing.
        is_frozen: requests stay on the line, and reach the instrument when it ends.
        replies: how many came from the instrument.
    """

    def __init__(self, inner: WireSide, *, speed: float = 1.0, has_sessions: bool = False) -> None:
        self.inner = inner
        self._has_sessions = has_sessions
        self.fault: Fault | None = None
        self.is_frozen = False
        self.replies = 0
        self._speed = speed
        self._now_s = 0.0
        self._held = b""
        self._on_the_way: Pieces = []

    def receive(self, data: bytes) -> bytes:
        if self.is_frozen:
            self._held += data
            return b""
        reply = self.inner.receive(data)
        if not reply:
            return b""
        self.replies += 1
        pieces = [(0.0, reply)] if self.fault is None else self.fault(reply)
        self._on_the_way += [(self._now_s + after_s, piece) for after_s, piece in pieces if after_s > 0]
        return b"".join(piece for after_s, piece in pieces if after_s <= 0)

    def let_pass(self, seconds: float) -> bytes:
        self._now_s += seconds
        said = self.inner.let_pass(self._speed * seconds) or b""
        if not self.is_frozen and self._held:
            held, self._held = self._held, b""
            said += self.receive(held)
        due = [piece for at_s, piece in self._on_the_way if at_s <= self._now_s]
        self._on_the_way = [(at_s, piece) for at_s, piece in self._on_the_way if at_s > self._now_s]
        return said + b"".join(due)

    def forget(self) -> None:
        if self._has_sessions:
            self._held, self._on_the_way = b"", []
        self.inner.forget()

    def state(self) -> dict[str, Any]:
        return self.inner.state()


def late(seconds: float) -> Fault:
    """The whole reply after some time."""
    return lambda reply: [(seconds, reply)]


def split(gap_s: float) -> Fault:
    """Byte by byte."""
    return lambda reply: [(n * gap_s, reply[n : n + 1]) for n in range(len(reply))]


def dropped() -> Fault:
    """No reply."""
    return lambda _reply: []


def doubled(gap_s: float) -> Fault:
    """The reply, and once more."""
    return lambda reply: [(0.0, reply), (gap_s, reply)]


def repeated() -> Fault:
    """The reply before once more, then the reply; of datagrams each in its own."""
    before: list[bytes] = []

    def fault(reply: bytes) -> Pieces:
        again, before[:] = list(before), [reply]
        return [(0.0, piece) for piece in (*again, reply)]

    return fault


def again_instead(n: int, gap_s: float) -> Fault:
    """The n-th reply from now on, counted from 0, once more where the next one should be; that and all others later."""
    seen: list[bytes] = []

    def fault(reply: bytes) -> Pieces:
        seen.append(reply)
        if len(seen) <= n + 1:
            return [(0.0, reply)]
        return [*([(0.0, seen[n])] if len(seen) == n + 2 else []), (gap_s, reply)]

    return fault


def truncated(kept: int) -> Fault:
    """Only its beginning."""
    return lambda reply: [(0.0, reply[:kept])]


def flipped(byte: int, bit: int) -> Fault:
    """One bit of it."""

    def fault(reply: bytes) -> Pieces:
        at = byte % len(reply)
        return [(0.0, reply[:at] + bytes((reply[at] ^ 1 << bit,)) + reply[at + 1 :])]

    return fault


def slow(rng: random.Random, *, latency_s: float, jitter_s: float, bytes_per_s: float) -> Fault:
    """After a latency that is never twice the same, as fast as a thin line is."""

    def fault(reply: bytes) -> Pieces:
        first_s = latency_s + rng.uniform(-jitter_s, jitter_s)
        return [(first_s + n / bytes_per_s, reply[n : n + 1]) for n in range(len(reply))]

    return fault


def lossy(rng: random.Random, share: float, burst: int, lost: list[bytes]) -> Fault:
    """So large a share of them lost, in bursts of so many; `lost` is the log."""
    left = [0]

    def fault(reply: bytes) -> Pieces:
        if not left[0] and rng.random() < share / burst:
            left[0] = burst
        if left[0]:
            left[0] -= 1
            lost.append(reply)
            return []
        return [(0.0, reply)]

    return fault


def shuffled(rng: random.Random, depth: int) -> Fault:
    """So many of them kept, and each new one sends out any of those kept."""
    kept: list[bytes] = []

    def fault(reply: bytes) -> Pieces:
        kept.append(reply)
        return [(0.0, kept.pop(rng.randrange(len(kept))))] if len(kept) > depth else []

    return fault


def babbled(n_bytes: int) -> Fault:
    """So many bytes that nobody asked for and that have no end, instead of it."""
    return lambda _reply: [(0.0, b"U" * n_bytes)]


def merged() -> Fault:
    """Each reply comes together with the next one."""
    held: list[bytes] = []

    def fault(reply: bytes) -> Pieces:
        if not held:
            held.append(reply)
            return []
        return [(0.0, held.pop() + reply)]

    return fault


def nth(n: int, fault: Fault) -> Fault:
    """A fault of the n-th reply from now on, counted from 0, and of no other."""
    seen = [0]

    def one(reply: bytes) -> Pieces:
        seen[0] += 1
        return fault(reply) if seen[0] == n + 1 else [(0.0, reply)]

    return one
