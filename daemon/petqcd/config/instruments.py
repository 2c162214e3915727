"""[[device]] of what stands around the detector: bias supplies, source meter, chiller, counter, timing board.

Each table becomes the settings of its driver, and is checked by them: what the driver would refuse is refused here,
with the line. A supply without [device.bias] is supervised, and can never be energised.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator, model_validator

from petqc_drivers.errors import DriverError
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.registry import device_kind
from petqcd.config.model import Model, Name
from petqcd.interlocks.bias_limits import Finite, MaxStepV, SlewVPerS

LONGEST_POLL_S = 5.0
PollS = Annotated[Finite, Field(ge=0.2, le=LONGEST_POLL_S)]
_MODULE = r"\d{1,2}\.\d{1,2}\.\d{1,2}"
Module = Annotated[str, Field(pattern=f"^{_MODULE}$")]


OF_INTERLOCKS = frozenset(
    {"bias", "run_v", "operating", "following", "settle_s", "on_daemon_loss", "on_stop"}
    | {"temperature", "cooling_permit", "coolant", "interlock_permit"}
)
"""Keys that a driver does not know."""


class SupplyLimits(Model):
    """[device.bias] of a bias supply or source meter: its hard limit, which nothing but this file changes."""

    v_min: Finite
    v_max: Finite
    max_step_v: MaxStepV
    """Largest single step of a ramp."""
    slew_v_per_s: SlewVPerS
    """Fastest ramp, up and down."""
    most_current_ma: Annotated[Finite, Field(gt=0, le=100)]
    """More trips; where the device has a limit of its own it gets this one."""

    @model_validator(mode="after")
    def _rising(self) -> SupplyLimits:
        if self.v_min >= self.v_max:
            raise ValueError(f"v_min ({self.v_min:g} V) must be below v_max ({self.v_max:g} V)")
        return self


class OperatingRange(Model):
    """[device.operating]: how far commands may go, inside the hard limit."""

    v_min: Finite
    v_max: Finite


class TemperatureRange(Model):
    """[device.temperature], [device.coolant]: outside it nothing is energised, and nothing stays so."""

    low_degc: Annotated[Finite, Field(ge=-100, le=150)]
    high_degc: Annotated[Finite, Field(ge=-100, le=150)]

    @model_validator(mode="after")
    def _rising(self) -> TemperatureRange:
        if self.low_degc >= self.high_degc:
            raise ValueError(f"low_degc ({self.low_degc:g}) must be below high_degc ({self.high_degc:g})")
        return self


class FollowingConfig(Model):
    """[device.following]: its voltage follows a temperature, slowly and within a bound."""

    device: Name | None = None
    """The instrument whose reading it is; default: this one."""
    reading: str = "temperature_sipm"
    reference_degc: Annotated[Finite, Field(ge=-40, le=80)]
    """Where what people set is right."""
    mv_per_k: Annotated[Finite, Field(ge=-100, le=100)]
    """Change of breakdown voltage with temperature."""
    most_v: Annotated[Finite, Field(gt=0, le=3)] = 1.5
    """Bound of the correction, up and down."""
    v_per_min: Annotated[Finite, Field(gt=0, le=60)] = 0.2
    """Its rate."""
    every_s: Annotated[Finite, Field(ge=1, le=3600)] = 30.0
    """Between two changes."""


class InstrumentConfig(Model):
    """What every instrument has."""

    name: Name
    """Of this device, in results, metrics and commands."""
    kind: str
    address: str
    """As its driver writes it: the page of instruments says how."""
    simulated: bool = False
    """True: what answers there is a simulator, and everything made from it says so."""
    modules: tuple[Module, ...] = ()
    """Modules that it feeds, cools or listens to, as PORT.SLAVE.INDEX; empty: nobody said."""
    poll_s: PollS = 1.0
    """Seconds from one poll to the next; readings are stale after ten."""
    reply_timeout_s: Annotated[Finite, Field(ge=0.05, le=5)] | None = None
    """For one exchange; default: the driver's."""

    @model_validator(mode="after")
    def _as_its_driver_wants(self) -> InstrumentConfig:
        try:
            self.settings()
        except DriverError as error:
            raise ValueError(error.what + (f" ({error.do})" if error.do else "")) from error
        return self

    @property
    def can_energise(self) -> bool:
        """Whether it has an output, and a hard limit within which it may be switched on."""
        return False

    @property
    def place(self) -> str:
        """Where it is, so that no two are at the same."""
        return self.address

    @property
    def module(self) -> str:
        """The one module that it belongs to; empty if there are several or none."""
        return self.modules[0] if len(self.modules) == 1 else ""

    def settings(self) -> Any:
        """The settings of its driver.

        Raises:
            DriverError: they are none that the driver takes.
        """
        settings, _ = device_kind(self.kind).load()
        return settings(**self._plain())

    def driver(self) -> Any:
        """Its driver, not connected; whoever supervises it talks to nothing else."""
        _, device = device_kind(self.kind).load()
        return device(self.settings())

    def _plain(self) -> dict[str, Any]:
        """What the driver's settings are made of; a key that nobody gave has the driver's default."""
        of_service = {"kind", "simulated", "modules", "poll_s", *OF_INTERLOCKS}
        return self.model_dump(exclude=of_service, exclude_none=True)


