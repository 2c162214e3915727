"""Profiles: what a simulated scanner is made of, as data (profiles/*.toml)."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from petqc_drivers.petsys.mezzanines import BIAS_32P
from petqc_drivers.petsys.mezzanines import KINDS as MEZZANINES
from petqc_simulators.physics.material import LUTETIUM_SHARE, lu176_bq_per_cm3

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from petqc_drivers.petsys.mezzanines import BiasKind

T = TypeVar("T")

CHANNELS_OF_CHIP = 64
OTHER_READOUT = -1
"""What stands for a kind of board where the scanner's readout is not a TOFPET2 one."""
MODULE_PLACES: dict[int, tuple[int, int]] = {0: (8, 1), 1: (8, 1), 2: (8, 1), 3: (1, 0), 4: (2, 0), 5: (16, 2)}
"""Places for modules, and for bias mezzanines, of each base PCB. Source: interface reference, section 1.4."""
MODULE_CHIPS: dict[int, int] = {0x0: 2, 0x1: 2, 0x11: 2, 0x2: 5, 0x12: 2, 0x111: 4, 0x211: 8}
"""ASICs of each kind of module. Source: interface reference, section 1.4."""
_MOST_CHIPS = 64
_ASIC_VERSIONS = ("2B", "2C")
_ASIC_LINKS = (1, 2, 4)
_LINK_SPEEDS = range(4)
_SUPPLIES = ("TI", "Murata", "")
_SUPPLY_BUSES = 4
_BIAS_SUPPLIES = ("", "hamamatsu-c11204")
_CHILLERS = ("", "julabo")
_TIMING_BOARDS = ("", "caen-a5203")
_CLOCK_COUNTERS = ("", "sr620")
_TMP104_SENSORS = range(16)

PROFILES = Path(__file__).with_name("profiles")


class ProfileError(ValueError):
    """A profile or fault that cannot be used; the message names the file and the key."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Modules of identical crystals.

    arrangement: `panels`, two facing ones with entrance faces at ± face_distance_mm on the z axis, the first half of
    the modules at negative z; or `ring`, around the y axis with that radius. across: modules side by side in a panel,
    or around the ring; the rest are further rows along y. gap_mm: between modules. pitch_mm: of crystals, along the
    columns and, unless row_pitch_mm says otherwise, along the rows. asic_columns: the crystals of an ASIC make a block
    that many columns wide (0: as wide as the module), one block beside the other, then the next row of blocks.
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
    row_pitch_mm: float = 0.0
    asic_columns: int = 0

    @property
    def pitches_mm(self) -> tuple[float, float]:
        """Of crystals, along the columns and along the rows."""
        return self.pitch_mm, self.row_pitch_mm or self.pitch_mm

    @property
    def block(self) -> tuple[int, int]:
        """Columns and rows of the crystals of one ASIC."""
        columns = self.asic_columns or self.columns
        return columns, self.crystals_per_asic // columns

    @property
    def crystals_per_asic(self) -> int:
        """Crystals, and channels in use, of one ASIC."""
        return self.crystals_per_module // self.asics_per_module

    @property
    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Column and row in its module of every channel, in the detector's order: modules, ASICs, rows, columns."""
        block_columns, block_rows = self.block
        channel = np.arange(self.channels)
        inside = channel % self.crystals_per_asic
        block = channel // self.crystals_per_asic % self.asics_per_module
        across = self.columns // block_columns
        return (
            block % across * block_columns + inside % block_columns,
            block // across * block_rows + inside // block_columns,
        )

    @property
    def width_mm(self) -> float:
        """Of a module, along its columns."""
        return self.columns * self.pitches_mm[0]

    @property
    def height_mm(self) -> float:
        """Of a module, along its rows."""
        return self.rows * self.pitches_mm[1]

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
        """ASICs."""
        return self.modules * self.asics_per_module


