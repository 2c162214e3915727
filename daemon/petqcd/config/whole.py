"""The whole of petqc.toml."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from petqc_drivers.registry import KINDS
from petqcd.config.instruments import AnyInstrument, InstrumentConfig
from petqcd.config.interlocks import PermitConfig
from petqcd.config.model import Model, Name
from petqcd.config.mqtt import MqttConfig
from petqcd.config.readout import ADDRESS_FORMS, DeviceConfig, simulated_device
from petqcd.config.runs import CheckLimits, QcConfig
from petqcd.config.schedule import ScheduleConfig
from petqcd.config.service import ApiConfig, AuditConfig, QatrackConfig, ScannerConfig, StoreConfig
from petqcd.interlocks.bias_limits import Finite

INSTRUMENT_KINDS = frozenset(KINDS) - frozenset(ADDRESS_FORMS)
TABLES = _READOUT, _INSTRUMENT = "readout", "instrument"
"""The two sorts of [[device]]."""


def _which(device: Any) -> str:
    """Which of the two a table of [[device]] is; without a kind, or of an unknown one, it counts as the readout."""
    if isinstance(device, InstrumentConfig):
        return _INSTRUMENT
    kind = device.get("kind") if isinstance(device, dict) else None
    return _INSTRUMENT if kind in INSTRUMENT_KINDS else _READOUT


AnyDevice = Annotated[
    Annotated[DeviceConfig, Tag(_READOUT)] | Annotated[AnyInstrument, Tag(_INSTRUMENT)], Discriminator(_which)
]


class PetqcConfig(Model):
    """The whole of petqc.toml."""

    scanner: ScannerConfig = ScannerConfig()
    device: tuple[AnyDevice, ...] = (simulated_device(),)
    """One readout, and the instruments around the detector."""
    permit: tuple[PermitConfig, ...] = ()
    """What must be so for bias to go on and to stay on, beside what every bias source needs."""
    qc: QcConfig = QcConfig()
    limits: dict[Name, dict[str, CheckLimits]] = Field(default_factory=dict)
    """Limits by check, then by level; the level "*" is every level of the check."""
    baseline: dict[Name, dict[str, Finite]] = Field(default_factory=dict)
    """Accepted values by check, then by node (`scanner`, `module:0.0.1`); limits relative to a baseline need one."""
    schedule: ScheduleConfig = ScheduleConfig()
    store: StoreConfig = StoreConfig()
    api: ApiConfig = ApiConfig()
    audit: AuditConfig = AuditConfig()
    mqtt: MqttConfig | None = None
    qatrack: QatrackConfig | None = None
    source_file: Path | None = Field(default=None, exclude=True)
    """The file it came from; None: no configuration, simulated bench."""

    @field_validator("limits", mode="before")
    @classmethod
    def _levels(cls, limits: Any) -> Any:
        """[limits.photopeak] speaks for every level, [limits.photopeak.module] for one."""
        if not isinstance(limits, dict):
            return limits
        grouped: dict[str, Any] = {}
        for check, table in limits.items():
            if not isinstance(table, dict):
                grouped[check] = table
                continue
            flat = {k: v for k, v in table.items() if not isinstance(v, dict)}
            nested = {k: v for k, v in table.items() if isinstance(v, dict)}
            grouped[check] = {**({"*": flat} if flat or not nested else {}), **nested}
        return grouped

    @field_validator("device")
    @classmethod
    def _one_readout(cls, devices: tuple[AnyDevice, ...]) -> tuple[AnyDevice, ...]:
        readouts = [device.name for device in devices if isinstance(device, DeviceConfig)]
        if len(readouts) != 1:
            kinds = " or ".join(ADDRESS_FORMS)
            raise ValueError(f"{len(readouts)} readouts ({kinds}) are configured, and there must be exactly one")
        names = [device.name for device in devices]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two devices are called {twice[0]!r}: give each a name of its own")
        places = [device.place for device in devices if isinstance(device, InstrumentConfig)]
        if twice := sorted({place for place in places if places.count(place) > 1}):
            raise ValueError(f"two devices are at {twice[0]}: a line has one instrument")
        return devices

    @model_validator(mode="after")
    def _named_sequence(self) -> Self:
        by_itself = "mr-delta" in self.qc.daily.runs or any(job.kind == "mr-delta" for job in self.schedule.job)
        if by_itself and not self.qc.mr_delta.sequence.strip():
            raise ValueError("mr-delta runs by itself ([qc.daily] or [schedule]): name its sequence in [qc.mr-delta]")
        return self

    @model_validator(mode="after")
    def _permits_of_devices(self) -> Self:
        names = [one.name for one in self.permit]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two permits are called {twice[0]!r}: give each a name of its own")
        known = {one.name for one in self.instruments}
        outputs = {*known, self.board.name}
        if self.board.simulator is not None:
            return self  # it brings instruments of its own
        for one in self.permit:
            for name, there in ((one.device, known), *((name, outputs) for name in one.of)):
                if name not in there:
                    raise ValueError(f"permit {one.name!r} names the device {name!r}, which is not configured")
        return self

    @property
    def board(self) -> DeviceConfig:
        """The readout board."""
        return next(device for device in self.device if isinstance(device, DeviceConfig))

    @property
    def instruments(self) -> tuple[InstrumentConfig, ...]:
        """What stands around the detector, as configured; a simulated readout may tell of more."""
        return tuple(device for device in self.device if isinstance(device, InstrumentConfig))

    @property
    def is_simulated(self) -> bool:
        """Whether anything that is measured with these devices is simulated."""
        return self.board.is_simulated or any(instrument.simulated for instrument in self.instruments)

    @property
    def nuclide(self) -> str:
        """Of the source, whose decay is taken out of rates; empty where nobody said.

        Empty of a simulated one, too: it has the same activity in every run.
        """
        return self.qc.source.nuclide if self.board.simulator is None else ""

    @property
    def source(self) -> tuple[Literal["point", "line", "extended", "none"], str]:
        """Shape of the source, and what it is, for people; empty where nobody said."""
        simulator = self.board.simulator
        if simulator is None:
            return self.qc.source.source, self.qc.source.source_name
        return "none" if simulator.source == "none" else self.qc.source.source, f"simulated {simulator.source}"

    def limit_overrides(self) -> dict[str, dict[str, float]]:
        """Limits as the analysis takes them: by `check` or `check.level`, only the sides that were given."""
        return {
            check if level == "*" else f"{check}.{level}": limits.model_dump(exclude_none=True)
            for check, levels in self.limits.items()
            for level, limits in levels.items()
        }

    @property
    def hash(self) -> str:
        """SHA-256 of everything that is configured, as hexadecimal text."""
        return hashlib.sha256(self.model_dump_json(exclude={"source_file"}).encode()).hexdigest()
