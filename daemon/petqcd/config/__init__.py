"""petqc.toml: frozen models that refuse unknown keys and name the line; no file at all is the simulated bench.

Relative paths are relative to the file. Nothing here reaches hardware and nothing is defaulted on the way to it:
a real device without its own hard limits is refused when a run asks for bias.
"""

from __future__ import annotations

from petqcd.config.instruments import (
    BiasSourceConfig,
    HamamatsuC11204Config,
    InstrumentConfig,
    JulaboConfig,
    KeithleySmuConfig,
    SupplyLimits,
    TemperatureRange,
    instrument_config,
)
from petqcd.config.load import (
    find_config,
    load_config,
    state_directory,
)
from petqcd.config.readout import (
    ADDRESS_FORMS,
    BENCH_BIAS,
    DeviceConfig,
    SimulatorConfig,
    bench_baseline,
    simulated_device,
)
from petqcd.config.runs import (
    BiasScanConfig,
    CheckLimits,
    DailyConfig,
    DarkScanConfig,
    EnergyCalibrationConfig,
    HousekeepingConfig,
    LutetiumConfig,
    MrDeltaConfig,
    PartName,
    PointScanConfig,
    PulseScanConfig,
    PulseTestConfig,
    QcConfig,
    SourceConfig,
    SourceRunConfig,
    ThresholdScanConfig,
    TimeOffsetCalibrationConfig,
)
from petqcd.config.schedule import (
    JobConfig,
    ScheduleConfig,
)
from petqcd.config.service import (
    ApiConfig,
    AuditConfig,
    QatrackConfig,
    ScannerConfig,
    StoreConfig,
)
from petqcd.config.whole import (
    PetqcConfig,
)

__all__ = [
    "ADDRESS_FORMS",
    "BENCH_BIAS",
    "ApiConfig",
    "AuditConfig",
    "BiasScanConfig",
    "BiasSourceConfig",
    "CheckLimits",
    "DailyConfig",
    "DarkScanConfig",
    "DeviceConfig",
    "EnergyCalibrationConfig",
    "HamamatsuC11204Config",
    "HousekeepingConfig",
    "InstrumentConfig",
    "JobConfig",
    "JulaboConfig",
    "KeithleySmuConfig",
    "LutetiumConfig",
    "MrDeltaConfig",
    "PartName",
    "PetqcConfig",
    "PointScanConfig",
    "PulseScanConfig",
    "PulseTestConfig",
    "QatrackConfig",
    "QcConfig",
    "ScannerConfig",
    "ScheduleConfig",
    "SimulatorConfig",
    "SourceConfig",
    "SourceRunConfig",
    "StoreConfig",
    "SupplyLimits",
    "TemperatureRange",
    "ThresholdScanConfig",
    "TimeOffsetCalibrationConfig",
    "bench_baseline",
    "find_config",
    "instrument_config",
    "load_config",
    "simulated_device",
    "state_directory",
]