@dataclass(frozen=True, slots=True)
class Hardware:
    """The readout: front-end boards of one kind with equal numbers of modules, in the order of the modules.

    clock_trigger: a unit of its own has clock and trigger, behind the daemon; otherwise the one board has both.
    boards_per_port: boards chained to one port of the daemon. base_pcb, module_kind: what the boards say they are
    (interface reference, section 1.4). module_places: where on a board its modules are plugged in, which is what its
    chips are numbered by. asic_version: 2B or 2C. asic_links: data links of each ASIC, 1, 2 or 4; link_speed: 0 SDR,
    1 DDR, 2 and 3 these at twice the clock. bias_slots: the mezzanine in each bias slot of a board, whose outputs
    serve its channels in order; boards without any get their bias from a supply of the laboratory's own, always on.
    module_eeprom: modules carry an EEPROM that says where their sensors are.
    supplies: kind of the modules' supply on each of the four buses of a FEB/D 8K, TI, Murata or "" for none; both, so
    that whoever talks to it meets both. legacy_places: those whose module is a legacy one, of a FEB/D 1K.
    tmp104_sensors: temperature sensors on a board's serial chain. bias_supply: "hamamatsu-c11204" if each module has
    one of these for its bias, on boards without mezzanines; "" otherwise. timing_board: "caen-a5203" if one times the
    modules' fast outputs; clock_counter: "sr620" if one looks at the clocks of the first and the last module.
    """

    boards: int
    boards_per_port: int
    clock_trigger: bool
    base_pcb: int
    module_kind: int
    module_places: tuple[int, ...]
    asic_version: str
    asic_links: int
    link_speed: int
    bias_slots: tuple[str, ...]
    module_eeprom: bool
    supplies: tuple[str, ...] = ("TI", "Murata", "TI", "Murata")
    legacy_places: tuple[int, ...] = ()
    tmp104_sensors: int = 0
    bias_supply: str = ""
    timing_board: str = ""
    clock_counter: str = ""

    @classmethod
    def numbered(cls, modules: int, modules_per_port: int, outputs: int) -> Hardware:
        """A scanner with another readout: each module is numbered as a board of its own, and nothing else is known.

        Args:
            modules: of the scanner.
            modules_per_port: modules that share a port number.
            outputs: supply outputs of a module.
        """
        slots = -(-outputs // MEZZANINES["BIAS_32P"].n_channels)
        return cls(
            boards=modules,
            boards_per_port=modules_per_port,
            clock_trigger=True,
            base_pcb=OTHER_READOUT,
            module_kind=OTHER_READOUT,
            module_places=(0,),
            asic_version="",
            asic_links=0,
            link_speed=0,
            bias_slots=("BIAS_32P",) * slots,
            module_eeprom=False,
        )

    @property
    def is_tofpet2(self) -> bool:
        """Whether it is the readout whose boards are simulated on the wire; of others there are only recordings."""
        return self.base_pcb != OTHER_READOUT

    def address(self, board: int) -> tuple[int, int]:
        """Port and slave of a board."""
        return divmod(board, self.boards_per_port)

    @property
    def addresses(self) -> list[tuple[int, int]]:
        """Port and slave of every board."""
        return [self.address(board) for board in range(self.boards)]

    @property
    def mezzanines(self) -> list[BiasKind]:
        """The mezzanine in each bias slot of a board."""
        return [MEZZANINES[name] for name in self.bias_slots]

    def bias_places(self, outputs: int) -> list[tuple[int, int]]:
        """Slot and channel of the first outputs of a board."""
        places = [(slot, channel) for slot, kind in enumerate(self.mezzanines) for channel in range(kind.n_channels)]
        return places[:outputs]

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
class Numbering:
    """How the modules of a scanner with another readout are numbered in recordings."""

    modules_per_port: int


@dataclass(frozen=True, slots=True)
class Crystal:
    """What gammas meet: attenuation is that of LYSO of the given density, radioactivity that of the material.

    material: a name of physics.material. Widths are FWHM in percent at 511 keV; spreads are relative standard
    deviations.
    """

    density_g_cm3: float
    fill_factor: float
    light_speed_index: float
    material: str
    decay_ns: float
    photoelectrons_at_511: float
    light_yield_spread: float
    light_yield_per_k: float
    intrinsic_fwhm_percent: float
    resolution_spread: float

    @property
    def lu176_bq_per_cm3(self) -> float:
        """Decays of Lu-176 of the crystal itself, with a source or without."""
        return lu176_bq_per_cm3(self.material, self.density_g_cm3)


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
    """Kind na22, ge68 or none; a sphere of radius_mm, drawn out along y by length_mm.

    Ge-68 with a ge68_radius_mm is a cylinder around y, hollow up to ge68_inner_radius_mm, with an activity of its own.
    activity_bq, ge68_activity_bq: on the day of the certificate, age_days ago.
    """

    kind: str
    activity_bq: float
    radius_mm: float
    length_mm: float
    ge68_length_mm: float
    ge68_radius_mm: float = 0.0
    ge68_inner_radius_mm: float = 0.0
    ge68_activity_bq: float = 0.0
    age_days: float = 0.0

    @property
    def is_cylinder(self) -> bool:
        """Whether the source is a solid or hollow cylinder."""
        return self.kind == "ge68" and self.ge68_radius_mm > 0.0

    @property
    def shape(self) -> str:
        """What the QC calls it: point, line, extended or none."""
        if self.kind == "none":
            return "none"
        if self.is_cylinder:
            return "extended"
        return "line" if (self.ge68_length_mm if self.kind == "ge68" else self.length_mm) > 0.0 else "point"


@dataclass(frozen=True, slots=True)
class Environment:
    """Temperatures.

    calibration_degc: of the SiPMs on the calibration day. chiller: "julabo" if one cools the modules, "" otherwise.
    coolant_degc: what the coolant had on the calibration day.
    """

    calibration_degc: float
    asic_rise_k: float
    asic_settle_s: float
    chiller: str = ""
    coolant_degc: float = 18.0


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
class Repeated:
    """blocks: so many blocks of 1024 frames (5.24 ms) are simulated, then served again and again; 0: never."""

    blocks: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of the detector is one board's: slices of its channels, bias outputs and modules."""

    channels: slice
    outputs: slice
    modules: slice


@dataclass(frozen=True, slots=True)
class Profile:
    """One scanner. reference: name of the description of the real one it stands for (petqc.scanners), or empty."""

    name: str
    title: str
    reference: str
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
    repetition: Repeated

    @property
    def modules_per_board(self) -> int:
        """Modules of each front-end board."""
        return self.geometry.modules // self.hardware.boards

    @property
    def outputs_per_board(self) -> int:
        """Bias outputs in use of each front-end board."""
        return self.geometry.bias_channels // self.hardware.boards

    def share(self, board: int) -> Share:
        """What of the detector is a board's."""
        if not 0 <= board < self.hardware.boards:
            raise ProfileError(f"{self.name} has boards 0..{self.hardware.boards - 1}, not {board}")
        counts = (self.geometry.channels // self.hardware.boards, self.outputs_per_board, self.modules_per_board)
        return Share(*(slice(board * n, (board + 1) * n) for n in counts))

    @property
    def output_kinds(self) -> list[BiasKind]:
        """The mezzanine of every bias output in use; what a laboratory's own supply counts as is of no consequence."""
        n = self.outputs_per_board
        of_board = [self.hardware.mezzanines[slot] for slot, _ in self.hardware.bias_places(n)] or [BIAS_32P] * n
        return of_board * self.hardware.boards

    @property
    def board_chips(self) -> list[int]:
        """Numbers of the ASICs of a front-end board, in the order of its modules."""
        of_module = self.geometry.asics_per_module
        return [of_module * place + k for place in self.hardware.module_places for k in range(of_module)]

    def absolute_channels(self) -> NDArray[np.int64]:
        """Absolute channel number of every channel, in the detector's own order."""
        chips = np.array(self.board_chips, np.int64)
        board, chip = np.divmod(np.arange(self.geometry.chips), chips.size)
        port, slave = np.array(self.hardware.addresses, np.int64).T
        first = port[board] << 17 | slave[board] << 12 | chips[chip] << 6
        return np.asarray(first[:, None] + np.arange(self.geometry.crystals_per_asic)).ravel()


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
    "repetition": Repeated,
}
_OPTIONAL = {"repetition"}


def _section(kind: type[T], values: object, where: str) -> T:
    if not isinstance(values, dict):
        raise ProfileError(f"{where}: is not a table")
    known = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    needed = {f.name for f in fields(kind) if f.default is MISSING}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ProfileError(f"{where}: unknown key {unknown[0]!r}, known are {', '.join(known)}")
    if missing := sorted(needed - set(values)):
        raise ProfileError(f"{where}: key {missing[0]!r} is missing")
    for key, value in values.items():
        if not _is_of(known[key], value):
            raise ProfileError(f"{where}.{key}: {value!r} is not of type {known[key]}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _is_of(kind: str, value: object) -> bool:
    if kind.startswith("tuple["):
        return isinstance(value, list) and all(_is_of(kind[len("tuple[") :].partition(",")[0], v) for v in value)
    wanted: tuple[type, ...] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}[kind]
    return isinstance(value, wanted) and (not isinstance(value, bool) or bool in wanted)


def profile_names() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(p.stem for p in PROFILES.glob("*.toml"))


def _document(name: str) -> tuple[Path, dict[str, Any]]:
    """A profile's file and what it says, on top of its base if it names one."""
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ProfileError(f"there is no profile {name!r}; known are {', '.join(profile_names())}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: {error}") from error
    base = document.pop("base", None)
    if base is None:
        return path, document
    if base not in profile_names():
        raise ProfileError(f"{path}: base: {base!r} is none of {', '.join(profile_names())}")
    _, below = _document(base)
    above = {key: {**below.get(key, {}), **part} if isinstance(part, dict) else part for key, part in document.items()}
    return path, {**below, "name": path.stem, **above}


def load_profile(name: str, *, source: str | None = None) -> Profile:
    """Read a profile by name or by path of a TOML file.

    A file with `base = "bench"` says only what differs from that profile.

    Args:
        name: a name from profile_names(), or a path that ends in .toml.
        source: replaces the profile's source kind (na22, ge68 or none).

    Raises:
        ProfileError: there is no such profile, or a key is unknown, missing or of the wrong type.
    """
    path, document = _document(name)
    if unknown := sorted(set(document) - set(_SECTIONS) - {"name", "title", "reference", "numbering"}):
        raise ProfileError(f"{path}: unknown section {unknown[0]!r}")
    if source is not None and isinstance(document.get("source"), dict):
        document["source"]["kind"] = source
    parts = {
        key: _section(kind, document.get(key, {} if key in _OPTIONAL else None), f"{path}: {key}")
        for key, kind in _SECTIONS.items()
        if key != "hardware" or "numbering" not in document
    }
    if "numbering" in document:
        if "hardware" in document:
            raise ProfileError(f"{path}: numbering: only without hardware, for a scanner with another readout")
        geometry: Geometry = parts["geometry"]
        parts["hardware"] = Hardware.numbered(
            geometry.modules,
            _section(Numbering, document["numbering"], f"{path}: numbering").modules_per_port,
            -(-geometry.crystals_per_module // geometry.crystals_per_bias),
        )
    profile = Profile(
        name=str(document.get("name", path.stem)),
        title=str(document.get("title", "")),
        reference=str(document.get("reference", "")),
        **parts,
    )
    if profile.source.kind not in {"na22", "ge68", "none"}:
        raise ProfileError(f"{path}: source.kind: {profile.source.kind!r} is none of na22, ge68, none")
    if profile.repetition.blocks < 0:
        raise ProfileError(f"{path}: repetition.blocks: {profile.repetition.blocks} is below 0")
    _check(path, profile)
    return profile


def _check(path: Path, profile: Profile) -> None:
    geometry, hardware = profile.geometry, profile.hardware
    if profile.crystal.material not in LUTETIUM_SHARE:
        raise ProfileError(
            f"{path}: crystal.material: {profile.crystal.material!r} is none of {', '.join(LUTETIUM_SHARE)}"
        )
    if profile.environment.chiller not in _CHILLERS:
        raise ProfileError(f"{path}: environment.chiller: {profile.environment.chiller!r} is none of '', julabo")
    if geometry.arrangement not in {"panels", "ring"}:
        raise ProfileError(f"{path}: geometry.arrangement: {geometry.arrangement!r} is neither panels nor ring")
    of_asic = geometry.crystals_per_asic
    if geometry.crystals_per_module != of_asic * geometry.asics_per_module or not (
        of_asic == CHANNELS_OF_CHIP if hardware.is_tofpet2 else 0 < of_asic <= CHANNELS_OF_CHIP
    ):
        raise ProfileError(f"{path}: geometry: a module has 64 crystals for each ASIC, fewer only with other readouts")
    if geometry.block[0] * geometry.block[1] != of_asic or geometry.columns % geometry.block[0]:
        raise ProfileError(f"{path}: geometry.asic_columns: blocks of that width do not fill a module")
    side = geometry.modules if geometry.arrangement == "ring" else geometry.modules / 2
    if geometry.modules < 2 or geometry.across < 1 or side % geometry.across:
        raise ProfileError(
            f"{path}: geometry: {geometry.modules} modules do not make whole rows of {geometry.across} across"
        )
    if hardware.boards < 1 or hardware.boards_per_port < 1 or geometry.modules % hardware.boards:
        raise ProfileError(f"{path}: hardware: {geometry.modules} modules on {hardware.boards} boards")
    if hardware.clock_trigger != (hardware.boards > 1):
        raise ProfileError(f"{path}: hardware: several boards need a clock and trigger unit, a single one has its own")
    if max(hardware.trigger_address if hardware.clock_trigger else hardware.address(hardware.boards - 1)) > 31:
        raise ProfileError(f"{path}: hardware: ports and places in a chain are 0..31")
    if hardware.is_tofpet2:
        _check_board(path, profile)
    elif profile.board_chips[-1] >= _MOST_CHIPS:
        raise ProfileError(f"{path}: geometry: a module has at most {_MOST_CHIPS} ASICs")


def _check_board(path: Path, profile: Profile) -> None:
    geometry, hardware = profile.geometry, profile.hardware
    choices: tuple[tuple[str, object, Collection[object]], ...] = (
        ("base_pcb", hardware.base_pcb, MODULE_PLACES),
        ("module_kind", hardware.module_kind, MODULE_CHIPS),
        ("asic_version", hardware.asic_version, _ASIC_VERSIONS),
        ("asic_links", hardware.asic_links, _ASIC_LINKS),
        ("link_speed", hardware.link_speed, _LINK_SPEEDS),
        *(("bias_slots", slot, MEZZANINES) for slot in hardware.bias_slots),
        *(("supplies", supply, _SUPPLIES) for supply in hardware.supplies),
        *(("legacy_places", place, hardware.module_places) for place in hardware.legacy_places),
        ("tmp104_sensors", hardware.tmp104_sensors, _TMP104_SENSORS),
        ("bias_supply", hardware.bias_supply, _BIAS_SUPPLIES),
        ("timing_board", hardware.timing_board, _TIMING_BOARDS),
        ("clock_counter", hardware.clock_counter, _CLOCK_COUNTERS),
    )
    for name, value, known in choices:
        if value not in known:
            raise ProfileError(f"{path}: hardware.{name}: {value!r} is none of {', '.join(map(str, known))}")
    if hardware.bias_supply and (hardware.bias_slots or geometry.crystals_per_bias != geometry.crystals_per_module):
        raise ProfileError(
            f"{path}: hardware.bias_supply: one supply a module, so no bias_slots, and crystals_per_bias is "
            f"{geometry.crystals_per_module}"
        )
    if len(hardware.supplies) != _SUPPLY_BUSES:
        raise ProfileError(f"{path}: hardware.supplies: one for each of {_SUPPLY_BUSES} buses")
    n_places, n_slots = MODULE_PLACES[hardware.base_pcb]
    places = hardware.module_places
    if sorted(set(places)) != list(places) or len(places) != profile.modules_per_board:
        raise ProfileError(
            f"{path}: hardware.module_places: {len(places)} places for {profile.modules_per_board} modules of a "
            "board, or not rising"
        )
    if places[0] < 0 or places[-1] >= n_places or len(hardware.bias_slots) > n_slots:
        raise ProfileError(
            f"{path}: hardware: base PCB {hardware.base_pcb:#06x} has {n_places} places for modules, {n_slots} for bias"
        )
    if MODULE_CHIPS[hardware.module_kind] != geometry.asics_per_module or profile.board_chips[-1] >= _MOST_CHIPS:
        raise ProfileError(
            f"{path}: hardware: modules {hardware.module_kind:#06x} have {MODULE_CHIPS[hardware.module_kind]} ASICs, "
            f"and a board has ASICs 0..{_MOST_CHIPS - 1}"
        )
    outputs = profile.modules_per_board * geometry.crystals_per_module / geometry.crystals_per_bias
    there = sum(kind.n_channels for kind in hardware.mezzanines)
    if outputs % 1 or outputs > (there or outputs):
        raise ProfileError(f"{path}: hardware: {outputs:g} bias outputs for each board, its mezzanines have {there}")
