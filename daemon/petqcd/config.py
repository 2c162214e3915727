"""petqc.toml: frozen models that refuse unknown keys and name the line; no file at all is the simulated bench.

Relative paths are relative to the file. Nothing here reaches hardware and nothing is defaulted on the way to it:
a real device without its own hard limits is refused when a run asks for bias.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from datetime import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from petqcd.bias_limits import BiasLimits, Finite
from petqcd.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Share = Annotated[float, Field(ge=0.2, le=1.5, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class ScannerConfig(_Model):
    """[scanner]: what the results and metrics call it."""

    name: Name = "bench"
    """Name in results, metrics and topics."""


class SimulatorConfig(_Model):
    """[device.simulator]: a simulated board, started as a process of its own."""

    profile: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62}|[^\s].*\.toml)$")] = "bench"
    """A profile that comes with the simulators, or the path of a .toml file."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    speed: Annotated[Finite, Field(gt=0, le=100)] = 1.0
    """Seconds of detector per second of clock."""
    source: Literal["na22", "ge68", "none"] = "na22"
    faults: tuple[Annotated[str, Field(pattern=r"^F\d{2}(=[^@\s]+)?(@[0-9.]+(-[0-9.]+)?)?$")], ...] = ()
    """ID[=size][@begin[-end]], for example F03=100@5; the simulator knows which there are."""


ADDRESS_FORMS = {
    "petsys-udp": (r"udp://[^:/\s]+:\d{1,5}", "udp://HOST:PORT"),
    "petsys-daqd": (r"unix:/\S+", "unix:/PATH of the daemon's socket"),
}
"""What an address of each kind of device looks like, and how that is said."""


class DeviceConfig(_Model):
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
    simulator: SimulatorConfig | None = None
    bias: BiasLimits | None = None

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
        if self.simulator is not None and self.configuration is not None:
            raise ValueError("a simulator brings its own configuration: remove the key configuration")
        return self

    @property
    def is_simulated(self) -> bool:
        """Whether anything measured with this device is simulated."""
        return self.simulator is not None or self.simulated


class SourceRunConfig(_Model):
    """What every run with a source has."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 15.0
    """Acquisition time."""
    settle_s: Annotated[Finite, Field(ge=0, le=600)] = 0.5
    """Wait between bias on and acquisition."""
    queue_mib: Annotated[int, Field(ge=1, le=4096)] = 128
    """Frames that may wait for the recorder before they are dropped and counted."""


class SourceConfig(SourceRunConfig):
    """[qc.source]: the run with a source, and what the source is, for every run that has it in the scanner."""

    source: Literal["point", "line", "extended", "none"] = "point"
    """Shape of the source in the scanner; a CTR is only one for a point or a line."""
    source_name: Annotated[str, Field(max_length=100)] = ""
    """What the source is, for the report."""
    nuclide: Literal["na22", "ge68", ""] = ""
    """Of the source: control charts of rates take its decay out. Empty: rates are taken as they are."""


class MrDeltaConfig(SourceRunConfig):
    """[qc.mr-delta]: the same source with the MR idle, under stress, and idle again."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 180.0
    """Acquisition time of each of the three."""
    sequence: Annotated[str, Field(max_length=100)] = ""
    """Name of the sequence that stresses the detector."""
    duty_percent: Annotated[Finite, Field(gt=0, le=100)] | None = None
    """Share of the time in which it plays out."""
    phases: Literal["confirmed", "timed"] = "confirmed"
    """confirmed: somebody tells (`petqc confirm`) that the sequence runs, and that it has ended. timed: it follows the
    clock by itself, `gap_s` after each acquisition."""
    gap_s: Annotated[Finite, Field(ge=0, le=3600)] = 30.0
    """timed: pause between two acquisitions, for the sequence to start or to end."""
    confirm_within_s: Annotated[Finite, Field(gt=0, le=7200)] = 900.0
    """confirmed: how long to wait for the word before the run ends, with bias off."""


PartName = Literal["housekeeping", "test-pulse", "dark", "lutetium", "source"]


