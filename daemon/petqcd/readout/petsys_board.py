"""A TOFPET2 readout as a run sees it: the driver, with its settings read from the readout's configuration.

One board on UDP, or all units behind the readout maker's daemon; the address says which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from petqc.channel_map import absolute_channel
from petqc_drivers.device import OutputState
from petqc_drivers.petsys.counters import WINDOW_CLK
from petqc_drivers.petsys.daqd_readout import PetsysDaqdReadout
from petqc_drivers.petsys.settings import PetsysDaqdSettings, PetsysUdpSettings
from petqc_drivers.petsys.test_pulse import TestPulse
from petqc_drivers.petsys.udp_readout import PetsysUdpReadout
from petqcd import clock
from petqcd.errors import ConfigError, RefusedError
from petqcd.off.output_settings import readout_way
from petqcd.readout.board import ChannelCounts, Received, TimeReference
from petqcd.readout.petsys_settings import INTERNAL_TRIGGER_ID, Bias, asic_settings, bias_settings, bias_targets, febds
from petqcd.readout.supervisor import BiasState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from petqc.formats.petsys_config import PetsysConfig
    from petqc_drivers.petsys.readout import PetsysReadout
    from petqcd.interlocks.bias_limits import BiasLimits
    from petqcd.readout.board import AsicPlan, Pulses, ReadingLike
    from petqcd.readout.supervisor import Endpoint

CLOCK_HZ = 200_000_000
"""System clock. Source: PETsys TOFPET2 readout, one clock is 5 ns."""

COUNTER_TAGS = 256
"""Tags of channel counter readings; each reading has another one than that before."""

_STATES = {
    OutputState.OFF: BiasState.OFF_CONFIRMED,
    OutputState.OFF_COMMANDED: BiasState.OFF_COMMANDED,
    OutputState.ON: BiasState.ON,
    OutputState.ADOPTED: BiasState.ON,
}


class PetsysBoard:
    """One connection to a readout; implements `petqcd.readout.board.Board`.

    Args:
        endpoint: where it answers.
        config: its configuration; None where only switching off is wanted.
        limits: the hard limit of every bias output; None: bias cannot be set.
    """

    def __init__(self, endpoint: Endpoint, config: PetsysConfig | None, limits: BiasLimits | None) -> None:
        self._config = config
        self._limits = limits
        self._counter_tag = 0
        bias = Bias() if config is None or limits is None else bias_settings(config, limits)
        self._readout = _readout(endpoint, config, bias)

    @classmethod
    def for_off(cls, endpoint: Endpoint) -> Self:
        """A connection that can switch off and nothing else: needs no configuration and no limits."""
        return cls(endpoint, None, None)

    async def connect(self) -> str:
        """Connect and verify the identity; returns it in words."""
        return str(await self._readout.connect())

    async def configure(self, plan: AsicPlan | None = None) -> None:
        """Configure everything and verify by reading back; ends with a synchronisation."""
        await self._readout.configure(asic_settings(self._needed(), plan))

    @property
    def channels(self) -> Sequence[int]:
        """Absolute numbers of all channels of the ASICs in use, rising."""
        configured = self._readout.configured
        chips = configured.chips if configured is not None else []
        return [absolute_channel(*chip, channel) for chip in chips for channel in range(64)]

    async def set_channels(self, fields: Mapping[int, Mapping[str, int]]) -> None:
        """Change configuration fields of channels, by absolute number, and read back."""
        await self._readout.reconfigure(channels={_place(number): f for number, f in fields.items()})

    async def set_test_pulse(self, pulses: Pulses | None) -> None:
        """Start the test pulse generator, or stop it."""
        wanted = None if pulses is None else TestPulse(pulses.length_clk, pulses.interval_clk, pulses.phase_clk)
        await self._readout.set_test_pulse(wanted)

    async def time_tag(self) -> int:
        """Clocks since the synchronisation."""
        return await self._readout.read_time_tag()

    async def read_channel_counters(self) -> ChannelCounts:
        """Counters of all channels, of a window that was not read before."""
        self._counter_tag = (self._counter_tag + 1) % COUNTER_TAGS
        found = await self._readout.read_channel_counters(self._counter_tag)
        counts = {absolute_channel(*chip, c): int(n) for chip, of_chip in found.items() for c, n in enumerate(of_chip)}
        return ChannelCounts(counts, WINDOW_CLK)

    async def bias_on(self, overvoltage_share: float = 1.0) -> None:
        """Bring every bias output of the configuration to its voltage, inside its hard limit, by a ramp."""
        if self._limits is None:
            raise RefusedError(f"{self._readout.name}: hard limits are not configured: bias stays off")
        targets = bias_targets(self._needed(), overvoltage_share)
        if not targets:
            raise RefusedError(
                f"{self._readout.name}: the configuration names no bias output, so what biases this detector is not "
                "switched from here, and nobody here could say that it is on or off"
            )
        await self._readout.bias_on(targets)

    async def bias_off(self) -> BiasState:
        """Remove the voltage first, on this connection and then on fresh ones; raises if nobody confirms."""
        report = await self._readout.bias_off()
        return _STATES.get(report.state, BiasState.UNKNOWN)

    async def read_environment(self) -> Sequence[ReadingLike]:
        """Temperatures, and the commanded bias voltages."""
        return [*await self._readout.read_temperatures(), *self._readout.bias_readings()]

    async def read_housekeeping(self) -> Sequence[ReadingLike]:
        """The environment, the modules' supplies, and the counters and locks of all links."""
        readout = self._readout
        return [*await self.read_environment(), *await readout.read_supplies(), *await readout.read_counters()]

    async def time_reference(self) -> TimeReference:
        """The readout's clock against wall time."""
        before_s = clock.unix_s()
        tag = await self._readout.read_time_tag()
        middle_s = (before_s + clock.unix_s()) / 2
        return TimeReference(CLOCK_HZ, tag, middle_s - tag / CLOCK_HZ, self._trigger_id())

    def _trigger_id(self) -> int | None:
        """The unit whose hits are trigger records, as the maker's recordings number it."""
        identity = self._readout.identity
        if identity is None:
            return None
        trigger = identity.trigger
        return INTERNAL_TRIGGER_ID if trigger.kind.is_febd else trigger.port << 5 | trigger.slave

    async def start(self, sink: Callable[[NDArray[np.uint64]], None]) -> None:
        """Let frames flow into the sink; returns once the first have come."""
        await self._readout.start(sink)

    async def stop(self) -> Received:
        """End the flow; the account of it."""
        account = await self._readout.stop()
        counters = {
            "datagrams": account.datagrams,
            "gaps": account.gaps,
            "kernel_drops": account.kernel_drops,
            "frames_lost_by_board": account.frames_lost_by_board,
            "frames_partly_lost_by_board": account.frames_partly_lost_by_board,
            **{f"frames_rejected_{_word(k)}": n for k, n in account.frames_rejected.items() if n},
            **{f"datagrams_rejected_{_word(k)}": n for k, n in account.datagrams_rejected.items() if n},
            **{f"words_rejected_{_word(k)}": n for k, n in account.words_rejected.items() if n},
        }
        return Received(
            frames=account.frames_delivered,
            frames_lost=account.frames_missing,
            datagrams_rejected=sum(account.datagrams_rejected.values()),
            counters=counters,
        )

    async def wait_failed(self) -> None:
        """Wait until the link or the flow fails, and raise what happened."""
        await self._readout.wait_failed()

    async def aclose(self) -> None:
        """Close the connection; changes no output."""
        await self._readout.aclose()

    def _needed(self) -> PetsysConfig:
        if self._config is None:
            raise ConfigError(f"{self._readout.name}: no configuration was given")
        return self._config


def _word(reason: str) -> str:
    return reason.replace("-", "_").replace(" ", "_")


def _readout(endpoint: Endpoint, config: PetsysConfig | None, bias: Bias) -> PetsysReadout:
    """The driver for an address. The daemon switches off itself, first thing on every way out; closing must not."""
    way = readout_way(endpoint.address, endpoint.shared_memory)
    settings: dict[str, Any] = {
        "bias": bias.outputs,
        "bias_mezzanines": bias.mezzanines,
        "bias_starts_with": bias.starts_with,
        "on_close": "hold",
    }
    if "socket" in way:
        expected = None if config is None else febds(config)
        return PetsysDaqdReadout(PetsysDaqdSettings(**way, **settings, expected_febds=expected))
    return PetsysUdpReadout(PetsysUdpSettings(**way, **settings))


def _place(number: int) -> tuple[int, int, int, int]:
    """Port, slave, chip and channel of an absolute channel number."""
    return number >> 17, number >> 12 & 31, number >> 6 & 63, number & 63
