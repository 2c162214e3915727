"""Profiles: what a simulated scanner is made of, as data (profiles/*.toml)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

PROFILES = Path(__file__).with_name("profiles")


class ProfileError(ValueError):
    """A profile or fault that cannot be used; the message names the file and the key."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Modules of identical crystals.

    arrangement: `panels`, two facing ones with entrance faces at ± face_distance_mm on the z axis, the first half of
    the modules at negative z; or `ring`, around the y axis with that radius. across: modules side by side in a panel,
    or around the ring; the rest are further rows along y. gap_mm: between modules.
    """

    arrangement: str
    modules: int
    across: int
    gap_mm: float
    columns: int
    rows: int
    pitch_mm: float
    crystal_length_mm: float
    face_distance_mm: float
    asics_per_module: int
    crystals_per_bias: int

    @property
    def width_mm(self) -> float:
        """Of a module, along its columns."""
        return self.columns * self.pitch_mm

    @property
    def height_mm(self) -> float:
        """Of a module, along its rows."""
        return self.rows * self.pitch_mm

    @property
    def extent_mm(self) -> tuple[float, float]:
        """Of a panel along x and of panel or ring along y, from outer edge to outer edge."""
        n_y = self.modules // self.across if self.arrangement == "ring" else self.modules // 2 // self.across
        return (
            self.across * (self.width_mm + self.gap_mm) - self.gap_mm,
            n_y * (self.height_mm + self.gap_mm) - self.gap_mm,
        )

    @property
    def crystals_per_module(self) -> int:
        """Crystals, and channels, of one module."""
        return self.columns * self.rows

    @property
    def channels(self) -> int:
        """All channels."""
        return self.modules * self.crystals_per_module

    @property
    def bias_channels(self) -> int:
        """Outputs of the bias supply in use."""
        return self.channels // self.crystals_per_bias

    @property
    def chips(self) -> int:
        """ASICs, 64 channels each."""
        return self.modules * self.asics_per_module


@dataclass(frozen=True, slots=True)
class Hardware:
    """The readout: front-end boards with equal numbers of modules, in the order of the modules.

    clock_trigger: a unit of its own has clock and trigger, behind the daemon; otherwise the one board has both.
    boards_per_port: boards chained to one port of the daemon.
    """

    boards: int
    boards_per_port: int
    clock_trigger: bool

    def address(self, board: int) -> tuple[int, int]:
        """Port and slave of a board."""
        return divmod(board, self.boards_per_port)

    @property
    def trigger_address(self) -> tuple[int, int]:
        """Port and slave of the clock and trigger unit: the first port without boards."""
        return -(-self.boards // self.boards_per_port), 0

    @property
    def trigger_id(self) -> int:
        """What recordings call the unit whose hits are trigger records; a single board with its own trigger says 1."""
        port, slave = self.trigger_address
        return 32 * port + slave if self.clock_trigger else 1


@dataclass(frozen=True, slots=True)
class Crystal:
    """LYSO. Widths are FWHM in percent at 511 keV; spreads are relative standard deviations."""

    density_g_cm3: float
    fill_factor: float
    light_speed_index: float
    lu176_bq_per_cm3: float
    decay_ns: float
    photoelectrons_at_511: float
    light_yield_spread: float
    light_yield_per_k: float
    intrinsic_fwhm_percent: float
    resolution_spread: float


@dataclass(frozen=True, slots=True)
class Sipm:
    """Photosensor behaviour against voltage and temperature."""

    breakdown_v: float
    breakdown_group_spread_v: float
    breakdown_crystal_spread_v: float
    breakdown_v_per_k: float
    overvoltage_v: float
    pde_scale_v: float
    crosstalk_per_v: float
    dark_rate_hz: float
    dark_doubling_k: float
    cells: float
    cells_spread: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Standard deviations of one channel, and delays between channels, in ps."""

    photon_sigma_ps: float
    photon_sigma_spread: float
    amplifier_sigma_ps: float
    tdc_sigma_ps: float
    clock_sigma_ps: float
    walk_ps: float
    channel_delay_ps: float
    asic_delay_ps: float
    module_delay_ps: float