class DailyConfig(_Model):
    """[qc.daily]: of which runs the day's is composed."""

    runs: Annotated[tuple[PartName, ...], Field(min_length=1)] = ("housekeeping", "source")
    """In this order, each as its own table says."""

    @model_validator(mode="before")
    @classmethod
    def _not_of_the_source(cls, given: Any) -> Any:
        moved = sorted(set(given) & set(SourceConfig.model_fields)) if isinstance(given, dict) else []
        if moved:
            raise ValueError(f"{', '.join(moved)} of the run with a source: put into [qc.source]")
        return given

    @field_validator("runs")
    @classmethod
    def _once(cls, runs: tuple[PartName, ...]) -> tuple[PartName, ...]:
        if len(set(runs)) < len(runs):
            raise ValueError("a run stands there twice")
        return runs


class HousekeepingConfig(_Model):
    """[qc.housekeeping]: readings of the hardware, without source and without bias."""

    seconds: Annotated[Finite, Field(gt=0, le=3600)] = 5.0
    """Time between the first and the last reading, in which errors are counted."""


class LutetiumConfig(SourceRunConfig):
    """[qc.lutetium]: the nightly run without a source and without anybody."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 600.0
    """Acquisition time."""


class EnergyCalibrationConfig(SourceRunConfig):
    """[qc.calibrate-energy]: charge spectra of a source; ends once there is enough of its first line."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 300.0
    """Longest acquisition time."""
    source: Literal["na22", "na22-cs137", "ge68"] = "na22"
    """Whose lines: ge68 has one, which keeps how charge bends from the calibration before; na22-cs137 (both at once)
    has three, which also test the curve."""
    first_line_counts: Annotated[int, Field(ge=200, le=10_000_000)] = 2000
    """Counts in the first line that 95 % of the channels must have."""


class TimeOffsetCalibrationConfig(SourceRunConfig):
    """[qc.calibrate-time-offsets]: coincidences of a point source; ends once there are enough."""

    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = 300.0
    """Longest acquisition time."""
    pairs_per_channel: Annotated[int, Field(ge=20, le=10_000_000)] = 2000
    """Coincidences that 95 % of the channels must have."""
    source_mm: tuple[Finite, Finite, Finite] | None = None
    """Place of the source; default: found from the lines between crystals."""
    crystal_mm: Annotated[Finite, Field(gt=0, le=100)] = 20.0
    """Length of the crystals."""