class BiasSourceConfig(InstrumentConfig):
    """What can put a voltage on a detector."""

    poll_s: Annotated[Finite, Field(ge=0.2, le=1)] = 1.0
    """What is measured above a limit must be off within two seconds."""

    bias: SupplyLimits | None = None
    """Without it the output is never switched on."""
    tolerance_v: Annotated[Finite, Field(gt=0, le=2)] | None = None
    """How far the measured voltage may be from the commanded one."""
    settle_timeout_s: Annotated[Finite, Field(gt=0, le=60)] | None = None
    """In which a step must have arrived."""
    operating: OperatingRange | None = None
    """Default: the hard limit. An engineer changes it while the daemon runs."""
    run_v: Finite | None = None
    """Voltage that a run which needs bias brings it to, and switches off afterwards. None: runs leave it alone."""
    temperature: TemperatureRange | None = None
    """Of its own sensor at the detectors (`temperature_sipm`). None: no temperature is needed, which check-config
    says."""
    following: FollowingConfig | None = None
    """None: it stays where people set it."""
    settle_s: Annotated[Finite, Field(ge=0, le=60)] = 1.0
    """How long it is watched after the ramp before it counts as on."""
    on_daemon_loss: Literal["hold", "ramp_off", "off"] = "ramp_off"
    """What `petqc-safe` does with its output when the daemon is gone for good."""
    on_stop: Literal["hold", "ramp_off"] = "hold"
    """What an orderly stop of the daemon does with it."""

    @model_validator(mode="after")
    def _operating_inside(self) -> BiasSourceConfig:
        wanted, hard = self.operating, self.bias
        if wanted is not None and (hard is None or not hard.v_min <= wanted.v_min < wanted.v_max <= hard.v_max):
            raise ValueError("[device.operating] must rise, and lie inside the hard limit of [device.bias]")
        within = wanted or hard
        if self.run_v is not None and (within is None or not within.v_min <= self.run_v <= within.v_max):
            raise ValueError(
                f"run_v ({self.run_v:g} V) must lie inside [device.bias], and [device.operating] if it is there"
            )
        return self

    @property
    def can_energise(self) -> bool:
        """See `InstrumentConfig.can_energise`."""
        return self.bias is not None

    def _plain(self) -> dict[str, Any]:
        plain = super()._plain()
        if self.bias is not None:
            plain["limit"] = HardLimit(
                channel=self.name,
                v_min=Volts(self.bias.v_min),
                v_max=Volts(self.bias.v_max),
                max_step_v=self.bias.max_step_v,
                slew_v_per_s=self.bias.slew_v_per_s,
            )
            plain |= self._current(self.bias.most_current_ma)
        return plain

    def _current(self, most_ma: float) -> dict[str, float]:
        return {"most_current_ma": most_ma}


class HamamatsuC11204Config(BiasSourceConfig):
    """kind = "hamamatsu-c11204"."""

    kind: Literal["hamamatsu-c11204"]
    model: Literal["C11204-01", "C11204-02"]
    serial: str | None = None
    """What it must answer; a -01 has no words for it."""
    firmware: str | None = None
    """What its version must begin with."""
    compensates: bool = False
    """It follows its own temperature sensor, with the set that it has stored."""
    compensation_bit_when: bool | None = None
    """Value of its status bit 6 while it does."""

    @model_validator(mode="after")
    def _one_follows(self) -> HamamatsuC11204Config:
        if self.compensates and self.following is not None:
            raise ValueError("compensates and [device.following] would both follow the temperature: one of them")
        return self


class CaenA7585dConfig(BiasSourceConfig):
    """kind = "caen-a7585d"."""

    kind: Literal["caen-a7585d"]
    serial: Annotated[int, Field(ge=0)]
    """What it must answer."""


class KeithleySmuConfig(BiasSourceConfig):
    """kind = "keithley-smu"."""

    kind: Literal["keithley-smu"]
    model: Literal["2450", "2400"]
    serial: str
    """What it must answer."""
    power_line_cycles: Finite | None = None
    """Length of one reading, 0.01 to 10."""
    interlock_permit: bool | None = None
    """Its output needs that its interlock line is closed. Default: that of a 2450 does; a 2400 is asked only if this is
    true, and then its interlock must be switched on at the instrument."""
    temperature: None = None
    """It has no sensor at the detectors: a [[permit]] names whose reading counts."""

    @property
    def needs_interlock(self) -> bool:
        """Whether its output needs that its interlock is closed."""
        return self.model == "2450" if self.interlock_permit is None else self.interlock_permit

    def _plain(self) -> dict[str, Any]:
        return super()._plain() | ({"reads_interlock": True} if self.needs_interlock else {})

    def _current(self, most_ma: float) -> dict[str, float]:
        return {"most_current_a": 1e-3 * most_ma}


