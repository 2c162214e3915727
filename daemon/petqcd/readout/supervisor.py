"""The devices: where they answer, what state they are in, and a simulated one kept alive by its supervisor task."""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from petqc_drivers.device import OutputState
from petqcd import clock
from petqcd.errors import SimulatorError, SimulatorRefusedError, UnreachableError
from petqcd.progress import Event
from petqcd.readout.simulator_control import SimulatorControl
from petqcd.readout.simulator_process import SimulatorProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from petqcd.config import DeviceConfig, InstrumentConfig
    from petqcd.metrics import Metrics
    from petqcd.off.kept_outputs import KeptOutputs
    from petqcd.progress import Bus
    from petqcd.readout.board import ReadingLike

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
BACKOFF_JITTER = 0.2
GOOD_AFTER_S = 10.0
"""A simulator that ran this long is healthy again: its back-off starts over."""


BETWEEN_RUNS = "connected during runs only"


class BiasState(enum.StrEnum):
    """What is known about the bias outputs of a device."""

    OFF_CONFIRMED = "off-confirmed"
    OFF_COMMANDED = "off-commanded"
    ON = "on"
    UNKNOWN = "unknown"


OUTPUT_OF = {
    BiasState.OFF_CONFIRMED: OutputState.OFF,
    BiasState.OFF_COMMANDED: OutputState.OFF_COMMANDED,
    BiasState.ON: OutputState.ON,
    BiasState.UNKNOWN: OutputState.UNKNOWN,
}
BIAS_CODE = {BiasState.OFF_CONFIRMED: 0, BiasState.OFF_COMMANDED: 1, BiasState.ON: 2, BiasState.UNKNOWN: 3}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a readout answers and what it is configured with; shared_memory: the frame ring of a daemon, if known."""

    address: str
    config_ini: Path
    shared_memory: str | None = None


@dataclass(slots=True)
class DeviceState:
    """What is known about a device; `detail` is the last thing that went wrong."""

    name: str
    simulated: bool
    state: str = "disconnected"
    detail: str = ""
    bias: BiasState = BiasState.UNKNOWN
    since_unix_s: float = field(default_factory=clock.unix_s)
    address: str | None = None

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "name": self.name,
            "simulated": self.simulated,
            "state": self.state,
            "detail": self.detail,
            "bias": str(self.bias),
            "since": clock.utc_text(self.since_unix_s),
            "address": self.address,
        }


class DeviceSupervisor:
    """Owns the readout's place in the daemon. `run` is its task; only programming errors come out of it.

    Args:
        config: its table in petqc.toml.
        state_dir: of the daemon.
        bus: where changes are told.
        metrics: where they are published.
        told: is called with the instruments that a simulator serves beside the readout, each time it is begun.
    """

    def __init__(
        self,
        config: DeviceConfig,
        state_dir: Path,
        bus: Bus,
        metrics: Metrics,
        told: Callable[[Sequence[InstrumentConfig]], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._told = told
        self._simulator_dir = state_dir / "simulator" / config.name
        self._bus = bus
        self._metrics = metrics
        self._endpoint: Endpoint | None = None
        self._changed = asyncio.Event()
        self._refused: SimulatorRefusedError | None = None
        self._ended: tuple[float, str] | None = None
        self.state = DeviceState(config.name, config.is_simulated)
        self.control = SimulatorControl(is_simulated=config.is_simulated, path=config.control)
        """Where faults of a simulated readout are planted and taken away."""
        self.last_temperatures: list[Any] = []
        """Readings of the last time that somebody asked, with their ages."""
        self.may_be_energised = False
        """Whether it was switched on, or nearly, and is not known to be off since."""
        self._trip = ""
        self.kept: KeptOutputs | None = None
        """Where it is written down that its outputs may be on, if that outlives the daemon."""
        if config.address is not None and config.configuration is not None:
            self._publish(Endpoint(config.address, config.configuration, config.shared_memory))

    @property
    def ready(self) -> bool:
        """Whether it is known where the device answers."""
        return self._endpoint is not None

    def ended_because(self, since_s: float) -> str:
        """Why the simulator ended by itself since a moment of the monotonic clock; empty: it did not."""
        return self._ended[1] if self._ended is not None and self._ended[0] >= since_s else ""

    @property
    def runs_nothing(self) -> bool:
        """Whether `run` has nothing to do: the device is not a process of ours."""
        return self._config.simulator is None

    async def endpoint(self, deadline_s: float) -> Endpoint:
        """Where the device answers; waits for a simulator that is being started.

        Raises:
            SimulatorRefusedError: it never will be: the simulator does not take its settings.
            UnreachableError: not known before the deadline.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while self._endpoint is None:
                    if self._refused is not None:
                        raise self._refused
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise UnreachableError(f"{self._config.name}: {self.state.detail or 'does not answer'}") from error
        return self._endpoint

    def now(self, state: str, detail: str = "") -> None:
        """Note and publish a change of state."""
        if (state, detail) == (self.state.state, self.state.detail):
            return
        self.state.state, self.state.detail = state, detail
        self.state.since_unix_s = clock.unix_s()
        self._bus.publish(Event("device", self.state.document()))

    def answered(self, state: str) -> None:
        """Note a good answer and the state it shows."""
        self._metrics.set("petqc_device_up", 1)
        self._metrics.set("petqc_device_last_success_timestamp_seconds", clock.unix_s())
        self.now(state)

    def failed(self, detail: str) -> None:
        """Note that the device does not answer as it must."""
        self._metrics.set("petqc_device_up", 0)
        self.now("faulted", detail)

    def idle(self) -> None:
        """Note that nobody is connected, which is how it is between runs; a fault stays visible."""
        if self.state.state != "faulted":
            self.now("disconnected", BETWEEN_RUNS)

    def temperatures(self, readings: Sequence[ReadingLike]) -> None:
        """Publish the temperatures among some readings."""
        self.last_temperatures = [r for r in readings if r.unit == "degC"]
        known = [r.value for r in readings if r.unit == "degC" and r.value is not None]
        if known:
            self._metrics.set("petqc_temperature_min_celsius", min(known))
            self._metrics.set("petqc_temperature_max_celsius", max(known))
            self._metrics.set("petqc_temperature_last_success_timestamp_seconds", clock.unix_s())

    def bias_is(self, bias: BiasState) -> None:
        """Note and publish what is known about the bias outputs."""
        self.state.bias = bias
        if bias is BiasState.ON:
            self.may_be_energised = True
        elif bias is not BiasState.UNKNOWN:
            self.may_be_energised = False
        self._keep()
        self._metrics.set("petqc_bias_state", BIAS_CODE[bias])
        self._bus.publish(Event("device", self.state.document()))

    def trip_is(self, cause: str) -> None:
        """Note why no run energises it; empty: nothing is tripped."""
        self._trip = cause
        self._keep()

    def _keep(self) -> None:
        if self.kept is not None:
            self.kept.note(self._config.name, OUTPUT_OF[self.state.bias].value, None, self._trip)

    async def may_be_on(self) -> None:
        """Write down that its outputs may be on from now on.

        Raises:
            RefusedError: it could not be written, so they must not go on.
        """
        if self.kept is not None:
            await self.kept.may_be_on(self._config.name)
        self.may_be_energised = True

    async def run(self) -> None:
        """Keep a simulated device alive until cancelled; a real one needs no process of ours."""
        if self._config.simulator is None:
            return
        backoff_s = BACKOFF_FIRST_S
        while True:
            started_s = clock.monotonic_s()
            why = await self._one_life()
            self._endpoint = None
            self.state.address = None
            self._ended = clock.monotonic_s(), why
            if clock.monotonic_s() - started_s > GOOD_AFTER_S:
                backoff_s = BACKOFF_FIRST_S
            log.log(logging.WARNING if backoff_s == BACKOFF_FIRST_S else logging.DEBUG, "%s", why)
            self.failed(why)
            if self._refused is not None:
                await asyncio.Event().wait()  # until cancelled: only another configuration can help
            self._metrics.add("petqc_simulator_restarts_total")
            await asyncio.sleep(backoff_s * random.uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER))  # noqa: S311
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    async def _one_life(self) -> str:
        assert self._config.simulator is not None  # noqa: S101 - run has asked; for the type checker
        process = SimulatorProcess(self._config.simulator, self._simulator_dir, self._config.kind)
        try:
            ready = await process.start()
            self._publish(Endpoint(ready.address, ready.config, ready.shared_memory))
            self.control.path = ready.control
            self._told(ready.instruments)
            return str(await process.wait_ended())
        except SimulatorRefusedError as error:
            self._refused = error
            self._changed.set()
            return str(error)
        except (SimulatorError, OSError) as error:
            return str(error)
        finally:
            self.control.path = None
            await process.stop()

    def _publish(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.state.address = endpoint.address
        self._changed.set()
        self.now("disconnected", BETWEEN_RUNS)