class PointScanConfig(_Model):
    """What every scan of points has."""

    plan: Literal["short", "vendor"] = "short"
    """The points: `short` takes as many as the fit needs, `vendor` those of the readout maker's own acquisition."""
    channels: tuple[int, int] = (0, 63)
    """First and last channel of each ASIC; the new table has nothing for the others."""

    @field_validator("channels")
    @classmethod
    def _rising(cls, channels: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= channels[0] <= channels[1] <= 63:
            raise ValueError("first and last channel: 0 <= first <= last <= 63")
        return channels


class ThresholdScanConfig(PointScanConfig):
    """[qc.calibrate-threshold]: a scan of threshold codes with channel counters."""

    code_step: Literal[1, 2] | None = None
    """Every code, or every second one; default: as the plan has it."""
    reads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Counter windows of 21 ms at each code; default: as the plan has it."""
    settle_windows: Annotated[int, Field(ge=0, le=100)] = 1
    """Counter windows to wait after a setting."""


class DarkScanConfig(PointScanConfig):
    """[qc.dark]: counts over many thresholds at the working voltage; no source, no light."""

    plan: Literal["short"] = "short"
    """The readout maker has no such acquisition."""
    codes: tuple[int, int] = (2, 21)
    """Thresholds: the fewest and the most codes below the baseline of T1."""
    reads: Annotated[int, Field(ge=1, le=64)] = 8
    """Counter windows of 21 ms at each threshold."""
    settle_s: Annotated[Finite, Field(ge=0, le=600)] = 0.5
    """Wait after each change of voltage."""
    settle_windows: Annotated[int, Field(ge=0, le=100)] = 1
    """Counter windows to wait after each threshold."""

    @field_validator("codes")
    @classmethod
    def _codes_rising(cls, codes: tuple[int, int]) -> tuple[int, int]:
        if codes[0] < 1 or not codes[0] + 9 <= codes[1] <= 62:
            raise ValueError("fewest and most codes below the baseline: 1 or more, ten of them or more, at most 62")
        return codes


class BiasScanConfig(DarkScanConfig):
    """[qc.calibrate-bias]: the same at several voltages."""

    overvoltage_shares: Annotated[tuple[Share, ...], Field(min_length=3, max_length=20)] = (0.6, 0.7, 0.8, 0.9, 1.0)
    """Voltages to measure at, as shares of each output's overvoltage; above 1 only up to the hard limit."""
    reads: Annotated[int, Field(ge=1, le=64)] = 4
    """Counter windows of 21 ms at each threshold."""
    largest_change_v: Annotated[Finite, Field(gt=0, le=5)] = 0.5
    """A breakdown voltage further from the one in use is a finding, and not put in the table."""

    @field_validator("overvoltage_shares")
    @classmethod
    def _shares_rising(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if any(b - a < 0.02 for a, b in pairwise(shares)):
            raise ValueError("shares must rise, by 0.02 at least")
        return shares


class PulseScanConfig(PointScanConfig):
    """[qc.calibrate-tdc], [qc.calibrate-charge]: a scan of test pulses."""

    hits_per_tac: Annotated[int, Field(ge=4, le=100_000)] | None = None
    """Hits of each buffer at a point; default: as the plan has it."""
    channels_at_once: Annotated[int, Field(ge=1, le=12)] = 1
    """Channels of each ASIC that are pulsed together. Source: link of an ASIC, 80 bits an event, 1024 bits a frame."""
    settle_frames: Annotated[int, Field(ge=0, le=200_000)] = 2
    """Frames of 5.12 µs left out after a setting."""
    queue_mib: Annotated[int, Field(ge=1, le=4096)] = 128
    """Frames that may wait for the reduction before they are dropped and counted."""


class PulseTestConfig(PulseScanConfig):
    """[qc.test-pulse]: the readout's own pulses through every channel, without source and without bias."""

    plan: Literal["short"] = "short"
    """The readout maker has no such acquisition."""
    channels_at_once: Annotated[int, Field(ge=1, le=12)] = 4
    """Channels of each ASIC that are pulsed together."""


class QcConfig(_Model):
    """[qc.<run>]: one table for each kind of run."""

    daily: DailyConfig = DailyConfig()
    source: SourceConfig = SourceConfig()
    housekeeping: HousekeepingConfig = HousekeepingConfig()
    lutetium: LutetiumConfig = LutetiumConfig()
    mr_delta: MrDeltaConfig = Field(default=MrDeltaConfig(), alias="mr-delta")
    dark: DarkScanConfig = DarkScanConfig()
    test_pulse: PulseTestConfig = Field(default=PulseTestConfig(), alias="test-pulse")
    calibrate_threshold: ThresholdScanConfig = Field(default=ThresholdScanConfig(), alias="calibrate-threshold")
    calibrate_tdc: PulseScanConfig = Field(default=PulseScanConfig(), alias="calibrate-tdc")
    calibrate_charge: PulseScanConfig = Field(default=PulseScanConfig(), alias="calibrate-charge")
    calibrate_bias: BiasScanConfig = Field(default=BiasScanConfig(), alias="calibrate-bias")
    calibrate_energy: EnergyCalibrationConfig = Field(default=EnergyCalibrationConfig(), alias="calibrate-energy")
    calibrate_time_offsets: TimeOffsetCalibrationConfig = Field(
        default=TimeOffsetCalibrationConfig(), alias="calibrate-time-offsets"
    )

    def of(self, kind: str) -> BaseModel:
        """The table of a kind of run."""
        found: BaseModel = getattr(self, kind.replace("-", "_"), _Model())  # not every kind has something to configure
        return found


class JobConfig(_Model):
    """[[schedule.job]]: a run that is started by itself."""

    name: Name | None = None
    """Default: the kind. A job keeps its days by its name."""
    kind: Literal["daily", "housekeeping", "test-pulse", "dark", "lutetium", "source"]
    at: time
    """Local time, such as 06:00:00."""
    days: Annotated[tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...], Field(min_length=1)] = (
        "mon", "tue", "wed", "thu", "fri", "sat", "sun",
    )  # fmt: skip
    late_minutes: Annotated[Finite, Field(ge=1, le=1440)] = 120.0
    """How late it may still start; then the day is missed."""

    @field_validator("at")
    @classmethod
    def _local(cls, at: time) -> time:
        if at.tzinfo is not None:
            raise ValueError("a local time, without a zone: the zone is [schedule] timezone")
        return at


class ScheduleConfig(_Model):
    """[schedule]: what runs by itself, and when."""

    timezone: str = "UTC"
    """Name of the time zone of all jobs, such as Europe/Amsterdam."""
    job: tuple[JobConfig, ...] = ()

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"no time zone {timezone!r} is known here: take a name such as Europe/Amsterdam"
            ) from error
        return timezone

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [one.name or one.kind for one in self.job]
        if len(set(names)) < len(names):
            raise ValueError("two jobs have the same name: give each its own name")
        return self