@dataclass(frozen=True, slots=True)
class Electronics:
    """ASIC front end, converters, thresholds and bias outputs."""

    units_at_511: float
    gain_spread: float
    noise_units: float
    tdc_codes_per_clock: float
    rearm_clk: float
    conversion_clk: float
    threshold_e_kev_per_step: float
    threshold_t2_kev_per_step: float
    threshold_t1_kev_per_step: float
    vth_t1: int
    vth_t2: int
    vth_e: int
    bias_settle_s: float


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Kind na22, ge68 or none; a sphere of radius_mm, drawn out along y by length_mm."""

    kind: str
    activity_bq: float
    radius_mm: float
    length_mm: float
    ge68_length_mm: float


@dataclass(frozen=True, slots=True)
class Environment:
    """Temperatures."""

    calibration_degc: float
    asic_rise_k: float
    asic_settle_s: float


@dataclass(frozen=True, slots=True)
class Today:
    """How far today is from the calibration day: standard deviations of what the seed draws."""

    temperature_k: float
    light_percent: float
    channel_delay_ps: float
    module_delay_ps: float


@dataclass(frozen=True, slots=True)
class ProcessingNumbers:
    """What the written configuration asks of the event processing; windows in clocks of 5 ns, one-sided."""

    group_time_window_clk: float
    group_max_distance_mm: float
    group_max_hits: int
    coincidence_time_window_clk: float
    energy_window_low_kev: float
    energy_window_high_kev: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One scanner."""

    name: str
    title: str
    geometry: Geometry
    hardware: Hardware
    crystal: Crystal
    sipm: Sipm
    timing: Timing
    electronics: Electronics
    source: SourceSettings
    environment: Environment
    today: Today
    processing: ProcessingNumbers

    @property
    def modules_per_board(self) -> int:
        """Modules of each front-end board."""
        return self.geometry.modules // self.hardware.boards

    def board(self, number: int) -> Profile:
        """What one board has of it: its own modules, no others."""
        if not 0 <= number < self.hardware.boards:
            raise ProfileError(f"{self.name} has boards 0..{self.hardware.boards - 1}, not {number}")
        return replace(self, geometry=replace(self.geometry, modules=self.modules_per_board))

    def absolute_channels(self) -> NDArray[np.int64]:
        """Absolute channel number of every channel, in the detector's own order."""
        per_board = self.geometry.channels // self.hardware.boards
        board, place = np.divmod(np.arange(self.geometry.channels, dtype=np.int64), per_board)
        port, slave = np.array([self.hardware.address(b) for b in range(self.hardware.boards)], np.int64).T
        return np.asarray(port[board] << 17 | slave[board] << 12 | place)


_SECTIONS: dict[str, type[Any]] = {
    "geometry": Geometry,
    "hardware": Hardware,
    "crystal": Crystal,
    "sipm": Sipm,
    "timing": Timing,
    "electronics": Electronics,
    "source": SourceSettings,
    "environment": Environment,
    "today": Today,
    "processing": ProcessingNumbers,
}


def _section(kind: type[T], values: object, where: str) -> T:
    if not isinstance(values, dict):
        raise ProfileError(f"{where}: is not a table")
    known = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ProfileError(f"{where}: unknown key {unknown[0]!r}, known are {', '.join(known)}")
    if missing := sorted(set(known) - set(values)):
        raise ProfileError(f"{where}: key {missing[0]!r} is missing")
    for key, value in values.items():
        wanted: tuple[type, ...] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}[known[key]]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ProfileError(f"{where}.{key}: {value!r} is not of type {known[key]}")
    return kind(**values)


def profile_names() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(p.stem for p in PROFILES.glob("*.toml"))


def load_profile(name: str, *, source: str | None = None) -> Profile:
    """Read a profile by name or by path of a TOML file.

    Args:
        name: a name from profile_names(), or a path that ends in .toml.
        source: replaces the profile's source kind (na22, ge68 or none).

    Raises:
        ProfileError: there is no such profile, or a key is unknown, missing or of the wrong type.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ProfileError(f"there is no profile {name!r}; known are {', '.join(profile_names())}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: {error}") from error
    if unknown := sorted(set(document) - set(_SECTIONS) - {"name", "title"}):
        raise ProfileError(f"{path}: unknown section {unknown[0]!r}")
    if source is not None and isinstance(document.get("source"), dict):
        document["source"]["kind"] = source
    profile = Profile(
        name=str(document.get("name", path.stem)),
        title=str(document.get("title", "")),
        **{key: _section(kind, document.get(key), f"{path}: {key}") for key, kind in _SECTIONS.items()},
    )
    if profile.source.kind not in {"na22", "ge68", "none"}:
        raise ProfileError(f"{path}: source.kind: {profile.source.kind!r} is none of na22, ge68, none")
    _check(path, profile)
    return profile


def _check(path: Path, profile: Profile) -> None:
    geometry, hardware = profile.geometry, profile.hardware
    if geometry.arrangement not in {"panels", "ring"}:
        raise ProfileError(f"{path}: geometry.arrangement: {geometry.arrangement!r} is neither panels nor ring")
    if geometry.crystals_per_module != 64 * geometry.asics_per_module:
        raise ProfileError(f"{path}: geometry: a module has 64 crystals for each ASIC")
    side = geometry.modules if geometry.arrangement == "ring" else geometry.modules / 2
    if geometry.modules < 2 or geometry.across < 1 or side % geometry.across:
        raise ProfileError(
            f"{path}: geometry: {geometry.modules} modules do not make whole rows of {geometry.across} across"
        )
    if hardware.boards < 1 or hardware.boards_per_port < 1 or geometry.modules % hardware.boards:
        raise ProfileError(f"{path}: hardware: {geometry.modules} modules on {hardware.boards} boards")
    chips = profile.modules_per_board * geometry.asics_per_module
    outputs = profile.modules_per_board * geometry.crystals_per_module / geometry.crystals_per_bias
    if chips > 64 or outputs > 32 or outputs % 1:
        raise ProfileError(f"{path}: hardware: a board has at most 64 ASICs and 32 bias outputs")
    if hardware.clock_trigger != (hardware.boards > 1):
        raise ProfileError(f"{path}: hardware: several boards need a clock and trigger unit, a single one has its own")
