"""[[device]] of the readout: one board, or all units behind the readout maker's daemon; real or simulated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from petqc_drivers.registry import KINDS
from petqcd.config.instruments import TemperatureRange
from petqcd.config.model import Model, Name
from petqcd.interlocks.bias_limits import BiasLimits, Finite


class SimulatorConfig(Model):
    """[device.simulator]: a simulated board, started as a process of its own."""

    profile: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62}|[^\s].*\.toml)$")] = "bench"
    """A profile that comes with the simulators, or the path of a .toml file."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    speed: Annotated[Finite, Field(gt=0, le=100)] = 1.0
    """Seconds of detector per second of clock."""
    source: Literal["na22", "ge68", "none"] = "na22"
    faults: tuple[
        Annotated[str, Field(pattern=r"^[A-Z]\d{2}(=[^:@\s]+)?(:[^@\s]+)?(@[0-9.]+(-[0-9.]+)?)?(~[0-9.]+)?$")], ...
    ] = ()
    """ID[=size][:place][@begin[-end]][~ramp], for example F03=100@5; the simulator knows which there are."""
    scenario: Annotated[str, Field(max_length=300)] = ""
    """A story of faults: a name, or the path of a .toml file; faults come on top of its own."""


ADDRESS_FORMS = {
    "petsys-udp": (r"udp://[^:/\s]+:\d{1,5}", "udp://HOST:PORT"),
    "petsys-daqd": (r"unix:/\S+", "unix:/PATH of the daemon's socket"),
}
"""What an address of each kind of device looks like, and how that is said."""


class DeviceConfig(Model):
    """[[device]]: one readout, real (address and configuration) or simulated (simulator)."""

    name: Name = "board"
    kind: Literal["petsys-udp", "petsys-daqd"] = "petsys-udp"
    """petsys-udp: one board on gigabit Ethernet. petsys-daqd: all units behind the readout maker's daemon."""
    address: str | None = None
    """udp://HOST:PORT or unix:/PATH of a real readout, or of a simulator started elsewhere."""
    shared_memory: Annotated[str, Field(pattern=r"^/[^/\s]{1,254}$")] | None = None
    """petsys-daqd: name of the daemon's frame ring, for messages when the daemon is not there to tell it."""
    configuration: Path | None = None
    """config.ini of the readout: maps, calibrations, settings."""
    simulated: bool = False
    """True: what answers at `address` is a simulator or a replay, and everything made from it says so."""
    replays: Annotated[str, Field(max_length=300)] = ""
    """What is replayed at `address`, where it is no simulated detector: every run says so."""
    control: Path | None = None
    """Control socket of a simulator that was started elsewhere: where faults are planted while it runs."""
    simulator: SimulatorConfig | None = None
    bias: BiasLimits | None = None
    temperature: TemperatureRange | None = None
    """Of its modules, for bias to go on and to stay on; they are then read while it is on. None: not needed, which
    check-config says."""
    on_daemon_loss: Literal["hold", "off"] = "off"
    """What `petqc-safe` does with its bias when the daemon is gone for good; there is no ramp without read-back."""

    @field_validator("kind", mode="before")
    @classmethod
    def _known(cls, kind: Any) -> Any:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
        return kind

    @model_validator(mode="after")
    def _one_source(self) -> DeviceConfig:
        if (self.address is None) == (self.simulator is None):
            raise ValueError("give either address (a board on the wire) or simulator, not both and not neither")
        form, words = ADDRESS_FORMS[self.kind]
        if self.address is not None and not re.fullmatch(form, self.address):
            raise ValueError(f"address {self.address!r} of a {self.kind} is not {words}")
        if self.shared_memory is not None and (self.kind != "petsys-daqd" or self.simulator is not None):
            raise ValueError("shared_memory belongs to a petsys-daqd at an address")
        if self.address is not None and self.configuration is None:
            raise ValueError("a board at an address needs configuration = the path of its config.ini")
        if self.replays and not self.simulated:
            raise ValueError("replays says what a replay at an address plays: it needs simulated = true")
        if self.control is not None and (self.simulator is not None or not self.simulated):
            raise ValueError("control is the socket of a simulator at an address: it needs simulated = true")
        if self.simulator is not None and self.configuration is not None:
            raise ValueError("a simulator brings its own configuration: remove the key configuration")
        return self

    @property
    def is_simulated(self) -> bool:
        """Whether anything measured with this device is simulated."""
        return self.simulator is not None or self.simulated


BENCH_BIAS = BiasLimits(v_min=0.0, v_max=50.0, max_step_v=5.0, slew_v_per_s=50.0)
"""Hard limit of the simulated bench, which is the only thing that has one without being asked."""


def simulated_device(**simulator: Any) -> DeviceConfig:
    """A simulated readout; keywords are those of [device.simulator]. Only the bench is a board that speaks UDP."""
    settings = SimulatorConfig(**simulator)
    kind: Literal["petsys-udp", "petsys-daqd"] = "petsys-udp" if settings.profile == "bench" else "petsys-daqd"
    return DeviceConfig(kind=kind, simulator=settings, bias=BENCH_BIAS)


_BENCH_NA22_BASELINE = {
    "ctr_fit": {"scanner": 218.3},
    "ctr_nema": {"scanner": 218.5},
    "energy_resolution": {"scanner": 10.46, "module:0.0.0": 10.46, "module:0.0.1": 10.46},
    "singles_rate": {"scanner": 178_400.0, "module:0.0.0": 89_200.0, "module:0.0.1": 89_200.0},
    "prompts": {"scanner": 25_660.0},
}
"""What the profile `bench` is built to give, mean of eight seeds. Source: the truth that its recordings come with."""


def bench_baseline(device: DeviceConfig) -> dict[str, dict[str, float]]:
    """Accepted values of the simulated bench; of any other profile or source nothing was accepted yet."""
    simulator = device.simulator
    is_known = simulator is not None and (simulator.profile, simulator.source) == ("bench", "na22")
    return _BENCH_NA22_BASELINE if is_known else {}