class CheckLimits(_Model):
    """[limits.<check>] or [limits.<check>.<level>]: limits that replace the check's own, in the unit of the check."""

    fail_low: Finite | None = None
    warn_low: Finite | None = None
    warn_high: Finite | None = None
    fail_high: Finite | None = None

    @model_validator(mode="after")
    def _rising(self) -> CheckLimits:
        given = [v for v in (self.fail_low, self.warn_low, self.warn_high, self.fail_high) if v is not None]
        if not given:
            raise ValueError("no limit given: name at least one of fail_low, warn_low, warn_high, fail_high")
        if given != sorted(given):
            raise ValueError("limits must rise: fail_low <= warn_low <= warn_high <= fail_high")
        return self


class StoreConfig(_Model):
    """[store]: where runs, recordings and the history are kept."""

    directory: Path | None = None
    """State directory. Default: $STATE_DIRECTORY, else $XDG_STATE_HOME/petqc, else ~/.local/state/petqc."""


class ApiConfig(_Model):
    """[api]: the read-only HTTP listener."""

    listen: Annotated[str, Field(pattern=r"^(127\.0\.0\.1|localhost|\[::1\]):\d{1,5}$")] = "127.0.0.1:8642"
    """Loopback HOST:PORT; port 0 takes a free one. Elsewhere it would need users and TLS, so it is refused."""
    hosts: tuple[str, ...] = ()
    """Further names that the Host header may carry, for a reverse proxy."""

    @property
    def host(self) -> str:
        """Address to bind."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port to bind, 0 for any."""
        return int(self.listen.rpartition(":")[2])

    @field_validator("listen")
    @classmethod
    def _port(cls, listen: str) -> str:
        if int(listen.rpartition(":")[2]) > 65_535:
            raise ValueError("the port must be 0 to 65535")
        return listen


class QatrackConfig(_Model):
    """[qatrack]: the QATrack+ server that `petqc upload` performs a test list on."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]
    """Address of its API, such as https://qatrack.example/api."""
    token_file: Path
    """File with the API token, readable by its owner only."""
    unit_test_collection: str
    """Address of the unit's test list in the API."""
    tests: Annotated[dict[str, str], Field(min_length=1)]
    """Macro name of each test -> check of the scanner, CHECK@NODE, `verdict` or `sentence`."""
    ca_file: Path | None = None
    """Certificates that the server's is checked against, where it is not one of the system's."""


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


class PetqcConfig(_Model):
    """The whole of petqc.toml."""

    scanner: ScannerConfig = ScannerConfig()
    device: Annotated[tuple[DeviceConfig, ...], Field(min_length=1, max_length=1)] = (simulated_device(),)
    """Readout boards; one, for now, and a second one is refused rather than ignored."""
    qc: QcConfig = QcConfig()
    limits: dict[Name, dict[str, CheckLimits]] = {}
    """Limits by check, then by level; the level "*" is every level of the check."""
    baseline: dict[Name, dict[str, Finite]] = {}
    """Accepted values by check, then by node (`scanner`, `module:0.0.1`); limits relative to a baseline need one."""
    schedule: ScheduleConfig = ScheduleConfig()
    store: StoreConfig = StoreConfig()
    api: ApiConfig = ApiConfig()
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

    @property
    def board(self) -> DeviceConfig:
        """The readout board."""
        return self.device[0]

    @property
    def nuclide(self) -> str:
        """Of the source; empty where nobody said."""
        simulator = self.board.simulator
        return self.qc.source.nuclide if simulator is None else simulator.source

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


