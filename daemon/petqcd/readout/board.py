"""What a run asks of a readout board, and how it is made safe however the run ends.

The board's driver is behind the `Board` protocol, so that a run can be tried against boards that misbehave.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from petqc_drivers.errors import OffUnconfirmedError, each_once
from petqcd.readout.supervisor import BiasState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

OFF_DEADLINE_S = 7.0
"""Switching off with everything a driver tries for it: the connection at hand, fresh ones, then the set-points."""
CLOSE_DEADLINE_S = 2.0
PHASES_PER_CLOCK = 336
"""Steps of a test pulse generator. Source: TOFPET2 interface reference, section 4.3."""
HARDWARE_SWITCH = "treat the outputs as live and use the hardware switch"


class ReadingLike(Protocol):
    """A reading as drivers give it (`petqc_drivers.device.Reading`)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def node(self) -> str: ...  # noqa: D102
    @property
    def value(self) -> float | None: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def measured(self) -> bool: ...  # noqa: D102
    @property
    def quality(self) -> Any: ...  # noqa: D102
    @property
    def at_monotonic_s(self) -> float: ...  # noqa: D102
    @property
    def reason(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Received:
    """What the driver received in one acquisition. counters: further counts by name."""

    frames: int = 0
    frames_lost: int = 0
    datagrams_rejected: int = 0
    counters: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Received) -> Received:
        """Of two acquisitions together."""
        names = {**self.counters, **other.counters}
        return Received(
            self.frames + other.frames,
            self.frames_lost + other.frames_lost,
            self.datagrams_rejected + other.datagrams_rejected,
            {name: self.counters.get(name, 0) + other.counters.get(name, 0) for name in names},
        )


@dataclass(frozen=True, slots=True)
class TimeReference:
    """What a recording's header needs to know about the board. sync_epoch_s: Unix time of time tag 0.

    trigger_id: the unit whose hits are trigger records, None for none.
    """

    frequency_hz: int
    time_tag: int
    sync_epoch_s: float
    trigger_id: int | None


@dataclass(frozen=True, slots=True)
class Pulses:
    """A train of test pulses, in clocks of 5 ns; phase_clk as the generator makes it, see `at`."""

    length_clk: int
    interval_clk: int
    phase_clk: float

    @classmethod
    def at(cls, length_clk: int, interval_clk: int, phase_clk: float) -> Self:
        """Pulses at the phase next to the wanted one that a generator can make."""
        return cls(length_clk, interval_clk, round(phase_clk * PHASES_PER_CLOCK) / PHASES_PER_CLOCK)


@dataclass(frozen=True, slots=True)
class ChannelCounts:
    """Channel counters of one window: counts by absolute channel number, in a window of window_clk clocks."""

    counts: Mapping[int, int]
    window_clk: int


@dataclass(frozen=True, slots=True)
class AsicPlan:
    """What a calibration sets the ASICs to, on top of what the configuration says.

    mode: of all channels, whatever the configuration's own table says. global_fields: of every chip; channel_fields:
    of every channel. needs_thresholds False: the tables of discriminators need not be there.
    """

    mode: Literal["tot", "qdc"]
    global_fields: Mapping[str, int] = field(default_factory=dict)
    channel_fields: Mapping[str, int] = field(default_factory=dict)
    needs_thresholds: bool = True


class Board(Protocol):
    """One readout board on one connection. Every method has its own deadline inside."""

    async def connect(self) -> str:
        """Connect and verify the identity; returns it in words."""

    async def configure(self, plan: AsicPlan | None = None) -> None:
        """Configure everything and verify by reading back; ends with a synchronisation.

        plan: for a calibration; the channels that it switches off stay off until `set_channels`.
        """

    @property
    def channels(self) -> Sequence[int]:
        """Absolute numbers of all channels of the ASICs in use, rising; known once it is configured."""

    async def set_channels(self, fields: Mapping[int, Mapping[str, int]]) -> None:
        """Change configuration fields of channels, by absolute number, and read back; frames may flow meanwhile."""

    async def set_test_pulse(self, pulses: Pulses | None) -> None:
        """Start the test pulse generator of every unit, or stop it."""

    async def time_tag(self) -> int:
        """Clocks of 5 ns since the synchronisation; frame id = time tag // 1024."""

    async def read_channel_counters(self) -> ChannelCounts:
        """Counters of all channels, of a window that was not read before."""

    async def bias_on(self, overvoltage_share: float = 1.0) -> None:
        """Bring every bias channel to breakdown plus a share of its overvoltage, inside its hard limit, by a ramp."""

    async def bias_off(self) -> BiasState:
        """Remove the voltage first, on this connection, then on fresh ones; legal in any state, also unconnected.

        Says what is known afterwards; raises if nobody answered.
        """

    async def read_environment(self) -> Sequence[ReadingLike]:
        """Temperatures and whatever else can be read."""

    async def read_housekeeping(self) -> Sequence[ReadingLike]:
        """Everything that can be read and is no event: the environment, supplies, locks, counters of all links."""

    async def time_reference(self) -> TimeReference:
        """The board's clock against wall time."""

    async def start(self, sink: Callable[[NDArray[np.uint64]], None]) -> None:
        """Let frames flow into the sink, from the driver's receive thread."""

    async def stop(self) -> Received:
        """End the flow; the account of it."""

    async def wait_failed(self) -> None:
        """Wait until the link or the flow fails, and raise what happened."""

    async def aclose(self) -> None:
        """Close the connection; changes no output."""


@dataclass(frozen=True, slots=True)
class OffOutcome:
    """What switching off came to; `told` is for a person."""

    state: BiasState
    told: str


async def switch_off(board: Board) -> OffOutcome:
    """Bias off, and the truth about what came of it; never raises but for a cancellation."""
    try:
        async with asyncio.timeout(OFF_DEADLINE_S):
            state = await board.bias_off()
    except Exception as error:  # noqa: BLE001 - whatever it was, the outputs are unknown now and that must be told
        causes = error.causes if isinstance(error, OffUnconfirmedError) else ()
        why = each_once(causes) or str(error) or f"no answer within {OFF_DEADLINE_S:g} s"
        log.error("bias off could not be confirmed: %s", why)  # noqa: TRY400 - the reason says it all
        return OffOutcome(
            BiasState.UNKNOWN,
            f"bias off was sent and could not be confirmed, the bias outputs are UNKNOWN: {HARDWARE_SWITCH} ({why})",
        )
    told = {
        BiasState.OFF_CONFIRMED: "bias is off, read back from the board",
        BiasState.OFF_COMMANDED: "bias off was commanded; the board could not be asked whether it is",
    }.get(state, f"after bias off the outputs are {state}: {HARDWARE_SWITCH}")
    return OffOutcome(state, told)


async def close(board: Board) -> None:
    """Close a connection whatever state it is in."""
    try:
        async with asyncio.timeout(CLOSE_DEADLINE_S):
            await board.aclose()
    except Exception as error:  # noqa: BLE001 - closing is the last thing done with it; whatever happened is logged
        log.warning("closing the connection to the board: %s", error)
