"""Faults of bytes on their way: what leaves a board or an instrument comes late, twice, changed, cut or not at all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc_simulators.physics.blocks import Block
from petqc_simulators.profile import ProfileError
from petqc_simulators.timed_faults import TimedFaults

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from petqc_simulators.device_faults import DeviceFaults
    from petqc_simulators.faults import Fault, FaultKind
    from petqc_simulators.instrument_server import WireSide

FRAMES, COMMANDS, READOUT = "frames", "commands", "readout"
"""Links of the readout: its frames, answers to its commands, and both."""
DEVICE: Final = "device:"
_BY_MEMORY = frozenset({"L01", "L07"})
"""What frames can have that come by shared memory ..."""
_BY_MAKER = frozenset({"L01", "L06", "L07"})
"""... and answers that come through the maker's daemon, which checks the rest."""

Pieces = list[tuple[float, bytes]]


class LinkFaults(TimedFaults):
    """The faults of all links of one simulator; a `FaultHandler`. May be used from several threads.

    Args:
        now_s: seconds since the synchronisation of the readout.
        instruments: names of those that have a wire of their own.
        has_readout: there is a readout, ...
        is_behind_daemon: ... behind the maker's daemon.
        seed: of what is random.
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        instruments: Sequence[str] = (),
        *,
        has_readout: bool = True,
        is_behind_daemon: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(now_s)
        self._instruments = [DEVICE + name for name in instruments]
        self._has_readout = has_readout
        self._is_behind_daemon = is_behind_daemon
        self._rng = np.random.default_rng([seed, 0x11F4])
        self._held: dict[str, Pieces] = {}

    def why_not(self, kind: FaultKind) -> str:
        """Whether any link can have it."""
        if self._instruments or not self._is_behind_daemon or kind.id in _BY_MAKER:
            return ""
        return "behind the maker's daemon frames come by shared memory, and answers are checked by it"

    def _place(self, fault: Fault) -> str:
        places = [*((READOUT, FRAMES, COMMANDS) if self._has_readout else ()), *self._instruments]
        where = fault.where or places[0]
        if where not in places:
            raise ProfileError(f"fault {fault}: there is no link {where}; there is {', '.join(places)}")
        if self._is_behind_daemon and not where.startswith(DEVICE):
            can = _BY_MAKER if where == COMMANDS else _BY_MEMORY
            if fault.kind.id not in can:
                raise ProfileError(
                    f"fault {fault}: {where} come through the maker's daemon, which lets none of it pass"
                )
        return where

    def _as_acting(self, fault: Fault) -> Fault:
        """A frozen link thaws after its time."""
        if fault.kind.id != "L07":
            return fault
        return replace(fault, end_s=min(fault.end_s, fault.onset_s + fault.size))

    def _of(self, link: str) -> list[Fault]:
        found = [fault for _, fault in self._acting(link)]
        if link in {FRAMES, COMMANDS}:
            found += [fault for _, fault in self._acting(READOUT)]
        return found

    def is_frozen(self, link: str) -> bool:
        """Nothing comes through."""
        return bool(self._timed) and any(fault.kind.id == "L07" for fault in self._of(link))

    def pieces(self, link: str, packet: bytes) -> Pieces:
        """What becomes of a datagram or reply: pieces with the seconds after which each comes."""
        if not self._timed or not packet:
            return [(0.0, packet)]
        acting, pieces = self._of(link), [(0.0, packet)]
        with self._lock:
            held = self._held.pop(link, [])
            for fault in acting:
                pieces = [one for piece in pieces for one in self._done(link, fault, *piece)]
            return pieces + held

    def _done(self, link: str, fault: Fault, after_s: float, packet: bytes) -> Pieces:
        if fault.kind.id == "L06":
            return [(after_s + fault.size / 1000.0, packet)]
        if fault.kind.id == "L07":
            return []
        if self._rng.random() >= fault.size / 100.0:
            return [(after_s, packet)]
        match fault.kind.id:
            case "L01":
                return []
            case "L02":
                self._held.setdefault(link, []).append((after_s, packet))
                return []
            case "L03":
                return [(after_s, packet), (after_s, packet)]
            case "L04":
                at, bit = int(self._rng.integers(len(packet))), int(self._rng.integers(8))
                return [(after_s, packet[:at] + bytes((packet[at] ^ 1 << bit,)) + packet[at + 1 :])]
            case _:
                return [(after_s, packet[: int(self._rng.integers(len(packet)))])]

    def late_s(self, link: str) -> float | None:
        """How late an answer comes that nobody can cut or change; None: never."""
        if not self._timed:
            return 0.0
        pieces = self.pieces(link, b"\0")
        return max((after_s for after_s, _ in pieces), default=None)

    def of_block(self, block: Block) -> Block:
        """Frames that come by shared memory: those that are not lost."""
        if not self._timed:
            return block
        acting = self._of(FRAMES)
        if not acting:
            return block
        n = block.starts.size - 1
        share = 1.0 - math.prod(0.0 if fault.kind.id == "L07" else 1.0 - fault.size / 100.0 for fault in acting)
        kept = self._rng.random(n) >= share
        sizes = np.diff(block.starts)
        words = block.words[np.repeat(kept, sizes)]
        return Block(block.first_frame, words, np.concatenate([[0], np.cumsum(sizes[kept])]).astype(np.int64))


class FaultySide:
    """An instrument behind a link with faults, itself with faults; a `WireSide`.

    Args:
        name: of the instrument.
        inner: the instrument.
        links: faults of its link.
        devices: faults of itself.
    """

    def __init__(self, name: str, inner: WireSide, links: LinkFaults, devices: DeviceFaults) -> None:
        self._link = DEVICE + name
        self._inner, self._links, self._devices = inner, links, devices
        self._now_s = 0.0
        self._on_the_way: Pieces = []
        self._seen: dict[bytes, bytes] = {}

    def receive(self, data: bytes) -> bytes:
        """Bytes from the line; what comes back at once."""
        if self._links.is_frozen(self._link):
            return b""
        reply = self._stuck(data, self._inner.receive(data))
        pieces = self._links.pieces(self._link, reply)
        self._on_the_way += [(self._now_s + after_s, piece) for after_s, piece in pieces if after_s > 0.0]
        return b"".join(piece for after_s, piece in pieces if after_s <= 0.0)

    def _stuck(self, request: bytes, reply: bytes) -> bytes:
        """The reply, or the one to the same request since readings are stuck."""
        if not self._devices.is_stuck(self._link):
            self._seen.clear()
            return reply
        return self._seen.setdefault(request, reply)

    def let_pass(self, seconds: float) -> bytes:
        """Let simulated time pass; what comes by itself meanwhile."""
        self._devices.look(self._link)
        self._now_s += seconds
        said = self._inner.let_pass(seconds) or b""
        if self._links.is_frozen(self._link):
            return b""
        due = [piece for at_s, piece in self._on_the_way if at_s <= self._now_s]
        self._on_the_way = [(at_s, piece) for at_s, piece in self._on_the_way if at_s > self._now_s]
        return said + b"".join(due)

    def forget(self) -> None:
        """A new session begins."""
        self._inner.forget()

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return self._inner.state()