def state_directory(config: PetqcConfig | None = None) -> Path:
    """Where state is kept: $PETQC_STATE_DIR, then [store] directory, then what the service manager or the user has."""
    given = os.environ.get("PETQC_STATE_DIR")
    if given:
        return Path(given).absolute()
    if config is not None and config.store.directory is not None:
        return config.store.directory
    service = os.environ.get("STATE_DIRECTORY")
    if service:
        return Path(service.split(":")[0])
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "petqc"


def find_config(given: Path | None) -> Path | None:
    """The file to read: the given one, $PETQC_CONFIG, ./petqc.toml, /etc/petqc/petqc.toml, or None."""
    named = given or (Path(os.environ["PETQC_CONFIG"]) if os.environ.get("PETQC_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"{named}: no such file (give the path of a petqc.toml)")
        return named
    return next((p for p in (Path("petqc.toml"), Path("/etc/petqc/petqc.toml")) if p.is_file()), None)


def load_config(path: Path | None) -> PetqcConfig:
    """Read and check a configuration; None is the simulated bench.

    Raises:
        ConfigError: naming every wrong key with its file, line and path.
    """
    if path is None:
        device = simulated_device()
        return PetqcConfig(device=(device,), baseline=bench_baseline(device))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    if "source_file" in raw:
        raise ConfigError(f"{path}: source_file: unknown key")
    try:
        config = PetqcConfig.model_validate({**raw, "source_file": path})
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, text, e) for e in error.errors())) from error
    return _absolute(config, path.absolute().parent)


def _absolute_device(device: DeviceConfig, folder: Path) -> DeviceConfig:
    simulator = device.simulator
    if simulator is not None and simulator.profile.endswith(".toml"):
        simulator = simulator.model_copy(update={"profile": str(folder / simulator.profile)})
    configuration = device.configuration and folder / device.configuration
    return device.model_copy(update={"simulator": simulator, "configuration": configuration})


def _absolute(config: PetqcConfig, folder: Path) -> PetqcConfig:
    devices = tuple(_absolute_device(device, folder) for device in config.device)
    directory = config.store.directory
    store = config.store if directory is None else StoreConfig(directory=folder / directory)
    qatrack = config.qatrack
    if qatrack is not None:
        files = {"token_file": folder / qatrack.token_file, "ca_file": qatrack.ca_file and folder / qatrack.ca_file}
        qatrack = qatrack.model_copy(update=files)
    return config.model_copy(update={"device": devices, "store": store, "qatrack": qatrack})


def _explain(path: Path, text: str, error: Any) -> str:
    keys = [k for k in error["loc"] if k != "*"]
    dotted = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).lstrip(".")
    line = _line_of(text, keys)
    where = f"{path}:{line}" if line else str(path)
    if error["type"] == "extra_forbidden":
        return f"{where}: {dotted}: unknown key (look for a misspelling, or remove it)"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {dotted or 'whole file'}: {message}"


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")


def _line_of(text: str, keys: list[Any]) -> int | None:
    """Line of a key, or of the table it is missing from. Best effort on TOML written in the usual way."""
    wanted = [str(k) for k in keys if not isinstance(k, int)]
    index = next((k for k in keys if isinstance(k, int)), 0)
    table: list[str] = []
    seen: dict[str, int] = {}
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            table = [part.strip().strip("\"'") for part in header[2].split(".")]
            if header[1] == "[[":
                seen[header[2]] = seen.get(header[2], -1) + 1
            path = table
        else:
            key = line.split("=", 1)[0].strip().strip("\"'")
            if "=" not in line or not key or key.startswith("#"):
                continue
            path = table + [part.strip() for part in key.split(".")]
        if seen.get(table[0] if table else "", index) != index:
            continue
        depth = len(path) if wanted[: len(path)] == path else 0
        if depth and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None