class JulaboConfig(InstrumentConfig):
    """kind = "julabo"."""

    kind: Literal["julabo"]
    model: Annotated[str, Field(min_length=1)]
    """What must stand in the version that it tells, such as FL601."""
    lowest_degc: Finite | None = None
    highest_degc: Finite | None = None
    """No other set point is ever sent."""
    baud: Literal[4800, 9600, 19_200, 38_400] | None = None
    rts_cts: bool | None = None
    """Hardware handshake."""
    cooling_permit: bool = True
    """Bias of what it cools (`modules`, none named: all) needs that it runs. False: nobody's does, which is told."""
    coolant: TemperatureRange | None = None
    """Where it may be, too, for that bias."""
    rs485_address: int | None = None
    """On a bus of several."""
    tells_unit: bool | None = None
    """It knows whether it counts in Celsius (HighTech)."""


class Sr620Config(InstrumentConfig):
    """kind = "sr620"."""

    kind: Literal["sr620"]
    serial: str
    """What it must answer."""
    poll_s: PollS = 5.0
    clocks: tuple[str, ...] = ()
    """Whose clocks are at A and B: `reference`, or modules as PORT.SLAVE.INDEX; the skew that is read is about them."""
    samples: int | None = None
    """Intervals of a measurement: 1, 2, 5, 10 … 1000000."""
    external_reference: bool | None = None
    """It must use a 10 MHz reference from outside."""
    seconds_per_sample: Finite | None = None
    """How long a sample takes at most."""

    @field_validator("clocks")
    @classmethod
    def _of_a_and_b(cls, clocks: tuple[str, ...]) -> tuple[str, ...]:
        if clocks and (len(clocks) != 2 or not all(re.fullmatch(f"reference|{_MODULE}", clock) for clock in clocks)):
            raise ValueError(
                f"{list(clocks)}: two are needed, of what is at A and at B: reference, or a module as "
                'PORT.SLAVE.INDEX, for example ["reference", "0.0.1"]'
            )
        return clocks

    @model_validator(mode="after")
    def _measures_within_a_poll(self) -> Sr620Config:
        settings = self.settings()
        if settings.samples * settings.seconds_per_sample > LONGEST_POLL_S:
            raise ValueError(
                f"{settings.samples} samples of up to {settings.seconds_per_sample:g} s take longer than "
                f"{LONGEST_POLL_S:g} s: what is read would be stale before the next reading"
            )
        return self

    def _plain(self) -> dict[str, Any]:
        plain = super()._plain()
        plain["clocks"] = tuple(c if c == "reference" else f"module:{c}" for c in self.clocks)
        return plain


class CaenA5203Config(InstrumentConfig):
    """kind = "caen-a5203"."""

    kind: Literal["caen-a5203"]
    address: Annotated[str, Field(pattern=r"^tcp://[^:/\s]+$")]
    """tcp://HOST"""
    control_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    data_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """The board's own unless it is simulated or behind a tunnel."""
    serial: Annotated[int, Field(ge=0)]
    """What it must answer (PID)."""
    inputs: tuple[int, ...] = ()
    """Channels that are timed; with `modules`, one for each of them, the intervals between every two are read."""
    window_ps: Finite | None = None
    """Coincidence window of these intervals, full width."""
    intervals_s: Finite | None = None
    """Over how long a time they are collected."""
    external_clock: bool | None = None
    """It takes its reference clock from outside."""
    silence_s: Finite | None = None
    """Running without a service event for so long, its link counts as lost."""

    @property
    def place(self) -> str:
        """See `InstrumentConfig.place`."""
        return self.address if self.control_port is None else f"{self.address}:{self.control_port}"

    def _plain(self) -> dict[str, Any]:
        plain = super()._plain()
        plain["host"] = plain.pop("address").removeprefix("tcp://")
        plain["modules"] = tuple(f"module:{module}" for module in self.modules)
        if "reply_timeout_s" in plain:
            plain["reply_s"] = plain.pop("reply_timeout_s")
        return plain


AnyInstrument = Annotated[
    HamamatsuC11204Config | CaenA7585dConfig | KeithleySmuConfig | JulaboConfig | Sr620Config | CaenA5203Config,
    Field(discriminator="kind"),
]
_ADAPTER: TypeAdapter[InstrumentConfig] = TypeAdapter(AnyInstrument)


def instrument_config(table: dict[str, Any]) -> InstrumentConfig:
    """One table, as a simulator tells it.

    Raises:
        ValidationError: it is none.
    """
    return _ADAPTER.validate_python(table)
